"""Masks on topics of a running node: latched or with each image, and what is said of those that are no masks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from builtin_interfaces.msg import Time
from rclpy.qos import DurabilityPolicy, QoSProfile
from robot import Clip, Robot, raw_image
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vggt_ros.node import VggtNode
from vggt_ros.node import start as start_node_now

DEPTH = '/vggt/depth/image_rect'
SMALL = {'standalone': True, 'window_size': 2, 'window_stride': 2, 'confidence_percentile': 0.0, 'input_width': 64}
MakeNode = Callable[..., VggtNode]


def mask_of(clip: Clip, stamp_ns: int, share: float) -> Image:
    """A mask that shuts off the left share of the image."""
    height, width = clip.images[0].shape[:2]
    pixels = np.full((height, width), 255, np.uint8)
    pixels[:, : round(share * width)] = 0
    return raw_image(Header(stamp=Time(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)), 'mono8', pixels)


def unknown_share(message: Image) -> float:
    depth = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
    return float(np.isnan(depth).all(axis=0).mean())


def test_a_latched_mask_holds_for_all_images(robot: Robot, make_node: MakeNode, clip: Clip) -> None:
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = robot.create_publisher(Image, '/mask', latched)
    publisher.publish(mask_of(clip, clip.stamps_ns[0], 0.25))  # long before the node is there
    robot.start_camera()
    robot.listen(Image, DEPTH)
    node = make_node(**SMALL, mask_mode='latest')
    robot.wait_for_match(node)
    robot.wait_until(lambda: node._worker.masks[0]._packed, 'mask')
    robot.publish_clip(clip, range(4), node)
    robot.wait_until(lambda: len(robot.received[DEPTH]) == 4, 'depth')
    assert [unknown_share(message) for message in robot.received[DEPTH]] == pytest.approx([0.25] * 4, abs=0.02)


def test_each_image_gets_the_mask_of_its_stamp(
    robot: Robot, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    """A plain publisher that segments slower than images come, and passes one over."""
    publisher = robot.create_publisher(Image, '/mask', 10)
    robot.start_camera()
    robot.listen(Image, DEPTH)
    node = make_node(**SMALL, mask_mode='stamped', mask_timeout_s=3.0)
    robot.wait_for_match(node)
    robot.wait_until(publisher.get_subscription_count, 'subscriber of masks')
    for i in (0, 1, 3, 4):  # the mask of image 2 never comes
        publisher.publish(mask_of(clip, clip.stamps_ns[i], 0.1 * i))
        if i == 3:
            robot.wait_until(lambda: len(node._worker.masks[0]._packed) == 3, 'mask')
            robot.publish_clip(clip, range(2, 3), node)
        robot.publish_clip(clip, range(i, i + 1), node)
    robot.wait_until(lambda: len(robot.received[DEPTH]) == 4, 'depth')
    shares = [unknown_share(message) for message in robot.received[DEPTH]]
    assert shares == pytest.approx([0.0, 0.1, 0.3, 0.4], abs=0.02)
    assert node._worker.tally.bad_images == 1
    assert 'no mask has the stamp of the image' in caplog.text


def test_masks_that_are_none_are_said_and_counted(
    robot: Robot, make_node: MakeNode, clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = robot.create_publisher(Image, '/mask', 10)
    robot.start_camera()
    robot.listen(Image, DEPTH)
    node = make_node(**SMALL, mask_mode='latest')
    robot.wait_for_match(node)
    robot.wait_until(publisher.get_subscription_count, 'subscriber of masks')
    publisher.publish(raw_image(Header(), 'rgb8', np.zeros((4, 4, 3), np.uint8)))
    robot.wait_until(lambda: "mask on /mask dropped: a mask must be mono8 or 8UC1, got 'rgb8'" in caplog.text, 'words')
    publisher.publish(raw_image(Header(stamp=Time(sec=1)), 'mono8', np.ones((4, 4), np.uint8)))
    robot.wait_until(lambda: node._worker.masks[0]._packed, 'mask')
    robot.publish_clip(clip, range(1), node)
    robot.wait_until(lambda: 'the mask is 4x4, the image 640x480 pixels' in caplog.text, 'words about the size')
    assert node._worker.tally.bad_images == 1


def test_a_mask_file_that_is_none_keeps_the_node_from_starting(
    make_node: MakeNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cv2.imwrite(str(tmp_path / 'mask.png'), np.zeros((48, 64), np.uint8))
    with caplog.at_level(logging.ERROR):
        assert not start_node_now(make_node(**SMALL, start=False, mask_path=str(tmp_path / 'mask.png')))
        assert not start_node_now(make_node(**SMALL, start=False, mask_path=str(tmp_path / 'none.png')))
    assert 'is black all over' in caplog.text
    assert 'cannot read mask_path' in caplog.text
