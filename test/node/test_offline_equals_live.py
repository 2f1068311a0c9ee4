"""The same frames give the same messages, whether a node published them or `vggt_ros run` wrote them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from robot import OPTICAL, Clip, Robot

from vggt.weights import shipped_names
from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.messages import bag_typestore, ros_messages
from vggt_ros.node import VggtNode
from vggt_ros.recorded.static_tf import StaticTransforms
from vggt_ros.run import run
from vggt_ros.topics import TOPICS, resolve

COUNT, SIZE, STRIDE = 12, 4, 2
FLOATS = 1e-5  # relative, and absolute near zero; the two may add in another order
BACKENDS = [
    'fake',
    pytest.param('vggt', marks=pytest.mark.skipif('nano' not in shipped_names(), reason='no weights are shipped')),
]


class ClipSource:
    """The clip as a recording."""

    skipped = 0
    path = Path('clip')

    def __init__(self, clip: Clip) -> None:
        self._clip = clip

    def __len__(self) -> int:
        return COUNT

    def __iter__(self) -> Iterator[Frame]:
        for i in range(COUNT):
            yield Frame(self._clip.stamps_ns[i], self._clip.images[i], OPTICAL, self._clip.K)

    def static_transforms(self) -> StaticTransforms:
        return StaticTransforms()

    def close(self) -> None:
        pass


@pytest.mark.parametrize('backend', BACKENDS)
def test_offline_equals_live_message_by_message(
    robot: Robot, make_node: Callable[..., VggtNode], clip: Clip, tmp_path: Path, backend: str
) -> None:
    settings = {
        'backend': backend, 'standalone': True, 'window_size': SIZE, 'window_stride': STRIDE, 'device': 'cpu',
        'max_frame_gap_s': 0.0, 'max_latency_s': 9.0,
    }  # fmt: skip
    config = Config().with_values(settings)
    run(ClipSource(clip), tmp_path / 'offline', config)
    offline = read_bag(tmp_path / 'offline/result.mcap')

    robot.start_camera()
    for topic in TOPICS:
        robot.listen(ros_messages()[topic.type], resolve(topic.name), latched=topic.latched)
    node = make_node(**settings)
    robot.wait_for_match(node)
    store = bag_typestore()
    for i in range(COUNT):
        robot.publish_frame(clip, i)
        # One by one: what is tested is that the same frames give the same, not that none is passed over.
        robot.wait_until(lambda taken=i + 1: node._pipeline.statistics.frames == taken, f'image {i} to be taken')
        if i + 1 >= SIZE and (i + 1 - SIZE) % STRIDE == 0:
            robot.wait_until(lambda due=i + 1: len(robot.received['/vggt/odom']) == due, 'its results')
    robot.wait_until(
        lambda: all(len(robot.received[name]) >= len(messages) for name, messages in offline.items()), 'all messages'
    )

    assert set(offline) == {name for name, messages in robot.received.items() if messages}
    for topic in TOPICS:
        name = resolve(topic.name)
        live = [store.deserialize_cdr(serialize_message(m), topic.type) for m in robot.received[name]]
        assert len(live) == len(offline[name]), name
        for i, (a, b) in enumerate(zip(live, offline[name], strict=True)):
            compare(a, b, f'{name}[{i}]')


def compare(a: Any, b: Any, where: str) -> None:
    """Equal in everything; floats to FLOATS, also those packed into bytes."""
    assert type(a).__name__ == type(b).__name__, where
    if is_dataclass(a):
        is_float_image = getattr(a, 'encoding', '') == '32FC1'
        is_cloud = hasattr(a, 'point_step')
        for field in fields(a):
            left, right = getattr(a, field.name), getattr(b, field.name)
            if field.name == 'data' and is_float_image:
                left, right = left.view(np.float32), right.view(np.float32)
            elif field.name == 'data' and is_cloud:
                left, right = left.view(np.float32).reshape(-1, 4), right.view(np.float32).reshape(-1, 4)
                assert np.array_equal(left[:, 3].view(np.uint32), right[:, 3].view(np.uint32)), f'{where} colours'
                left, right = left[:, :3], right[:, :3]
            compare(left, right, f'{where}.{field.name}')
    elif isinstance(a, np.ndarray):
        assert a.shape == b.shape, where
        if a.dtype.kind == 'f':
            np.testing.assert_allclose(a, b, rtol=FLOATS, atol=FLOATS, equal_nan=True, err_msg=where)
        else:
            assert np.array_equal(a, b), where
    elif isinstance(a, list):
        assert len(a) == len(b), where
        for i, (left, right) in enumerate(zip(a, b, strict=True)):
            compare(left, right, f'{where}[{i}]')
    elif isinstance(a, float):
        assert a == pytest.approx(b, rel=FLOATS, abs=FLOATS), where
    else:
        assert a == b, where


def read_bag(path: Path) -> dict[str, list[Any]]:
    """Messages by topic, in the order of the file."""
    from mcap.reader import make_reader

    store, messages = bag_typestore(), defaultdict(list)
    with path.open('rb') as stream:
        for schema, channel, message in make_reader(stream).iter_messages(log_time_order=False):
            messages[channel.topic].append(store.deserialize_cdr(message.data, schema.name))
    return messages
