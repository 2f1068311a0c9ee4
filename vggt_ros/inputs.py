"""Inputs: the node's subscriptions to the image and its calibration."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.core.config import InputConfig

try:  # Humble has it under another name
    from rclpy.event_handler import SubscriptionEventCallbacks
except ImportError:
    from rclpy.qos_event import SubscriptionEventCallbacks


log = logging.getLogger(__name__)


class Inputs:
    """Subscribes to the image and to the CameraInfo that belongs to it.

    Args:
        node: owns the subscriptions.
        config: transport, reliability and depth.
        on_image, on_camera_info: take the messages; they run on the executor and must not wait.
    """

    def __init__(
        self,
        node: Node,
        config: InputConfig,
        on_image: Callable[[Any], None],
        on_camera_info: Callable[[CameraInfo], None],
    ) -> None:
        self._node = node
        self._reliability = config.input_reliability
        is_compressed = config.image_transport == 'compressed'
        self.image_topic, self.camera_info_topic = resolve_topics(node, is_compressed)
        self._subscriptions = [
            self._subscribe(CompressedImage if is_compressed else Image, self.image_topic, on_image, config),
            self._subscribe(CameraInfo, self.camera_info_topic, on_camera_info, config),
        ]

    @property
    def is_rectified(self) -> bool:
        """Whether the image's name says so (image_rect, image_rect_color): then P of its CameraInfo holds, not K.

        Source: ros-perception/image_pipeline, image_proc/doc/tutorials.rst: one CameraInfo serves raw and rectified.
        """
        parts = self.image_topic.split('/')
        return any('rect' in part for part in parts[-2:])

    def describe_silence(self) -> str:
        """Why no image may be coming: the resolved topic, who publishes there, and whether the QoS fits."""
        offers = self._node.get_publishers_info_by_topic(self.image_topic)
        said = f'no image on {self.image_topic}'
        if not offers:
            return f'{said}: nobody publishes there; remap it, as in image:=/camera/image_raw'
        expected = 'sensor_msgs/msg/' + ('CompressedImage' if self.image_topic.endswith('/compressed') else 'Image')
        of_type = [offer for offer in offers if offer.topic_type == expected]
        if not of_type:
            return f'{said}: its publisher sends {offers[0].topic_type}, expected {expected} (image_transport)'
        best_effort = [o for o in of_type if o.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT]
        asked = f'{len(of_type)} publisher(s) there, {len(best_effort)} best effort, we ask for {self._reliability}'
        if best_effort and self._reliability == 'reliable':
            return f'{said}: {asked}; set input_reliability:=best_effort'
        if self._reliability == 'best_effort' and not best_effort:
            return (
                f'{said}: {asked}; if the camera does send, DDS loses large messages: set input_reliability:=reliable'
            )
        return f'{said}: {asked}; it fits, so the camera is silent, or DDS loses large messages (see DDS tuning)'

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], config: InputConfig) -> Any:
        # REP 2003: sensor data is consumed best effort, which a reliable publisher suits too.
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=config.input_queue_depth,
            reliability=ReliabilityPolicy[config.input_reliability.upper()],
        )
        return self._node.create_subscription(
            kind,
            topic,
            callback,
            qos,
            event_callbacks=SubscriptionEventCallbacks(incompatible_qos=lambda event: self._on_misfit(topic, event)),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _on_misfit(self, topic: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        parameter = f'qos_overrides.{topic}.subscription.{policy.split("_")[0].lower()}'
        way_out = 'input_reliability:=best_effort' if 'RELIABILITY' in policy else f'the parameter {parameter}'
        log.warning(
            'a publisher on %s offers a QoS we cannot take (%s): nothing comes from it; set %s', topic, policy, way_out
        )


def resolve_topics(node: Node, is_compressed: bool) -> tuple[str, str]:
    """Absolute names of the image and of its CameraInfo, remapping rules applied.

    camera_info is the sibling of the image, as image_pipeline has it, unless it is remapped itself.
    Source: ros-perception/image_pipeline, image_pipeline/doc/tutorials.rst.
    """
    image = node.resolve_topic_name('image')
    camera_info = node.resolve_topic_name('camera_info')
    if camera_info == node.resolve_topic_name('camera_info', only_expand=True):
        camera_info = node.resolve_topic_name(image.rpartition('/')[0] + '/camera_info')
    return (node.resolve_topic_name(f'{image}/compressed') if is_compressed else image), camera_info
