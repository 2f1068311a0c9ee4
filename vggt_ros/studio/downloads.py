"""A result in the formats that other programs open. All but the scene stand in the map: x forward, y left, z up."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import cv2
import numpy as np

from vggt_ros.core.geometry import invert_rigid, move_points
from vggt_ros.core.submap import PlacedFrame
from vggt_ros.core.views import View as Keyframe
from vggt_ros.results.colmap import binary_files, image_name, make_model
from vggt_ros.results.exports import describe_frame, ply_cloud, tum_trajectory, write_atomically
from vggt_ros.studio.predictions import Predictions
from vggt_ros.studio.scene import Cloud, View, select_cloud

MAP_FRAME = 'map'
CAMERA_FRAME = 'camera'
NO_COVARIANCE = np.zeros((6, 6))


def write_fixed(predictions: Predictions, folder: Path) -> None:
    """The files that do not depend on what a visitor chose to see: npz, TUM and COLMAP.

    Raises:
        OutputError: the disk is full.
    """
    write_atomically(folder / 'predictions.npz', predictions.to_npz())
    stamps = [int(stamp) for stamp in predictions.stamps_ns]
    note = describe_frame(MAP_FRAME, predictions.unit == 'm')
    write_atomically(folder / 'trajectory_tum.txt', tum_trajectory(stamps, map_from_cams(predictions), note).encode())
    write_atomically(folder / 'colmap.zip', colmap_archive(predictions))


def cloud_file(predictions: Predictions, cloud: Cloud) -> bytes:
    """The points that are shown, as PLY in the map."""
    xyz = move_points(predictions.map_from_world, cloud.xyz)
    return ply_cloud(xyz, cloud.rgb, describe_frame(MAP_FRAME, predictions.unit == 'm'))


def colmap_archive(predictions: Predictions) -> bytes:
    """A zip with sparse/0/*.bin and the images as the network saw them; points above the median confidence."""
    cloud = select_cloud(predictions, View())
    xyz = move_points(predictions.map_from_world, cloud.xyz).astype(np.float32)
    keyframes = [_keyframe(predictions, i, pose) for i, pose in enumerate(map_from_cams(predictions))]
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        for name, data in binary_files(make_model(keyframes, xyz, cloud.rgb)).items():
            archive.writestr(f'sparse/0/{name}', data)
        for keyframe, image in zip(keyframes, predictions.images, strict=True):
            _, jpeg = cv2.imencode('.jpg', cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
            archive.writestr(f'images/{image_name(keyframe)}', jpeg.tobytes())
    return file.getvalue()


def map_from_cams(predictions: Predictions) -> np.ndarray:
    """[S, 4, 4] poses of the optical frames in the map."""
    return predictions.map_from_world @ invert_rigid(predictions.cam_from_world)


def _keyframe(predictions: Predictions, i: int, map_from_cam: np.ndarray) -> Keyframe:
    return Keyframe.of(
        PlacedFrame(
            stamp_ns=int(predictions.stamps_ns[i]),
            frame_id=CAMERA_FRAME,
            image=predictions.images[i],
            depth=predictions.depth[i],
            confidence=predictions.confidence[i],
            K=predictions.K[i],
            map_from_cam=map_from_cam,
            covariance=NO_COVARIANCE,
        )
    )
