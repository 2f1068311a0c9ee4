"""Frames, times and errors of tf2_ros.Buffer, and the way over /tf. Truth: 4x4 matrices of scipy and numpy."""

import threading
import time

import numpy as np
import pytest
import rclpy
import tf2_ros
from builtin_interfaces.msg import Time as TimeMessage
from geometry_msgs.msg import TransformStamped
from rclpy.clock import ClockType
from rclpy.duration import Duration
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.time import Time
from rosgraph_msgs.msg import Clock
from scipy.spatial.transform import Rotation, Slerp

from vggt_ros.dds import free_domain

PACKAGE = 'tf2_ros'
EXACT = 1e-12  # a handful of float64 products of numbers near 1


def transform(parent, child, stamp_s, translation=(0.0, 0.0, 0.0), quaternion_xyzw=(0.0, 0.0, 0.0, 1.0)):
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id = parent
    message.header.stamp = at(stamp_s).to_msg()
    xyz, q = message.transform.translation, message.transform.rotation
    xyz.x, xyz.y, xyz.z = map(float, translation)
    q.x, q.y, q.z, q.w = map(float, quaternion_xyzw)
    return message


def at(seconds):
    return Time(nanoseconds=round(seconds * 1e9))


def stamp_of(message):
    return Time.from_msg(message.header.stamp).nanoseconds


def matrix_of(message):
    t, q = message.transform.translation, message.transform.rotation
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix()
    matrix[:3, 3] = t.x, t.y, t.z
    return matrix


def random_transform(rng, parent, child, stamp_s):
    return transform(parent, child, stamp_s, rng.normal(size=3), Rotation.random(rng=rng).as_quat())


@pytest.fixture
def buffer():
    return tf2_ros.Buffer()


def test_lookup_takes_points_of_the_source_into_the_target(buffer):
    # The camera sits 1 m ahead of the base and 0.5 m above it, and looks where the base looks (optical axes).
    optical = transform('base', 'camera', 5, (1.0, 0.0, 0.5), (-0.5, 0.5, -0.5, 0.5))
    buffer.set_transform(optical, 'test')
    found = buffer.lookup_transform('base', 'camera', at(5))
    assert (found.header.frame_id, found.child_frame_id) == ('base', 'camera')
    two_metres_ahead_of_the_camera = matrix_of(found) @ [0.0, 0.0, 2.0, 1.0]
    np.testing.assert_allclose(two_metres_ahead_of_the_camera, [3.0, 0.0, 0.5, 1.0], atol=EXACT)


def test_any_two_frames_of_a_tree_are_joined_in_both_directions(buffer):
    rng = np.random.default_rng(0)
    chain = {
        ('map', 'odom'): random_transform(rng, 'map', 'odom', 1),
        ('odom', 'base'): random_transform(rng, 'odom', 'base', 1),
        ('base', 'camera'): random_transform(rng, 'base', 'camera', 1),
        ('base', 'lidar'): random_transform(rng, 'base', 'lidar', 1),
    }
    for link in chain.values():
        buffer.set_transform(link, 'test')
    map_from = {'map': np.eye(4)}
    for (parent, child), link in chain.items():
        map_from[child] = map_from[parent] @ matrix_of(link)
    for target in map_from:
        for source in map_from:
            expected = np.linalg.inv(map_from[target]) @ map_from[source]
            found = matrix_of(buffer.lookup_transform(target, source, at(1)))
            np.testing.assert_allclose(found, expected, atol=EXACT, err_msg=f'{target} from {source}')


def test_between_two_stamps_position_is_linear_and_rotation_spherical(buffer):
    rng = np.random.default_rng(1)
    first, second = random_transform(rng, 'odom', 'base', 10), random_transform(rng, 'odom', 'base', 12)
    for link in (second, first):  # the order of arrival does not matter
        buffer.set_transform(link, 'test')
    rotations = Rotation.from_matrix([matrix_of(first)[:3, :3], matrix_of(second)[:3, :3]])
    for fraction in (0.0, 0.125, 0.5, 0.9, 1.0):
        found = buffer.lookup_transform('odom', 'base', at(10 + 2 * fraction))
        expected = (1 - fraction) * matrix_of(first) + fraction * matrix_of(second)
        expected[:3, :3] = Slerp([0, 1], rotations)(fraction).as_matrix()
        # acos near 1 costs half of the digits in a slerp of close rotations
        np.testing.assert_allclose(matrix_of(found), expected, atol=1e-9)
        assert stamp_of(found) == round((10 + 2 * fraction) * 1e9)


def test_interpolation_takes_the_short_way_round(buffer):
    # q and -q are the same rotation; through the long way the middle would be 180 degrees off.
    ten_degrees = Rotation.from_euler('z', 10, degrees=True).as_quat()
    buffer.set_transform(transform('odom', 'base', 1), 'test')
    buffer.set_transform(transform('odom', 'base', 2, quaternion_xyzw=-ten_degrees), 'test')
    found = matrix_of(buffer.lookup_transform('odom', 'base', at(1.5)))
    np.testing.assert_allclose(found[:3, :3], Rotation.from_euler('z', 5, degrees=True).as_matrix(), atol=1e-9)


def test_a_nanosecond_of_today_is_kept(buffer):
    # As float seconds 1.78e9 s has steps of 238 ns, so these three stamps would be one.
    stamp_ns = 1_795_000_000_123_456_789
    for offset in (-1, 0, 1):
        message = transform('odom', 'base', 0, (float(offset), 0.0, 0.0))
        message.header.stamp = Time(nanoseconds=stamp_ns + offset).to_msg()
        buffer.set_transform(message, 'test')
    found = buffer.lookup_transform('odom', 'base', Time(nanoseconds=stamp_ns + 1))
    assert found.transform.translation.x == 1.0
    assert (found.header.stamp.sec, found.header.stamp.nanosec) == (1_795_000_000, 123_456_790)


def test_times_of_rclpy_and_of_messages_are_both_taken(buffer):
    buffer.set_transform(transform('odom', 'base', 3), 'test')
    assert buffer.can_transform('odom', 'base', Time(seconds=3, clock_type=ClockType.ROS_TIME))
    assert buffer.can_transform('odom', 'base', TimeMessage(sec=3))
    with pytest.raises(TypeError):
        buffer.can_transform('odom', 'base', 3.0)


def test_time_zero_means_the_latest_time_that_all_links_share(buffer):
    for stamp in (1, 2, 3):
        buffer.set_transform(transform('map', 'odom', stamp, (stamp, 0, 0)), 'test')
    for stamp in (1, 2):
        buffer.set_transform(transform('odom', 'base', stamp, (0, stamp, 0)), 'test')
    buffer.set_transform_static(transform('base', 'camera', 0, (0, 0, 7)), 'test')
    found = buffer.lookup_transform('map', 'camera', Time())
    assert stamp_of(found) == 2 * 10**9
    np.testing.assert_allclose(matrix_of(found)[:3, 3], [2, 2, 7], atol=EXACT)
    assert buffer.get_latest_common_time('map', 'camera').nanoseconds == 2 * 10**9


def test_a_link_above_the_common_ancestor_does_not_matter(buffer):
    # Both cameras are bolted to the base; that odometry has stopped long ago must not keep them apart.
    buffer.set_transform(transform('odom', 'base', 1), 'test')
    buffer.set_transform_static(transform('base', 'left', 0, (0, 1, 0)), 'test')
    buffer.set_transform_static(transform('base', 'right', 0, (0, -1, 0)), 'test')
    found = buffer.lookup_transform('left', 'right', at(500))
    np.testing.assert_allclose(matrix_of(found)[:3, 3], [0, -2, 0], atol=EXACT)
    assert buffer.can_transform('left', 'right', Time())


def test_outside_of_the_stored_times_nothing_is_made_up(buffer):
    buffer.set_transform(transform('odom', 'base', 10), 'test')
    with pytest.raises(tf2_ros.ExtrapolationException):  # a single transform holds at its own stamp only
        buffer.lookup_transform('odom', 'base', at(10.1))
    buffer.set_transform(transform('odom', 'base', 11), 'test')
    with pytest.raises(tf2_ros.ExtrapolationException, match='future'):
        buffer.lookup_transform('odom', 'base', at(11.000000001))
    with pytest.raises(tf2_ros.ExtrapolationException, match='past'):
        buffer.lookup_transform('odom', 'base', at(9.999999999))
    with pytest.raises(tf2_ros.ExtrapolationException):  # downwards in the tree as well
        buffer.lookup_transform('base', 'odom', at(12))


def test_unknown_and_unjoined_frames_are_told_apart(buffer):
    buffer.set_transform(transform('map', 'odom', 1), 'test')
    buffer.set_transform(transform('other_map', 'other_odom', 1), 'test')
    with pytest.raises(tf2_ros.LookupException, match='nowhere'):
        buffer.lookup_transform('map', 'nowhere', at(1))
    for stamp in (at(1), Time()):
        with pytest.raises(tf2_ros.ConnectivityException):
            buffer.lookup_transform('map', 'other_odom', stamp)
    with pytest.raises(tf2_ros.TransformException) as raised:
        buffer.get_latest_common_time('map', 'other_odom')
    assert raised.type is tf2_ros.TransformException  # of no narrower kind here


@pytest.mark.parametrize('name', ['', '/map'])
def test_names_that_tf2_does_not_allow_are_refused_in_a_lookup(buffer, name):
    buffer.set_transform(transform('map', 'odom', 1), 'test')
    with pytest.raises(tf2_ros.InvalidArgumentException):
        buffer.lookup_transform(name, 'odom', at(1))
    assert not buffer.can_transform(name, 'odom', at(1))


def test_a_leading_slash_of_old_drivers_is_dropped_when_a_transform_arrives(buffer):
    buffer.set_transform(transform('/map', '/odom', 1), 'test')
    assert buffer.can_transform('map', 'odom', at(1))


def test_a_frame_seen_from_itself_is_the_identity_even_if_unknown(buffer):
    found = buffer.lookup_transform('anything', 'anything', at(4))
    np.testing.assert_array_equal(matrix_of(found), np.eye(4))
    assert stamp_of(found) == 4 * 10**9
    assert buffer.can_transform('anything', 'anything', at(4))


def test_the_latest_time_of_a_frame_with_itself_is_that_of_its_newest_transform(buffer):
    for stamp in (1, 3, 2):
        buffer.set_transform(transform('odom', 'base', stamp), 'test')
    assert buffer.get_latest_common_time('base', 'base').nanoseconds == 3 * 10**9
    assert stamp_of(buffer.lookup_transform('base', 'base', Time())) == 3 * 10**9


def test_all_errors_share_the_base_that_callers_catch():
    for error in ('Connectivity', 'Lookup', 'Extrapolation', 'InvalidArgument', 'Timeout'):
        assert issubclass(getattr(tf2_ros, f'{error}Exception'), tf2_ros.TransformException)


@pytest.mark.parametrize(
    'bad',
    [
        transform('odom', 'odom', 2),
        transform('odom', '', 2),
        transform('', 'base', 2),
        transform('odom', 'base', 2, (np.nan, 0, 0)),
        transform('odom', 'base', 2, quaternion_xyzw=(0, 0, 0, 0)),  # a message nobody filled
    ],
    ids=['own parent', 'no child', 'no parent', 'NaN', 'zero quaternion'],
)
def test_a_transform_that_makes_no_sense_is_left_out(buffer, bad):
    buffer.set_transform(transform('odom', 'base', 1), 'test')
    buffer.set_transform(bad, 'test')
    assert buffer.get_latest_common_time('odom', 'base').nanoseconds == 10**9


@pytest.mark.parametrize('length', [0.5, 1.001, 1.1])
def test_a_quaternion_of_another_length_becomes_a_pure_rotation(buffer, length):
    quaternion = length * Rotation.from_euler('x', 30, degrees=True).as_quat()
    buffer.set_transform(transform('odom', 'base', 1, quaternion_xyzw=quaternion), 'test')
    buffer.set_transform_static(transform('base', 'camera', 0, (0, 1, 0)), 'test')
    q = buffer.lookup_transform('odom', 'base', at(1)).transform.rotation
    np.testing.assert_allclose(np.linalg.norm([q.x, q.y, q.z, q.w]), 1.0, atol=EXACT)
    found = matrix_of(buffer.lookup_transform('odom', 'camera', at(1)))
    half, root = 0.5, np.sqrt(0.75)  # sine and cosine of 30 degrees
    np.testing.assert_allclose(
        found, [[1, 0, 0, 0], [0, root, -half, root], [0, half, root, half], [0, 0, 0, 1]], atol=1e-9
    )


def test_the_past_is_forgotten_after_the_cache_time():
    buffer = tf2_ros.Buffer(cache_time=Duration(seconds=2))
    for stamp in range(1, 8):
        buffer.set_transform(transform('odom', 'base', stamp, (stamp, 0, 0)), 'test')
    assert buffer.can_transform('odom', 'base', at(5))
    assert not buffer.can_transform('odom', 'base', at(3.5))
    buffer.set_transform(transform('odom', 'base', 1.5), 'test')  # too late: it is not taken in any more
    assert not buffer.can_transform('odom', 'base', at(1.5))


def test_ten_seconds_are_kept_by_default(buffer):
    for stamp in range(1, 31):
        buffer.set_transform(transform('odom', 'base', stamp), 'test')
    assert buffer.can_transform('odom', 'base', at(20))
    # The oldest goes when the next one arrives, so up to one interval more than 10 s is there.
    assert not buffer.can_transform('odom', 'base', at(18.9))


def test_static_transforms_hold_at_every_time_and_survive_a_clear(buffer):
    buffer.set_transform_static(transform('base', 'camera', 123, (0, 0, 1)), 'test')
    buffer.set_transform(transform('odom', 'base', 1), 'test')
    for stamp in (at(0.001), at(1e9), Time()):
        np.testing.assert_allclose(matrix_of(buffer.lookup_transform('base', 'camera', stamp))[2, 3], 1)
    buffer.clear()
    assert buffer.can_transform('base', 'camera', at(77))
    assert not buffer.can_transform('odom', 'base', at(1))
    assert not buffer.can_transform('odom', 'base', Time())
    buffer.set_transform_static(transform('base', 'camera', 124, (0, 0, 2)), 'test')
    assert buffer.lookup_transform('base', 'camera', at(1)).transform.translation.z == 2.0


def test_a_frame_that_changes_its_parent_is_not_blended_between_the_two(buffer):
    buffer.set_transform(transform('floor_1', 'robot', 1, (1, 0, 0)), 'test')
    buffer.set_transform(transform('floor_2', 'robot', 2, (100, 0, 0)), 'test')
    assert buffer.lookup_transform('floor_1', 'robot', at(1.5)).transform.translation.x == 1.0
    assert not buffer.can_transform('floor_2', 'robot', at(1.5))
    assert buffer.lookup_transform('floor_2', 'robot', at(2)).transform.translation.x == 100.0


def test_of_two_different_transforms_with_one_stamp_the_later_arrival_is_the_newest(buffer):
    for x in (1, 2):
        buffer.set_transform(transform('odom', 'base', 5, (x, 0, 0)), 'test')
    assert buffer.lookup_transform('odom', 'base', at(5)).transform.translation.x == 2.0
    assert buffer.lookup_transform('odom', 'base', Time()).transform.translation.x == 2.0


def test_a_loop_of_frames_ends_in_an_error(buffer):
    for parent, child in (('a', 'b'), ('b', 'c'), ('c', 'a')):
        buffer.set_transform(transform(parent, child, 1), 'test')
    buffer.set_transform(transform('x', 'y', 1), 'test')
    with pytest.raises(tf2_ros.TransformException):
        buffer.lookup_transform('x', 'a', at(1))


def test_a_lookup_may_span_two_times_through_a_fixed_frame(buffer):
    for stamp in (1, 2):
        buffer.set_transform(transform('odom', 'base', stamp, (10 * stamp, 0, 0)), 'test')
    # Where is now (t=2) the spot at which the base was at t=1? Ten metres behind.
    found = buffer.lookup_transform_full('base', at(2), 'base', at(1), 'odom')
    np.testing.assert_allclose(matrix_of(found)[:3, 3], [-10, 0, 0], atol=EXACT)
    assert stamp_of(found) == 2 * 10**9
    assert buffer.can_transform_full('base', at(2), 'base', at(1), 'odom')
    assert not buffer.can_transform_full('base', at(3), 'base', at(1), 'odom')


def test_can_transform_says_why_not_when_asked(buffer):
    buffer.set_transform(transform('odom', 'base', 1), 'test')
    possible, reason = buffer.can_transform('odom', 'base', at(2), return_debug_tuple=True)
    assert not possible
    assert 'extrapolation' in reason.lower()
    assert buffer.can_transform('odom', 'base', at(1), return_debug_tuple=True)[0]


def test_a_lookup_waits_for_a_transform_that_comes_in_time(buffer):
    timer = threading.Timer(0.2, lambda: buffer.set_transform(transform('odom', 'base', 9, (4, 0, 0)), 'test'))
    timer.start()
    began = time.monotonic()
    found = buffer.lookup_transform('odom', 'base', at(9), timeout=Duration(seconds=10))
    assert found.transform.translation.x == 4.0
    assert 0.1 < time.monotonic() - began < 5.0
    timer.join()


def test_a_lookup_stops_waiting_at_its_timeout_and_says_what_was_missing(buffer):
    buffer.set_transform(transform('odom', 'base', 1), 'test')
    began = time.monotonic()
    with pytest.raises(tf2_ros.ExtrapolationException):
        buffer.lookup_transform('odom', 'base', at(9), timeout=Duration(seconds=0.3))
    assert 0.25 < time.monotonic() - began < 3.0


def test_a_future_is_filled_when_the_transform_comes(buffer):
    future = buffer.wait_for_transform_async('odom', 'base', at(2))
    buffer.set_transform(transform('odom', 'base', 1), 'test')
    assert not future.done()
    buffer.set_transform(transform('odom', 'base', 3), 'test')
    assert future.done()
    assert future.result() is not None
    assert buffer.wait_for_transform_async('odom', 'base', at(2)).done()


def test_many_threads_may_fill_and_ask_at_once(buffer):
    faults = []

    def fill(child):
        for step in range(200):
            buffer.set_transform(transform('map', child, 1 + 0.01 * step, (step, 0, 0)), 'test')

    def ask():
        for _ in range(200):
            try:
                found = buffer.lookup_transform('a', 'b', Time())
                # Both moved along x by steps of one: at a time that both share they are where both started.
                if abs(found.transform.translation.x) > 1e-9:
                    faults.append(found)
            except tf2_ros.TransformException:
                pass  # nothing there yet

    threads = [threading.Thread(target=fill, args=(child,)) for child in 'ab'] + [threading.Thread(target=ask)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert not faults


def test_frames_are_listed_with_their_parents(buffer):
    import yaml

    for stamp in (1, 2, 3):
        buffer.set_transform(transform('map', 'odom', stamp), 'somebody')
    listed = yaml.safe_load(buffer.all_frames_as_yaml())
    assert set(listed) == {'odom'}
    assert (listed['odom']['parent'], listed['odom']['broadcaster']) == ('map', 'somebody')
    assert listed['odom']['buffer_length'] == pytest.approx(2.0)
    assert listed['odom']['rate'] == pytest.approx(1.5)  # three transforms in two seconds, as tf2 counts
    assert 'odom' in buffer.all_frames_as_string()


class Robot:
    """A node with its executor in a thread, in the domain of the test."""

    def __init__(self, context, name, **options):
        self.node = rclpy.create_node(name, context=context, **options)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        self.thread = threading.Thread(target=self.executor.spin, daemon=True)
        self.thread.start()

    def stop(self):
        self.executor.shutdown()
        self.thread.join(timeout=10)
        self.node.destroy_node()


@pytest.fixture
def robots(context):
    made = []

    def make(name, **options):
        made.append(Robot(context, name, **options))
        return made[-1].node

    yield make
    for robot in made:
        robot.stop()


def wait_until(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, 'waited in vain'
        time.sleep(0.01)


def test_broadcasters_reach_a_listener_and_late_ones_get_what_is_static(robots):
    sender = robots('sender')
    dynamic, static = tf2_ros.TransformBroadcaster(sender), tf2_ros.StaticTransformBroadcaster(sender)
    static.sendTransform(transform('base', 'camera', 0, (0, 0, 1)))
    static.sendTransform([transform('base', 'imu', 0, (0, 0, 2))])

    receiver = robots('receiver')  # comes after both static transforms were sent
    buffer = tf2_ros.Buffer(node=receiver)
    listener = tf2_ros.TransformListener(buffer, receiver)
    wait_until(lambda: buffer.can_transform('base', 'camera', Time()) and buffer.can_transform('base', 'imu', Time()))

    wait_until(lambda: sender.count_subscribers('/tf') == 1)
    dynamic.sendTransform([transform('odom', 'base', 1, (5, 0, 0)), transform('map', 'odom', 1, (0, 5, 0))])
    found = buffer.lookup_transform('map', 'camera', at(1), timeout=Duration(seconds=20))
    np.testing.assert_allclose(matrix_of(found)[:3, 3], [5, 5, 1], atol=EXACT)

    listener.unregister()
    wait_until(lambda: sender.count_subscribers('/tf') == 0)


def test_qos_is_that_of_tf2(robots):
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    node = robots('node')
    broadcasters = tf2_ros.TransformBroadcaster(node), tf2_ros.StaticTransformBroadcaster(node)
    listener = tf2_ros.TransformListener(tf2_ros.Buffer(), node)
    for topic, durability in (('/tf', DurabilityPolicy.VOLATILE), ('/tf_static', DurabilityPolicy.TRANSIENT_LOCAL)):
        wait_until(lambda t=topic: node.get_publishers_info_by_topic(t) and node.get_subscriptions_info_by_topic(t))
        for end in (*node.get_publishers_info_by_topic(topic), *node.get_subscriptions_info_by_topic(topic)):
            assert end.qos_profile.durability == durability
            assert end.qos_profile.reliability == ReliabilityPolicy.RELIABLE
            assert end.topic_type == 'tf2_msgs/msg/TFMessage'
    assert broadcasters
    listener.unregister()


@pytest.fixture
def default_context():
    """rclpy's own context: the real listener spins in no other."""
    rclpy.init(domain_id=free_domain())
    yield
    rclpy.try_shutdown()


@pytest.mark.usefixtures('default_context')
def test_a_listener_can_spin_by_itself():
    sender, node = rclpy.create_node('sender'), rclpy.create_node('script')
    buffer = tf2_ros.Buffer()
    listener = tf2_ros.TransformListener(buffer, node, spin_thread=True)
    static = tf2_ros.StaticTransformBroadcaster(sender)
    static.sendTransform(transform('base', 'camera', 0))
    assert buffer.can_transform('base', 'camera', Time(), timeout=Duration(seconds=20))
    listener.executor.shutdown()
    listener.dedicated_listener_thread.join(timeout=10)
    assert not listener.dedicated_listener_thread.is_alive()
    for each in (sender, node):
        each.destroy_node()


def test_sim_time_that_starts_again_clears_the_buffer(robots):
    node = robots('node', parameter_overrides=[Parameter('use_sim_time', value=True)])
    buffer = tf2_ros.Buffer(node=node)
    clock_sender = robots('clock')
    clock = clock_sender.create_publisher(Clock, '/clock', QoSProfile(depth=1))

    def send_until(seconds):
        def arrived():
            clock.publish(Clock(clock=at(seconds).to_msg()))
            return node.get_clock().now().nanoseconds == at(seconds).nanoseconds

        wait_until(arrived)

    send_until(100)
    buffer.set_transform(transform('odom', 'base', 100), 'test')
    send_until(99.5)  # less than a second: out of order, not a new start
    assert buffer.can_transform('odom', 'base', at(100))
    send_until(50)
    wait_until(lambda: not buffer.can_transform('odom', 'base', at(100)))


def test_a_buffer_with_a_node_answers_the_frame_service(robots):
    from tf2_msgs.srv import FrameGraph

    owner, asker = robots('owner'), robots('asker')
    buffer = tf2_ros.Buffer(node=owner)
    buffer.set_transform(transform('map', 'odom', 1), 'somebody')
    client = asker.create_client(FrameGraph, 'tf2_frames')
    assert client.wait_for_service(timeout_sec=20)
    future = client.call_async(FrameGraph.Request())
    wait_until(future.done)
    assert 'odom' in future.result().frame_yaml


@pytest.mark.parametrize('name', ['BufferClient', 'TransformRegistration', 'convert'])
def test_what_the_stand_in_lacks_names_the_real_package(only_of_the_stand_in, name):
    with pytest.raises(NotImplementedError, match='real tf2_ros'):
        getattr(tf2_ros, name)


def test_a_typing_error_is_an_attribute_error():
    with pytest.raises(AttributeError):
        tf2_ros.Bufer  # noqa: B018


def test_what_the_stand_in_buffer_lacks_names_the_real_package(only_of_the_stand_in, buffer):
    with pytest.raises(NotImplementedError, match='real tf2_ros'):
        buffer.transform(None, 'map')
    with pytest.raises(AttributeError):
        buffer.lookup_transfrom  # noqa: B018
