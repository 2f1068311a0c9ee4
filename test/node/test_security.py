"""The SROS 2 policy: whatever the running node does is allowed by it, and nothing of it is made up."""

from __future__ import annotations

import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from robot import CAMERA_INFO, IMAGE, ROOT, SETTLE_S, NodeProcess, Robot

from vggt_ros.topics import INPUTS, SERVICES, TOPICS, resolve

POLICY = ElementTree.parse(ROOT / 'sros2/vggt.policy.xml').getroot()
NODE = '/vggt'


def allowed(kind: str, rule: str) -> set[str]:
    """Absolute names that the policy allows the node to publish, subscribe or reply to."""
    (block,) = POLICY.findall(f'.//{kind}[@{rule}="ALLOW"]')
    return {f'/{name}' if name[0] not in '/~' else resolve(name, NODE) for name in (one.text for one in block)}


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
    assert done.returncode == 0, 'sros2/vggt.policy.xml is behind the code; run: python -m scripts.sros_policy'


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


def test_topics_are_declared_with_the_types_they_have(graph: Graph) -> None:
    published = graph.publishes
    for topic in TOPICS:
        assert published[resolve(topic.name)] == [topic.type]
