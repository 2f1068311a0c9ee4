"""Several cameras of one bag, offline: frames with views, mounts from /tf_static, topics of their own."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pycolmap
import pytest
from recordings import FRAME_NS, START_NS, coloured_image, header, image_message, info_message, read_mcap, write_bag

from vggt_ros.core.config import Config
from vggt_ros.core.errors import SourceError
from vggt_ros.core.predictor import FakePredictor
from vggt_ros.messages import bag_messages
from vggt_ros.recorded.masks import masks_of
from vggt_ros.recorded.source import open_source
from vggt_ros.run import run
from vggt_ros.topics import resolve

TYPES = bag_messages()
K = np.array([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
CONFIG = Config().with_values(
    {
        'camera_names': 'left,right',
        'backend': 'fake',
        'window_size': 4,
        'window_stride': 2,
        'confidence_percentile': 0.0,
    }
)
LATE_NS = 3_000_000


def rig_bag(path: Path, count: int = 6, lost: tuple[int, ...] = (), mounts: bool = True) -> Path:
    """Two cameras, the right one a few milliseconds late; `lost` images of it are missing."""
    entries = []
    for i in range(count):
        for name, late in (('left', 0), ('right', LATE_NS)):
            if name == 'right' and i in lost:
                continue
            stamp = START_NS + i * FRAME_NS + late
            image = image_message(TYPES, coloured_image(), 'rgb8', stamp_ns=stamp, frame_id=f'{name}_optical')
            info = info_message(TYPES, K * [[1.0 + (name == 'right')], [1], [1]], (48, 64), stamp_ns=stamp)
            entries.append((f'/{name}/camera_info', 'sensor_msgs/msg/CameraInfo', stamp, info))
            entries.append((f'/{name}/image', 'sensor_msgs/msg/Image', stamp, image))
    if mounts:
        entries.insert(0, ('/tf_static', 'tf2_msgs/msg/TFMessage', START_NS, mount_message()))
    return write_bag(path, entries)


def mount_message():
    """base_link -> left camera, axes after REP 103, and the right camera beside it."""
    vector, quaternion = TYPES['geometry_msgs/msg/Vector3'], TYPES['geometry_msgs/msg/Quaternion']
    transforms = [
        TYPES['geometry_msgs/msg/TransformStamped'](
            header=header(TYPES, START_NS, 'base_link'),
            child_frame_id=f'{name}_optical',
            transform=TYPES['geometry_msgs/msg/Transform'](
                translation=vector(x=0.0, y=y, z=0.3), rotation=quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
            ),
        )
        for name, y in (('left', 0.0), ('right', -FakePredictor.BASELINE))
    ]
    return TYPES['tf2_msgs/msg/TFMessage'](transforms=transforms)


def test_frames_of_the_reference_carry_the_views_of_the_others(tmp_path: Path):
    source = open_source(rig_bag(tmp_path / 'bag', lost=(2,)), rig=CONFIG.rig)
    frames = list(source)
    source.close()
    assert [frame.stamp_ns for frame in frames] == [START_NS + i * FRAME_NS for i in range(6)]
    assert [len(frame.views) for frame in frames] == [1, 1, 0, 1, 1, 1]
    view = frames[0].views[0]
    assert (view.stamp_ns, view.camera, view.frame_id) == (START_NS + LATE_NS, 1, 'right_optical')
    assert (frames[0].K[0, 0], view.K[0, 0]) == (60, 120)


def test_a_run_places_the_rig_and_writes_topics_of_each_camera(tmp_path: Path):
    source = open_source(rig_bag(tmp_path / 'bag'), rig=CONFIG.rig)
    report = run(source, tmp_path / 'out', CONFIG)
    source.close()
    assert len(report.stamps_ns) == 6
    assert (tmp_path / 'out/report.html').stat().st_size > 1000
    messages = read_mcap(tmp_path / 'out/result.mcap')
    of = {topic: [one.fields for one in messages if one.topic == topic] for topic in {one.topic for one in messages}}
    for name, late in (('left', 0), ('right', LATE_NS)):
        depth = of[resolve(f'~/{name}/depth/image_rect')]
        stamps = [message.header.stamp.sec * 10**9 + message.header.stamp.nanosec for message in depth]
        assert stamps == [START_NS + i * FRAME_NS + late for i in range(6)]
        assert {message.header.frame_id for message in depth} == {f'{name}_optical'}
    assert len(of['/vggt/odom']) == 6
    for message in of['/vggt/world_points']:
        points = np.frombuffer(message.data, '<f4').reshape(-1, 4)
        np.testing.assert_allclose(points[:, 0], FakePredictor.DISTANCE, atol=1e-5)


def test_each_camera_of_a_rig_has_its_mask_and_its_images(tmp_path: Path):
    """The left camera does not see with its left half, the right one sees all; both are in the COLMAP project."""
    for name, unseen in (('left', 32), ('right', 0)):
        mask = np.full((48, 64), 255, np.uint8)
        mask[:, :unseen] = 0
        cv2.imwrite(str(tmp_path / f'{name}.png'), mask)
    config = CONFIG.with_values({'mask_path': str(tmp_path / '{camera}.png'), 'input_width': 64})
    bag = rig_bag(tmp_path / 'bag')
    source = open_source(bag, rig=config.rig, find_masks=masks_of(bag, config))
    run(source, tmp_path / 'out', config, export=['colmap'])
    source.close()
    for name, share in (('left', 0.5), ('right', 1.0)):
        topic = resolve(f'~/{name}/depth/image_rect')
        depth = [one.fields for one in read_mcap(tmp_path / 'out/result.mcap') if one.topic == topic]
        known = [np.isfinite(np.frombuffer(message.data, '<f4')).mean() for message in depth]
        np.testing.assert_allclose(known, [share] * 6)
    model = pycolmap.Reconstruction(tmp_path / 'out/colmap/sparse/0')
    of_name = {image.name: model.cameras[image.camera_id] for image in model.images.values()}
    assert {name.split('/')[0]: camera.focal_length_x for name, camera in of_name.items()} == {
        'left_optical': 60,
        'right_optical': 120,
    }
    assert len(of_name) == 12
    assert all((tmp_path / 'out/colmap/images' / name).is_file() for name in of_name)


def test_a_recording_without_mounts_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    source = open_source(rig_bag(tmp_path / 'bag', mounts=False), rig=CONFIG.rig)
    run(source, tmp_path / 'out', CONFIG)
    source.close()
    said = [record.getMessage() for record in caplog.records if 'mounted' in record.getMessage()]
    assert len(said) == 1
    assert 'right_optical' in said[0]


def test_topics_can_be_named_and_must_be_as_many_as_cameras(tmp_path: Path):
    bag = rig_bag(tmp_path / 'bag', count=2)
    source = open_source(bag, '/right/image,/left/image', rig=CONFIG.rig)
    assert next(iter(source)).frame_id == 'right_optical'
    source.close()
    with pytest.raises(SourceError, match=r'2 cameras \(left, right\) need as many topics, got /left/image'):
        open_source(bag, '/left/image', rig=CONFIG.rig)
    (tmp_path / 'folder').mkdir()
    with pytest.raises(SourceError, match='holds one camera'):
        open_source(tmp_path / 'folder', rig=CONFIG.rig)
