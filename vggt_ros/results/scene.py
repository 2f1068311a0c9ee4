"""Scene: the map as files show it, and the files of it: cloud, way and views, taken down update by update."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vggt_ros.core.config import SAVE_FORMATS, Config
from vggt_ros.core.geometry import Sim3, invert_rigid
from vggt_ros.core.submap import PlacedFrame, Update
from vggt_ros.core.views import View, Views
from vggt_ros.results.colmap import binary_files, make_model, text_files
from vggt_ros.results.exports import describe_frame, glb_scene, pcd_cloud, ply_cloud, tum_trajectory


@dataclass(frozen=True, eq=False)
class Snapshot:
    """A scene at one moment; nothing changes it any more.

    Args:
        xyz, rgb: [N, 3] float32 points of the map and [N, 3] uint8 colours.
        stamps_ns: of the M frames of the way.
        map_from_cams: [M, 4, 4] their optical frames.
        views: keyframes.
        note: frame and unit of all this, one line.
    """

    xyz: np.ndarray
    rgb: np.ndarray
    stamps_ns: tuple[int, ...]
    map_from_cams: np.ndarray
    views: tuple[View, ...]
    note: str

    @property
    def is_empty(self) -> bool:
        return not self.stamps_ns and not len(self.xyz)


class Scene:
    """Takes updates in, and gives the whole of it: bounded in the way, and in views by what they add.

    Args:
        config: all settings; map and frames are read here.
        is_thinned: views that show nothing new are dropped; else only what is too many.
    """

    def __init__(self, config: Config, *, is_thinned: bool = True) -> None:
        self._config, self._is_thinned = config, is_thinned
        self.reset()

    def reset(self) -> None:
        """A new map."""
        self.views = Views(self._config.map, is_thinned=self._is_thinned)
        self._stamps_ns = array('q')
        self._poses = array('d')  # the upper three rows of each, where the map lay when the first came
        self._moment_of: dict[int, int] = {}  # stamp of a rig's other camera -> that of the reference
        self._output_from_kept = Sim3.identity()
        self._is_metric = False

    def add(self, update: Update) -> list[PlacedFrame]:
        """Take a window's new frames; returns those that are kept as views."""
        if update.output_from_before is not None:
            self.move(update.output_from_before)
        self._is_metric = update.metric
        kept_from_output = self._output_from_kept.inverse()
        for frame in update.frames:
            self._stamps_ns.append(frame.stamp_ns)
            self._poses.frombytes(kept_from_output.transform_pose(frame.map_from_cam)[:3].tobytes())
            self._moment_of.update({view.stamp_ns: frame.stamp_ns for view in frame.views})
        self._forget()
        frames = (one for frame in update.frames for one in (frame, *frame.views))
        return [frame for frame in frames if self.views.add(frame)]

    def _forget(self) -> None:
        most = self._config.map.trajectory_max_size
        if (count := len(self._stamps_ns)) > most + most // 16:  # what stays is moved, so seldom
            del self._stamps_ns[: count - most], self._poses[: 12 * (count - most)]
        while len(self._moment_of) > most:
            self._moment_of.pop(next(iter(self._moment_of)))

    def move(self, output_from_before: Sim3) -> None:
        """The scale of the map has changed, and with it all so far."""
        self._output_from_kept = output_from_before @ self._output_from_kept
        self.views.move(output_from_before)

    def snapshot(
        self, points: tuple[np.ndarray, np.ndarray], trajectory: tuple[np.ndarray, np.ndarray] | None = None
    ) -> Snapshot:
        """The scene with the cloud of the map as it is now.

        Args:
            points: [N, 3] float32 points and [N, 3] uint8 colours.
            trajectory: stamps [M] and poses [M, 4, 4] where the frames of the way are known to lie elsewhere by now,
                after a closed loop for one; views go with theirs.
        """
        most = self._config.map.trajectory_max_size
        stamps_ns = tuple(self._stamps_ns[-most:])
        kept = np.zeros((len(stamps_ns), 4, 4))
        kept[:, :3] = np.array(self._poses[-12 * most :]).reshape(-1, 3, 4)
        poses = self._output_from_kept.transform_pose(kept)
        views = tuple(self.views)
        if trajectory is not None:
            before = dict(zip(stamps_ns, poses, strict=True))
            moments = [self._moment_of.get(view.stamp_ns, view.stamp_ns) for view in views]
            views = _corrected(views, moments, before, trajectory)
            stamps_ns, poses = tuple(trajectory[0].tolist()), trajectory[1]
        note = describe_frame(self._config.frames.world_frame, self._is_metric)
        return Snapshot(*points, stamps_ns, poses, views, note)


def _corrected(
    views: tuple[View, ...],
    moments: Sequence[int],
    before: Mapping[int, np.ndarray],
    trajectory: tuple[np.ndarray, np.ndarray],
) -> tuple[View, ...]:
    """Views where the reference frames of their moments lie now; those of moments that are forgotten stay."""
    after = dict(zip(trajectory[0].tolist(), trajectory[1], strict=True))
    moves = {stamp: after[stamp] @ invert_rigid(before[stamp]) for stamp in before.keys() & after.keys()}
    return tuple(
        replace(view, map_from_cam=moves[moment] @ view.map_from_cam) if moment in moves else view
        for view, moment in zip(views, moments, strict=True)
    )


def scene_files(scene: Snapshot, formats: Iterable[str]) -> Mapping[str, Callable[[], bytes]]:
    """What makes each file of a scene, by its path in the folder of results.

    Args:
        scene: what to write.
        formats: of SAVE_FORMATS.
    """
    assert set(formats) <= set(SAVE_FORMATS)
    cloud = scene.xyz, scene.rgb
    makers: dict[str, dict[str, Callable[[], bytes]]] = {
        'tum': {'trajectory_tum.txt': lambda: trajectory_file(scene)},
        'ply': {'cloud.ply': lambda: ply_cloud(*cloud, scene.note)},
        'pcd': {'cloud.pcd': lambda: pcd_cloud(*cloud, scene.note)},
        'glb': {'scene.glb': lambda: glb_scene(*cloud, scene.map_from_cams, _aspect(scene.views), scene.note)},
        'colmap': _colmap(lambda: binary_files(make_model(scene.views, *cloud)), 'bin', 'colmap'),
        'colmap_text': _colmap(lambda: text_files(make_model(scene.views, *cloud), scene.note), 'txt', 'colmap_text'),
    }
    return {name: make for one in SAVE_FORMATS if one in formats for name, make in makers[one].items()}


def trajectory_file(scene: Snapshot) -> bytes:
    """The way in the TUM format."""
    return tum_trajectory(scene.stamps_ns, scene.map_from_cams, scene.note).encode()


def _colmap(make: Callable[[], dict[str, bytes]], suffix: str, folder: str) -> dict[str, Callable[[], bytes]]:
    """The three files of a model, which is made once, for the first of them."""
    made: dict[str, bytes] = {}

    def file(name: str) -> Callable[[], bytes]:
        def data() -> bytes:
            if not made:
                made.update(make())
            return made.pop(name)

        return data

    names = [f'{part}.{suffix}' for part in ('cameras', 'images', 'points3D')]
    return {f'{folder}/sparse/0/{name}': file(name) for name in names}


def _aspect(views: tuple[View, ...]) -> tuple[float, float]:
    """Half width and half height of the image at distance 1."""
    if not views:
        return 0.6, 0.45
    (height, width), K = views[0].size, views[0].K
    return width / 2 / float(K[0, 0]), height / 2 / float(K[1, 1])
