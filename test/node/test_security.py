"""The SROS 2 policies: whatever the running nodes do is allowed by them, and nothing of it is made up."""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import rclpy
from robot import CAMERA_INFO, DEADLINE_S, IMAGE, ROOT, SETTLE_S, NodeProcess, Robot

from vggt_ros import fleet
from vggt_ros.relay import Relay
from vggt_ros.topics import INPUTS, SERVICES, TOPICS, resolve

RULES = (('topics', 'publish'), ('topics', 'subscribe'), ('services', 'reply'))


def allowed(kind: str, rule: str, executable: str = 'vggt', node: str = 'vggt', namespace: str = '/') -> set[str]:
    """Absolute names that the policy of an executable allows a node to publish, subscribe or reply to."""
    policy = ElementTree.parse(ROOT / f'sros2/{executable}.policy.xml').getroot()
    assert policy.find('.//enclave').get('path') == f'/{executable}'
    (block,) = policy.findall(f'.//profile[@ns="{namespace}"][@node="{node}"]/{kind}[@{rule}="ALLOW"]')
    above = namespace.rstrip('/')
    full = {'/': '', '~': f'{above}/{node}'}
    return {full[n[0]] + n.lstrip('~') if n[0] in full else f'{above}/{n}' for n in (one.text for one in block)}


@dataclass(frozen=True)
class Graph:
    """What another process sees of the node."""

    publishes: dict[str, list[str]]
    subscribes: dict[str, list[str]]
    offers: dict[str, list[str]]


@pytest.fixture(scope='module')
def graph(module_robot: Robot, start_module_node: Callable[..., NodeProcess]) -> Graph:
    robot = module_robot

    def look() -> Graph:
        return Graph(
            robot.published_by('vggt'),
            dict(robot.get_subscriber_names_and_types_by_node('vggt', '/')),
            dict(robot.get_service_names_and_types_by_node('vggt', '/')),
        )

    def is_complete() -> bool:
        return len(robot.published_by('vggt')) >= len(TOPICS) and IMAGE in look().subscribes

    node = start_module_node(scale_source='depth', gravity_source='imu', standalone=True)
    node.wait_for_text('waiting for images on')
    robot.wait_until(is_complete, 'graph of the node')
    time.sleep(SETTLE_S)
    return look()


def test_the_policy_is_what_the_code_declares() -> None:
    done = subprocess.run([sys.executable, '-m', 'scripts.sros_policy', '--check'], cwd=ROOT, timeout=60)
    assert done.returncode == 0, 'sros2/ is behind the code; run: python -m scripts.sros_policy'


def test_the_node_publishes_nothing_that_is_not_allowed(graph: Graph) -> None:
    published = set(graph.publishes)
    assert {'/vggt/points', '/tf', '/diagnostics', '/vggt/transition_event'} <= published
    assert published <= allowed('topics', 'publish')
    assert {resolve(topic.name) for topic in TOPICS} <= published


def test_the_node_subscribes_to_nothing_that_is_not_allowed(graph: Graph) -> None:
    names = {'depth_anchor': '/depth_anchor', 'imu': '/imu'}
    subscribed = set(graph.subscribes)
    assert {IMAGE, CAMERA_INFO, *names.values()} <= subscribed
    beside_the_depth = {'/camera_info'}  # the depth image has no name of a camera here, so neither has its calibration
    assert subscribed <= allowed('topics', 'subscribe') | beside_the_depth
    assert {one.name for one in INPUTS} >= set(names)


def test_the_node_offers_no_service_that_is_not_allowed(graph: Graph) -> None:
    offered = graph.offers
    assert set(offered) <= allowed('services', 'reply')
    for service in SERVICES:
        assert offered[resolve(service.name)] == [service.type]


def done_by(robot: Robot, node: str, namespace: str) -> list[set[str]]:
    """What another process sees of a node, in the order of RULES."""
    published = set(robot.published_by(node, namespace))
    if not published:  # not known yet
        return [set(), set(), set()]
    looks = robot.get_subscriber_names_and_types_by_node, robot.get_service_names_and_types_by_node
    return [published, *({name for name, _ in look(node, namespace)} for look in looks)]


def assert_it_may(robot: Robot, executable: str, node: str, namespace: str, needed: set[str]) -> None:
    rules = [allowed(*rule, executable, node, namespace) for rule in RULES]
    robot.wait_until(lambda: needed <= done_by(robot, node, namespace)[0], f'topics of {node}')
    time.sleep(SETTLE_S)
    found = done_by(robot, node, namespace)
    for does, may in zip(found, rules, strict=True):
        assert does - may == set()
    # Made up is nothing but what depends on settings, sensors and the distribution.
    assert rules[0] - found[0] <= {f'{namespace}/tf', f'{namespace}/tf_static'}
    assert len(rules[2] - found[2]) <= 2


def test_the_relay_does_nothing_that_is_not_allowed(robot: Robot) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    relay = Relay(context=context, cli_args=['--ros-args', '-r', 'image:=/camera/image_raw'])
    try:
        assert_it_may(robot, 'relay', 'relay', '/', {'/relay/image_rect/compressed', '/relay/mask', '/diagnostics'})
    finally:
        relay.close()
        relay.destroy_node()
        rclpy.shutdown(context=context)


def test_a_robot_of_a_fleet_does_nothing_that_is_not_allowed(robot: Robot) -> None:
    context = rclpy.Context()
    rclpy.init(args=['--ros-args', '-p', 'backend:=fake', '-r', 'image:=camera/image_raw'], context=context)
    one = fleet.Robot('robot_1', fleet.Networks(), context=context)
    one.begin()
    try:
        needed = {f'/robot_1/vggt{topic.name[1:]}' for topic in TOPICS if topic.name[0] == '~'}
        assert_it_may(robot, 'fleet', 'vggt', '/robot_1', needed)
    finally:
        rclpy.shutdown(context=context)
        one.join(DEADLINE_S)
    assert not one.is_alive()


def test_topics_are_declared_with_the_types_they_have(graph: Graph) -> None:
    published = graph.publishes
    for topic in TOPICS:
        assert published[resolve(topic.name)] == [topic.type]
