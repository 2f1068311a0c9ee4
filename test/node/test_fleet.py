"""Several robots in one process: each its own node, and the troubles of one are not those of another."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.msg import Odometry
from robot import DEADLINE_S, OPTICAL, Clip, NodeProcess, Robot, rgb8
from sensor_msgs.msg import Image
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from vggt_ros.core.errors import ConfigError
from vggt_ros.decode import stamp_ns
from vggt_ros.fleet import names_of

PARAMETERS = """
/**:
  ros__parameters:
    standalone: true
    device: cpu
    input_width: 64
    window_size: 2
    window_stride: 2
    input_reliability: reliable
/b/vggt:
  ros__parameters:
    world_frame: world_of_b
    camera_info_timeout_s: 0.0
/a/vggt:
  ros__parameters:
    camera_info_timeout_s: 0.0
/c/vggt:
  ros__parameters:
    window_size: -3
/d/vggt:
  ros__parameters:
    model_id: nothing.safetensors
"""


def test_robots_share_a_network_and_nothing_else(
    robot: Robot, start_node: Callable[..., NodeProcess], clip: Clip, tmp_path: Path
) -> None:
    """c has a parameter that cannot be, d a network that is not there; a is broken, then deactivated, beside b."""
    file = tmp_path / 'fleet.yaml'
    file.write_text(PARAMETERS)
    fleet = start_node(
        program='fleet', arguments=('--robots', 'a,b,c,d', '--ros-args', '--params-file', str(file)),
        remappings={'image': 'camera/image'},
    )  # fmt: skip
    cameras = {name: robot.create_publisher(Image, f'/{name}/camera/image', 5) for name in 'ab'}
    for name in 'ab':
        robot.listen(Odometry, f'/{name}/vggt/odom')
        robot.listen(TFMessage, f'/{name}/tf')
    robot.listen(TFMessage, '/tf')
    fleet.wait_for_text('c is left out: ')
    fleet.wait_for_text('[d.vggt]: cannot configure: ')
    for name in 'ab':
        fleet.wait_for_text(f'[{name}.vggt]: waiting for images on /{name}/camera/image and /{name}/camera/camera_info')
    assert '[b.vggt]: waiting for images on /a/' not in fleet.text  # each says its own

    start, count = clip.stamps_ns[0], 0

    def film(name: str, *, broken: bool = False) -> None:
        nonlocal count
        count += 1
        stamp = start + count * 50_000_000
        header = Header(frame_id=OPTICAL)
        header.stamp.sec, header.stamp.nanosec = divmod(stamp, 10**9)
        image = Image(header=header, height=4, width=4, encoding='nothing') if broken else rgb8(
            header, clip.images[count % len(clip)]
        )  # fmt: skip
        cameras[name].publish(image)

    def film_until(names: str, is_true: Callable[[], object], **how: bool) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not is_true():
            assert time.monotonic() < deadline, fleet.text
            for name in names:
                film(name, **how)
            time.sleep(0.1)

    odom = {name: robot.received[f'/{name}/vggt/odom'] for name in 'ab'}
    film_until('ab', lambda: len(odom['a']) >= 4 and len(odom['b']) >= 4)
    assert odom['a'][-1].header.frame_id == 'odom'
    robot.wait_until(lambda: robot.received['/a/tf'] and robot.received['/b/tf'], 'transforms of each')
    assert not robot.received['/tf']

    before = len(odom['b'])
    for _ in range(50):
        film('a', broken=True)
    film_until('b', lambda: len(odom['b']) >= before + 4)

    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_DEACTIVATE))
    ask(robot, ChangeState, '/a/vggt/change_state', request)
    assert state_of(robot, 'a') == State.PRIMARY_STATE_INACTIVE
    at_rest, before = len(odom['a']), len(odom['b'])
    film_until('ab', lambda: len(odom['b']) >= before + 4)
    assert len(odom['a']) <= at_rest + 2  # those that were under way
    assert state_of(robot, 'b') == State.PRIMARY_STATE_ACTIVE
    assert state_of(robot, 'd') == State.PRIMARY_STATE_UNCONFIGURED

    stamps = [stamp_ns(message.header.stamp) for message in odom['b']]
    assert stamps == sorted(set(stamps))
    assert fleet.stop() == 0
    assert 'Traceback' not in fleet.text


def ask(robot: Robot, kind: type, name: str, request: Any) -> Any:
    """The answer of a service, asked again where it does not come: the way back may be matched after the question."""
    client = robot.create_client(kind, name)
    assert client.wait_for_service(DEADLINE_S), name
    deadline = time.monotonic() + DEADLINE_S
    while True:
        future, again = client.call_async(request), time.monotonic() + 5.0
        while time.monotonic() < again:
            if future.done():
                return future.result()
            time.sleep(0.01)
        assert time.monotonic() < deadline, f'no answer of {name}'


def state_of(robot: Robot, name: str) -> int:
    return ask(robot, GetState, f'/{name}/vggt/get_state', GetState.Request()).current_state.id


@pytest.mark.parametrize('text', ['', 'a,a', '1st', 'a b', '/a'])
def test_names_that_are_no_namespaces_are_refused(text: str) -> None:
    assert names_of('a, b/c') == ['a', 'b/c']
    with pytest.raises(ConfigError, match='different names such as robot_1,robot_2'):
        names_of(text)
