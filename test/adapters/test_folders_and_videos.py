"""Folders of images and videos -> frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import cv2
import numpy as np
import pytest
from recordings import coloured_image, read_tum

from vggt_ros.core.errors import EncodingError, SourceError
from vggt_ros.recorded.source import open_source

CAMERA = {'width': 64, 'height': 48, 'fx': 60.0, 'fy': 61.0, 'cx': 31.5, 'cy': 23.5}


def save(path: Path, image: np.ndarray | None = None) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    cv2.imwrite(str(path), (coloured_image() if image is None else image)[..., ::-1])


def test_a_sequence_of_shared_data_has_its_stamps_and_calibration(sequence: Callable[[str], Path]):
    folder = sequence('tum_fr3_cabinet')
    frames = list(open_source(folder))
    assert [frame.stamp_ns for frame in frames] == sorted(read_tum(folder / 'trajectory_tum.txt'))
    assert frames[0].stamp_ns == 1341841278_842700000  # decimal, not through a float
    np.testing.assert_array_equal(frames[0].K, [[535.4, 0, 320.1], [0, 539.2, 247.6], [0, 0, 1]])
    first = cv2.imread(str(folder / 'rgb' / '0000.jpg'))[..., ::-1]
    np.testing.assert_array_equal(frames[0].image, first)


def test_plain_images_come_in_natural_order_at_the_given_rate(tmp_path: Path):
    for i in (10, 9, 1):
        save(tmp_path / f'frame{i}.png', np.full((48, 64, 3), i, np.uint8))
    frames = list(open_source(tmp_path, rate=4.0))
    assert [int(frame.image[0, 0, 0]) for frame in frames] == [1, 9, 10]
    assert np.diff([frame.stamp_ns for frame in frames]).tolist() == [250_000_000] * 2
    assert frames[0].stamp_ns > 0  # 0 means none in ROS
    assert frames[0].K is None


@pytest.mark.parametrize(
    'name, stamp', [('1403636579763555584', 1403636579763555584), ('1341841278.842700', 1341841278842700000)]
)
def test_file_names_that_are_times_are_the_stamps(tmp_path: Path, name: str, stamp: int):
    save(tmp_path / f'{name}.png')
    (frame,) = open_source(tmp_path)
    assert frame.stamp_ns == stamp


def test_the_list_of_the_tum_benchmark_is_read(tmp_path: Path):
    save(tmp_path / 'rgb' / 'b.png')
    (tmp_path / 'rgb.txt').write_text('# color images\n# timestamp filename\n1305031102.175304 rgb/b.png\n')
    (frame,) = open_source(tmp_path)
    assert frame.stamp_ns == 1305031102175304000


def test_calibration_follows_the_size_of_the_images(tmp_path: Path):
    save(tmp_path / 'a.png', cv2.resize(coloured_image(), (128, 96)))
    (tmp_path / 'camera.json').write_text(json.dumps(CAMERA))
    (frame,) = open_source(tmp_path)
    np.testing.assert_allclose(frame.K, [[120, 0, 63.5], [0, 122, 47.5], [0, 0, 1]])


def test_a_distorted_lens_of_camera_json_is_rectified(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """A dot off the middle moves outwards as the lens says: r of the pinhole (1 + k1 r^2) is r in the image."""
    shown = np.array([31.5 + 20, 23.5])
    u, v = np.meshgrid(np.arange(64), np.arange(48))
    dot = 200 * np.exp(-((u - shown[0]) ** 2 + (v - shown[1]) ** 2) / 8)
    save(tmp_path / 'a.png', np.repeat(dot.astype(np.uint8)[..., None], 3, axis=-1))
    camera = {**CAMERA, 'distortion_model': 'plumb_bob', 'distortion': [-0.3, 0, 0, 0, 0]}
    (tmp_path / 'camera.json').write_text(json.dumps(camera))
    (frame,) = open_source(tmp_path)
    grey = frame.image[..., 0].astype(float)
    found = (grey * u).sum() / grey.sum() - 31.5
    radius = np.roots([-0.3, 0, 1, -20 / 60])
    expected = 60 * min(r.real for r in radius if abs(r.imag) < 1e-9 and r.real > 0)
    assert found == pytest.approx(expected, abs=0.15)
    assert expected > 20.7
    assert caplog.text == ''
    (raw,) = open_source(tmp_path, rectify=False)
    assert 'rectify is never' in caplog.text
    assert raw.image[..., 0].max(axis=0).argmax() in (51, 52)


def test_calibration_of_another_shape_is_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    save(tmp_path / 'a.png', cv2.resize(coloured_image(), (64, 64)))
    (tmp_path / 'camera.json').write_text(json.dumps(CAMERA))
    (frame,) = open_source(tmp_path)
    assert frame.K is None
    assert 'camera.json is for 64x48' in caplog.text


@pytest.mark.parametrize('text', ['not json', '{"width": 64}', '[]'])
def test_a_broken_calibration_is_refused(tmp_path: Path, text: str):
    save(tmp_path / 'a.png')
    (tmp_path / 'camera.json').write_text(text)
    with pytest.raises(SourceError, match=r'camera\.json must hold'):
        open_source(tmp_path)


@pytest.mark.parametrize('line', ['yesterday rgb/a.png', '12.5'])
def test_a_broken_list_is_refused_with_its_line(tmp_path: Path, line: str):
    (tmp_path / 'frames.txt').write_text(f'# stamps\n{line}\n')
    with pytest.raises(SourceError, match=r'frames\.txt line 2'):
        open_source(tmp_path)


def test_a_broken_image_stops_or_is_skipped(tmp_path: Path):
    for i in range(3):
        save(tmp_path / f'{i}.png')
    (tmp_path / '1.png').write_bytes((tmp_path / '1.png').read_bytes()[:40])
    with pytest.raises(EncodingError, match=r'1\.png.*--skip-bad'):
        list(open_source(tmp_path))
    source = open_source(tmp_path, skip_bad=True)
    assert len(list(source)) == 2
    assert source.skipped == 1


def test_a_list_that_names_a_missing_image_says_which(tmp_path: Path):
    (tmp_path / 'frames.txt').write_text('1.0 rgb/gone.png -\n')
    with pytest.raises(EncodingError, match=r'gone\.png does not exist'):
        list(open_source(tmp_path))


def test_an_empty_folder_and_a_strange_file_are_refused(tmp_path: Path):
    with pytest.raises(SourceError, match='holds no images'):
        open_source(tmp_path)
    (tmp_path / 'notes.txt').write_text('hello')
    with pytest.raises(SourceError, match='is none of: a bag'):
        open_source(tmp_path / 'notes.txt')
    with pytest.raises(SourceError, match='is no bag'):
        open_source(tmp_path, '/camera/image_raw')


def write_video(path: Path, images: Iterable[np.ndarray]) -> Path:
    """Motion JPEG at 20 frames a second, of BGR images."""
    images = list(images)
    height, width = images[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*'MJPG'), 20.0, (width, height))
    if not writer.isOpened():
        pytest.skip('this OpenCV writes no video')
    for image in images:
        writer.write(image)
    writer.release()
    return path


@pytest.fixture
def video(tmp_path: Path) -> Path:
    return write_video(tmp_path / 'clip.avi', (np.full((48, 64, 3), (10, 20 * i, 200), np.uint8) for i in range(10)))


def test_a_video_gives_its_frames_in_rgb_at_its_own_times(video: Path):
    source = open_source(video)
    frames = list(source)
    assert len(source) == len(frames) == 10
    for i, frame in enumerate(frames):
        assert np.abs(frame.image.reshape(-1, 3).mean(axis=0) - (200, 20 * i, 10)).max() < 5  # JPEG
    np.testing.assert_allclose(np.diff([frame.stamp_ns for frame in frames]), 50_000_000, atol=1)
    assert frames[0].stamp_ns > 0
    assert [frame.stamp_ns for frame in source] == [frame.stamp_ns for frame in frames]  # again from the start
    source.close()


def test_a_broken_video_gives_what_is_there_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """The last frames and the index at the end are gone, as after a crash of the recorder."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 120, 160, 3), dtype=np.uint8)
    video = write_video(tmp_path / 'clip.avi', noise)
    data = video.read_bytes()
    video.write_bytes(data[: len(data) * 6 // 10])
    frames = list(open_source(video))
    assert 20 <= len(frames) <= 25
    assert f'breaks off: {len(frames)} of 40 frames' in caplog.text


def test_a_file_that_is_no_video_is_refused(tmp_path: Path):
    (tmp_path / 'clip.mp4').write_bytes(b'not a video' * 100)
    with pytest.raises(SourceError, match='cannot be opened as a video'):
        open_source(tmp_path / 'clip.mp4')


@pytest.mark.parametrize('stamp', ['nan', 'inf', '-inf', '1e999999999', '1e11', 'word', '\u00b2'])
def test_a_stamp_that_is_no_time_is_refused_at_once(tmp_path: Path, stamp: str):
    save(tmp_path / 'a.png')
    (tmp_path / 'frames.txt').write_text(f'{stamp} a.png\n')
    with pytest.raises(SourceError, match='line 1'):
        open_source(tmp_path)


@pytest.mark.parametrize('name', ['\u00b21.png', '\u0663.png', '9' * 200 + '.png', '1' * 30 + '.25.png'])
def test_an_image_of_any_name_is_taken(tmp_path: Path, name: str):
    save(tmp_path / name)
    (frame,) = open_source(tmp_path)
    assert frame.image.shape == (48, 64, 3)


def test_a_list_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / 'rgb.txt').write_bytes(b'1.0 \xff\xfe.png\n')
    with pytest.raises(SourceError, match=r'cannot read .*rgb\.txt'):
        open_source(tmp_path)


@pytest.mark.parametrize('name', ['x' * 300 + '.png', 'a\0b.png', 'rgb'])
def test_a_list_that_names_what_no_file_can_be_called_stops_at_that_image(tmp_path: Path, name: str):
    (tmp_path / 'rgb').mkdir()
    (tmp_path / 'frames.txt').write_text(f'1.0 {name}\n')
    with pytest.raises(EncodingError, match='cannot be read'):
        list(open_source(tmp_path))


@pytest.mark.parametrize(
    'text',
    ['[' * 100_000, json.dumps({**CAMERA, 'width': float('inf')}), json.dumps({**CAMERA, 'height': 0}),
     json.dumps({**CAMERA, 'fx': float('nan')}), json.dumps({**CAMERA, 'fy': -1}),
     json.dumps({**CAMERA, 'distortion': [[0.1]]}), '\ud800'],
    ids=['deep', 'infinite', 'flat', 'nan', 'mirrored', 'matrix', 'no text'],
)  # fmt: skip
def test_a_calibration_that_makes_no_camera_is_refused(tmp_path: Path, text: str):
    save(tmp_path / 'a.png')
    (tmp_path / 'camera.json').write_bytes(text.encode('utf-8', 'surrogatepass'))
    with pytest.raises(SourceError, match=r'camera\.json must hold'):
        open_source(tmp_path)
