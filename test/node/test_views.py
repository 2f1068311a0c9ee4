"""RViz views, Foxglove layout and QoS overrides: every topic and frame they name exists, with its type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from robot import ROOT

from vggt_ros.core.config import Config
from vggt_ros.topics import TOPICS, resolve

OURS = {resolve(topic.name): topic for topic in TOPICS}
# What others publish: the camera, and the owner of the map.
OTHERS = {'/image': 'sensor_msgs/msg/Image', '/map': 'nav_msgs/msg/OccupancyGrid'}
# Which message a display shows. Source: ros2/rviz, rviz_default_plugins/plugins_description.xml.
SHOWS = {
    'PointCloud2': 'sensor_msgs/msg/PointCloud2',
    'Path': 'nav_msgs/msg/Path',
    'PoseArray': 'geometry_msgs/msg/PoseArray',
    'Odometry': 'nav_msgs/msg/Odometry',
    'Image': 'sensor_msgs/msg/Image',
    'Map': 'nav_msgs/msg/OccupancyGrid',
}
WITHOUT_TOPIC = {'Grid', 'TF'}
VIEWS = sorted(path.name for path in (ROOT / 'rviz').glob('*.rviz'))
FOXGLOVE = json.loads((ROOT / 'foxglove/vggt.json').read_text())


def view_of(file: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / 'rviz' / file).read_text())['Visualization Manager']


def displays_of(file: str) -> dict[str, dict[str, Any]]:
    return {display['Topic']['Value']: display for display in view_of(file)['Displays'] if 'Topic' in display}


def test_there_is_a_view_for_driving_for_the_map_and_for_finding_faults() -> None:
    assert {'vggt.rviz', 'map.rviz', 'debug.rviz'} == set(VIEWS)
    live = {'/image', '/vggt/points', '/vggt/map_points', '/vggt/path', '/vggt/depth/image_color'}
    assert live <= set(displays_of('vggt.rviz'))
    assert {'/vggt/map_points', '/map', '/vggt/path'} <= set(displays_of('map.rviz'))
    assert {'/vggt/confidence', '/vggt/points_filtered', '/vggt/odom', '/vggt/window_poses'} <= set(
        displays_of('debug.rviz')
    )


@pytest.mark.parametrize('file', VIEWS)
def test_rviz_shows_topics_that_exist_with_their_types_and_durability(file: str) -> None:
    for name, display in displays_of(file).items():
        kind = OURS[name].type if name in OURS else OTHERS[name]
        assert SHOWS[display['Class'].split('/')[1]] == kind, name
        latched = OURS[name].latched if name in OURS else name == '/map'
        assert (display['Topic']['Durability Policy'] == 'Transient Local') == latched, name


@pytest.mark.parametrize('file', VIEWS)
def test_every_display_of_rviz_is_one_we_know_and_has_a_name_of_its_own(file: str) -> None:
    displays = view_of(file)['Displays']
    kinds = {display['Class'].split('/')[1] for display in displays if 'Topic' not in display}
    assert kinds <= WITHOUT_TOPIC
    names = [display['Name'] for display in displays]
    assert len(names) == len(set(names))


@pytest.mark.parametrize('file', VIEWS)
def test_rviz_looks_from_a_frame_that_exists(file: str) -> None:
    frames = Config().frames
    expected = frames.map_frame if file == 'map.rviz' else frames.odom_frame
    assert view_of(file)['Global Options']['Fixed Frame'] == expected


def foxglove_topics(value: Any) -> Iterator[str]:
    """Every text in the layout that names a topic of ours: as a key, as a value, or at the start of a plot's path."""
    if isinstance(value, dict):
        for key, one in value.items():
            yield from foxglove_topics(key)
            yield from foxglove_topics(one)
    elif isinstance(value, list):
        for one in value:
            yield from foxglove_topics(one)
    elif isinstance(value, str) and value.startswith('/vggt'):
        yield value.split('.')[0]


def test_foxglove_shows_topics_that_exist() -> None:
    named = set(foxglove_topics(FOXGLOVE))
    assert {'/vggt/points', '/vggt/depth/image_color', '/vggt/odom'} <= named
    assert named <= set(OURS)


def test_foxglove_shows_clouds_in_its_scene_and_images_with_their_calibration() -> None:
    panels = FOXGLOVE['configById']
    for topic in panels['3D!map']['topics']:
        assert OURS[topic].type.split('/')[-1] in ('PointCloud2', 'Path', 'PoseArray', 'Odometry')
    images = [panel['imageMode'] for name, panel in panels.items() if name.startswith('Image!')]
    for image in images:
        assert OURS[image['imageTopic']].type == 'sensor_msgs/msg/Image'
        assert OURS[image['calibrationTopic']].type == 'sensor_msgs/msg/CameraInfo'
    assert panels['3D!map']['followTf'] == Config().frames.odom_frame


def test_foxglove_places_every_panel_once() -> None:
    places = re.findall(r'"(\w+!\w+)"', json.dumps(FOXGLOVE['layout']))
    tabs = [tab['layout'] for tab in FOXGLOVE['configById']['Tab!figures']['tabs']]
    assert sorted(places + tabs) == sorted(FOXGLOVE['configById'])


def test_foxglove_plots_fields_that_the_message_has() -> None:
    from nav_msgs.msg import Odometry

    plots = [panel for name, panel in FOXGLOVE['configById'].items() if name.startswith('Plot!')]
    for path in [line['value'] for plot in plots for line in plot['paths']]:
        value: Any = Odometry()
        for part in path.split('.')[1:]:
            field, _, index = part.rstrip(']').partition('[')
            value = getattr(value, field)
            value = value[int(index)] if index else value
        assert isinstance(value, float), path


def test_qos_overrides_are_written_as_rosbag2_reads_them() -> None:
    policies = {
        'history': ('keep_last', 'keep_all'),
        'reliability': ('reliable', 'best_effort'),
        'durability': ('volatile', 'transient_local'),
    }
    topics = yaml.safe_load((ROOT / 'config/qos_overrides.yaml').read_text())
    assert topics['/tf_static']['durability'] == 'transient_local'
    for profile in topics.values():
        assert isinstance(profile['depth'], int)
        assert all(profile[name] in words for name, words in policies.items())
