"""Update -> the messages we publish, live and offline alike: TF, Odometry, poses, Image, CameraInfo, PointCloud2."""

from __future__ import annotations

import dataclasses
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

import cv2
import numpy as np

from vggt_ros import cdr
from vggt_ros.clouds import (
    Points,
    coloured_points,
    known_points,
    lift,
    pack_planes,
    thinned,
    unpack_planes,
    voxel_points,
)
from vggt_ros.core.config import Config, FramesConfig
from vggt_ros.core.covariance import LOST, move_covariance
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, invert_rigid, move_points, quaternion_xyzw, vector_from_rotation
from vggt_ros.core.submap import PlacedFrame, SeamStatus, Update
from vggt_ros.messages import MessageTypes
from vggt_ros.topics import TOPIC, camera_topic

log = logging.getLogger(__name__)

_CLOUDS = ('~/points', '~/points_filtered', '~/world_points')
_FLOAT32 = 7  # sensor_msgs/PointField.FLOAT32
# 256 colours as RGB, the first black. Source: the Turbo map of Anton Mikhailov (Google AI, 2019), as OpenCV has it.
_TURBO = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_TURBO)[..., ::-1].copy()
_TURBO[0] = 0


class Output(NamedTuple):
    """One message to publish: the topic's name in topics.TOPICS, its stamp and itself."""

    topic: str
    stamp_ns: int
    message: Any


@dataclass(frozen=True, eq=False)
class _BasePose:
    stamp_ns: int
    world_from_base: np.ndarray
    covariance: np.ndarray
    step_covariance: np.ndarray


class _PathPose(NamedTuple):
    stamp_ns: int
    map_from_cam: np.ndarray
    cam_from_base: np.ndarray | None
    message: Any


class Encoder:
    """What an Update is worth to subscribers, in the order of publishing.

    Deterministic: messages follow from the updates alone. The map is throttled by stamps, never by the clock on the
    wall, so a recording gives offline what it gave live.

    Args:
        config: all settings; frames, camera, stream, cloud and map are read here.
        messages: message classes, of rclpy or of a bag.
        map_points: gives the map so far as [N, 3] float32 points and [N, 3] uint8 RGB; None publishes no map.
    """

    def __init__(
        self,
        config: Config,
        messages: MessageTypes,
        map_points: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None,
    ) -> None:
        self.config = config
        self.make = (BytesMaker if messages.publishes_bytes else MessageMaker)(messages)
        self._map_points = map_points
        self.reset()

    def reset(self) -> None:
        """Start anew, as after Pipeline.reset: no path, no velocity, intrinsics open."""
        self._path: deque[_PathPose] = deque(maxlen=self.config.map.path_max_size)
        self._previous: _BasePose | None = None
        self._map_stamp_ns: int | None = None
        self._last_stamp_ns = 0
        self._K: dict[str, tuple[tuple[int, ...], np.ndarray]] = {}
        self._world_from_map = np.eye(4)  # of the last update
        self.changed_camera = ''  # optical frame whose intrinsics are no longer what they were

    def encode(
        self, update: Update, base_from_cam: np.ndarray | None, wanted: Collection[str] | None = None
    ) -> list[Output]:
        """All messages of an update, as `messages` gives them one by one."""
        return list(self.messages(update, base_from_cam, wanted))

    def messages(
        self, update: Update, base_from_cam: np.ndarray | None, wanted: Collection[str] | None = None
    ) -> Iterator[Output]:
        """All messages of an update, each made when it is asked for: depth need not wait for clouds.

        To be taken to the end before the next update. The map is taken down at once: it may change meanwhile.

        Args:
            update: what a window added.
            base_from_cam: [4, 4] pose of the optical frame in the robot's frame, metres; None where it is not known:
                then nothing about the robot's frame is published, and the path is that of the camera.
            wanted: names of topics to make messages for; None makes all.

        Returns:
            Per new frame, oldest first: TF, odometry, poses, images, clouds; then what belongs to the window.
        """
        if not update.frames:
            return iter(())
        if update.frames[0].stamp_ns <= self._last_stamp_ns:  # the recording began again
            self.reset()
        self.move(update)
        update = _in_world(update, self._world_from_map)
        frames = update.frames if self.config.stream.publish_frames == 'new' else _latest(update.frames)
        if update.seam.status is SeamStatus.HELD:
            self._previous = None  # the camera was not seen to move between the windows: no velocity across
        is_map_due = self._map_is_due(frames[-1].stamp_ns) and _is_wanted('~/map_points', wanted)
        map_points = self._map_points() if is_map_due and self._map_points is not None else None
        outputs = self._of_update(update, frames, base_from_cam, wanted, map_points)
        return (output for output in outputs if _is_wanted(output.topic, wanted))

    def _of_update(
        self,
        update: Update,
        frames: tuple[PlacedFrame, ...],
        base_from_cam: np.ndarray | None,
        wanted: Collection[str] | None,
        map_points: tuple[np.ndarray, np.ndarray] | None,
    ) -> Iterator[Output]:
        world_points: list[Points] = []
        for frame in frames:
            for topic, message in self._poses(frame, base_from_cam, update.map_from_odom):
                yield Output(topic, frame.stamp_ns, message)
            for one in (frame, *frame.views):
                yield from self._of_camera(one, world_points, wanted)
        stamp = self._last_stamp_ns = frames[-1].stamp_ns
        for topic, message in self._window(update, stamp, world_points, wanted):
            yield Output(topic, stamp, message)
        if map_points is not None:
            yield Output('~/map_points', stamp, self._map(stamp, *map_points))

    def move(self, update: Update) -> None:
        """What was published before lies elsewhere since this update: the path goes along, and the map's own frame.

        Where the world frame is that of our odometry, a closed loop moves the map in it, and not the robot.
        """
        is_odom = self.config.frames.world_frame == self.config.frames.odom_frame
        world_from_map = invert_rigid(update.map_from_odom) if is_odom else np.eye(4)
        moved, known = update.output_from_before, update.moved_path or {}
        is_moved = moved is not None or bool(known) or not np.array_equal(world_from_map, self._world_from_map)
        self._world_from_map = world_from_map
        if not is_moved:
            return
        path, self._path = self._path, deque(maxlen=self._path.maxlen)
        for one in path:
            pose = one.map_from_cam if moved is None else moved.transform_pose(one.map_from_cam)
            self._extend_path(one.stamp_ns, known.get(one.stamp_ns, pose), one.cam_from_base)

    def encode_map(self) -> list[Output]:
        """The map as it stands, for a subscriber that came after the last update; empty before the first."""
        if self._map_points is None or not self._last_stamp_ns:
            return []
        return [Output('~/map_points', self._last_stamp_ns, self._map(self._last_stamp_ns, *self._map_points()))]

    def _intrinsics(self, frame: PlacedFrame) -> np.ndarray:
        """Intrinsics stay the same for a frame_id, and depth is lifted with what is published.

        nvblox aborts when they change: nvblox_ros/src/lib/camera_cache.cpp, isaac_ros_nvblox#148.
        """
        size, known = self._K.get(frame.frame_id, (None, None))
        if known is not None and size == frame.depth.shape:
            same = np.abs(known - frame.K) <= 1e-6 * (1 + np.abs(frame.K))
            if same.all() or self.config.camera.intrinsics_mode == 'per_window':
                return known
        if known is not None:
            log.warning('intrinsics or size of %s changed; nvblox, for one, stops at that', frame.frame_id)
            self.changed_camera = frame.frame_id
        self._K[frame.frame_id] = (frame.depth.shape, frame.K)
        return frame.K

    def _poses(
        self, frame: PlacedFrame, base_from_cam: np.ndarray | None, map_from_odom: np.ndarray
    ) -> Iterator[tuple[str, Any]]:
        """Of a frame in the world; a closed loop goes into map -> odom, and never into odom -> base (REP 105)."""
        frames, make, stamp = self.config.frames, self.make, frame.stamp_ns
        map_from_world = invert_rigid(self._world_from_map)
        if base_from_cam is not None:
            base = _base_pose(frame, base_from_cam)
            odom = _moved(_base_pose(_as_odometry(frame), base_from_cam), invert_rigid(map_from_odom) @ map_from_world)
            if frames.publish_odom_to_base_tf:
                transforms = [make.odom_to_base(stamp, frames, odom.world_from_base)]
                if frames.publish_map_to_odom_tf:
                    transforms.insert(0, make.map_to_odom(stamp, frames, map_from_odom))
                yield '/tf', make.tf(transforms)
            twist = _twist(self._previous, odom)
            yield '~/odom', make.odometry(frames.odom_frame, frames.base_frame, odom, *twist)
            yield '~/pose', make.pose_with_covariance(stamp, frames.world_frame, base.world_from_base, base.covariance)
            self._previous = odom
        yield '~/camera_pose', make.pose_stamped(stamp, frames.world_frame, frame.map_from_cam)
        cam_from_base = None if base_from_cam is None else invert_rigid(base_from_cam)
        self._extend_path(stamp, map_from_world @ frame.map_from_cam, cam_from_base)

    def _extend_path(self, stamp: int, map_from_cam: np.ndarray, cam_from_base: np.ndarray | None) -> None:
        """The robot's pose, or the camera's where nobody says how it is mounted."""
        pose = self._world_from_map @ (map_from_cam if cam_from_base is None else map_from_cam @ cam_from_base)
        message = self.make.path_pose(stamp, self.config.frames.world_frame, pose)
        self._path.append(_PathPose(stamp, map_from_cam, cam_from_base, message))

    def _of_camera(
        self, frame: PlacedFrame, world_points: list[Points], wanted: Collection[str] | None
    ) -> Iterator[Output]:
        """Images and clouds of one camera, on topics of its own where it is one of several."""
        names = self.config.rig.cameras
        camera = names[frame.camera] if names else ''
        if wanted is not None and camera:
            wanted = {name for name in TOPIC if camera_topic(name, camera) in wanted or name in wanted}
        for topic, message in chain(self._images(frame, wanted), self._clouds(frame, world_points, wanted)):
            yield Output(camera_topic(topic, camera), frame.stamp_ns, message)

    def _images(self, frame: PlacedFrame, wanted: Collection[str] | None) -> Iterator[tuple[str, Any]]:
        make, stamp, frame_id = self.make, frame.stamp_ns, frame.frame_id
        info = make.camera_info(stamp, frame_id, frame.depth.shape, self._intrinsics(frame))
        if _is_wanted('~/depth/image_rect', wanted):
            yield '~/depth/image_rect', make.image(stamp, frame_id, '32FC1', frame.depth.astype(np.float32, copy=False))
        yield '~/depth/camera_info', info
        if _is_wanted('~/rgb/image_rect_color', wanted):
            yield '~/rgb/image_rect_color', make.image(stamp, frame_id, 'rgb8', frame.image)
        yield '~/rgb/camera_info', info
        if _is_wanted('~/confidence', wanted):
            yield '~/confidence', make.image(stamp, frame_id, '32FC1', frame.confidence.astype(np.float32, copy=False))
        if _is_wanted('~/depth/image_color', wanted):
            yield '~/depth/image_color', make.image(stamp, frame_id, 'rgb8', colour_depth(frame.depth))

    def _clouds(
        self, frame: PlacedFrame, world_points: list[Points], wanted: Collection[str] | None
    ) -> Iterator[tuple[str, Any]]:
        """The clouds of a frame; its part of the window's cloud is added to world_points."""
        if not any(_is_wanted(topic, wanted) for topic in _CLOUDS):
            return
        on_device = frame.on_device and frame.on_device.of(frame.depth)
        if on_device is None:
            planes = lift(frame.depth, frame.image, self._intrinsics(frame))
            if _is_wanted('~/points', wanted):
                yield '~/points', self.make.organised_cloud(frame.stamp_ns, frame.frame_id, *planes)
        else:
            packed = on_device.packed(self._intrinsics(frame))
            if _is_wanted('~/points', wanted):
                yield '~/points', self.make.packed_cloud(frame.stamp_ns, frame.frame_id, packed)
            planes = unpack_planes(packed)
        planes = thinned(planes, self.config.cloud.cloud_stride)
        if _is_wanted('~/points_filtered', wanted):
            filtered = voxel_points(*planes, self.config.cloud.voxel_size)
            yield '~/points_filtered', self.make.cloud(frame.stamp_ns, frame.frame_id, filtered)
        if _is_wanted('~/world_points', wanted):
            world_points.append(known_points(*planes).transformed(frame.map_from_cam))

    def _window(
        self, update: Update, stamp: int, world_points: list[Points], wanted: Collection[str] | None
    ) -> Iterator[tuple[str, Any]]:
        world, make = self.config.frames.world_frame, self.make
        if world_points:
            yield '~/world_points', make.cloud(stamp, world, *world_points)
        yield '~/window_poses', make.pose_array(stamp, world, update.map_from_window_cams)
        if _is_wanted('~/path', wanted):
            yield '~/path', make.path(stamp, world, [one.message for one in self._path])

    def _map(self, stamp: int, xyz: np.ndarray, rgb: np.ndarray) -> Any:
        self._map_stamp_ns = stamp
        if not np.array_equal(self._world_from_map, np.eye(4)):
            xyz = move_points(self._world_from_map, xyz)
        return self.make.cloud(stamp, self.config.frames.world_frame, coloured_points(xyz, rgb))

    def _map_is_due(self, stamp: int) -> bool:
        period_ns = round(self.config.map.map_publish_period * 1e9)
        return self._map_stamp_ns is None or stamp - self._map_stamp_ns >= period_ns


class MessageMaker:
    """Arrays -> messages of one kind of message classes (rclpy's or a bag's)."""

    def __init__(self, messages: MessageTypes) -> None:
        self._doubles, self._with_data = messages.doubles_field, messages.with_data
        self._time = messages['builtin_interfaces/msg/Time']
        self._header = messages['std_msgs/msg/Header']
        self._image = messages['sensor_msgs/msg/Image']
        self._camera_info = messages['sensor_msgs/msg/CameraInfo']
        self._roi = messages['sensor_msgs/msg/RegionOfInterest']
        self._cloud = messages['sensor_msgs/msg/PointCloud2']
        field = messages['sensor_msgs/msg/PointField']
        self._fields = [
            field(name=name, offset=4 * i, datatype=_FLOAT32, count=1) for i, name in enumerate(('x', 'y', 'z', 'rgb'))
        ]
        self._point = messages['geometry_msgs/msg/Point']
        self._vector = messages['geometry_msgs/msg/Vector3']
        self._quaternion = messages['geometry_msgs/msg/Quaternion']
        self._pose = messages['geometry_msgs/msg/Pose']
        self._pose_stamped = messages['geometry_msgs/msg/PoseStamped']
        self._pose_array = messages['geometry_msgs/msg/PoseArray']
        self._pose_covariance = messages['geometry_msgs/msg/PoseWithCovariance']
        self._pose_covariance_stamped = messages['geometry_msgs/msg/PoseWithCovarianceStamped']
        self._twist = messages['geometry_msgs/msg/Twist']
        self._twist_covariance = messages['geometry_msgs/msg/TwistWithCovariance']
        self._transform = messages['geometry_msgs/msg/Transform']
        self._transform_stamped = messages['geometry_msgs/msg/TransformStamped']
        self._odometry = messages['nav_msgs/msg/Odometry']
        self._path = messages['nav_msgs/msg/Path']
        self._tf = messages['tf2_msgs/msg/TFMessage']

    def header(self, stamp_ns: int, frame_id: str) -> Any:
        seconds, nanoseconds = divmod(stamp_ns, 1_000_000_000)
        return self._header(stamp=self._time(sec=seconds, nanosec=nanoseconds), frame_id=frame_id)

    def image(self, stamp_ns: int, frame_id: str, encoding: str, pixels: np.ndarray) -> Any:
        """[H, W] or [H, W, C] pixels -> Image without row padding."""
        height, width = pixels.shape[:2]
        return self._with_data(
            self._image, pixels, header=self.header(stamp_ns, frame_id), height=height, width=width,
            encoding=encoding, is_bigendian=0, step=pixels.nbytes // height,
        )  # fmt: skip

    def camera_info(self, stamp_ns: int, frame_id: str, size: tuple[int, ...], K: np.ndarray) -> Any:
        """A pinhole without distortion: D 0, R identity, P = [K | 0], so readers of K and of P agree."""
        height, width = size
        K = np.ascontiguousarray(K, np.float64)
        return self._camera_info(
            header=self.header(stamp_ns, frame_id), height=height, width=width, distortion_model='plumb_bob',
            d=self._doubles(np.zeros(5)), k=K.reshape(9), r=np.eye(3).reshape(9),
            p=np.hstack([K, np.zeros((3, 1))]).reshape(12), binning_x=0, binning_y=0,
            roi=self._roi(x_offset=0, y_offset=0, height=0, width=0, do_rectify=False),
        )  # fmt: skip

    def cloud(self, stamp_ns: int, frame_id: str, *parts: Points) -> Any:
        """Known points, one part behind the other -> unorganised PointCloud2, of height 1."""
        count = sum(part.rgb.size for part in parts)
        packed, start = np.empty((1, count, 4), np.float32), 0
        for part in parts:
            part.pack(packed[0, start : start + part.rgb.size])
            start += part.rgb.size
        return self._points(stamp_ns, frame_id, packed, is_dense=True)

    def organised_cloud(
        self, stamp_ns: int, frame_id: str, x: np.ndarray, y: np.ndarray, z: np.ndarray, rgb: np.ndarray
    ) -> Any:
        """Four [H, W] planes of clouds.lift -> PointCloud2 of that shape."""
        packed = np.empty((*z.shape, 4), np.float32)
        pack_planes(x, y, z, rgb, packed)
        return self.packed_cloud(stamp_ns, frame_id, packed)

    def packed_cloud(self, stamp_ns: int, frame_id: str, packed: np.ndarray) -> Any:
        """[H, W, 4] float32 packed points -> PointCloud2 of that shape."""
        return self._points(stamp_ns, frame_id, packed, is_dense=False)

    def _points(self, stamp_ns: int, frame_id: str, packed: np.ndarray, *, is_dense: bool) -> Any:
        height, width = packed.shape[:2]
        return self._with_data(
            self._cloud, packed, header=self.header(stamp_ns, frame_id), height=height, width=width,
            fields=self._fields, is_bigendian=False, point_step=16, row_step=16 * width, is_dense=is_dense,
        )  # fmt: skip

    def pose(self, target_from_body: np.ndarray) -> Any:
        x, y, z = target_from_body[:3, 3].tolist()
        return self._pose(position=self._point(x=x, y=y, z=z), orientation=self._rotation(target_from_body))

    def pose_stamped(self, stamp_ns: int, frame_id: str, target_from_body: np.ndarray) -> Any:
        return self._pose_stamped(header=self.header(stamp_ns, frame_id), pose=self.pose(target_from_body))

    def pose_with_covariance(self, stamp_ns: int, frame_id: str, pose: np.ndarray, covariance: np.ndarray) -> Any:
        body = self._pose_covariance(pose=self.pose(pose), covariance=covariance.reshape(36))
        return self._pose_covariance_stamped(header=self.header(stamp_ns, frame_id), pose=body)

    def pose_array(self, stamp_ns: int, frame_id: str, poses: np.ndarray) -> Any:
        return self._pose_array(header=self.header(stamp_ns, frame_id), poses=[self.pose(pose) for pose in poses])

    def path_pose(self, stamp_ns: int, frame_id: str, target_from_body: np.ndarray) -> Any:
        """A pose as `path` takes it."""
        return self.pose_stamped(stamp_ns, frame_id, target_from_body)

    def path(self, stamp_ns: int, frame_id: str, poses: list[Any]) -> Any:
        """A Path of poses that path_pose made."""
        return self._path(header=self.header(stamp_ns, frame_id), poses=poses)

    def transform(self, stamp_ns: int, target: str, source: str, target_from_source: np.ndarray) -> Any:
        """TransformStamped: the header names the target, child_frame_id the source."""
        x, y, z = target_from_source[:3, 3].tolist()
        return self._transform_stamped(
            header=self.header(stamp_ns, target), child_frame_id=source,
            transform=self._transform(
                translation=self._vector(x=x, y=y, z=z), rotation=self._rotation(target_from_source)
            ),
        )  # fmt: skip

    def odom_to_base(self, stamp_ns: int, frames: FramesConfig, odom_from_base: np.ndarray) -> Any:
        """The edge between odometry and robot, the other way round where that is asked for."""
        if frames.invert_odom_to_base_tf:
            return self.transform(stamp_ns, frames.base_frame, frames.odom_frame, invert_rigid(odom_from_base))
        return self.transform(stamp_ns, frames.odom_frame, frames.base_frame, odom_from_base)

    def map_to_odom(self, stamp_ns: int, frames: FramesConfig, map_from_odom: np.ndarray) -> Any:
        """The edge between map and odometry, the other way round where that is asked for."""
        if frames.invert_map_to_odom_tf:
            return self.transform(stamp_ns, frames.odom_frame, frames.map_frame, invert_rigid(map_from_odom))
        return self.transform(stamp_ns, frames.map_frame, frames.odom_frame, map_from_odom)

    def tf(self, transforms: list[Any]) -> Any:
        return self._tf(transforms=transforms)

    def odometry(
        self, odom: str, base: str, pose: _BasePose, velocity: np.ndarray, velocity_covariance: np.ndarray
    ) -> Any:
        """Odometry with velocity [6] (linear, angular) in the child frame, and both covariances [6, 6]."""
        vx, vy, vz, wx, wy, wz = velocity.tolist()
        twist = self._twist(linear=self._vector(x=vx, y=vy, z=vz), angular=self._vector(x=wx, y=wy, z=wz))
        return self._odometry(
            header=self.header(pose.stamp_ns, odom), child_frame_id=base,
            pose=self._pose_covariance(pose=self.pose(pose.world_from_base), covariance=pose.covariance.reshape(36)),
            twist=self._twist_covariance(twist=twist, covariance=velocity_covariance.reshape(36)),
        )  # fmt: skip

    def _rotation(self, target_from_body: np.ndarray) -> Any:
        x, y, z, w = quaternion_xyzw(target_from_body[:3, :3])
        return self._quaternion(x=x, y=y, z=z, w=w)


class BytesMaker(MessageMaker):
    """Makes poses, odometry and path as the bytes that rclpy publishes; all else as messages."""

    def pose_stamped(self, stamp_ns: int, frame_id: str, target_from_body: np.ndarray) -> bytes:
        return cdr.numbers(stamp_ns, frame_id, _pose_numbers(target_from_body))

    def pose_with_covariance(self, stamp_ns: int, frame_id: str, pose: np.ndarray, covariance: np.ndarray) -> bytes:
        return cdr.numbers(stamp_ns, frame_id, _pose_numbers(pose), covariance)

    def pose_array(self, stamp_ns: int, frame_id: str, poses: np.ndarray) -> bytes:
        numbers = [_pose_numbers(pose) for pose in poses]
        return cdr.numbers(stamp_ns, frame_id, *numbers, between=cdr.count(len(poses)))

    def odometry(
        self, odom: str, base: str, pose: _BasePose, velocity: np.ndarray, velocity_covariance: np.ndarray
    ) -> bytes:
        numbers = _pose_numbers(pose.world_from_base), pose.covariance, velocity, velocity_covariance
        return cdr.numbers(pose.stamp_ns, odom, *numbers, between=cdr.string(base))

    def path_pose(self, stamp_ns: int, frame_id: str, target_from_body: np.ndarray) -> bytes:
        numbers = _pose_numbers(target_from_body)
        return cdr.pose_stamped(stamp_ns, frame_id, numbers[:3], numbers[3:])

    def path(self, stamp_ns: int, frame_id: str, poses: list[Any]) -> bytes:
        return cdr.path(stamp_ns, frame_id, poses)


def _pose_numbers(target_from_body: np.ndarray) -> tuple[float, ...]:
    """Position and quaternion of a [4, 4] pose, as a Pose has them."""
    return *target_from_body[:3, 3].tolist(), *quaternion_xyzw(target_from_body[:3, :3])


def standalone_tf_static(messages: MessageTypes, config: Config, stamp_ns: int, optical_frame: str) -> Any:
    """TFMessage base -> optical frame for a camera without a robot: same place, axes after REP 103."""
    make = MessageMaker(messages)
    return make.tf([make.transform(stamp_ns, config.frames.base_frame, optical_frame, BODY_FROM_OPTICAL)])


def colour_depth(depth: np.ndarray) -> np.ndarray:
    """[H, W] depth -> [H, W, 3] uint8 RGB picture: near red, far blue, unknown black; scaled to its own range."""
    level = np.maximum(depth, np.float32(1e-6))  # NaN stays NaN
    np.divide(np.float32(1), level, out=level)
    step = max(1, min(depth.shape) // 64)
    sample = level[::step, ::step]
    sample = sample[np.isfinite(sample)]
    far, near = np.percentile(sample, (2, 98)) if sample.size else (0.0, 1.0)
    level -= np.float32(far)
    np.maximum(level, 0, out=level)
    # 1 to 255; OpenCV makes 0 of NaN, which is kept for the unknown
    return cv2.applyColorMap(cv2.convertScaleAbs(level, alpha=254 / max(near - far, 1e-12), beta=1), _TURBO)


def _in_world(update: Update, world_from_map: np.ndarray) -> Update:
    """An update with poses in the world frame instead of the map."""
    if np.array_equal(world_from_map, np.eye(4)):
        return update
    return dataclasses.replace(
        update,
        frames=tuple(_frame_in_world(frame, world_from_map) for frame in update.frames),
        map_from_window_cams=world_from_map @ update.map_from_window_cams,
    )


def _frame_in_world(frame: PlacedFrame, world_from_map: np.ndarray) -> PlacedFrame:
    odometry = frame.odometry_covariance
    return dataclasses.replace(
        frame,
        map_from_cam=world_from_map @ frame.map_from_cam,
        covariance=_turned(frame.covariance, world_from_map),
        step_covariance=_turned(frame.step_covariance, world_from_map),
        odometry_covariance=None if odometry is None else _turned(odometry, world_from_map),
        views=tuple(_frame_in_world(view, world_from_map) for view in frame.views),
    )


def _moved(pose: _BasePose, target_from_world: np.ndarray) -> _BasePose:
    """A pose as another frame has it, its covariances in the axes of that."""
    if np.array_equal(target_from_world, np.eye(4)):
        return pose
    covariances = [_turned(one, target_from_world) for one in (pose.covariance, pose.step_covariance)]
    return _BasePose(pose.stamp_ns, target_from_world @ pose.world_from_base, *covariances)


def _turned(covariance: np.ndarray, target_from_source: np.ndarray) -> np.ndarray:
    """[6, 6] in the axes of another frame."""
    if _is_lost(covariance):
        return LOST  # and not LOST but for rounding
    axes = _twice(target_from_source[:3, :3])
    return axes @ covariance @ axes.T


def _twice(R: np.ndarray) -> np.ndarray:
    """[3, 3] -> [6, 6], for shift and turn."""
    axes = np.zeros((6, 6))
    axes[:3, :3] = axes[3:, 3:] = R
    return axes


def _is_wanted(topic: str, wanted: Collection[str] | None) -> bool:
    return wanted is None or topic in wanted


def _latest(frames: tuple[PlacedFrame, ...]) -> tuple[PlacedFrame]:
    """The last frame alone; its way from the one published before errs by no more than all the steps between."""
    steps = np.sum([frame.step_covariance for frame in frames], axis=0)
    return (dataclasses.replace(frames[-1], step_covariance=steps),)


def _as_odometry(frame: PlacedFrame) -> PlacedFrame:
    """With the covariance that odometry has, which drifts on where a loop has put the map right."""
    odometry = frame.odometry_covariance
    return frame if odometry is None else dataclasses.replace(frame, covariance=odometry)


def _base_pose(frame: PlacedFrame, base_from_cam: np.ndarray) -> _BasePose:
    """Pose of the robot's frame, and the camera's covariances moved there."""
    world_from_base = frame.map_from_cam @ invert_rigid(base_from_cam)
    lever = world_from_base[:3, 3] - frame.map_from_cam[:3, 3]
    covariances = [
        LOST if _is_lost(covariance) else move_covariance(covariance, lever)
        for covariance in (frame.covariance, frame.step_covariance)
    ]
    return _BasePose(frame.stamp_ns, world_from_base, *covariances)


def _is_lost(covariance: np.ndarray) -> bool:
    return bool(covariance[0, 0] >= LOST[0, 0])


def _twist(previous: _BasePose | None, now: _BasePose) -> tuple[np.ndarray, np.ndarray]:
    """Velocity [6] since the previous frame in the robot's own axes, and its covariance [6, 6].

    That is the covariance of the way between the two over the time, and at least (5 % of the speed)^2: the difference
    of two poses says nothing of the motion between them. LOST where there is no velocity; rtabmap takes it in pose and
    twist together as lost, in the twist alone as unknown.
    """
    if previous is None or any(map(_is_lost, (previous.covariance, now.covariance, now.step_covariance))):
        return np.zeros(6), LOST
    seconds = (now.stamp_ns - previous.stamp_ns) * 1e-9
    base_from_world = now.world_from_base[:3, :3].T
    linear = base_from_world @ (now.world_from_base[:3, 3] - previous.world_from_base[:3, 3]) / seconds
    turn = previous.world_from_base[:3, :3].T @ now.world_from_base[:3, :3]  # its axis is the same in both frames
    angular = vector_from_rotation(turn) / seconds
    axes = _twice(base_from_world)
    floor = np.repeat([0.05 * np.linalg.norm(linear), 0.05 * np.linalg.norm(angular)], 3) ** 2 + 1e-6
    return np.concatenate([linear, angular]), axes @ now.step_covariance @ axes.T / seconds**2 + np.diag(floor)
