"""Clouds to arrays and back. Truth: bytes packed with struct."""

import array
import struct

import numpy as np
import pytest
from sensor_msgs.msg import PointCloud2, PointField
from sensor_msgs_py import point_cloud2
from std_msgs.msg import Header

PACKAGE = 'sensor_msgs_py'
HEADER = Header(frame_id='camera')
XYZ = [PointField(name=n, offset=4 * i, datatype=PointField.FLOAT32, count=1) for i, n in enumerate('xyz')]
# What RViz and the drivers expect: colour packed in the bytes of a float at offset 12.
XYZ_RGB = [*XYZ, PointField(name='rgb', offset=12, datatype=PointField.FLOAT32, count=1)]
POINTS = [(1.0, 2.0, 3.0), (float('nan'), 5.0, 6.0), (7.0, 8.0, 9.0)]


def hand_made_cloud(*, big_endian=False):
    """Three points, 16 bytes each: x y z, an unused byte, and at offset 13 a 16-bit ring number."""
    order = '>' if big_endian else '<'
    data = b''.join(struct.pack(f'{order}fffxHx', *xyz, ring) for xyz, ring in zip(POINTS, (10, 20, 30), strict=True))
    ring = PointField(name='ring', offset=13, datatype=PointField.UINT16, count=1)
    cloud = PointCloud2(header=HEADER, height=1, width=3, fields=[*XYZ, ring], point_step=16, row_step=48)
    cloud.is_bigendian = big_endian
    cloud.data = array.array('B', data)
    return cloud


@pytest.mark.parametrize('big_endian', [False, True])
def test_fields_are_read_at_their_offsets_in_either_byte_order(big_endian):
    points = point_cloud2.read_points(hand_made_cloud(big_endian=big_endian))
    np.testing.assert_array_equal(points['x'], np.float32([1, np.nan, 7]))
    np.testing.assert_array_equal(points['z'], np.float32([3, 6, 9]))
    assert points['ring'].tolist() == [10, 20, 30]


def test_fields_and_points_can_be_chosen():
    cloud = hand_made_cloud()
    assert point_cloud2.read_points(cloud, field_names=['ring', 'z']).tolist() == [(10, 3.0), (20, 6.0), (30, 9.0)]
    assert point_cloud2.read_points(cloud, ['x'], skip_nans=True).tolist() == [(1.0,), (7.0,)]
    assert point_cloud2.read_points(cloud, ['ring'], uvs=[2, 0]).tolist() == [(30,), (10,)]
    with pytest.raises(AssertionError):
        point_cloud2.read_points(cloud, ['intensity'])


def test_a_dense_cloud_is_not_searched_for_nan():
    cloud = hand_made_cloud()
    cloud.is_dense = True
    assert len(point_cloud2.read_points(cloud, skip_nans=True)) == 3


def test_equal_fields_become_a_plain_array():
    found = point_cloud2.read_points_numpy(hand_made_cloud(), field_names=('x', 'y', 'z'))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.float32(POINTS))
    with pytest.raises(AssertionError):
        point_cloud2.read_points_numpy(hand_made_cloud())  # floats and a 16-bit number


def test_points_come_as_named_tuples_too():
    points = point_cloud2.read_points_list(hand_made_cloud(), ['x', 'ring'])
    assert (points[2].x, points[2].ring) == (7.0, 30)


def test_a_structured_array_is_copied_byte_by_byte():
    dtype = np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f4'), ('rgb', '<f4')])
    points = np.zeros(2, dtype)
    points['x'], points['y'], points['z'] = [1, 4], [2, 5], [3, 6]
    points['rgb'].view(np.uint32)[:] = [0x00FF8040, 0x00010203]
    cloud = point_cloud2.create_cloud(HEADER, XYZ_RGB, points)
    assert (cloud.height, cloud.width, cloud.point_step, cloud.row_step) == (1, 2, 16, 32)
    assert cloud.header == HEADER
    assert not cloud.is_dense
    assert not cloud.is_bigendian
    # b, g, r: the little-endian bytes of 0x00RRGGBB
    assert bytes(cloud.data) == struct.pack('<fff4Bfff4B', 1, 2, 3, 0x40, 0x80, 0xFF, 0, 4, 5, 6, 3, 2, 1, 0)


def test_a_plain_array_and_a_list_make_the_same_cloud():
    from_array = point_cloud2.create_cloud_xyz32(HEADER, np.float32(POINTS))
    from_list = point_cloud2.create_cloud_xyz32(HEADER, POINTS)
    assert bytes(from_array.data) == bytes(from_list.data) == b''.join(struct.pack('<fff', *point) for point in POINTS)
    assert [field.name for field in from_array.fields] == ['x', 'y', 'z']
    assert from_array.point_step == 12


def test_numbers_of_another_type_are_converted():
    cloud = point_cloud2.create_cloud_xyz32(HEADER, np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal(point_cloud2.read_points_numpy(cloud), [[0, 1, 2], [3, 4, 5]])


def test_padding_of_a_point_is_kept():
    cloud = point_cloud2.create_cloud(HEADER, XYZ, POINTS, point_step=16)
    assert (cloud.point_step, len(cloud.data)) == (16, 48)
    np.testing.assert_array_equal(point_cloud2.read_points_numpy(cloud), np.float32(POINTS))


def test_an_organised_array_is_taken_as_width_by_height():
    # The trap of ros2/common_interfaces#236: an image of H x W points must be transposed first, or W and H swap.
    points = np.zeros((4, 3), point_cloud2.dtype_from_fields(XYZ, 12))
    cloud = point_cloud2.create_cloud(HEADER, XYZ, points)
    assert (cloud.width, cloud.height) == (4, 3)
    assert point_cloud2.read_points(cloud, reshape_organized_cloud=True).shape == (4, 3)
    assert point_cloud2.read_points(cloud).shape == (12,)


def test_an_array_of_other_fields_is_refused():
    wrong = np.zeros(3, np.dtype([('x', '<f4'), ('y', '<f4'), ('z', '<f8')]))
    with pytest.raises(AssertionError):
        point_cloud2.create_cloud(HEADER, XYZ, wrong)
    with pytest.raises(AssertionError):
        point_cloud2.create_cloud(HEADER, XYZ, np.zeros((2, 2, 2), point_cloud2.dtype_from_fields(XYZ, 12)))


def test_repeated_and_nameless_fields_get_names():
    fields = [
        PointField(name='normal', offset=0, datatype=PointField.FLOAT64, count=3),
        PointField(name='', offset=24, datatype=PointField.INT8, count=1),
    ]
    dtype = point_cloud2.dtype_from_fields(fields, point_step=32)
    assert dtype.names == ('normal_0', 'normal_1', 'normal_2', 'unnamed_field_1')
    assert [dtype.fields[name][1] for name in dtype.names] == [0, 8, 16, 24]
    assert dtype.itemsize == 32


def test_no_points_make_an_empty_cloud():
    cloud = point_cloud2.create_cloud_xyz32(HEADER, np.zeros((0, 3), np.float32))
    assert (cloud.width, cloud.height, len(cloud.data)) == (0, 1, 0)
    assert point_cloud2.read_points_numpy(cloud).shape == (0, 3)
