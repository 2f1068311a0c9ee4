"""Targets: what decodes messages. Fields hold what their types can, whatever sense it makes."""

from __future__ import annotations

import array
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from fuzz.contract import Broken
from fuzz.draw import Draw
from vggt_ros.core.config import MaskConfig
from vggt_ros.core.frame import Frame
from vggt_ros.core.metric.evidence import Evidence
from vggt_ros.decode import SUPPORTED, CameraInfoCache, decode_frame
from vggt_ros.decode_sensors import add_cloud, add_depth, add_imu, add_odometry
from vggt_ros.masks import Masks
from vggt_ros.recorded.bag import convert_image
from vggt_ros.recorded.static_tf import StaticTransforms
from vggt_ros.recorded.tf import RecordedTransforms
from vggt_ros.rectify import MODELS, Rectifiers

UINT8, UINT32, INT32 = (0, 2**8 - 1), (0, 2**32 - 1), (-(2**31), 2**31 - 1)
HEIGHT, WIDTH = 6, 8
STAMP_NS = 1_700_000_000_123_456_789
ENCODINGS = (*SUPPORTED, '16UC1', '32FC1', '64FC1', 'yuv444', 'jpeg', '')
PIXEL_BYTES = {'rgb8': 3, 'bgr8': 3, '8UC3': 3, 'mono8': 1, '8UC1': 1, 'nv12': 1, 'nv21': 1, '32FC1': 4, '64FC1': 8}
PICTURE = (np.arange(HEIGHT * WIDTH * 3, dtype=np.uint32) * 37 % 256).astype(np.uint8).reshape(HEIGHT, WIDTH, 3)


def image(draw: Draw) -> None:
    """sensor_msgs/Image of any encoding, size, step, byte order and length -> Frame."""
    message = image_message(draw, draw.choice(ENCODINGS))
    info = camera_info(draw) if draw.flag() else None
    frame = decode_frame(message, info, convert=convert_image, rectifiers=Rectifiers() if draw.flag() else None)
    require_frame(frame, (message.height, message.width))


def compressed_image(draw: Draw) -> None:
    """sensor_msgs/CompressedImage: a damaged picture of any format -> Frame."""
    valid = draw.choice(PICTURES)
    message = SimpleNamespace(
        header=header(draw),
        format=draw.mostly('rgb8; jpeg compressed bgr8', ('', 'png', 'compressedDepth png', '16UC1; compressedDepth')),
        data=field_bytes(draw, draw.damaged(valid)),
    )
    require_frame(decode_frame(message), None)


def calibration(draw: Draw) -> None:
    """sensor_msgs/CameraInfo of any numbers, with a good image -> Frame, rectified."""
    message = SimpleNamespace(
        header=header(Draw(b'')), height=HEIGHT, width=WIDTH, encoding='rgb8', is_bigendian=0, step=0,
        data=PICTURE.tobytes(),
    )  # fmt: skip
    info = camera_info(draw)
    cache = CameraInfoCache()
    cache.add(info)
    is_rectified = draw.flag()
    frame = decode_frame(message, cache.find(STAMP_NS), rectified=is_rectified, rectifiers=Rectifiers())
    require_frame(frame, (HEIGHT, WIDTH))


def depth_image(draw: Draw) -> None:
    """A depth Image with its CameraInfo -> evidence."""
    message = image_message(draw, draw.choice(('16UC1', '32FC1', 'mono16', '64FC1', 'rgb8')))
    evidence = Evidence()
    add_depth(evidence, message, camera_info(draw))
    require_finite(evidence.points_in('camera', STAMP_NS))


def cloud(draw: Draw) -> None:
    """sensor_msgs/PointCloud2 of any fields, offsets and steps -> evidence."""
    count = draw.below(6)
    fields = [
        SimpleNamespace(
            name=draw.word(name),
            offset=draw.integer(4 * i, *UINT32),
            datatype=draw.integer(7, *UINT8),
            count=draw.integer(1, *UINT32),
        )
        for i, name in enumerate(draw.mostly('xyz', ('xyzi', 'xy', 'xxyz', '')))
    ]
    point_step = draw.integer(16, *UINT32)
    message = SimpleNamespace(
        header=header(draw),
        height=draw.integer(1, *UINT32),
        width=draw.integer(count, *UINT32),
        fields=fields,
        is_bigendian=draw.flag(),
        point_step=point_step,
        row_step=draw.integer(16 * count, *UINT32),
        data=field_bytes(draw, draw.damaged(np.linspace(-3, 3, 4 * count, dtype='<f4').tobytes())),
        is_dense=draw.flag(),
    )
    evidence = Evidence()
    add_cloud(evidence, message)
    require_finite(evidence.points_in('camera', STAMP_NS))


def imu(draw: Draw) -> None:
    """sensor_msgs/Imu -> up."""
    covariance = draw.numbers([0.0] * 9)
    message = SimpleNamespace(
        header=header(draw),
        linear_acceleration=vector(draw, (0.0, 0.0, 9.81)),
        linear_acceleration_covariance=covariance,
        orientation=quaternion(draw),
        orientation_covariance=draw.numbers([0.0] * 9),
    )
    evidence = Evidence()
    add_imu(evidence, message)
    _, ups = evidence.ups_in('camera', 0, 2**63)
    require_finite(ups)


def odometry(draw: Draw) -> None:
    """nav_msgs/Odometry, a few of them -> the robot's way."""
    evidence = Evidence()
    for _ in range(1 + draw.below(4)):
        pose = SimpleNamespace(position=vector(draw, (1.0, 2.0, 0.0)), orientation=quaternion(draw))
        message = SimpleNamespace(
            header=header(draw), child_frame_id=draw.word('camera'), pose=SimpleNamespace(pose=pose)
        )
        add_odometry(evidence, message)
    require_finite(evidence.odom_from_cam('camera', STAMP_NS))


def transforms(draw: Draw) -> None:
    """tf2_msgs/TFMessage, fixed and moving, loops and all -> where the camera sits."""
    fixed = StaticTransforms()
    fixed.add(SimpleNamespace(transforms=[transform(draw, 'base_link', 'mast'), transform(draw, 'mast', 'camera')]))
    known = RecordedTransforms(fixed)
    known.add_moving(SimpleNamespace(transforms=[transform(draw, 'odom', 'base_link') for _ in range(draw.below(4))]))
    require_finite(fixed.find('base_link', 'camera'))
    require_finite(known.find('odom', 'camera', STAMP_NS))


def mask(draw: Draw) -> None:
    """Masks of a topic -> which pixels of an image count."""
    masks = Masks(MaskConfig(mode=draw.choice(('latest', 'stamped'))), is_live=False)
    for _ in range(1 + draw.below(3)):
        masks.add(image_message(draw, draw.mostly('mono8', ('8UC1', 'rgb8', '16UC1'))))
    seen = masks.find(STAMP_NS, (HEIGHT, WIDTH))
    if seen is not None and (seen.shape != (HEIGHT, WIDTH) or seen.dtype != np.bool_):
        raise Broken(f'a mask of {seen.shape} {seen.dtype}')


def image_message(draw: Draw, encoding: str) -> Any:
    height, width = draw.integer(HEIGHT, *UINT32), draw.integer(WIDTH, *UINT32)
    row = WIDTH * PIXEL_BYTES.get(encoding, 2)
    step = draw.integer(row, *UINT32)
    size = (HEIGHT * 3 // 2 if encoding in ('nv12', 'nv21') else HEIGHT) * row
    size = min(max(draw.integer(size), 0), 4096)
    return SimpleNamespace(
        header=header(draw), height=height, width=width, encoding=draw.word(encoding), step=step,
        is_bigendian=draw.integer(0, *UINT8), data=field_bytes(draw, np.resize(PICTURE, size).tobytes()),
    )  # fmt: skip


def camera_info(draw: Draw) -> Any:
    K = [10.0, 0.0, 3.5, 0.0, 10.0, 2.5, 0.0, 0.0, 1.0]
    model = draw.mostly('plumb_bob', (*MODELS, '', 'fisheye', 'thin_prism'))
    count = draw.mostly({'equidistant': 4, 'rational_polynomial': 8}.get(model, 5), (0, 4, 5, 8, 12, 14, 3, 200))
    bound = draw.choice((0.0, 0.1, 10.0))
    return SimpleNamespace(
        header=header(Draw(b'')),
        height=draw.integer(HEIGHT, *UINT32),
        width=draw.integer(WIDTH, *UINT32),
        distortion_model=model,
        d=np.array(draw.numbers([bound] * count)),
        k=np.array(draw.numbers(K)),
        r=np.array(draw.numbers([1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0])),
        p=np.array(draw.numbers([10.0, 0.0, 3.5, 0.0, 0.0, 10.0, 2.5, 0.0, 0.0, 0.0, 1.0, 0.0])),
        binning_x=draw.integer(0, *UINT32),
        binning_y=draw.integer(0, *UINT32),
        roi=SimpleNamespace(
            x_offset=draw.integer(0, *UINT32), y_offset=draw.integer(0, *UINT32),
            width=draw.integer(0, *UINT32), height=draw.integer(0, *UINT32), do_rectify=draw.flag(),
        ),
    )  # fmt: skip


def header(draw: Draw) -> Any:
    sec, nanosec = draw.integer(STAMP_NS // 10**9, *INT32), draw.integer(STAMP_NS % 10**9, *UINT32)
    return SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=nanosec), frame_id=draw.word('camera'))


def transform(draw: Draw, parent: str, child: str) -> Any:
    edge = SimpleNamespace(translation=vector(draw, (0.1, 0.0, 0.5)), rotation=quaternion(draw))
    names = ('camera', 'base_link', 'odom', '')
    return SimpleNamespace(
        header=SimpleNamespace(stamp=header(draw).stamp, frame_id=draw.mostly(parent, names)),
        child_frame_id=draw.mostly(child, names),
        transform=edge,
    )


def vector(draw: Draw, valid: tuple[float, float, float]) -> Any:
    return SimpleNamespace(**dict(zip('xyz', draw.numbers(valid), strict=True)))


def quaternion(draw: Draw) -> Any:
    return SimpleNamespace(**dict(zip('xyzw', draw.numbers((0.0, 0.0, 0.6, 0.8)), strict=True)))


def field_bytes(draw: Draw, data: bytes) -> Any:
    """As rclpy and as rosbags hold a uint8[]."""
    return array.array('B', data) if draw.flag() else np.frombuffer(data, np.uint8)


def require_frame(frame: Frame, size: tuple[int, int] | None) -> None:
    if size is not None and frame.size != size:
        raise Broken(f'an image of {size} became {frame.size}')
    if frame.K is not None and not (np.isfinite(frame.K).all() and (np.diag(frame.K) > 0).all()):
        raise Broken(f'K is {frame.K}')
    if frame.K is not None and not (frame.K[2] == [0, 0, 1]).all():
        raise Broken(f'K is no camera matrix: {frame.K}')


def require_finite(values: np.ndarray | None) -> None:
    if values is not None and not np.isfinite(values).all():
        raise Broken(f'not finite: {values}')


def _pictures() -> tuple[bytes, ...]:
    grey = cv2.cvtColor(PICTURE, cv2.COLOR_RGB2GRAY)
    images = [('.jpg', PICTURE), ('.png', PICTURE), ('.png', grey), ('.png', grey.astype(np.uint16) * 200)]
    images += [(suffix, PICTURE) for suffix in ('.bmp', '.webp', '.tiff', '.ppm')]
    return tuple(cv2.imencode(suffix, picture)[1].tobytes() for suffix, picture in images)


PICTURES = _pictures()
