"""What visitors send: sorted out, named anew, kept within bounds, and nothing outside of its folder."""

from __future__ import annotations

import dataclasses
import shutil
import stat
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from material import images, write_video

from vggt_ros.core.errors import SourceError, VggtRosError
from vggt_ros.core.frame import Frame
from vggt_ros.studio.limits import Limits
from vggt_ros.studio.uploads import fitted, open_upload, preview, take_upload

LIMITS = Limits()


@pytest.fixture
def into(tmp_path: Path) -> Path:
    folder = tmp_path / 'session' / 'source'
    folder.mkdir(parents=True)
    return folder


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def test_images_come_in_the_order_of_their_numbers(tmp_path: Path, into: Path) -> None:
    sent = []
    for i in (10, 9, 1):
        file = tmp_path / f'shot {i}.png'
        cv2.imwrite(str(file), np.full((60, 80, 3), 10 * i, np.uint8))
        sent.append(file)
    upload = take_upload(sent, into, LIMITS)
    frames = list(open_upload(upload, 1.0))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [10, 90, 100]


def test_images_of_other_sizes_are_fitted_and_unknown_beside(tmp_path: Path, into: Path) -> None:
    for name, size in (('a.png', (60, 80, 3)), ('b.png', (80, 60, 3))):
        cv2.imwrite(str(tmp_path / name), np.full(size, 100, np.uint8))
    frames = list(open_upload(take_upload([tmp_path / 'a.png', tmp_path / 'b.png'], into, LIMITS), 0))
    assert [frame.size for frame in frames] == [(60, 80), (60, 80)]
    mask = frames[1].mask
    assert mask is not None
    assert mask.sum() == 60 * 45
    assert (frames[1].image[~mask] == 255).all()
    assert (frames[1].image[mask] == 100).all()


def test_fitting_keeps_the_stamp() -> None:
    frame = Frame(5, np.zeros((10, 30, 3), np.uint8), 'camera')
    assert fitted(frame, (20, 20)).stamp_ns == 5


@pytest.mark.parametrize('interval, count', [(1.0, 4), (2.0, 2), (0.0, 20), (0.5, 7)])
def test_video_is_taken_at_the_seconds_asked_for(tmp_path: Path, into: Path, interval: float, count: int) -> None:
    """Four seconds at 5 Hz: frames at 0, 1, 2, 3 s; half seconds fall between frames and are taken at the next."""
    upload = take_upload([write_video(tmp_path / 'a.mp4', 4)], into, LIMITS)
    found, _ = preview(open_upload(upload, interval), tmp_path / 'gallery', 100)
    assert found == pytest.approx(count, abs=1 if interval == 0.5 else 0)
    stamps = [frame.stamp_ns for frame in open_upload(upload, interval)]
    assert stamps[0] == 1_000_000_000
    if interval >= 1:
        np.testing.assert_allclose(np.diff(stamps), interval * 1e9, rtol=1e-3)


def test_bag_and_zipped_bag_give_the_same_frames(material: Path, tmp_path: Path) -> None:
    bag = next((material / 'bag').glob('*.mcap'))
    plain, packed = tmp_path / 'plain', tmp_path / 'packed'
    plain.mkdir()
    packed.mkdir()
    single = take_upload([Path(shutil.copy(bag, tmp_path / 'drive.mcap'))], plain, LIMITS)
    members = {f'drive/{file.name}': file.read_bytes() for file in (material / 'bag').iterdir()}
    zipped = take_upload([archive(tmp_path / 'drive.zip', members)], packed, LIMITS)
    assert single.kind == zipped.kind == 'bag'
    stamps = [[frame.stamp_ns for frame in open_upload(upload, 0)] for upload in (single, zipped)]
    assert stamps[0] == stamps[1]
    assert len(stamps[0]) == 5


def test_gallery_has_small_pictures_evenly_spread(tmp_path: Path, into: Path) -> None:
    upload = take_upload([write_video(tmp_path / 'a.mp4', 11)], into, LIMITS)
    count, files = preview(open_upload(upload, 0), tmp_path / 'gallery', 100)
    assert count == 55
    assert 12 <= len(files) <= 48
    assert sorted((tmp_path / 'gallery').iterdir()) == files
    numbers = [int(file.stem) for file in files]
    assert len(set(np.diff(numbers))) == 1


@pytest.mark.parametrize('name', ['../out.jpg', '/tmp/out.jpg', 'a/../../out.jpg', '..\\out.jpg'])
def test_an_archive_cannot_write_outside(tmp_path: Path, into: Path, name: str) -> None:
    sent = archive(tmp_path / 'evil.zip', {name: b'x'})
    with pytest.raises(SourceError, match='leads out'):
        take_upload([sent], into, LIMITS)
    assert not list(into.parent.parent.rglob('out.jpg'))


def test_a_link_in_an_archive_is_refused(tmp_path: Path, into: Path) -> None:
    with zipfile.ZipFile(tmp_path / 'evil.zip', 'w') as file:
        link = zipfile.ZipInfo('secret.jpg')
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        file.writestr(link, '/etc/passwd')
    with pytest.raises(SourceError, match='leads out'):
        take_upload([tmp_path / 'evil.zip'], into, LIMITS)


def test_lists_that_name_other_files_are_not_unpacked(tmp_path: Path, into: Path) -> None:
    """frames.txt of a folder and metadata.yaml of a bag name files: from outside they could name any of ours."""
    picture = images(tmp_path / 'i', 1)[0].read_bytes()
    sent = archive(tmp_path / 'a.zip', {'a.jpg': picture, 'frames.txt': b'1.0 /etc/x.jpg', 'metadata.yaml': b'x'})
    upload = take_upload([sent], into, LIMITS)
    assert [file.name for file in upload.path.iterdir()] == ['a.jpg']


def test_a_zip_bomb_is_refused(tmp_path: Path, into: Path) -> None:
    sent = archive(tmp_path / 'bomb.zip', {'a.jpg': bytes(3_000_000)})
    with pytest.raises(SourceError, match='holds too much'):
        take_upload([sent], into, dataclasses.replace(LIMITS, upload_bytes=1_000_000))


def test_a_zip_that_lies_about_its_size_is_stopped(tmp_path: Path, into: Path) -> None:
    sent = archive(tmp_path / 'liar.zip', {'a.jpg': bytes(3_000_000)})
    data = bytearray(sent.read_bytes())
    central = data.rindex(b'PK\x01\x02')
    data[central + 24 : central + 28] = (10).to_bytes(4, 'little')  # the size that the index tells
    sent.write_bytes(data)
    with pytest.raises(SourceError):
        take_upload([sent], into, dataclasses.replace(LIMITS, upload_bytes=1_000_000))
    assert sum(file.stat().st_size for file in into.rglob('*') if file.is_file()) <= 2_000_000


@pytest.mark.parametrize(
    'name, data, words',
    [
        ('notes.txt', b'hello', 'no image, video or bag'),
        ('broken.mp4', b'not a video', 'cannot be opened as a video'),
        ('broken.mcap', b'not a bag', 'cannot be read'),
        ('broken.jpg', b'not an image', 'cannot be decoded'),
        ('broken.zip', b'not an archive', 'cannot be unpacked'),
    ],
)
def test_what_cannot_be_read_is_said_in_words(tmp_path: Path, into: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(VggtRosError, match=words):
        preview(open_upload(take_upload([tmp_path / name], into, LIMITS), 1.0), tmp_path / 'g', 10)


def test_bounds_are_said_with_their_numbers(tmp_path: Path, into: Path) -> None:
    sent = images(tmp_path / 'i', 3)
    with pytest.raises(SourceError, match='2 may be uploaded'):
        take_upload(sent, into, dataclasses.replace(LIMITS, images=2))
    with pytest.raises(SourceError, match='may have 0 MB'):
        take_upload(sent, into, dataclasses.replace(LIMITS, upload_bytes=10))
    with pytest.raises(SourceError, match=r'lasts 4 s; a video may last 2 s'):
        take_upload([write_video(tmp_path / 'a.mp4', 4)], into, dataclasses.replace(LIMITS, video_s=2))
    with pytest.raises(SourceError, match='came with other files'):
        take_upload([*sent, write_video(tmp_path / 'b.mp4', 1)], into, LIMITS)
    with pytest.raises(SourceError, match='no image to work on'):
        take_upload([], into, LIMITS)


def test_a_damaged_archive_is_said_in_words(tmp_path: Path, into: Path) -> None:
    file = archive(tmp_path / 'a.zip', {'a.png': bytes(1000)})
    data = bytearray(file.read_bytes())
    data[30 + len('a.png')] = 255  # the first byte of what is squeezed: no kind of block that there is
    file.write_bytes(data)
    with pytest.raises(SourceError, match=r'a\.zip cannot be unpacked'):
        take_upload([file], into, LIMITS)


def test_images_with_digits_of_other_scripts_are_taken(tmp_path: Path, into: Path) -> None:
    files = images(tmp_path, 2)
    files[1] = files[1].rename(tmp_path / '\u00b21.jpg')
    assert len(list(open_upload(take_upload(files, into, LIMITS), 1.0))) == 2


@pytest.mark.parametrize('interval', [float('nan'), float('inf'), -1.0])
def test_seconds_between_frames_that_are_none_are_refused(tmp_path: Path, into: Path, interval: float) -> None:
    upload = take_upload([write_video(tmp_path / 'v.mp4', 2)], into, LIMITS)
    with pytest.raises(SourceError, match='seconds between frames'):
        open_upload(upload, interval)


def test_hardly_any_seconds_between_frames_take_all(tmp_path: Path, into: Path) -> None:
    upload = take_upload([write_video(tmp_path / 'v.mp4', 2)], into, LIMITS)
    assert len(list(open_upload(upload, 5e-324))) == len(list(open_upload(upload, 0.0)))
