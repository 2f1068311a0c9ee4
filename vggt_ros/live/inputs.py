"""Inputs: the node's subscriptions to the images of its cameras and their calibration."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import HistoryPolicy, QoSProfile, ReliabilityPolicy, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from vggt_ros.core.config import InputConfig
from vggt_ros.distro import subscription_event_callbacks
from vggt_ros.throttle import Throttle

log = logging.getLogger(__name__)


class Gaps:
    """Counts messages that a publisher sent and that were never taken, by the number that each carries.

    DDS keeps the newest `depth` messages and overwrites older ones without a word, also where it is reliable.
    Source: ros2/rmw, rmw_message_info_t, publication_sequence_number; rclpy hands it on since Iron.

    Attributes:
        lost: so many so far.
    """

    def __init__(self) -> None:
        self.lost = 0
        self._last: tuple[object, int] | None = None

    def add(self, info: Mapping[str, Any]) -> int:
        """Take what comes with a message; how many of its publisher are missing between it and the last one."""
        number, publisher = info.get('publication_sequence_number'), info.get('publisher_gid')
        if number is None:
            return 0
        last, self._last = self._last, (publisher, number)
        missing = max(0, number - last[1] - 1) if last is not None and last[0] == publisher else 0
        self.lost += missing
        return missing


class Inputs:
    """Subscribes to the image of each camera and to the CameraInfo that belongs to it.

    Args:
        node: owns the subscriptions.
        config: transport, reliability and depth.
        on_image, on_camera_info: take the camera's index and the message; they run on the executor and must not wait.
        cameras: names of a rig's cameras, each with topics NAME/image and NAME/camera_info; none without a rig.
    """

    def __init__(
        self,
        node: Node,
        config: InputConfig,
        on_image: Callable[[int, Any], None],
        on_camera_info: Callable[[int, CameraInfo], None],
        cameras: tuple[str, ...] = (),
    ) -> None:
        self._node = node
        self._reliability = config.input_reliability
        is_compressed = config.image_transport == 'compressed'
        kind = CompressedImage if is_compressed else Image
        self.topics = [resolve_topics(node, is_compressed, f'{name}/' if name else '') for name in cameras or ('',)]
        self._subscriptions = []
        self._on_image = on_image
        self._gaps = [Gaps() for _ in self.topics]
        self._throttle = Throttle()
        for camera, (image, camera_info) in enumerate(self.topics):
            take_image, take_info = partial(self._take_image, camera), partial(on_camera_info, camera)
            self._subscriptions.append(self._subscribe(kind, image, take_image, config))
            self._subscriptions.append(self._subscribe(CameraInfo, camera_info, take_info, config))

    @property
    def image_topic(self) -> str:
        """Resolved name of the reference camera's images."""
        return self.topics[0][0]

    @property
    def camera_info_topic(self) -> str:
        """Resolved name of the reference camera's calibration."""
        return self.topics[0][1]

    @property
    def lost(self) -> int:
        """Images of all cameras that were never taken: lost on their way, or overwritten by newer ones here."""
        return sum(gaps.lost for gaps in self._gaps)

    @property
    def is_rectified(self) -> tuple[bool, ...]:
        """For each camera whether the image's name says so (image_rect_color): then P of its CameraInfo holds, not K.

        Source: ros-perception/image_pipeline, image_proc/doc/tutorials.rst: one CameraInfo serves raw and rectified.
        """
        return tuple(any('rect' in part for part in image.split('/')[-2:]) for image, _ in self.topics)

    def describe_silence(self, camera: int = 0) -> str:
        """Why no image of a camera may be coming: the resolved topic, who publishes there, and whether the QoS fits."""
        topic = self.topics[camera][0]
        offers = self._node.get_publishers_info_by_topic(topic)
        said = f'no image on {topic}'
        if not offers:
            return f'{said}: nobody publishes there; remap it, as in image:=/camera/image_raw'
        expected = 'sensor_msgs/msg/' + ('CompressedImage' if topic.endswith('/compressed') else 'Image')
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

    def _take_image(self, camera: int, message: Any, info: Mapping[str, Any]) -> None:
        lost = self._gaps[camera].add(info)
        if lost:
            text = (
                f'{lost} image(s) on {self.topics[camera][0]} were never taken: lost on their way, or this process '
                f'stood still for so long that newer ones overwrote them (input_queue_depth)'
            )
            self._throttle(log.warning, 'lost', text)
        self._on_image(camera, message)

    def _subscribe(self, kind: type, topic: str, callback: Callable[..., None], config: InputConfig) -> Any:
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
            event_callbacks=subscription_event_callbacks(incompatible_qos=lambda event: self._on_misfit(topic, event)),
            qos_overriding_options=QoSOverridingOptions.with_default_policies(),
        )

    def _on_misfit(self, topic: str, event: Any) -> None:
        policy = qos_policy_name_from_kind(event.last_policy_kind)
        parameter = f'qos_overrides.{topic}.subscription.{policy.split("_")[0].lower()}'
        way_out = 'input_reliability:=best_effort' if 'RELIABILITY' in policy else f'the parameter {parameter}'
        log.warning(
            'a publisher on %s offers a QoS we cannot take (%s): nothing comes from it; set %s', topic, policy, way_out
        )


def resolve_topics(node: Node, is_compressed: bool, prefix: str = '') -> tuple[str, str]:
    """Absolute names of an image and of its CameraInfo, remapping rules applied.

    The image is called image, or NAME/image for a rig, whose prefix is 'NAME/'.
    camera_info is the sibling of the image, as image_pipeline has it, unless it is remapped itself.
    Source: ros-perception/image_pipeline, image_pipeline/doc/tutorials.rst.
    """
    image = node.resolve_topic_name(f'{prefix}image')
    camera_info = node.resolve_topic_name(f'{prefix}camera_info')
    if camera_info == node.resolve_topic_name(f'{prefix}camera_info', only_expand=True):
        camera_info = node.resolve_topic_name(image.rpartition('/')[0] + '/camera_info')
    return (node.resolve_topic_name(f'{image}/compressed') if is_compressed else image), camera_info
