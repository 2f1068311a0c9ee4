"""Sensors: the node's subscriptions to what tells metres and up, beside the images."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, Image, Imu, PointCloud2

from vggt_ros.core.config import ScaleConfig
from vggt_ros.core.errors import ConfigError, EncodingError, ShapeError
from vggt_ros.core.metric.evidence import Evidence
from vggt_ros.decode_sensors import add_cloud, add_depth, add_imu, add_odometry
from vggt_ros.throttle import Throttle

log = logging.getLogger(__name__)

SILENCE_S = 5.0  # as for images
QUEUE = 50  # messages; an IMU of 400 Hz fills that while the executor is busy for an eighth of a second


class Sensors:
    """Subscribes to what the scale and the level of the map are found from, and hands it to the evidence.

    Callbacks run on the executor: they look at a message once, keep a few thousand numbers of it, and ask nobody.

    Args:
        node: owns the subscriptions.
        config: which of them are wanted.
        evidence: takes what they say.
    """

    def __init__(self, node: Node, config: ScaleConfig, evidence: Evidence) -> None:
        self._node, self._evidence = node, evidence
        self._throttle = Throttle()
        self._subscriptions: dict[str, Any] = {}
        self._heard_s: dict[str, float] = {}
        self._depth_info: CameraInfo | None = None
        if config.scale_source == 'odometry':
            self._subscribe(Odometry, 'odom', lambda message: add_odometry(evidence, message))
        if config.scale_source == 'depth':
            self._subscribe(CameraInfo, self._depth_info_topic(), self._take_depth_info)
            self._subscribe(Image, 'depth_anchor', self._take_depth)
        if config.scale_source == 'lidar':
            self._subscribe(PointCloud2, 'lidar', lambda message: add_cloud(evidence, message))
        if config.gravity_source == 'imu':
            self._subscribe(Imu, 'imu', lambda message: add_imu(evidence, message))

    @property
    def topics(self) -> tuple[str, ...]:
        """What is subscribed to, resolved."""
        return tuple(self._subscriptions)

    def describe_silence(self) -> str:
        """Which of them have said nothing for a while, and who publishes there; empty where all speak."""
        now = time.monotonic()
        silent = [topic for topic, heard_s in self._heard_s.items() if now - heard_s > SILENCE_S]
        return '; '.join(
            f'nothing on {topic}: {self._node.count_publishers(topic) or "no"} publisher(s) there' for topic in silent
        )

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions = {}

    def _subscribe(self, kind: type, name: str, take: Callable[[Any], None]) -> None:
        topic = self._node.resolve_topic_name(name)
        if topic == self._node.resolve_topic_name('~/odom'):
            raise ConfigError(f'{name} is remapped to {topic}, which this node publishes itself: that tells no scale')

        def on_message(message: Any) -> None:
            self._heard_s[topic] = time.monotonic()
            try:
                take(message)
            except (EncodingError, ShapeError) as error:
                self._throttle(log.error, topic, f'{topic}: message dropped: {error}')

        # REP 2003: sensor data is consumed best effort, which a reliable publisher suits too.
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=QUEUE, reliability=ReliabilityPolicy.BEST_EFFORT)
        self._heard_s[topic] = time.monotonic()
        self._subscriptions[topic] = self._node.create_subscription(
            kind, topic, on_message, qos, qos_overriding_options=QoSOverridingOptions.with_default_policies()
        )

    def _depth_info_topic(self) -> str:
        """The sibling of the depth image, unless it is remapped itself; see inputs.resolve_topics."""
        name = 'depth_anchor_info'
        remapped = self._node.resolve_topic_name(name)
        if remapped != self._node.resolve_topic_name(name, only_expand=True):
            return remapped
        return self._node.resolve_topic_name('depth_anchor').rpartition('/')[0] + '/camera_info'

    def _take_depth_info(self, message: CameraInfo) -> None:
        self._depth_info = message

    def _take_depth(self, message: Image) -> None:
        if self._depth_info is not None:  # it comes within a few images
            add_depth(self._evidence, message, self._depth_info)
