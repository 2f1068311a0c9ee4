"""Masks: from files and topics, of the right size, of the right stamp, and what they do to the results."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from recordings import FRAME_NS, START_NS, camera_bag, coloured_image, image_message, info_message, write_bag

from vggt_ros.cli import main
from vggt_ros.core.config import Config, MaskConfig
from vggt_ros.core.errors import ConfigError, EncodingError, ShapeError
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import make_predictor
from vggt_ros.decode import decode_frame
from vggt_ros.masks import Masks, decode_mask, read_mask
from vggt_ros.messages import bag_messages
from vggt_ros.recorded.masks import masks_of
from vggt_ros.recorded.source import open_source
from vggt_ros.rectify import Rectifiers

TYPES = bag_messages()
SIZE = (48, 64)


def half(left: bool = True) -> np.ndarray:
    """A mask that lets one half of the image count."""
    mask = np.zeros(SIZE, np.uint8)
    mask[:, :32] = 255 if left else 0
    mask[:, 32:] = 0 if left else 255
    return mask


def message_of(mask: np.ndarray, index: int = 0, encoding: str = 'mono8') -> Any:
    return image_message(TYPES, mask, encoding, stamp_ns=START_NS + index * FRAME_NS)


@pytest.fixture
def mask_file(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / 'mask.png'), half())
    return tmp_path / 'mask.png'


def test_black_does_not_count_whatever_the_format(tmp_path: Path, mask_file: Path):
    np.testing.assert_array_equal(read_mask(mask_file), half() > 0)
    colour = np.dstack([half()] * 3 + [np.full(SIZE, 255, np.uint8)])  # opaque, black on the right
    cv2.imwrite(str(tmp_path / 'colour.png'), colour)
    np.testing.assert_array_equal(read_mask(tmp_path / 'colour.png'), half() > 0)


@pytest.mark.parametrize(
    'content, text',
    [(None, 'No such file'), (b'hello', 'is no picture'), (b'', 'is no picture'), ('black', 'black all over')],
)
def test_a_file_that_is_no_mask_says_why(tmp_path: Path, content: bytes | str | None, text: str):
    path = tmp_path / 'mask.png'
    if content == 'black':
        cv2.imwrite(str(path), np.zeros(SIZE, np.uint8))
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=text):
        Masks(MaskConfig(path=str(path)))


def test_each_camera_of_a_rig_has_its_file(tmp_path: Path):
    for name, mask in (('left', half()), ('right', half(left=False))):
        cv2.imwrite(str(tmp_path / f'{name}.png'), mask)
    config = MaskConfig(path=str(tmp_path / '{camera}.png'))
    for name, mask in (('left', half()), ('right', half(left=False))):
        np.testing.assert_array_equal(Masks(config, name).find(START_NS, SIZE), mask > 0)


def test_a_mask_of_another_size_is_refused_with_both_sizes(mask_file: Path):
    with pytest.raises(ShapeError, match='mask is 64x48, the image 640x480'):
        Masks(MaskConfig(path=str(mask_file))).find(START_NS, (480, 640))


@pytest.mark.parametrize('encoding', ['rgb8', '32FC1', 'mono16'])
def test_a_mask_of_another_encoding_is_refused(encoding: str):
    channels = {'rgb8': (3, np.uint8), '32FC1': (1, np.float32), 'mono16': (1, np.uint16)}[encoding]
    pixels = np.ones((*SIZE, channels[0]) if channels[0] > 1 else SIZE, channels[1])
    with pytest.raises(EncodingError, match=f'mono8 or 8UC1, got {encoding!r}'):
        decode_mask(message_of(pixels, encoding=encoding))


def test_file_and_topic_must_both_let_a_pixel_count(mask_file: Path):
    masks = Masks(MaskConfig(path=str(mask_file), mode='latest'))
    np.testing.assert_array_equal(masks.find(START_NS, SIZE), half() > 0)  # until one comes
    top = np.zeros(SIZE, np.uint8)
    top[:24] = 1
    masks.add(message_of(top))
    np.testing.assert_array_equal(masks.find(START_NS, SIZE), (half() > 0) & (top > 0))


def test_without_any_mask_all_counts():
    assert Masks(MaskConfig()).find(START_NS, SIZE) is None
    assert Masks(MaskConfig(mode='latest')).find(START_NS, SIZE) is None


def test_the_latest_mask_holds_for_images_of_any_stamp():
    masks = Masks(MaskConfig(mode='latest'))
    masks.add(message_of(half()))
    masks.add(message_of(half(left=False), 1))
    np.testing.assert_array_equal(masks.find(START_NS + 10 * FRAME_NS, SIZE), half(left=False) > 0)


def test_a_stamped_mask_is_waited_for():
    masks = Masks(MaskConfig(mode='stamped', timeout_s=5.0))
    later = threading.Timer(0.2, lambda: masks.add(message_of(half(), 3)))
    later.start()
    np.testing.assert_array_equal(masks.find(START_NS + 3 * FRAME_NS, SIZE), half() > 0)
    later.join()


def test_an_image_whose_mask_is_passed_over_does_not_wait():
    masks = Masks(MaskConfig(mode='stamped', timeout_s=5.0))
    masks.add(message_of(half(), 4))
    start = time.monotonic()
    with pytest.raises(EncodingError, match='no mask has the stamp of the image'):
        masks.find(START_NS + 3 * FRAME_NS, SIZE)
    assert time.monotonic() - start < 1.0
    with pytest.raises(EncodingError):
        Masks(MaskConfig(mode='stamped', timeout_s=0.05)).find(START_NS, SIZE)


def test_masks_are_rectified_with_their_image():
    """What the lens sees in the masked half stays masked, and nothing of it is mixed into what counts."""
    K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
    info = info_message(TYPES, K, SIZE, d=(-0.2, 0.05, 0, 0, 0), P=K)
    side = np.zeros(SIZE, np.uint8)
    side[:, :12] = 255
    message = image_message(TYPES, np.dstack([side] * 3), 'rgb8')
    masks = Masks(MaskConfig(mode='latest'))
    masks.add(message_of(side))
    frame = decode_frame(message, info, rectifiers=Rectifiers(), find_mask=masks.find)
    assert frame.mask is not None
    assert (frame.image[frame.mask] == 255).all()
    bright = (frame.image[..., 0] == 255).mean()
    assert frame.mask.mean() == pytest.approx(bright, rel=0.02)
    assert not np.array_equal(frame.mask, side > 0)  # a barrel's side is drawn outwards
    bare = decode_frame(message, info, rectifiers=Rectifiers())
    assert bare.mask is None or bare.mask.mean() > 0.9


def masked_bag(folder: Path, stamps: range = range(6)) -> Path:
    """Six images, and masks for some of them that shut off a column more each time."""
    K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
    entries = []
    for i in range(6):
        stamp = START_NS + i * FRAME_NS
        info = info_message(TYPES, K, SIZE, stamp_ns=stamp)
        entries.append(('/camera/camera_info', 'sensor_msgs/msg/CameraInfo', stamp, info))
        image = image_message(TYPES, coloured_image(), 'rgb8', stamp_ns=stamp)
        entries.append(('/camera/image_raw', 'sensor_msgs/msg/Image', stamp, image))
        if i in stamps:
            mask = np.full(SIZE, 255, np.uint8)
            mask[:, : 4 * i] = 0
            entries.append(('/robot_mask', 'sensor_msgs/msg/Image', stamp, message_of(mask, i)))
    return write_bag(folder, entries)


def known_columns(path: Path, config: Config, topic: str = '') -> list[int]:
    """Of each frame that is placed, how many columns of its depth are known."""
    source = open_source(path, topic='/camera/image_raw', find_masks=masks_of(path, config, topic))
    pipeline = Pipeline(config, make_predictor(config))
    answers = [*map(pipeline.add_frame, source), pipeline.flush()]
    source.close()
    frames = [frame for update in answers if update is not None for frame in update.frames]
    return [int(np.isfinite(frame.depth).any(axis=0).sum()) for frame in frames]


FAKE = {'backend': 'fake', 'window_size': 3, 'window_stride': 2, 'confidence_percentile': 0.0, 'input_width': 64}


def test_masked_pixels_have_no_depth(tmp_path: Path, mask_file: Path):
    config = Config().with_values({**FAKE, 'mask_path': str(mask_file)})
    assert known_columns(camera_bag(tmp_path / 'bag', 6), config) == [32] * 6


@pytest.mark.parametrize('mode', ['stamped', 'latest'])
def test_masks_of_a_bag_hold_for_their_images(tmp_path: Path, mode: str):
    config = Config().with_values({**FAKE, 'mask_mode': mode})
    assert known_columns(masked_bag(tmp_path / 'bag'), config, '/robot_mask') == [64, 60, 56, 52, 48, 44]


def test_the_last_mask_of_a_bag_holds_until_the_next(tmp_path: Path):
    config = Config().with_values({**FAKE, 'mask_mode': 'latest'})
    assert known_columns(masked_bag(tmp_path / 'bag', range(0, 6, 3)), config, '/robot_mask') == [64, 64, 64] + [52] * 3


def test_map_and_cloud_leave_masked_pixels_out(tmp_path: Path, mask_file: Path):
    bag, out = camera_bag(tmp_path / 'bag', 4), tmp_path / 'out'
    command = ['run', str(bag), '--out', str(out), '--quiet', '--input-width', '64', '--force']
    for name in ('backend=fake', 'window-size=4', 'confidence-percentile=0'):
        command += [f'--{name.split("=")[0]}', name.split('=')[1]]
    counts = []
    for extra in ([], ['--mask-path', str(mask_file)]):
        assert main([*command, *extra]) == 0
        head = (out / 'cloud.ply').read_bytes().split(b'end_header')[0].decode()
        counts.append(int(head.split('element vertex ')[1].split()[0]))
    assert counts[1] == pytest.approx(counts[0] / 2, rel=0.1)


def test_a_bag_without_the_masks_asked_for_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    bag = camera_bag(tmp_path / 'bag', 3)
    command = ['run', str(bag), '--out', str(tmp_path / 'out'), '--backend', 'fake', '--mask-mode', 'stamped']
    assert main(command) == 2
    assert 'needs --mask-topic' in capsys.readouterr().err
    assert main([*command, '--mask-topic', '/nothing']) == 2
    assert 'has no topic /nothing' in capsys.readouterr().err
    assert main([*command[:-2], '--mask-path', str(tmp_path / 'none.png')]) == 2
    assert 'cannot read mask_path' in capsys.readouterr().err
