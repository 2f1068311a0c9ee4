"""The small clocks of the worker, without ROS around them, and the names that a node resolves."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import rclpy
from builtin_interfaces.msg import Time
from rclpy.node import Node
from robot import DEADLINE_S, rgb8, wait_until
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from vggt_ros.core.config import Config
from vggt_ros.core.errors import PredictionError
from vggt_ros.core.foresight import Foresight
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import FakePredictor
from vggt_ros.core.submap import Submap, Update
from vggt_ros.core.window import Window
from vggt_ros.encode import Encoder, Output
from vggt_ros.live.correction import MapToOdom
from vggt_ros.live.inputs import Gaps, resolve_topics
from vggt_ros.live.mailbox import Mailbox
from vggt_ros.live.silence import Silence
from vggt_ros.live.worker import Worker, explain
from vggt_ros.masks import Masks
from vggt_ros.messages import ros_messages
from vggt_ros.throttle import Throttle


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_silence_is_told_once_and_begins_anew_with_an_image() -> None:
    clock = Clock()
    silence = Silence(clock, clock)
    clock.now = 10.0
    assert not silence.lasts(2.0)  # no image has come at all
    silence.end()
    clock.now = 11.9
    assert not silence.lasts(2.0)
    clock.now = 12.0
    assert silence.lasts(2.0)
    assert not silence.lasts(2.0)
    silence.end()
    clock.now = 14.5
    assert silence.lasts(2.0)


def test_a_bag_played_slowly_is_not_silent() -> None:
    data, steady = Clock(), Clock()
    silence = Silence(data, steady)
    silence.end()
    for tick in range(1, 100):  # ten seconds on the wall are one second of the recording
        data.now, steady.now = 0.01 * tick, 0.1 * tick
        assert not silence.lasts(2.0)


def test_a_clock_that_stopped_with_its_bag_counts_as_silence() -> None:
    data, steady = Clock(), Clock()
    silence = Silence(data, steady)
    data.now = steady.now = 5.0
    silence.end()
    steady.now = 6.9
    assert not silence.lasts(2.0)
    steady.now = 7.0
    assert silence.lasts(2.0)


def test_the_same_thing_is_said_once_then_at_intervals_with_a_count() -> None:
    clock, said = Clock(), []
    throttle = Throttle(10.0, clock)
    for second in range(25):
        clock.now = second
        throttle(said.append, 'camera', 'no image')
    throttle(said.append, 'tf', 'no TF')
    assert said == [
        'no image',
        'no image (9 more times since it was said last)',
        'no image (9 more times since it was said last)',
        'no TF',
    ]


class Nowhere:
    """No TF, and a sink that keeps what it gets."""

    is_open = True
    wanted = frozenset({'~/depth/image_rect', '~/camera_pose'})

    def __init__(self) -> None:
        self.stamps: dict[str, list[int]] = {name: [] for name in self.wanted}
        self.map_to_odom = MapToOdom(lambda: None)

    def publish(self, outputs: Iterable[Output]) -> None:
        for output in outputs:
            if output.topic in self.stamps:
                self.stamps[output.topic].append(output.stamp_ns)

    def announce_camera(self, config: Config, stamp_ns: int, optical_frame: str) -> None:
        pass

    def base_from_cam(self, *_: Any) -> None:
        return None

    def stop_waiting(self) -> None:
        pass


@pytest.mark.parametrize('waited_s, seconds', [((0, 0, 0, 0), [1, 2, 3, 4]), ((70, 12, 6, 0), [4]), ((9, 9, 9, 9), [])])
def test_a_frame_that_waited_too_long_for_its_window_is_not_published_beside_the_new_ones(
    waited_s: tuple[int, ...], seconds: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """As after a cut of a link shorter than max_frame_gap_s, or where keyframes are far apart; the map has them all."""
    config = Config().with_values(
        {'backend': 'fake', 'window_size': 4, 'window_stride': 4, 'max_frame_gap_s': 0.0, 'camera_info_timeout_s': 0.0}
    )
    clock, where = Clock(), Nowhere()
    mailbox: Mailbox[Any] = Mailbox(4, clock)
    pipeline = Pipeline(config, FakePredictor(config))
    encoder = Encoder(config, ros_messages(), pipeline.points)
    worker = Worker(pipeline, encoder, where, where, lambda: config, mailbox)
    for i, waited in enumerate(waited_s):
        clock.now = time.monotonic() - waited
        header = Header(frame_id='camera')
        header.stamp.sec = i + 1
        mailbox.put(rgb8(header, np.zeros((48, 64, 3), np.uint8)))
    worker.start()
    wait_until(lambda: worker.tally.late + worker.tally.published >= 4)
    assert worker.stop(DEADLINE_S)
    for stamps in where.stamps.values():
        assert stamps == [second * 10**9 for second in seconds]
    assert worker.tally.late == 4 - len(seconds)
    assert worker.tally.is_late == (not seconds)
    assert len(pipeline.trajectory()[0]) == 4
    if worker.tally.late:
        assert f'{worker.tally.late} of 4 results dropped: the oldest is {min(waited_s[0], 60)}.' in caplog.text
    else:
        assert 'dropped' not in caplog.text


def test_what_waits_when_the_stream_pauses_goes_out_before_it_is_too_late() -> None:
    """Also where max_latency_s is no longer than max_frame_gap_s, as across a link."""
    config = Config().with_values(
        {'backend': 'fake', 'window_size': 4, 'window_stride': 4, 'max_frame_gap_s': 1.5, 'max_latency_s': 1.5,
         'camera_info_timeout_s': 0.0}
    )  # fmt: skip
    where = Nowhere()
    mailbox: Mailbox[Any] = Mailbox(4, time.monotonic)
    pipeline = Pipeline(config, FakePredictor(config))
    worker = Worker(pipeline, Encoder(config, ros_messages(), pipeline.points), where, where, lambda: config, mailbox)
    worker.start()
    for second in (1, 2):
        header = Header(frame_id='camera')
        header.stamp.sec = second
        mailbox.put(rgb8(header, np.zeros((48, 64, 3), np.uint8)))
    wait_until(lambda: worker.tally.late + worker.tally.published >= 2)
    assert worker.stop(DEADLINE_S)
    assert worker.tally.late == 0
    assert all(stamps == [10**9, 2 * 10**9] for stamps in where.stamps.values())


class Slow(Nowhere):
    """A sink that takes its time over the first window, all of it, and may fail."""

    wanted = frozenset({'~/depth/image_rect', '~/camera_pose', '~/map_points'})

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.gate, self.error, self.maps = threading.Event(), error, []

    def publish(self, outputs: Iterable[Output]) -> None:
        assert self.gate.wait(DEADLINE_S)
        error, self.error = self.error, None
        if error is not None:
            raise error
        outputs = list(outputs)
        self.maps += [output.message.width for output in outputs if output.topic == '~/map_points']
        super().publish(outputs)


def two_windows(sink: Slow) -> tuple[Worker, Pipeline]:
    """Two windows of two frames, of which the pipeline is done with both while the sink still has the first."""
    config = Config().with_values(
        {'backend': 'fake', 'window_size': 2, 'window_stride': 2, 'camera_info_timeout_s': 0.0,
         'map_publish_period': 0.1, 'voxel_size': 0.01, 'max_frame_gap_s': 0.0}
    )  # fmt: skip
    mailbox: Mailbox[Any] = Mailbox(4, time.monotonic)
    pipeline = Pipeline(config, FakePredictor(config))
    worker = Worker(pipeline, Encoder(config, ros_messages(), pipeline.points), sink, sink, lambda: config, mailbox)
    for second in (1, 2, 3, 4):
        header = Header(frame_id='camera')
        header.stamp.sec = second
        mailbox.put(rgb8(header, np.zeros((48, 64, 3), np.uint8)))
    worker.start()
    wait_until(lambda: pipeline.statistics.windows >= 2)
    return worker, pipeline


def test_the_next_window_is_computed_while_the_last_one_goes_out() -> None:
    """And what goes out late is still what was known then: the map of the first window has no point of the second."""
    sink = Slow()
    worker, pipeline = two_windows(sink)
    assert worker.tally.published == 0
    sink.gate.set()
    assert worker.stop(DEADLINE_S)
    assert worker.tally.published == 4
    for topic in ('~/depth/image_rect', '~/camera_pose'):
        assert sink.stamps[topic] == [second * 10**9 for second in (1, 2, 3, 4)]
    first, second = sink.maps
    assert 0 < first < second == len(pipeline.points()[0])


class Elsewhere(FakePredictor):
    """A network on a device of its own, which says when it has begun with its second window."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.calls, self.second = 0, threading.Event()

    def predict(self, window: Window) -> Prediction:
        self.calls += 1
        if self.calls == 2:
            self.second.set()
        return super().predict(window)


def test_the_network_takes_what_waits_before_the_last_window_is_in_the_map() -> None:
    """Images are decoded ahead then: one that cannot be is told, and the others go on. Settings change meanwhile."""
    config = Config().with_values(
        {'backend': 'fake', 'window_size': 2, 'window_stride': 2, 'camera_info_timeout_s': 0.0, 'max_frame_gap_s': 0.0}
    )
    where, network = Nowhere(), Elsewhere(config)
    mailbox: Mailbox[Any] = Mailbox(2, time.monotonic)
    pipeline = Pipeline(config, Foresight(network))
    asked = set()

    def settings() -> Config:
        asked.add(pipeline.statistics.windows)
        return config

    worker = Worker(pipeline, Encoder(config, ros_messages(), pipeline.points), where, where, settings, mailbox)
    insert, seen = pipeline.map.insert, []

    def watched(submap: Submap) -> Update:
        for image in coming.pop(0) if coming else ():
            mailbox.put(image)
        pipeline._begin_next(Window((pipeline._last,), 0))  # as the pipeline has just done, when none waited
        seen.append(network.second.wait(DEADLINE_S))
        return insert(submap)

    pipeline.map.insert = watched  # type: ignore[method-assign]
    images = []
    for second in range(1, 8):
        header = Header(frame_id='camera')
        header.stamp.sec = second
        images.append(rgb8(header, np.zeros((48, 64, 3), np.uint8)))
    images[4].encoding = 'hologram'
    coming = [images[2:4], images[4:6]]
    for image in images[:2]:
        mailbox.put(image)
    worker.start()
    wait_until(lambda: worker.tally.published >= 4)
    assert seen == [True, True]
    assert asked >= {0, 1}  # also where the next window waits already
    mailbox.put(images[6])
    wait_until(lambda: worker.tally.published >= 6)
    assert worker.stop(DEADLINE_S)
    assert where.stamps['~/camera_pose'] == [second * 10**9 for second in (1, 2, 3, 4, 6, 7)]
    assert worker.tally.bad_images == 1
    assert worker.tally.failures == 0


def test_of_what_waits_the_network_is_shown_one_window_and_nothing_is_lost_by_that() -> None:
    """Fewer stay where they are: a newer image may win."""
    config = Config().with_values(
        {'backend': 'fake', 'window_size': 2, 'window_stride': 2, 'camera_info_timeout_s': 0.0, 'max_frame_gap_s': 0.0}
    )
    where, mailbox = Nowhere(), Mailbox[Any](2, time.monotonic)
    pipeline = Pipeline(config, FakePredictor(config))
    worker = Worker(pipeline, Encoder(config, ros_messages(), pipeline.points), where, where, lambda: config, mailbox)
    images = [rgb8(Header(stamp=Time(sec=second)), np.zeros((48, 64, 3), np.uint8)) for second in range(1, 5)]

    def shown() -> list[int]:
        return [frame.stamp_ns // 10**9 for frame in pipeline.upcoming()]

    mailbox.put(images[0])
    assert shown() == []
    assert [letter.message for letter in mailbox.take(0.0)] == images[:1]
    for image in images[:2]:
        mailbox.put(image)
    assert shown() == [1, 2]
    for image in images[2:]:
        mailbox.put(image)
    assert shown() == [1, 2]
    worker.start()
    wait_until(lambda: worker.tally.published >= 4)
    assert worker.stop(DEADLINE_S)
    assert where.stamps['~/camera_pose'] == [second * 10**9 for second in (1, 2, 3, 4)]
    assert worker.tally.failures == 0


def test_a_window_does_not_wait_for_the_masks_of_the_next_one() -> None:
    config = Config().with_values(
        {'backend': 'fake', 'window_size': 2, 'window_stride': 2, 'camera_info_timeout_s': 0.0, 'max_frame_gap_s': 0.0,
         'mask_mode': 'stamped', 'mask_timeout_s': 5.0}
    )  # fmt: skip
    where, mailbox, masks = Nowhere(), Mailbox[Any](2, time.monotonic), Masks(config.mask)
    pipeline = Pipeline(config, Foresight(FakePredictor(config)))
    encoder = Encoder(config, ros_messages(), pipeline.points)
    worker = Worker(pipeline, encoder, where, where, lambda: config, mailbox, masks=(masks,))
    insert, waited = pipeline.map.insert, []

    def watched(submap: Submap) -> Update:
        start = time.monotonic()
        for image in images[2:] if not waited else ():
            mailbox.put(image)
        pipeline._begin_next(Window((pipeline._last,), 0))
        waited.append(time.monotonic() - start)
        return insert(submap)

    pipeline.map.insert = watched  # type: ignore[method-assign]
    images = [rgb8(Header(stamp=Time(sec=second)), np.zeros((48, 64, 3), np.uint8)) for second in range(1, 5)]
    seen = [Image(header=one.header, height=48, width=64, encoding='mono8', step=64) for one in images]
    for one in seen:
        one.data.frombytes(bytes([255]) * 48 * 64)
    for image, mask in zip(images[:2], seen[:2], strict=True):
        masks.add(mask)
        mailbox.put(image)
    worker.start()
    wait_until(lambda: worker.tally.published >= 2)
    for mask in seen[2:]:
        masks.add(mask)
    wait_until(lambda: worker.tally.published >= 4)
    assert worker.stop(DEADLINE_S)
    assert waited[0] < config.mask.timeout_s
    assert worker.tally.bad_images == 0


def test_a_window_that_cannot_be_published_is_told_and_the_next_one_is() -> None:
    sink = Slow(error=RuntimeError('the publisher is broken'))
    worker, _ = two_windows(sink)
    sink.gate.set()
    assert worker.stop(DEADLINE_S)
    assert worker.tally.failures == 1
    assert sink.stamps['~/camera_pose'] == [3 * 10**9, 4 * 10**9]


def test_stopping_waits_for_what_goes_out() -> None:
    """After a deactivation no message comes behind it."""
    sink = Slow()
    worker, _ = two_windows(sink)
    threading.Timer(0.3, sink.gate.set).start()
    assert worker.stop(DEADLINE_S)
    assert sink.stamps['~/camera_pose'] == [second * 10**9 for second in (1, 2, 3, 4)]


def test_messages_that_were_never_taken_are_counted_by_their_publishers_numbers() -> None:
    gaps = Gaps()
    one, other = {'data': b'one'}, {'data': b'other'}
    steps = [(one, 7), (one, 8), (one, 12), (other, 40), (other, 41), (one, 20), (one, 1), (one, 3), (None, None)]
    infos = [{'publisher_gid': publisher, 'publication_sequence_number': number} for publisher, number in steps]
    assert [gaps.add(info) for info in infos] == [0, 0, 3, 0, 0, 0, 0, 1, 0]
    assert gaps.lost == 4
    assert gaps.add({'source_timestamp': 1}) == 0  # Humble tells no number


def test_out_of_memory_is_seen_through_what_wraps_it() -> None:
    class OutOfMemoryError(RuntimeError):
        """As torch.cuda's is called."""

    wrapped = PredictionError('the network failed')
    wrapped.__cause__ = OutOfMemoryError('CUDA out of memory')
    assert 'lower window_size' in explain(wrapped)
    assert explain(PredictionError('the network failed')) == 'the network failed'
    assert explain(KeyError('x')) == "KeyError: 'x'"


@pytest.mark.parametrize(
    'rules, compressed, expected',
    [
        ({'image': '/camera/image_raw'}, False, ('/camera/image_raw', '/camera/camera_info')),
        ({'image': '/camera/image_raw'}, True, ('/camera/image_raw/compressed', '/camera/camera_info')),
        ({'image': '/left/image', 'camera_info': '/rig/left_info'}, False, ('/left/image', '/rig/left_info')),
        ({'image': '/left/image', '/left/camera_info': '/info'}, False, ('/left/image', '/info')),
        ({}, False, ('/robot/image', '/robot/camera_info')),
    ],
)
def test_the_calibration_is_looked_for_beside_the_image(
    rules: dict[str, str], compressed: bool, expected: tuple[str, str]
) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    arguments = ['--ros-args', *(word for rule in rules.items() for word in ('-r', ':='.join(rule)))]
    node = Node('named', namespace='/robot', context=context, cli_args=arguments, start_parameter_services=False)
    assert resolve_topics(node, compressed) == expected
    node.destroy_node()
    rclpy.shutdown(context=context)
