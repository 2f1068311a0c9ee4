"""Everything that a visitor of the page can do, without the page."""

from __future__ import annotations

import logging
import re
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch

from vggt.config import VGGTConfig
from vggt_ros.core.config import Config
from vggt_ros.core.errors import SourceError, VggtRosError
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.predictor import Predictor, fitting_width
from vggt_ros.encode import colour_depth
from vggt_ros.results.exports import write_atomically
from vggt_ros.studio.downloads import cloud_file, write_fixed
from vggt_ros.studio.examples import EXAMPLES
from vggt_ros.studio.limits import Limits, require_frames
from vggt_ros.studio.predictions import Predictions, read_predictions
from vggt_ros.studio.reconstruct import MODES, Progress, reconstruct, settings_for
from vggt_ros.studio.scene import View, glb, make_scene, select_cloud
from vggt_ros.studio.sessions import Session
from vggt_ros.studio.uploads import Upload, open_upload, preview, take_upload

log = logging.getLogger(__name__)

KEPT_PREDICTIONS = 4  # in memory; a visitor who moves a slider does not wait for a file
DOWNLOADS = {
    'scene.glb': 'what you see: cloud, cameras, path',
    'cloud.ply': 'the cloud you see, in the frame of the map',
    'trajectory_tum.txt': 'poses of the camera in the map',
    'predictions.npz': 'depth, confidence, cameras, points of every frame',
    'colmap.zip': 'cameras, images and points for COLMAP and splatting',
    'result.mcap': 'what the node would have published; after Reconstruct',
}


@dataclass(frozen=True)
class Choice:
    """What a visitor chose to run.

    Args:
        mode: one of MODES.
        model, device: as in core.config.
        window_size, window_stride: of the sliding window.
    """

    mode: str = 'all'
    model: str = 'nano'
    device: str = 'auto'
    window_size: int = 8
    window_stride: int = 4


@dataclass(frozen=True)
class Gallery:
    """What is uploaded: how many frames will be used, pictures of some of them, and a sentence."""

    count: int = 0
    pictures: tuple[Path, ...] = ()
    text: str = ''


@dataclass(frozen=True)
class Shown:
    """A view: the scene's file, and what to say of it."""

    glb: Path
    text: str
    frames: tuple[str, ...] = ()
    has_points: bool = False
    downloads: tuple[Path, ...] = field(default_factory=tuple)


class Workbench:
    """Uploads, reconstructs, filters and writes for one session at a time each; reconstructs one at a time in all.

    Args:
        limits: bounds for visitors.
        get_predictor: configuration -> network, ready (networks.Networks.get).
        config: settings that visitors do not choose.
    """

    def __init__(self, limits: Limits, get_predictor: Callable[[Config], Predictor], config: Config) -> None:
        self.limits, self.config = limits, config
        self._get_predictor = get_predictor
        self._network = threading.Lock()
        self._predictions: OrderedDict[Path, Predictions] = OrderedDict()

    def upload(self, session: Session, files: Sequence[Path], interval_s: float) -> Gallery:
        """Take files as the visitor's new upload; what was there before is gone, unless this one cannot be used."""
        with session.new_upload() as folder, _without_paths(folder, files[0].name if files else 'the upload'):
            upload = take_upload(files, folder / 'source', self.limits)
            path = upload.path.relative_to(folder).as_posix()
            session.remember(
                upload=folder.name, kind=upload.kind, name=upload.name, path=path, has_result=False,
                is_example=False, note='',
            )  # fmt: skip
            return self.thin(session, interval_s)

    def thin(self, session: Session, interval_s: float) -> Gallery:
        """Look at the upload again with other seconds between frames."""
        folder, upload = self._upload(session)
        with _without_paths(folder, upload.name):
            source = open_upload(upload, interval_s)
            try:
                count, _ = preview(source, folder / 'gallery', self.limits.frames)
            finally:
                source.close()
        session.remember(interval_s=interval_s, count=count)
        return self.gallery(session)

    def gallery(self, session: Session) -> Gallery:
        """What is uploaded, as far as it was looked at."""
        folder, state = session.upload, session.state
        if folder is None or 'count' not in state:
            return Gallery()
        pictures = tuple(sorted((folder / 'gallery').glob('*.jpg')))
        count = int(state['count'])
        shown = f', {len(pictures)} of them shown' if len(pictures) < count else ''
        return Gallery(count, pictures, f'**{state["name"]}**: {count} frames will be used{shown}.')

    def open_example(self, session: Session, name: str) -> Gallery:
        """Show an example with its stored result, until Reconstruct is pressed."""
        example = EXAMPLES[name]
        with session.new_upload() as folder:
            (folder / 'result').mkdir()
            write_fixed(read_predictions(example.stored), folder / 'result')
            session.remember(
                upload=folder.name, kind='example', name=example.title, path='', example=name, has_result=True,
                is_example=True, note=example.note,
            )  # fmt: skip
            return self.thin(session, example.interval_s)

    def reconstruct(self, session: Session, choice: Choice, progress: Progress) -> None:
        """Run the network over the upload; results replace those before.

        Raises:
            VggtRosError: in words for the visitor.
        """
        folder, upload = self._upload(session)
        state = session.state
        with _without_paths(folder, upload.name), self._network:
            progress(0.0, f'loading {choice.model}')
            count = int(state['count'])
            config = self._configure(choice, count)
            predictor = self._get_predictor(config)
            source = open_upload(upload, float(state['interval_s']))
            start = time.perf_counter()
            try:
                self._require_room(source, count, choice.mode, predictor)
                predictions, report = reconstruct(source, count, folder / 'result', config, predictor, progress)
            finally:
                source.close()
            write_fixed(predictions, folder / 'result')
        self._predictions.pop(folder, None)
        note = f'{choice.model} on {report.device}, {MODES[choice.mode]}, {time.perf_counter() - start:.1f} s.'
        notes = [_plain(one, folder, upload.name) for one in report.notes[:3]]
        session.remember(has_result=True, is_example=False, note=' '.join([note, *notes]), mode=choice.mode)

    def show(self, session: Session, view: View) -> Shown:
        """Make the scene of a view; the network does not run. SourceError where its numbers make no view."""
        # The page's sliders hold to these bounds, a script that calls their address need not.
        if not (0 <= view.confidence <= 100 and 0 <= view.voxel_size < np.inf and 0 <= view.point_size < np.inf):
            raise SourceError(
                f'a view has a confidence from 0 to 100 and sizes from 0 on, got {view.confidence:g}, '
                f'{view.voxel_size:g} and {view.point_size:g}'
            )
        folder, predictions = self.predictions(session)
        if view.frame is not None and not 0 <= view.frame < len(predictions):
            view = View(**{**vars(view), 'frame': None})
        cloud = select_cloud(predictions, view)
        result = folder / 'result'
        for old in result.glob('view_*'):
            shutil.rmtree(old)
        # A folder of its own for each view: the browser keeps what has the same address.
        made = result / f'view_{time.time_ns()}'
        made.mkdir()
        write_atomically(made / 'scene.glb', glb(make_scene(predictions, view, cloud)))
        write_atomically(made / 'cloud.ply', cloud_file(predictions, cloud))
        return Shown(
            made / 'scene.glb',
            self._describe(session, predictions, len(cloud.xyz), view),
            predictions.names,
            predictions.has_points,
            self.downloads(session),
        )

    def predictions(self, session: Session) -> tuple[Path, Predictions]:
        """Folder and predictions of the visitor's result.

        Raises:
            SourceError: there is none yet.
        """
        folder = session.upload
        if folder is None or not session.state.get('has_result'):
            raise SourceError('there is no result yet: press Reconstruct first')
        if folder not in self._predictions:
            self._predictions[folder] = read_predictions(folder / 'result' / 'predictions.npz')
            while len(self._predictions) > KEPT_PREDICTIONS:
                self._predictions.popitem(last=False)
        self._predictions.move_to_end(folder)
        return folder, self._predictions[folder]

    def pictures(self, session: Session, frame: int) -> tuple[Path, Path, Path]:
        """Image, depth and confidence of a frame as pictures."""
        folder, predictions = self.predictions(session)
        frame = min(max(frame, 0), len(predictions) - 1)
        place = folder / 'result' / 'pictures'
        place.mkdir(exist_ok=True)
        stamp = (folder / 'result' / 'predictions.npz').stat().st_mtime_ns  # another result, another address
        made = []
        confidence = predictions.confidence[frame]
        for name, picture in (
            ('image', predictions.images[frame]),
            ('depth', colour_depth(predictions.depth[frame])),
            ('confidence', colour_confidence(confidence)),
        ):
            file = place / f'{name}_{frame}_{stamp}.png'
            if not file.exists():
                cv2.imwrite(str(file), cv2.cvtColor(_enlarged(picture), cv2.COLOR_RGB2BGR))
            made.append(file)
        return made[0], made[1], made[2]

    def downloads(self, session: Session) -> tuple[Path, ...]:
        """The files that there are of the result, in the order of DOWNLOADS."""
        folder = session.upload
        if folder is None:
            return ()
        places = [*sorted((folder / 'result').glob('view_*')), folder / 'result']
        found = [next((place / name for place in places if (place / name).is_file()), None) for name in DOWNLOADS]
        return tuple(file for file in found if file is not None)

    def _upload(self, session: Session) -> tuple[Path, Upload]:
        folder, state = session.upload, session.state
        if folder is None:
            raise SourceError('there is no image to work on: upload images, a video or a bag first')
        path = EXAMPLES[state['example']].source if state['kind'] == 'example' else folder / state['path']
        return folder, Upload(state['kind'], state['name'], path)

    def _configure(self, choice: Choice, count: int) -> Config:
        values = {
            'model_id': choice.model,
            'device': choice.device,
            'window_size': int(choice.window_size),
            'window_stride': int(min(choice.window_stride, choice.window_size)),
        }
        at_once = min(count, 64)  # more is refused below, with the number that fits
        return settings_for(choice.mode, at_once if choice.mode == 'all' else count, self.config.with_values(values))

    def _require_room(self, source: object, count: int, mode: str, predictor: Predictor) -> None:
        network = getattr(predictor, 'network', None)
        config = network.config if network is not None else VGGTConfig(embed_dim=64, image_size=112)
        device = network.device if network is not None else torch.device('cpu')
        height, width = next(iter(source)).size  # type: ignore[call-overload]
        columns = fitting_width(height, width, config.image_size, config.patch_size)
        rows = max(config.patch_size, int(columns * height / width) // config.patch_size * config.patch_size)
        require_frames(count, mode, config, (rows, columns), device)

    def _describe(self, session: Session, predictions: Predictions, points: int, view: View) -> str:
        state = session.state
        centres = invert_rigid(predictions.cam_from_world)[:, :3, 3]
        way = float(np.linalg.norm(np.diff(centres, axis=0), axis=1).sum())
        unit = 'm' if predictions.unit == 'm' else 'units (metres are not known)'
        what = f'**{points:,} points**, {len(predictions)} frames, way of the camera {way:.2f} {unit}.'
        stored = ' *Stored result: press Reconstruct to compute it here.*' if state['is_example'] else ''
        no_points = ''
        if view.branch == 'points' and not predictions.has_points:
            no_points = ' This model has no point head: depth and camera are shown.'
        return f'{what} {state.get("note", "")}{stored}{no_points}'


def colour_confidence(confidence: np.ndarray) -> np.ndarray:
    """[H, W] confidence -> [H, W, 3] uint8 RGB: dark is low, yellow is high, black unknown; by rank, as the filter."""
    known = np.isfinite(confidence)
    level = np.zeros(confidence.shape, np.uint8)
    if known.any():
        order = np.argsort(np.argsort(confidence[known], kind='stable'), kind='stable')
        level[known] = (order * (255 / max(len(order) - 1, 1))).astype(np.uint8)
    colours = cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    colours[~known] = 0
    return colours


def _enlarged(picture: np.ndarray) -> np.ndarray:
    """At least 384 pixels wide, pixels staying squares: a browser would blur them."""
    times = max(1, -(-384 // picture.shape[1]))
    return np.repeat(np.repeat(picture, times, axis=0), times, axis=1)


@contextmanager
def _without_paths(folder: Path, name: str) -> Iterator[None]:
    """Errors speak of the visitor's upload, not of where it lies on this machine."""
    try:
        yield
    except VggtRosError as error:
        raise type(error)(_plain(str(error), folder, name)) from error


def _plain(text: str, folder: Path, name: str) -> str:
    """A text with the name of the upload for whatever lies in its folder."""
    return re.sub(re.escape(str(folder)) + r'[^\s:,;]*', name, text)
