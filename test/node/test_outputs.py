"""Outputs: in which order messages leave, and what is made meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import rclpy
from rclpy.lifecycle import LifecycleNode

from vggt_ros.encode import Output
from vggt_ros.live.outputs import LARGE_BYTES, Outputs

SMALL, LARGE = SimpleNamespace(), SimpleNamespace(data=bytes(LARGE_BYTES))
DEADLINE_S = 20.0


@pytest.fixture
def outputs() -> Iterator[Outputs]:
    context = rclpy.Context()
    context.init()
    node = LifecycleNode('outputs', context=context)
    made = Outputs(node, burst=1, lifespan_s=1.0)
    yield made
    made.destroy()
    node.destroy_node()
    context.try_shutdown()


def test_messages_leave_in_order_and_the_next_is_made_while_a_large_one_is_sent(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch
):
    sent, made, next_is_made = [], [], threading.Event()

    def send(output: Output) -> None:
        if output.stamp_ns == 1:
            assert next_is_made.wait(DEADLINE_S)
        sent.append(output.stamp_ns)

    def making() -> Iterator[Output]:
        for i, message in enumerate((SMALL, LARGE, LARGE, SMALL, LARGE, SMALL)):
            made.append((i, len(sent)))
            if i == 2:
                next_is_made.set()
            yield Output('~/points', i, message)

    monkeypatch.setattr(outputs, '_publish', send)
    outputs.publish(making())
    assert sent == [0, 1, 2, 3, 4, 5]
    assert all(number - before <= 2 for number, before in made)  # what waits is bounded


def test_a_large_message_that_cannot_be_sent_is_told_when_the_others_are_out(
    outputs: Outputs, monkeypatch: pytest.MonkeyPatch
):
    sent = []

    def send(output: Output) -> None:
        if output.stamp_ns == 0:
            raise RuntimeError('no publisher')
        sent.append(output.stamp_ns)

    monkeypatch.setattr(outputs, '_publish', send)
    with pytest.raises(RuntimeError, match='no publisher'):
        outputs.publish([Output('~/points', i, LARGE) for i in range(3)])
    assert sent == [1, 2]
