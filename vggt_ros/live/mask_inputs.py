"""MaskInputs: the node's subscriptions to masks of the images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from vggt_ros.core.config import MaskConfig
from vggt_ros.core.errors import EncodingError
from vggt_ros.distro import subscription_event_callbacks
from vggt_ros.masks import Masks
from vggt_ros.throttle import Throttle

log = logging.getLogger(__name__)

DEPTH = 10  # messages: those of a second, while the executor is busy


class MaskInputs:
    """Subscribes to `mask`, or to `NAME/mask` for each camera of a rig, where mask_mode asks for it.

    A latched mask reaches only who asks for latched ones, and who asks for those hears no others: so both are asked
    for where one mask may stand for all images.

    Args:
        node: owns the subscriptions.
        config: whether there are masks, and of which stamps.
        masks: of each camera.
        cameras: names of a rig's cameras.
    """

    def __init__(self, node: Node, config: MaskConfig, masks: Sequence[Masks], cameras: Sequence[str] = ()) -> None:
        self._node = node
        self._throttle = Throttle()
        self._subscriptions: list[Any] = []
        if config.mode == 'none':
            return
        for name, one in zip(cameras or ('',), masks, strict=True):
            topic = f'{name}/mask' if name else 'mask'
            take = partial(self._take, node.resolve_topic_name(topic), one.add)
            self._subscribe(topic, take, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
            if config.mode == 'latest':
                self._subscribe(topic, take, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)

    def destroy(self) -> None:
        """Stop listening."""
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions = []

    def _subscribe(
        self,
        topic: str,
        take: Callable[[Image], None],
        reliability: ReliabilityPolicy,
        durability: DurabilityPolicy,
    ) -> None:
        qos = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=DEPTH, reliability=reliability, durability=durability)
        quiet = subscription_event_callbacks(incompatible_qos=lambda event: None)  # of the two, one always misfits
        self._subscriptions.append(self._node.create_subscription(Image, topic, take, qos, event_callbacks=quiet))

    def _take(self, topic: str, add: Callable[[Image], None], message: Image) -> None:
        try:
            add(message)
        except EncodingError as error:
            self._throttle(log.error, topic, f'mask on {topic} dropped: {error}')
