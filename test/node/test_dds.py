"""Domains: which are in use on this machine."""

from __future__ import annotations

import logging

import pytest
import rclpy

from vggt_ros import dds
from vggt_ros.dds import DOMAINS, free_domain, participants


def test_who_is_in_a_domain_is_seen_until_it_leaves(domain: int) -> None:
    assert participants(domain) == []
    contexts = [rclpy.Context() for _ in range(2)]
    nodes = []
    for context in contexts:
        rclpy.init(context=context)
        nodes.append(rclpy.create_node('somebody', context=context))
    assert len(participants(domain)) == 2
    for node, context in zip(nodes, contexts, strict=True):
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert participants(domain) == []


def test_a_free_domain_has_nobody_in_it(domain: int) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('somebody', context=context)
    free = {free_domain() for _ in range(300)}  # each of 101 domains would be met by chance
    assert domain not in free
    assert free <= set(DOMAINS)
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_full_shared_memory_is_said_and_how_to_have_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dds.stay_on_this_machine(3)
        assert not caplog.records
        monkeypatch.setattr(dds, 'ROOM_BYTES', 1 << 60)
        assert dds.stay_on_this_machine(3)['ROS_DOMAIN_ID'] == '3'
    assert '/dev/shm has' in caplog.text
    assert 'messages go by UDP, which is slower; empty it, or give a container more' in caplog.text
