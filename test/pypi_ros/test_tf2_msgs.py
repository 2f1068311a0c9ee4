"""The generated types, against rosbags: another implementation of message definitions, type hashes and CDR."""

import time

import pytest
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.typesys import Stores, get_typestore
from tf2_msgs.msg import TF2Error, TFMessage

PACKAGE = 'tf2_msgs'


@pytest.fixture
def message():
    stamped = TransformStamped(child_frame_id='base_link')
    stamped.header.frame_id = 'odom'
    stamped.header.stamp.sec, stamped.header.stamp.nanosec = 1_795_000_000, 999_999_999
    stamped.transform.translation.x = 0.1
    stamped.transform.rotation.w = -0.5
    return TFMessage(transforms=[stamped, TransformStamped(child_frame_id='camera_link')])


@pytest.mark.parametrize('message_type', [TFMessage, TF2Error])
def test_type_hashes_are_those_of_ros_so_that_other_machines_connect(context, message_type):
    node = rclpy.create_node('hashes', context=context)
    node.create_publisher(message_type, 'hashed', 1)
    deadline = time.monotonic() + 20
    while not (ends := node.get_publishers_info_by_topic('hashed')) and time.monotonic() < deadline:
        time.sleep(0.01)
    node.destroy_node()
    expected = get_typestore(Stores.ROS2_KILTED).hash_rihs01(f'tf2_msgs/msg/{message_type.__name__}')
    assert str(ends[0].topic_type_hash) == expected


def test_bytes_are_read_by_rosbags(message):
    found = get_typestore(Stores.ROS2_KILTED).deserialize_cdr(serialize_message(message), 'tf2_msgs/msg/TFMessage')
    first, second = found.transforms
    assert (first.header.frame_id, first.child_frame_id) == ('odom', 'base_link')
    assert (first.header.stamp.sec, first.header.stamp.nanosec) == (1_795_000_000, 999_999_999)
    assert (first.transform.translation.x, first.transform.rotation.w) == (0.1, -0.5)
    assert second.child_frame_id == 'camera_link'


def test_bytes_of_rosbags_are_read(message):
    store = get_typestore(Stores.ROS2_KILTED)
    foreign = store.serialize_cdr(
        store.deserialize_cdr(serialize_message(message), 'tf2_msgs/msg/TFMessage'), 'tf2_msgs/msg/TFMessage'
    )
    assert deserialize_message(bytes(foreign), TFMessage) == message


def test_messages_cross_the_middleware(context, message):
    node = rclpy.create_node('both', context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    arrived = []
    node.create_subscription(TFMessage, 'tf_test', arrived.append, 10)
    publisher = node.create_publisher(TFMessage, 'tf_test', 10)
    deadline = time.monotonic() + 20
    while not arrived and time.monotonic() < deadline:
        if publisher.get_subscription_count():
            publisher.publish(message)
        executor.spin_once(timeout_sec=0.1)
    executor.shutdown()
    node.destroy_node()
    assert arrived
    assert arrived[0] == message


def test_error_codes():
    # Source: ros2/geometry2 tf2_msgs/msg/TF2Error.msg; they travel as plain numbers.
    assert (TF2Error.NO_ERROR, TF2Error.LOOKUP_ERROR, TF2Error.CONNECTIVITY_ERROR) == (0, 1, 2)
    assert (TF2Error.EXTRAPOLATION_ERROR, TF2Error.INVALID_ARGUMENT_ERROR) == (3, 4)
    assert (TF2Error.TIMEOUT_ERROR, TF2Error.TRANSFORM_ERROR) == (5, 6)


def test_services_and_actions_are_there():
    from tf2_msgs.action import LookupTransform
    from tf2_msgs.srv import FrameGraph

    assert FrameGraph.Response(frame_yaml='[]').frame_yaml == '[]'
    goal = LookupTransform.Goal(target_frame='map', source_frame='base', advanced=True)
    assert (goal.target_frame, goal.advanced, goal.timeout.sec) == ('map', True, 0)
