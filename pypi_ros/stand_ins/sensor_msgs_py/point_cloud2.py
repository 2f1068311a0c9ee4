"""PointCloud2 messages from numpy arrays and back.

Field offsets, padding (point_step) and byte order are honoured. Deliberately as in the real package: an organised
cloud given as a 2D array is taken as [width, height] (ros2/common_interfaces#236), and is_dense is never set.

Source: the public names of ros2/common_interfaces, sensor_msgs_py/point_cloud2.py, compared in test/pypi_ros.
"""

from __future__ import annotations

import array
import sys
from collections import namedtuple
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.lib.recfunctions import structured_to_unstructured, unstructured_to_structured
from sensor_msgs.msg import PointCloud2, PointField
from std_msgs.msg import Header

DUMMY_FIELD_PREFIX = 'unnamed_field'
_DTYPES: dict[int, np.dtype[Any]] = {
    PointField.INT8: np.dtype(np.int8),
    PointField.UINT8: np.dtype(np.uint8),
    PointField.INT16: np.dtype(np.int16),
    PointField.UINT16: np.dtype(np.uint16),
    PointField.INT32: np.dtype(np.int32),
    PointField.UINT32: np.dtype(np.uint32),
    PointField.FLOAT32: np.dtype(np.float32),
    PointField.FLOAT64: np.dtype(np.float64),
}


def read_points(
    cloud: PointCloud2,
    field_names: Iterable[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable[int] | np.ndarray | None = None,
    reshape_organized_cloud: bool = False,
) -> np.ndarray:
    """The points of a cloud as a structured array, without a copy where that is possible.

    Args:
        cloud: the message.
        field_names: which fields, all by default.
        skip_nans: leave out points of which a chosen field is NaN (unless the cloud says it is dense).
        uvs: indices of the points wanted.
        reshape_organized_cloud: [width, height] instead of [N] where height is above 1.
    """
    assert isinstance(cloud, PointCloud2), f'expected a sensor_msgs.msg.PointCloud2, got {type(cloud).__name__}'
    dtype = dtype_from_fields(cloud.fields, point_step=cloud.point_step)
    points = np.ndarray((cloud.width * cloud.height,), dtype, buffer=cloud.data)
    if cloud.is_bigendian != (sys.byteorder == 'big'):
        points = points.byteswap()
    if field_names is not None:
        names = list(field_names)
        unknown = [name for name in names if name not in (dtype.names or ())]
        assert not unknown, f'the cloud has no field {unknown}; it has {dtype.names}'
        points = points[names]
    if skip_nans and not cloud.is_dense:
        names = list(points.dtype.names or ())
        points = points[~np.any([np.isnan(points[name]) for name in names], axis=0)]
    if uvs is not None:
        points = points[uvs if isinstance(uvs, np.ndarray) else np.fromiter(uvs, dtype=int)]
    if reshape_organized_cloud and cloud.height > 1:
        points = points.reshape(cloud.width, cloud.height)
    return points


def read_points_numpy(
    cloud: PointCloud2,
    field_names: Iterable[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable[int] | np.ndarray | None = None,
    reshape_organized_cloud: bool = False,
) -> np.ndarray:
    """As read_points, [N, fields] of one number type; the fields must share their type."""
    names = None if field_names is None else list(field_names)
    datatypes = {field.datatype for field in cloud.fields if names is None or field.name in names}
    assert len(datatypes) <= 1, 'the fields differ in type; use read_points, or choose fields of one type'
    return structured_to_unstructured(read_points(cloud, names, skip_nans, uvs, reshape_organized_cloud))


def read_points_list(
    cloud: PointCloud2,
    field_names: Sequence[str] | None = None,
    skip_nans: bool = False,
    uvs: Iterable[int] | np.ndarray | None = None,
) -> list[Any]:
    """As read_points, one named tuple a point (slow)."""
    names = [field.name for field in cloud.fields] if field_names is None else list(field_names)
    point = namedtuple('Point', names)  # type: ignore[misc]
    return [point._make(values) for values in read_points(cloud, names, skip_nans, uvs)]


def dtype_from_fields(fields: Iterable[PointField], point_step: int | None = None) -> np.dtype:
    """The structured dtype of a point: field offsets as given, point_step bytes long.

    A field without a name is called unnamed_field_<index>; one with a count above 1 becomes <name>_0, <name>_1 ...
    """
    names: list[str] = []
    formats: list[str] = []
    offsets: list[int] = []
    for index, field in enumerate(fields):
        assert field.count > 0, f'field {field.name!r} has a count of 0'
        dtype = _DTYPES[field.datatype]
        base = field.name or f'{DUMMY_FIELD_PREFIX}_{index}'
        for part in range(field.count):
            names.append(base if field.count == 1 else f'{base}_{part}')
            formats.append(dtype.str)
            offsets.append(field.offset + part * dtype.itemsize)
    assert len(set(names)) == len(names), f'two fields share a name: {names}'
    layout: Any = {'names': names, 'formats': formats, 'offsets': offsets}
    if point_step is not None:
        layout['itemsize'] = point_step
    return np.dtype(layout)


def create_cloud(
    header: Header, fields: Sequence[PointField], points: Iterable[Any] | np.ndarray, point_step: int | None = None
) -> PointCloud2:
    """A cloud of the given fields.

    Args:
        header: stamp and frame.
        fields: describe one point.
        points: structured array of exactly that dtype ([N], or [width, height] for an organised cloud), plain array
            [N, fields] if all fields share their type, or an iterable of tuples (slow).
        point_step: bytes a point; what the fields need by default.
    """
    dtype = dtype_from_fields(fields, point_step)
    if not isinstance(points, np.ndarray):
        points = np.array([tuple(point) for point in points], dtype=dtype)
    elif points.dtype.names is None:
        assert len({field.datatype for field in fields}) == 1, 'the fields differ in type; pass a structured array'
        points = unstructured_to_structured(points, dtype=dtype)
    else:
        assert points.dtype == dtype, f'the array is of {points.dtype}, the fields say {dtype}'
    assert points.ndim <= 2, f'a cloud is [N] or [width, height], got shape {points.shape}'

    data = array.array('B')
    data.frombytes(points.data.cast('B') if points.size else b'')  # no copy; a cast of no bytes at all is refused
    cloud = PointCloud2(
        header=header,
        height=points.shape[1] if points.ndim == 2 else 1,
        width=points.shape[0],
        is_dense=False,
        is_bigendian=sys.byteorder == 'big',
        fields=fields,
        point_step=points.dtype.itemsize,
        row_step=points.dtype.itemsize * points.shape[0],
    )
    cloud.data = data  # not through the constructor: rosidl checks that byte by byte on some distributions
    return cloud


def create_cloud_xyz32(header: Header, points: Iterable[Any] | np.ndarray) -> PointCloud2:
    """A cloud of x, y, z as 32-bit floats from points [N, 3]."""
    fields = [
        PointField(name=name, offset=4 * index, datatype=PointField.FLOAT32, count=1)
        for index, name in enumerate('xyz')
    ]
    return create_cloud(header, fields, points)
