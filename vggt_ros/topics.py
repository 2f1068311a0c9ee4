"""What we publish, once: the node's publishers, the bag writer's channels and the README's table come from here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

NODE_NAME = '/vggt'


@dataclass(frozen=True)
class Topic:
    """One output.

    Args:
        name: as the node declares it: '~/...' lies under the node's own name, '/...' is absolute.
        type: ROS 2 name of the message type.
        depth: messages kept for a subscriber that is slower than we are.
        latched: whether a subscriber that comes late still gets the last message (transient local durability).
        lazy: whether the message is made only while somebody listens; what is not lazy is small.
        per_camera: whether each camera of a rig has one of its own, '~/NAME/...' (camera_topic).
        help: what it holds, in one sentence.

    All are offered reliable: a best-effort offer is invisible to RViz and to depth_image_proc, which ask for reliable,
    while a reliable offer suits both kinds of subscriber.
    Source: ros-perception/image_pipeline, depth_image_proc/src/point_cloud_xyzrgb.cpp; issue image_pipeline#1102.
    """

    name: str
    type: str
    help: str
    depth: int = 5
    latched: bool = False
    lazy: bool = False
    per_camera: bool = False


_TF, _IMAGE, _INFO, _CLOUD = (
    'tf2_msgs/msg/TFMessage',
    'sensor_msgs/msg/Image',
    'sensor_msgs/msg/CameraInfo',
    'sensor_msgs/msg/PointCloud2',
)
_POSE_WITH_COVARIANCE = 'geometry_msgs/msg/PoseWithCovarianceStamped'

TOPICS = (
    Topic('/tf', _TF, 'odometry frame -> robot frame, before all else of the same stamp', depth=100),
    Topic('/tf_static', _TF, 'robot frame -> optical frame, with standalone only', depth=1, latched=True),
    Topic('~/odom', 'nav_msgs/msg/Odometry', 'pose of the robot in the odometry frame, twist in its own', depth=10),
    Topic('~/pose', _POSE_WITH_COVARIANCE, 'pose of the robot in the world frame', depth=10),
    Topic('~/camera_pose', 'geometry_msgs/msg/PoseStamped', 'pose of the optical frame in the world frame', depth=10),
    Topic(
        '~/depth/image_rect',
        _IMAGE,
        '32FC1 depth along the optical axis, NaN where unknown',
        lazy=True,
        per_camera=True,
    ),
    Topic('~/depth/camera_info', _INFO, 'intrinsics of the depth image', per_camera=True),
    Topic('~/rgb/image_rect_color', _IMAGE, 'rgb8 image on the grid of the depth image', lazy=True, per_camera=True),
    Topic('~/rgb/camera_info', _INFO, 'the same intrinsics, for the colour image', per_camera=True),
    Topic('~/confidence', _IMAGE, '32FC1 confidence of the network, raw, at least 1', lazy=True, per_camera=True),
    Topic(
        '~/depth/image_color',
        _IMAGE,
        'rgb8 picture of the depth: near red, far blue, unknown black',
        lazy=True,
        per_camera=True,
    ),
    Topic('~/points', _CLOUD, 'organised coloured cloud in the optical frame', lazy=True, per_camera=True),
    Topic(
        '~/points_filtered',
        _CLOUD,
        'its known points, one a voxel, for nav2, STVL and octomap',
        lazy=True,
        per_camera=True,
    ),
    Topic('~/world_points', _CLOUD, 'new points of a window in the world frame', lazy=True),
    Topic('~/window_poses', 'geometry_msgs/msg/PoseArray', 'all cameras of the window as estimated now, world frame'),
    Topic('~/path', 'nav_msgs/msg/Path', 'the way so far, in the world frame'),
    Topic('~/map_points', _CLOUD, 'the voxel map so far, in the world frame', depth=1, latched=True),
)

TOPIC = {topic.name: topic for topic in TOPICS}


@dataclass(frozen=True)
class Input:
    """A topic that the node may subscribe to, by the name to remap.

    Args:
        name: relative to the namespace of the node.
        type: ROS 2 name of the message type.
        help: what it is for, in one sentence.
        per_camera: whether each camera of a rig has its own, NAME/image.
    """

    name: str
    type: str
    help: str
    per_camera: bool = False


INPUTS = (
    Input('image', _IMAGE, 'images; its /compressed sibling with image_transport compressed', per_camera=True),
    Input('camera_info', _INFO, 'their calibration; unless remapped, camera_info beside the image', per_camera=True),
    Input('mask', _IMAGE, 'masks, mono8, 0 where a pixel does not count; with mask_mode', per_camera=True),
    Input('odom', 'nav_msgs/msg/Odometry', 'odometry of the robot, with scale_source odometry'),
    Input('depth_anchor', _IMAGE, 'measured depth, with scale_source depth'),
    Input('depth_anchor_info', _INFO, 'its calibration; unless remapped, camera_info beside it'),
    Input('lidar', _CLOUD, 'cloud of a scanner, with scale_source lidar'),
    Input('imu', 'sensor_msgs/msg/Imu', 'accelerations, with gravity_source imu'),
)


def camera_topic(name: str, camera: str) -> str:
    """The name of a camera's own topic: '~/points' of 'left' -> '~/left/points'; without a name that of the table."""
    return f'~/{camera}{name[1:]}' if camera else name


def topics_of(cameras: tuple[str, ...]) -> tuple[Topic, ...]:
    """The topics of a node with these cameras; without names, the table."""
    several = cameras or ('',)
    return tuple(
        dataclasses.replace(topic, name=camera_topic(topic.name, camera))
        for topic in TOPICS
        for camera in (several if topic.per_camera else ('',))
    )


def resolve(name: str, node_name: str = NODE_NAME) -> str:
    """The absolute name of a topic of the table: '~/odom' -> '/vggt/odom'."""
    return node_name + name[1:] if name.startswith('~') else name


@dataclass(frozen=True)
class Service:
    """A service that the node offers while it is configured; those of a lifecycle node come on top.

    Args:
        name: '~/...' lies under the node's own name.
        type: ROS 2 name of the service type.
        help: what it does, in one sentence.
    """

    name: str
    type: str
    help: str


_TRIGGER = 'std_srvs/srv/Trigger'

SERVICES = (
    Service('~/reset', _TRIGGER, 'start a new map with the next image'),
    Service('~/enable', 'std_srvs/srv/SetBool', 'take images or leave them; the network stays loaded'),
    Service('~/save_map', _TRIGGER, 'write the map to disk; the answer names the folder'),
    Service('~/save_trajectory', _TRIGGER, 'write the way so far to disk; the answer names the file'),
)
