"""The router configurations for Zenoh: Zenoh itself takes them, and lets a relay's image and an odometry through."""

from __future__ import annotations

import json
import queue
import socket
from pathlib import Path

import pytest

zenoh = pytest.importorskip('zenoh', reason='needs eclipse-zenoh')
CONFIG = Path(__file__).resolve().parents[2] / 'config'
DEADLINE_S = 60.0


def load(end: str) -> zenoh.Config:
    """Zenoh refuses a name that it does not know."""
    return zenoh.Config.from_file(str(CONFIG / f'zenoh_{end}.json5'))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        return probe.getsockname()[1]


def test_nobody_listens_on_every_interface_or_looks_for_others() -> None:
    listens = {end: json.loads(load(end).get_json('listen/endpoints')) for end in ('robot', 'gpu')}
    assert listens['robot'] == ['tcp/127.0.0.1:7447']
    assert listens['gpu'] == ['tcp/127.0.0.1:7447', *json.loads(load('robot').get_json('connect/endpoints'))]
    assert all(load(end).get_json('scouting/multicast/enabled') == 'false' for end in listens)


def test_an_image_goes_out_and_an_odometry_comes_back() -> None:
    """Between two routers, each with its own file but for the addresses; nodes are clients of one of them."""
    robot_port, gpu_port = free_port(), free_port()
    robot, gpu = load('robot'), load('gpu')
    gpu.insert_json5('listen/endpoints', f'["tcp/127.0.0.1:{gpu_port}"]')
    robot.insert_json5('listen/endpoints', f'["tcp/127.0.0.1:{robot_port}"]')
    robot.insert_json5('connect/endpoints', f'["tcp/127.0.0.1:{gpu_port}"]')
    image, odometry = bytes(range(256)) * 80, b'o' * 700
    images: queue.Queue[bytes] = queue.Queue()
    answers: queue.Queue[bytes] = queue.Queue()
    with zenoh.open(gpu), zenoh.open(robot), client(robot_port) as relay, client(gpu_port) as node:
        node.declare_subscriber('0/relay/image_rect/compressed/**', lambda one: images.put(one.payload.to_bytes()))
        relay.declare_subscriber('0/vggt/odom/**', lambda one: answers.put(one.payload.to_bytes()))
        assert passed(relay, '0/relay/image_rect/compressed/type/hash', image, images) == image
        assert passed(node, '0/vggt/odom/type/hash', odometry, answers) == odometry


def client(port: int) -> zenoh.Session:
    config = zenoh.Config()
    config.insert_json5('mode', '"client"')
    config.insert_json5('connect/endpoints', f'["tcp/127.0.0.1:{port}"]')
    config.insert_json5('scouting/multicast/enabled', 'false')
    return zenoh.open(config)


def passed(session: zenoh.Session, key: str, data: bytes, arrived: queue.Queue[bytes]) -> bytes:
    """What arrives, sent again until both ends know of each other."""
    for _ in range(int(DEADLINE_S / 0.2)):
        session.put(key, data)
        try:
            return arrived.get(timeout=0.2)
        except queue.Empty:
            continue
    raise AssertionError(f'nothing came on {key}')
