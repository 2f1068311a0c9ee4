"""Relay: the robot's end of a link to a GPU elsewhere. It sends what the network needs of each image, and no more."""

from __future__ import annotations

import array
import dataclasses
import logging
import sys
import time
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rcl_interfaces.msg import IntegerRange, ParameterDescriptor
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from vggt_ros.core.config import Config, settings
from vggt_ros.core.errors import ConfigError, EncodingError, VggtRosError
from vggt_ros.core.frame import Frame
from vggt_ros.core.keyframe import KeyframeGate
from vggt_ros.dds import make_room_for_images
from vggt_ros.decode import CameraInfoCache, decode_frame, stamp_ns
from vggt_ros.live.inputs import Inputs
from vggt_ros.live.ros_log import RosLogHandler
from vggt_ros.masks import Masks
from vggt_ros.parameters import describe, initialise
from vggt_ros.rare_encodings import convert_to_rgb
from vggt_ros.rectify import Rectifiers
from vggt_ros.shrink import FORMATS, Shrink, encode
from vggt_ros.throttle import Throttle

log = logging.getLogger('vggt_ros.relay')

NODE_NAME = 'relay'
# Of the settings of core.config those that say how images come and which are sent; each means what it means there.
SHARED = (
    'image_transport', 'input_reliability', 'input_queue_depth', 'rectify', 'camera_info_timeout_s', 'mask_path',
    'camera_optical_frame', 'keyframe_min_translation_px', 'keyframe_min_interval_s', 'on_time_jump',
)  # fmt: skip
TIME_JUMP_NS = 1_000_000_000  # further back than this is another run of the clock, not a late message
MASK_PERIOD_S = 5.0  # a mask never changes, and who was cut off wants it again
WATCH_S = 1.0
# Images held until the other end has them, so that the next image does not overwrite one that waits for a lost packet.
DEPTH = 4
OWN: dict[str, tuple[Any, ParameterDescriptor]] = {
    'width': (518, ParameterDescriptor(
        description='width sent: that of the network (nano 128, VGGT-1B 518); 0 leaves the size', read_only=True,
        integer_range=[IntegerRange(from_value=0, to_value=8192, step=0)])),
    'multiple': (14, ParameterDescriptor(
        description='the height sent is a multiple of it: the patch size of the network (nano 8, VGGT-1B 14)',
        read_only=True, integer_range=[IntegerRange(from_value=1, to_value=256, step=0)])),
    'format': ('jpeg', ParameterDescriptor(description='jpeg, or png, which loses nothing', read_only=True)),
    'quality': (80, ParameterDescriptor(
        description='of the JPEG', integer_range=[IntegerRange(from_value=1, to_value=100, step=0)])),
    'max_age_s': (1.0, ParameterDescriptor(
        description='an image that has not come through in this time is not sent any more', read_only=True)),
}  # fmt: skip


class Relay(Node):
    """Images in; the images that the network would make of them out, rectified, as JPEG or PNG, with their CameraInfo.

    Stamps and optical frames are those of the camera. While nobody listens nothing is decoded.
    """

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__(NODE_NAME, **node_arguments)
        self._log_handler = RosLogHandler(self.get_logger())
        self._log_handler.attach()
        self._config = self._declare()
        own = {name: self.get_parameter(name).value for name in OWN}
        if own['format'] not in FORMATS:
            raise ConfigError(f'format must be one of {", ".join(FORMATS)}, got {own["format"]!r}')
        if not own['max_age_s'] > 0:
            raise ConfigError(f'max_age_s must be above 0, got {own["max_age_s"]!r}')
        self._format: str = own['format']
        self._shrink = Shrink(own['width'], own['multiple'])
        self._gate = KeyframeGate(self._config.keyframe)
        self._rectifiers = Rectifiers() if self._config.camera.rectify == 'auto' else None
        self._masks = Masks(self._config.mask)
        self._infos = CameraInfoCache()
        self._throttle = Throttle()
        self._last_ns = 0
        self._first_image_s: float | None = None
        self._mask: np.ndarray | None = None
        self._mask_sent: tuple[bytes, float] = b'', 0.0
        self.received = self.sent = self.sent_bytes = self.bad = 0
        self._make_publishers(float(own['max_age_s']))
        self._inputs = Inputs(self, self._config.input, self._on_image, self._on_camera_info)
        self._is_rectified = self._inputs.is_rectified[0]
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self.create_timer(WATCH_S, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME))
        log.info('waiting for images on %s and %s', *self._inputs.topics[0])

    def close(self) -> None:
        """Stop passing our packages' log on to this node."""
        self._log_handler.detach()

    def _declare(self) -> Config:
        """The settings shared with the node, and the relay's own."""
        for one in settings():
            if one.name in SHARED:
                self.declare_parameter(one.name, one.default, describe(dataclasses.replace(one, dynamic=False)))
        for name, (default, descriptor) in OWN.items():
            self.declare_parameter(name, default, descriptor)
        return Config().with_values({name: self.get_parameter(name).value for name in SHARED})

    def _make_publishers(self, max_age_s: float) -> None:
        """Reliable, so that a lost part is sent again, but only of the newest images, and of none that is old."""
        qos = QoSProfile(
            history=HistoryPolicy.KEEP_LAST,
            depth=DEPTH,
            reliability=ReliabilityPolicy.RELIABLE,
            lifespan=Duration(nanoseconds=round(max_age_s * 1e9)),
        )
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        overriding = QoSOverridingOptions.with_default_policies()
        self._images = self.create_publisher(
            CompressedImage, '~/image_rect/compressed', qos, qos_overriding_options=overriding
        )
        self._camera_infos = self.create_publisher(CameraInfo, '~/camera_info', qos, qos_overriding_options=overriding)
        self._mask_images = self.create_publisher(Image, '~/mask', latched)

    def _on_camera_info(self, camera: int, message: Any) -> None:
        self._infos.add(message)

    def _on_image(self, camera: int, message: Any) -> None:
        self.received += 1
        try:
            if self._images.get_subscription_count() and self._is_due(message):
                self._send(message)
        except VggtRosError as error:
            self.bad += 1
            self._throttle(log.error, 'image', f'image dropped: {error}')

    def _is_due(self, message: Any) -> bool:
        """In order, far enough from the last one, and calibrated, unless no calibration comes."""
        stamp = stamp_ns(message.header.stamp)
        if stamp + TIME_JUMP_NS < self._last_ns and self._config.stream.on_time_jump == 'reset':
            self._last_ns = 0  # a bag that begins anew
            self._gate.reset()
        if stamp <= self._last_ns or stamp - self._last_ns < self._config.keyframe.min_interval_s * 1e9:
            return False
        now = time.monotonic()
        self._first_image_s = now if self._first_image_s is None else self._first_image_s
        return self._infos.find(stamp) is not None or (
            now - self._first_image_s >= self._config.camera.camera_info_timeout_s
        )

    def _send(self, message: Any) -> None:
        info = self._infos.find(stamp_ns(message.header.stamp))
        frame = decode_frame(
            message,
            info,
            convert=convert_to_rgb,
            frame_id=self._config.frames.camera_optical_frame,
            rectified=self._is_rectified,
            rectifiers=self._rectifiers,
            find_mask=self._masks.find,
        )
        self._last_ns = max(self._last_ns, frame.stamp_ns)
        if not self._gate.accept(frame):
            return
        small = self._shrink(frame)
        data = encode(small.image, self._format, int(self.get_parameter('quality').value or 80))
        header = Header(stamp=message.header.stamp, frame_id=frame.frame_id)
        if small.K is not None:  # first, so that it is there when the image comes
            self._camera_infos.publish(camera_info(header, small))
        self._images.publish(
            CompressedImage(header=header, format=f'rgb8; {self._format} compressed bgr8', data=array.array('B', data))
        )
        self.sent += 1
        self.sent_bytes += len(data)
        self._send_mask(header, small)

    def _send_mask(self, header: Header, frame: Frame) -> None:
        """Where the picture shows the robot, or nothing: small and always the same, so now and then is enough."""
        if frame.mask is None:
            return
        key, now = frame.mask.tobytes(), time.monotonic()
        if key == self._mask_sent[0] and now - self._mask_sent[1] < MASK_PERIOD_S:
            return
        self._mask_sent = key, now
        height, width = frame.size
        pixels = array.array('B', (frame.mask * np.uint8(255)).tobytes())
        self._mask_images.publish(
            Image(header=header, height=height, width=width, encoding='mono8', step=width, data=pixels)
        )

    def _watch(self) -> None:
        """What goes through, for /diagnostics; and why nothing comes."""
        silence = self._inputs.describe_silence() if self.received == 0 else ''
        if silence:
            self._throttle(log.warning, 'silence', silence)
        listeners = self._images.get_subscription_count()
        said = silence or ('' if listeners else 'nobody listens: nothing is sent')
        values = {
            'images received': self.received,
            'lost before they were taken': self._inputs.lost,
            'images sent': self.sent,
            'images that could not be decoded': self.bad,
            'bytes an image': round(self.sent_bytes / max(1, self.sent)),
            'listeners': listeners,
        }
        status = DiagnosticStatus(
            level=DiagnosticStatus.WARN if said or self.bad else DiagnosticStatus.OK,
            name=f'{self.get_fully_qualified_name().lstrip("/")}: link',
            message=said or f'{self.sent} images sent',
            values=[KeyValue(key=key, value=str(value)) for key, value in values.items()],
        )
        array_ = DiagnosticArray(status=[status])
        array_.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array_)


def camera_info(header: Header, frame: Frame) -> CameraInfo:
    """The calibration of a frame that is a pinhole's image: no distortion, K and P alike."""
    assert frame.K is not None
    height, width = frame.size
    return CameraInfo(
        header=header,
        height=height,
        width=width,
        distortion_model='plumb_bob',
        d=[0.0] * 5,
        k=frame.K.reshape(9).tolist(),
        r=np.eye(3).reshape(9).tolist(),
        p=np.hstack([frame.K, np.zeros((3, 1))]).reshape(12).tolist(),
    )


def usage() -> str:
    """What `ros2 run vggt_ros relay --help` prints."""
    lines = [f'  {name:28} {default!r:14} {one.description}' for name, (default, one) in OWN.items()]
    lines += [f'  {one.name:28} {one.default!r:14} {one.help}' for one in settings() if one.name in SHARED]
    return (
        'Send what a network elsewhere needs of a camera: ~/image_rect/compressed, ~/camera_info, ~/mask.\n\n'
        'ros2 run vggt_ros relay --ros-args -r image:=/camera/image_raw -p width:=518\n\n'
        'Parameters (name, default, meaning):\n' + '\n'.join(lines)
    )


def main(args: list[str] | None = None) -> int:
    """Run the relay until it is told to stop; the exit code is 1 where it could not start."""
    if {'-h', '--help'} & set(sys.argv if args is None else args):
        print(usage())
        return 0
    make_room_for_images()
    node = None
    try:
        initialise(args)
        node = Relay()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ConfigError, EncodingError) as error:
        print(f'{NODE_NAME}: {error}', file=sys.stderr)
        return 1
    except Exception:
        if rclpy.ok():  # else SIGTERM ended the context under a call that was under way
            raise
    finally:
        if node is not None:
            node.close()
            node.destroy_node()
        rclpy.try_shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
