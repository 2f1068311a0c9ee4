"""The relay on the robot and the node elsewhere: each a process of its own, the test is the rest of the robot."""

from __future__ import annotations

import contextlib
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import rclpy
from nav_msgs.msg import Odometry
from rclpy.parameter import Parameter
from robot import DEADLINE_S, IMAGE, OPTICAL, ROOT, Clip, NodeProcess, Robot, spinning
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt.preprocessing import resize_keeping_aspect
from vggt_ros.decode import stamp_ns
from vggt_ros.node import VggtNode
from vggt_ros.relay import Relay

SENT, INFO, MASK = '/relay/image_rect/compressed', '/relay/camera_info', '/relay/mask'
FRAME_NS = 100_000_000


@pytest.fixture
def make_relay() -> Iterator[Callable[..., Relay]]:
    with contextlib.ExitStack() as stack:

        def make(**parameters: object) -> Relay:
            context = rclpy.Context()
            rclpy.init(context=context)
            stack.callback(rclpy.try_shutdown, context=context)
            parameters = {'input_reliability': 'reliable', 'input_queue_depth': 50, 'max_age_s': 30.0, **parameters}
            relay = Relay(
                context=context,
                parameter_overrides=[Parameter(name, value=value) for name, value in parameters.items()],
                cli_args=['--ros-args', '-r', f'image:={IMAGE}'],
            )
            stack.callback(relay.destroy_node)
            stack.enter_context(spinning(relay, context))
            stack.callback(relay.close)
            return relay

        yield make


def match(robot: Robot, relay: Relay, clip: Clip | None = None) -> None:
    """Both ends know of each other, and the relay the calibration of a clip."""
    robot.wait_until(
        lambda: relay._images.get_subscription_count() and relay._camera_infos.get_subscription_count()
        and robot._camera['image'].get_subscription_count() and robot._camera['info'].get_subscription_count()
        and relay.count_publishers(IMAGE),
        'match',
    )  # fmt: skip
    time.sleep(0.5)
    if clip is not None:
        height, width = clip.images[0].shape[:2]
        robot._camera['info'].publish(CameraInfo(height=height, width=width, k=clip.K.reshape(9)))
        robot.wait_until(lambda: relay._infos.find(0) is not None, 'calibration')


def publish(robot: Robot, relay: Relay, clip: Clip, stamps: list[int]) -> None:
    """One image after the other, each taken before the next."""
    for i, stamp in enumerate(stamps):
        before = relay.received
        robot.publish_frame(clip, i % len(clip), stamp_ns=stamp)
        robot.wait_until(lambda count=before: relay.received > count, 'image at the relay')


def test_results_come_back_with_the_stamps_of_the_robot(
    robot: Robot, start_node: Callable[..., NodeProcess], clip: Clip
) -> None:
    """Robot, relay and node in three processes; what the link carries is what the network needs, and no more."""
    relay = start_node(program='relay', width=128, multiple=8, format='png', input_reliability='reliable')
    node = start_node(
        remappings={'image': '/relay/image_rect'}, image_transport='compressed', input_reliability='reliable',
        standalone=True, window_size=2, window_stride=2, input_width=128,
    )  # fmt: skip
    robot.start_camera()
    robot.listen(CompressedImage, SENT)
    robot.listen(CameraInfo, INFO)
    robot.listen(Odometry, '/vggt/odom')
    robot.listen(CameraInfo, '/vggt/depth/camera_info')
    relay.wait_for_text('waiting for images')
    node.wait_for_text('waiting for images on /relay/image_rect/compressed and /relay/camera_info')
    sent: dict[int, int] = {}
    deadline = time.monotonic() + DEADLINE_S
    while len(robot.received['/vggt/odom']) < 6 or len(robot.received['/vggt/depth/camera_info']) < 6:
        assert time.monotonic() < deadline, f'{relay.text}\n{node.text}'
        stamp = clip.stamps_ns[0] + len(sent) * FRAME_NS
        sent[stamp] = len(sent) % len(clip)
        robot.publish_frame(clip, sent[stamp], stamp_ns=stamp)
        time.sleep(0.1)
    stamps = [stamp_ns(message.header.stamp) for message in robot.received['/vggt/odom']]
    assert set(stamps) <= set(sent)
    assert stamps == sorted(set(stamps))
    message = robot.received[SENT][-1]
    assert message.header.frame_id == OPTICAL
    pixels = cv2.cvtColor(cv2.imdecode(np.frombuffer(message.data, np.uint8), 1), cv2.COLOR_BGR2RGB)
    direct = resize_keeping_aspect(clip.images[sent[stamp_ns(message.header.stamp)]], 128, 8)
    np.testing.assert_array_equal(pixels, (direct.image.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    for info in (robot.received[INFO][-1], robot.received['/vggt/depth/camera_info'][-1]):
        np.testing.assert_allclose(np.reshape(info.k, (3, 3)), direct.transform.K_to_model(clip.K), atol=1e-6)
        assert (info.width, info.height) == direct.transform.model_size[::-1]
    assert relay.stop() == 0
    assert node.stop() == 0
    assert 'Traceback' not in relay.text


def test_images_go_out_in_order_thinned_and_never_to_nobody(
    robot: Robot, make_relay: Callable[..., Relay], clip: Clip
) -> None:
    relay = make_relay(keyframe_min_interval_s=0.1, width=128, multiple=8)
    robot.start_camera()
    start = clip.stamps_ns[0]
    robot.wait_until(lambda: robot._camera['image'].get_subscription_count(), 'match')
    time.sleep(0.5)
    publish(robot, relay, clip, [start])
    assert relay.sent == 0  # nobody listens
    robot.listen(CompressedImage, SENT)
    robot.listen(CameraInfo, INFO)
    match(robot, relay, clip)
    steps_ms = [1000, 1050, 1100, 1090, 1100, 1300, 1200]  # too soon, late, twice
    publish(robot, relay, clip, [start + ms * 1_000_000 for ms in steps_ms])
    robot.wait_until(lambda: len(robot.received[SENT]) == 3, 'images')
    sent = [(stamp_ns(one.header.stamp) - start) // 1_000_000 for one in robot.received[SENT]]
    assert sent == [1000, 1100, 1300]
    publish(robot, relay, clip, [start - 5_000_000_000])  # a bag that begins anew
    robot.wait_until(lambda: len(robot.received[SENT]) == 4, 'image after the jump')


def test_a_lens_is_rectified_and_its_border_masked(robot: Robot, make_relay: Callable[..., Relay], clip: Clip) -> None:
    relay = make_relay(width=128, multiple=8)
    robot.start_camera()
    robot.listen(CompressedImage, SENT)
    robot.listen(CameraInfo, INFO)
    robot.listen(Image, MASK, latched=True)
    match(robot, relay)
    height, width = clip.images[0].shape[:2]
    header = Image().header
    header.frame_id = OPTICAL
    header.stamp.sec = 100
    robot._camera['info'].publish(
        CameraInfo(
            header=header,
            height=height,
            width=width,
            k=clip.K.reshape(9),
            distortion_model='plumb_bob',
            d=[0.4, 0.1, 0.0, 0.0, 0.0],  # pulls the corners in, so that some of the pinhole's image stays empty
        )
    )
    robot.wait_until(lambda: relay._infos.find(0) is not None, 'calibration')
    robot.publish_frame(clip, 0, info=False)
    robot.wait_until(lambda: robot.received[SENT] and robot.received[INFO] and robot.received[MASK], 'image and mask')
    info, mask = robot.received[INFO][0], robot.received[MASK][0]
    assert not any(info.d)
    assert (mask.width, mask.height, mask.encoding) == (info.width, info.height, 'mono8')
    seen = np.frombuffer(mask.data, np.uint8).reshape(mask.height, mask.width)
    assert 0 < (seen == 0).mean() < 0.5
    pixels = cv2.imdecode(np.frombuffer(robot.received[SENT][0].data, np.uint8), 1)
    assert pixels[seen == 0].mean() < 12  # black, but for what JPEG smears


def test_a_broken_image_is_counted_and_the_next_goes_out(
    robot: Robot, make_relay: Callable[..., Relay], clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    relay = make_relay(width=128, multiple=8)
    robot.start_camera()
    robot.listen(CompressedImage, SENT)
    robot.listen(CameraInfo, INFO)
    match(robot, relay, clip)
    publish(robot, relay, clip, [clip.stamps_ns[0]])
    robot.publish_frame(clip, 1, make=lambda header, image: Image(header=header, height=1, width=1, encoding='32FC1'))
    robot.wait_until(lambda: relay.bad == 1, 'broken image')
    publish(robot, relay, clip, [clip.stamps_ns[2]])
    robot.wait_until(lambda: len(robot.received[SENT]) == 2, 'images')
    assert 'image dropped' in caplog.text


def test_a_result_that_a_lost_one_holds_back_is_kept_from_whoever_asks_for_a_lifespan(tmp_path: Path) -> None:
    """It had crossed the link before the cut, so our lifespan does not reach it: see docs/second_machine.md."""
    command = [sys.executable, str(ROOT / 'test/node/fault_network.py'), str(tmp_path), 'held']
    said = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=True).stdout
    got = json.loads(said.splitlines()[-1])
    if 'not permitted' in got:
        pytest.skip(got['not permitted'])
    assert [name for name, _ in got['with a lifespan']][-2:] == ['first', 'last']
    (age_s,) = [age_s for name, age_s in got['as it comes'] if name == 'held']
    assert age_s > 0.5


def test_images_that_were_long_on_their_way_are_dropped_and_it_is_said(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip, caplog: pytest.LogCaptureFixture
) -> None:
    """After a gap of a link: no pose of long ago, however it was held up."""
    node = make_node(standalone=True, window_size=2, window_stride=2, max_image_age_s=5.0)
    robot.start_camera()
    robot.listen(Odometry, '/vggt/odom')
    robot.wait_for_match(node)
    for topic in ('/vggt/odom', '/tf'):  # nor does a result wait longer than this for a link that is down
        offers = robot.get_publishers_info_by_topic(topic)
        assert [offer.qos_profile.lifespan.nanoseconds for offer in offers] == [5_000_000_000], topic
    with caplog.at_level(logging.WARNING):
        for i in range(4):
            robot.publish_frame(clip, i, stamp_ns=time.time_ns() - 60_000_000_000 + i * FRAME_NS)
        robot.wait_until(lambda: 'images come' in caplog.text, 'warning')
    first = time.time_ns()
    for i in range(4):
        robot.publish_frame(clip, i, stamp_ns=max(time.time_ns(), first + i))
        time.sleep(0.05)
    robot.wait_until(lambda: len(robot.received['/vggt/odom']) >= 2, 'odometry')
    assert all(stamp_ns(message.header.stamp) >= first for message in robot.received['/vggt/odom'])
    assert node._pipeline.statistics.frames <= 4
