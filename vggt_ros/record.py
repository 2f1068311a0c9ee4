"""What a node publishes -> result.mcap, and each message to whoever looks at it on the way."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.serialization import deserialize_message

from vggt_ros.messages import ros_messages
from vggt_ros.results.result_bag import ResultBag
from vggt_ros.topics import NODE_NAME, TOPICS, Topic, resolve

QUEUE = 100  # messages kept while one is written


class Recorder:
    """Subscribes to every topic of the table, as bytes, and writes them as they come.

    Log times are the stamps of the messages, as in an offline run, so the two results can be compared.

    Args:
        node: owns the subscriptions; whoever spins it writes.
        bag: the file.
        look: called with topic (as in the table), stamp in ns and the message, after it is written.
        node_name: of the node that is recorded.
    """

    def __init__(
        self, node: Node, bag: ResultBag, look: Callable[[str, int, Any], None], node_name: str = NODE_NAME
    ) -> None:
        self._node, self._bag, self._look = node, bag, look
        self._names = {topic.name: resolve(topic.name, node_name) for topic in TOPICS}
        for topic in TOPICS:
            self._subscribe(topic)

    def is_connected(self) -> bool:
        """Whether each topic of the node has a publisher by now."""
        return all(self._node.count_publishers(name) for name in self._names.values())

    def _subscribe(self, topic: Topic) -> None:
        kind = ros_messages()[topic.type]
        durability = DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE

        def take(data: bytes) -> None:
            stamp_ns = stamp_of(data, topic.type)
            self._bag.write_cdr(topic.name, stamp_ns, data)
            self._look(topic.name, stamp_ns, deserialize_message(data, kind))

        name = self._names[topic.name]
        self._node.create_subscription(kind, name, take, QoSProfile(depth=QUEUE, durability=durability), raw=True)


def stamp_of(data: bytes, message_type: str) -> int:
    """Stamp in ns of a serialised message that starts with a header, or of the first transform of a TFMessage.

    Source: OMG CDR: four bytes of encapsulation, of which the second tells the byte order; then the fields, aligned.
    """
    order = '<' if data[1] & 1 else '>'
    offset = 8 if message_type == 'tf2_msgs/msg/TFMessage' else 4  # a sequence starts with its length
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', data, offset)
    return seconds * 1_000_000_000 + nanoseconds
