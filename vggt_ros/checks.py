"""Is what a node published right? Looks at messages alone, with ROS's own libraries, and knows only what was sent."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tf2_ros
import tf_transformations
from rclpy.duration import Duration
from rclpy.time import Time
from sensor_msgs_py import point_cloud2

from vggt_ros.results.report import Check

PER_FRAME = (
    '~/odom', '~/pose', '~/camera_pose', '~/depth/image_rect', '~/depth/camera_info', '~/rgb/image_rect_color',
    '~/rgb/camera_info', '~/confidence', '~/points',
)  # fmt: skip
SIZED = ('~/depth/image_rect', '~/depth/camera_info', '~/rgb/image_rect_color', '~/rgb/camera_info', '~/confidence')
REPROJECTION_PX = 1e-3  # float32 points at 1000 px: one part in 10^7 of that, ten times over
POSE_TOLERANCE = 1e-6  # float64 all the way; what is left is the normalisation of quaternions
KNOWN_SHARE = 0.5  # of a typical image; confidence_percentile leaves out a fifth by design
CACHE_S = 3600.0  # of TF; a recording is looked at as a whole


@dataclass
class _Lifted:
    """Depth and intrinsics of a stamp, until their cloud has come."""

    depth: np.ndarray | None = None
    K: np.ndarray | None = None
    points: np.ndarray | None = None


@dataclass
class LiveChecks:
    """Takes messages as they come, in any order over topics, and tells at the end what holds.

    Args:
        sent_ns: stamps of the images that were sent.
        odom_frame: the frame in which odometry is given.
    """

    sent_ns: Sequence[int]
    odom_frame: str = 'odom'
    stamps: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _sizes: dict[int, set[tuple[int, int]]] = field(default_factory=lambda: defaultdict(set))
    _intrinsics: set[tuple[float, ...]] = field(default_factory=set)
    _lifted: dict[int, _Lifted] = field(default_factory=dict)
    _errors_px: list[float] = field(default_factory=list)
    _known: list[float] = field(default_factory=list)
    _cameras: list[Any] = field(default_factory=list)
    _odometry: list[Any] = field(default_factory=list)
    _optical_frame: str = ''
    _buffer: Any = field(default_factory=lambda: tf2_ros.Buffer(cache_time=Duration(seconds=CACHE_S)))

    def look(self, topic: str, stamp_ns: int, message: Any) -> None:
        """Take a message; topic as in topics.TOPICS."""
        self.stamps[topic].append(stamp_ns)
        if topic in SIZED or topic == '~/points':
            self._sizes[stamp_ns].add((message.height, message.width))
        if topic == '/tf':
            for transform in message.transforms:
                self._buffer.set_transform(transform, 'node')
        elif topic == '/tf_static':
            for transform in message.transforms:
                self._buffer.set_transform_static(transform, 'node')
        elif topic == '~/camera_pose':
            self._cameras.append(message)
        elif topic == '~/odom':
            self._odometry.append(message)
        elif topic == '~/depth/image_rect':
            depth = np.frombuffer(message.data, np.float32).reshape(message.height, message.width)
            self._known.append(float(np.isfinite(depth).mean()))
            self._lift(stamp_ns, depth=depth)
        elif topic == '~/depth/camera_info':
            self._optical_frame = message.header.frame_id
            self._intrinsics.add(tuple(message.k))
            self._lift(stamp_ns, K=np.reshape(message.k, (3, 3)))
        elif topic == '~/points':
            points = point_cloud2.read_points_numpy(message, field_names=('x', 'y', 'z'))
            self._lift(stamp_ns, points=points.reshape(message.height, message.width, 3))

    def results(self) -> Iterator[Check]:
        """What holds and what does not."""
        yield self._check_results()
        yield self._check_stamps()
        yield self._check_sizes()
        share = float(np.median(self._known)) if self._known else 0.0
        yield Check('depth is known for most pixels', share >= KNOWN_SHARE, f'{100 * share:.0f} % of the median image')
        count = len(self._intrinsics)
        yield Check('intrinsics stay the same', count == 1, f'{count} different ones')
        worst = max(self._errors_px, default=np.inf)
        compared = f'{len(self._errors_px)} clouds, at most {worst:.1e} px apart'
        yield Check('clouds are the depth images seen through K', worst < REPROJECTION_PX, compared)
        yield self._check_tf('odometry equals TF', self._odometry, is_camera=False)
        yield self._check_tf('TF leads to the camera', self._cameras, is_camera=True)

    def _check_results(self) -> Check:
        newest = bool(self.stamps['~/odom']) and self.stamps['~/odom'][-1] == self.sent_ns[-1]
        detail = (
            f'{len(self.stamps["~/odom"])} of {len(self.sent_ns)} images; the others were passed over for newer ones'
        )
        if len(self.stamps['~/odom']) == len(self.sent_ns):
            detail = f'all {len(self.sent_ns)} images'
        return Check('results come up to the newest image', newest, detail)

    def _check_stamps(self) -> Check:
        """Every result has the stamp of an image, to the nanosecond, once, in order; no output lacks one."""
        sent, expected = set(self.sent_ns), self.stamps['~/odom']
        wrong = [topic for topic in PER_FRAME if self.stamps[topic] != expected]
        unknown = [stamp for stamp in expected if stamp not in sent]
        in_order = all(a < b for a, b in itertools.pairwise(expected))
        detail = f'{len(PER_FRAME)} topics, {len(expected)} stamps'
        if wrong or unknown or not in_order:
            detail = f'differ: {", ".join(wrong) or "none"}; never sent: {len(unknown)}; in order: {in_order}'
        good = bool(expected) and not wrong and not unknown and in_order
        return Check('stamps are those of the images, once each and in order', good, detail)

    def _check_sizes(self) -> Check:
        odd = [stamp for stamp, sizes in self._sizes.items() if len(sizes) != 1]
        sizes = {size for several in self._sizes.values() for size in several}
        detail = ', '.join(f'{width}x{height}' for height, width in sorted(sizes))
        return Check('depth, colour, confidence and cloud have one size', bool(sizes) and not odd, detail)

    def _check_tf(self, name: str, messages: list[Any], *, is_camera: bool) -> Check:
        worst, failure = 0.0, ''
        for message in messages:
            frame = self._optical_frame if is_camera else message.child_frame_id
            pose = message.pose if is_camera else message.pose.pose
            try:
                found = self._buffer.lookup_transform(self.odom_frame, frame, Time.from_msg(message.header.stamp))
            except tf2_ros.TransformException as error:
                failure = str(error)
                break
            there = _matrix(found.transform.translation, found.transform.rotation)
            worst = max(worst, float(np.abs(there - _matrix(pose.position, pose.orientation)).max()))
        detail = failure or f'{len(messages)} poses, at most {worst:.1e} apart'
        return Check(name, bool(messages) and not failure and worst < POSE_TOLERANCE, detail)

    def _lift(self, stamp_ns: int, **parts: np.ndarray) -> None:
        lifted = self._lifted.setdefault(stamp_ns, _Lifted())
        for name, value in parts.items():
            setattr(lifted, name, value)
        if lifted.depth is not None and lifted.K is not None and lifted.points is not None:
            self._errors_px.append(reprojection_error(lifted.depth, lifted.K, lifted.points))
            del self._lifted[stamp_ns]


def reprojection_error(depth: np.ndarray, K: np.ndarray, points: np.ndarray) -> float:
    """How far at most, in pixels, a point projects from its own pixel; infinite where depth and z differ.

    Args:
        depth: [H, W], NaN where unknown.
        K: [3, 3] of this image.
        points: [H, W, 3] in the optical frame.
    """
    if points.shape[:2] != depth.shape or not np.array_equal(points[..., 2], depth, equal_nan=True):
        return float('inf')
    known = np.isfinite(depth)
    if not known.any():
        return 0.0
    v, u = np.nonzero(known)
    x, y, z = points[known].astype(np.float64).T
    off = np.hypot(K[0, 0] * x / z + K[0, 2] - u, K[1, 1] * y / z + K[1, 2] - v)
    return float(off.max())


def _matrix(position: Any, orientation: Any) -> np.ndarray:
    matrix = tf_transformations.quaternion_matrix((orientation.x, orientation.y, orientation.z, orientation.w))
    matrix[:3, 3] = position.x, position.y, position.z
    return matrix
