"""TfWatch: does anybody else publish a transform that is ours?"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile
from tf2_msgs.msg import TFMessage

from vggt_ros.distro import subscription_event_callbacks

LISTEN_S = 2.0  # at the start and in each period; whoever publishes TF does so many times in that
PERIOD_S = 30.0  # a robot's /tf has hundreds of messages a second, too many to look at all the time
REMEMBERED = 1000  # transforms of ours; 20 a second of map -> odom and 30 of odom -> base for longer than LISTEN_S


class SentTransforms:
    """What we sent lately, so that our own transforms are known when they come back."""

    def __init__(self) -> None:
        self._sent: OrderedDict[tuple[str, int], None] = OrderedDict()

    def add(self, transforms: Iterable[Any]) -> None:
        for one in transforms:
            self._sent[key_of(one)] = None
        while len(self._sent) > REMEMBERED:
            self._sent.popitem(last=False)

    def __contains__(self, transform: Any) -> bool:
        return key_of(transform) in self._sent


class TfWatch:
    """Listens to /tf now and then, for frames that have another parent than the one we give them.

    A frame has one parent in TF. Where two nodes publish it, the robot jumps between the two, and nothing else tells.
    Source: REP 105; rclpy of Humble does not say who sent a message, so ours are known by their stamps.

    Args:
        node: owns the subscription; its executor runs the callback and calls `tick`.
        sent: what we sent ourselves.
        children: gives the frames whose parent we publish, as settings stand now.
    """

    def __init__(self, node: Node, sent: SentTransforms, children: Callable[[], Collection[str]]) -> None:
        self._node, self._sent, self._children = node, sent, children
        self._subscription: Any = None
        self._since = -PERIOD_S
        self._rivals: dict[str, str] = {}

    def tick(self) -> None:
        """Listen when it is time to."""
        now = time.monotonic()
        if self._subscription is not None and now - self._since >= LISTEN_S:
            self.destroy()
        elif self._subscription is None and now - self._since >= PERIOD_S and self._children():
            self._since = now
            self._rivals = {}
            # Without events: one that fires while its subscription is taken down again ends the executor's thread.
            self._subscription = self._node.create_subscription(
                TFMessage,
                '/tf',
                self._look,
                QoSProfile(depth=100),
                event_callbacks=subscription_event_callbacks(use_default_callbacks=False),
            )

    def describe(self) -> str:
        """Which of our transforms somebody else publishes too; empty where nobody does."""
        children = self._children()
        rivals = [f'{parent} -> {child}' for child, parent in self._rivals.items() if child in children]
        if not rivals:
            return ''
        others = sorted({info.node_name for info in self._node.get_publishers_info_by_topic('/tf')})
        return (
            f'another node publishes {", ".join(rivals)} as well: TF jumps between the two. Stop it, or set '
            f'publish_odom_to_base_tf or publish_map_to_odom_tf to false; nodes that publish TF: {", ".join(others)}'
        )

    def destroy(self) -> None:
        """Stop listening."""
        if self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None

    def _look(self, message: TFMessage) -> None:
        children = self._children()
        for one in message.transforms:
            if one.child_frame_id.lstrip('/') in children and one not in self._sent:
                self._rivals[one.child_frame_id.lstrip('/')] = one.header.frame_id.lstrip('/')


def key_of(transform: Any) -> tuple[str, int]:
    """(child frame, stamp in ns)."""
    stamp = transform.header.stamp
    return transform.child_frame_id.lstrip('/'), stamp.sec * 1_000_000_000 + stamp.nanosec
