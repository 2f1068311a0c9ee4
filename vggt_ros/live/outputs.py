"""Outputs: the node's publishers, made from the one table of topics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from tf2_ros import StaticTransformBroadcaster, TransformBroadcaster

from vggt_ros.core.config import Config
from vggt_ros.encode import MessageMaker, Output, standalone_tf_static
from vggt_ros.live.correction import MapToOdom
from vggt_ros.live.tf_watch import SentTransforms
from vggt_ros.messages import ros_messages
from vggt_ros.topics import Topic, topics_of


class Outputs:
    """Publishes what the encoder made, and knows what anybody wants.

    Publishing happens on the caller's thread, which is the worker's: the executor stays free for images and services,
    and messages leave in the order they were made. rcl allows it, as long as one thread fills each message.
    Source: ros2/rcl, rcl/include/rcl/publisher.h, "Thread-Safe: yes" of rcl_publish.

    Args:
        node: owns the publishers; they publish while the node is active.
        burst: messages a topic may send at once: the first window publishes all its frames. What a reliable reader has
            not confirmed yet must fit into the history, or it is lost in spite of being reliable.
        lifespan_s: what a reader has not got by then it does not get any more: after a gap of the link to it, for one.
            Latched topics are never too old.
        cameras: names of a rig's cameras, which have topics of their own; none without a rig.
    """

    def __init__(self, node: LifecycleNode, burst: int, lifespan_s: float, cameras: tuple[str, ...] = ()) -> None:
        self._node = node
        self._burst, self._lifespan = burst, Duration(nanoseconds=round(lifespan_s * 1e9))
        self._messages = ros_messages()
        topics = topics_of(cameras)
        self._lazy = tuple(topic.name for topic in topics if topic.lazy)
        self._eager = frozenset(topic.name for topic in topics if not topic.lazy)
        self._publishers = {topic.name: self._make(topic) for topic in topics if topic.name.startswith('~')}
        self._broadcaster = TransformBroadcaster(node, QoSProfile(depth=100, lifespan=self._lifespan))
        self._static_broadcaster = StaticTransformBroadcaster(node)
        self.map_to_odom = MapToOdom(self._sim_time_ns)
        self.sent = SentTransforms()
        self._announced: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether ROS is up."""
        return self._node.context.ok()

    @property
    def wanted(self) -> frozenset[str]:
        """Names of the topics worth making messages for: what is small, and what somebody listens to."""
        return self._eager | {name for name in self._lazy if self._publishers[name].get_subscription_count()}

    def is_anybody_listening(self) -> bool:
        """Whether any topic but TF has a subscriber."""
        return any(publisher.get_subscription_count() for publisher in self._publishers.values())

    def publish(self, outputs: Iterable[Output]) -> None:
        """Publish messages in the given order."""
        for output in outputs:
            if output.topic == '/tf':
                self._send(output.message.transforms)
            else:
                self._publishers[output.topic].publish(output.message)

    def correct_odometry(self, config: Config) -> None:
        """Send map -> odom as it stands now, where there is one and that is ours to send."""
        frames = config.frames
        if not frames.corrects_odometry:
            return
        due = self.map_to_odom.due(frames.tf_tolerance)
        if due is not None:
            stamp_ns, map_from_odom = due
            self._send([MessageMaker(self._messages).map_to_odom(stamp_ns, frames, map_from_odom)])

    def announce_camera(self, config: Config, stamp_ns: int, optical_frame: str) -> None:
        """Static TF robot -> optical frame of a camera without a robot, once per optical frame."""
        if optical_frame not in self._announced:
            self._announced.add(optical_frame)
            message = standalone_tf_static(self._messages, config, stamp_ns, optical_frame)
            self._static_broadcaster.sendTransform(message.transforms)

    def destroy(self) -> None:
        """Take all publishers down."""
        for publisher in self._publishers.values():
            self._node.destroy_lifecycle_publisher(publisher)
        for broadcaster in (self._broadcaster, self._static_broadcaster):
            self._node.destroy_publisher(broadcaster.pub_tf)

    def _send(self, transforms: list[Any]) -> None:
        self.sent.add(transforms)  # before they are out, or one might come back unknown
        self._broadcaster.sendTransform(transforms)

    def _sim_time_ns(self) -> int | None:
        if not self._node.get_parameter('use_sim_time').value:
            return None
        return int(self._node.get_clock().now().nanoseconds)

    def _make(self, topic: Topic) -> Any:
        durability = DurabilityPolicy.TRANSIENT_LOCAL if topic.latched else DurabilityPolicy.VOLATILE
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=topic.depth if topic.latched else max(topic.depth, self._burst),
            reliability=ReliabilityPolicy.RELIABLE,
            durability=durability,
            lifespan=Duration() if topic.latched else self._lifespan,
        )
        return self._node.create_lifecycle_publisher(
            self._messages[topic.type],
            topic.name,
            qos,
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )
