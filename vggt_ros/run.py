"""A recording in, a folder of results out: the offline way through the same pipeline and encoder as the node's."""

from __future__ import annotations

import argparse
import json
import logging
import platform
import shutil
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np

from vggt_ros.aside import Aside
from vggt_ros.core.config import Config
from vggt_ros.core.errors import EncodingError, OutputError, SourceError, VggtRosError
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import BODY_FROM_OPTICAL
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import Predictor, RigPredictor, make_predictor
from vggt_ros.core.rig import Rig
from vggt_ros.core.submap import PlacedFrame, Update
from vggt_ros.core.views import View
from vggt_ros.encode import Encoder, Output, standalone_tf_static
from vggt_ros.flags import add_setting_flags, config_from_flags
from vggt_ros.messages import bag_messages
from vggt_ros.recorded.masks import masks_of
from vggt_ros.recorded.sensors import open_sensors
from vggt_ros.recorded.source import Source, open_source
from vggt_ros.recorded.static_tf import StaticTransforms
from vggt_ros.results.colmap import image_name
from vggt_ros.results.exports import describe_frame, glb_scene, ply_cloud, tum_trajectory, write_atomically
from vggt_ros.results.report import Report
from vggt_ros.results.report_page import render
from vggt_ros.results.result_bag import ResultBag
from vggt_ros.results.scene import Scene, scene_files
from vggt_ros.topics import TOPIC, camera_topic, topics_of

log = logging.getLogger(__name__)

SENSORS = {'odom': 'odometry', 'depth': 'depth images', 'lidar': 'point cloud', 'imu': 'IMU'}  # --odom-topic ...

FILES = {
    'result.mcap': 'every message the node would have published; ros2 bag play, Foxglove, rosbags',
    'trajectory_tum.txt': 'pose of the camera in the world for each frame; evo',
    'cloud.ply': 'the voxel map, coloured; MeshLab, CloudCompare, Open3D',
    'scene.glb': 'cloud, cameras and path; Blender, any web viewer',
    'summary.json': 'settings, counts, seams and timings',
}
EXPORTS = {  # --export, and what it adds
    'pcd': ('cloud.pcd', 'the same cloud for PCL'),
    'colmap': ('colmap', 'COLMAP project with images: Gaussian splatting, nerfstudio, OpenMVS'),
    'colmap_text': ('colmap_text', 'COLMAP model as text'),
}


def run(
    source: Source,
    out: Path,
    config: Config,
    *,
    predictor: Predictor | None = None,
    wanted: Collection[str] | None = None,
    force: bool = False,
    progress: Callable[[Report], None] = lambda report: None,
    watch: Callable[[Pipeline, Update], None] = lambda pipeline, update: None,
    sensor_topics: Mapping[str, str] | None = None,
    export: Collection[str] = (),
) -> Report:
    """Process a recording as fast as it goes.

    Whatever ends the run early, the results so far are finished first: they are whole, and say what happened.

    Args:
        source: frames.
        out: folder to make.
        config: all settings.
        predictor: network to use instead of the one that config names.
        wanted: topics of result.mcap; None writes all.
        force: replace results that are there.
        progress: called after each frame.
        watch: called after each window, while its submap is the newest of the pipeline's map.
        sensor_topics: topics of other sensors in a bag, by 'odom', 'depth', 'lidar', 'imu'; found by type elsewhere.
        export: further formats, of EXPORTS.

    Raises:
        SourceError, EncodingError: the recording is broken from some place on.
        OutputError: the results cannot be written, for want of space for example.
        PredictionError: the network failed.
    """
    _prepare_folder(out, source, force)
    notes = _Notes()
    logging.getLogger('vggt_ros').addHandler(notes)
    try:
        predictor = predictor or make_predictor(config)
        job = _Job(source, out, config, predictor, wanted, progress, watch, sensor_topics or {}, export)
        job.report.notes = notes.texts
        with _terminable():
            return job.run()
    finally:
        logging.getLogger('vggt_ros').removeHandler(notes)


class _Job:
    """One run: the pipeline with everything that takes its results."""

    def __init__(
        self,
        source: Source,
        out: Path,
        config: Config,
        predictor: Predictor,
        wanted: Collection[str] | None,
        progress: Callable[[Report], None],
        watch: Callable[[Pipeline, Update], None],
        sensor_topics: Mapping[str, str],
        export: Collection[str],
    ) -> None:
        self.source, self.out, self.config, self.wanted = source, out, config, wanted
        self.progress, self.watch = progress, watch
        self.sensors = open_sensors(source.path, config, sensor_topics)
        self.pipeline = Pipeline(config, predictor, self.sensors.evidence)
        self.pipeline.upcoming = self._look_ahead
        self.messages = bag_messages()
        self.encoder = Encoder(config, self.messages, self.pipeline.points)
        self.bag = ResultBag(out / 'result.mcap', cameras=config.rig.cameras)
        self.export, self.scene = export, Scene(config, is_thinned=False)  # the keyframe settings thin
        self.report = Report(str(source.path), config, *describe_network(config, predictor))
        self.aside = Aside('vggt_writer')
        self.base_from_cam: np.ndarray | None = None
        self._frames = iter(source)
        self._upcoming: deque[Frame] = deque()  # read before their turn
        self._broken: Exception | None = None
        self._mounted: set[int] = set()
        # The report shows the reference camera under the names of the table.
        self._shown = {topic.name: topic.name for topic in topics_of(config.rig.cameras)}
        if config.rig.cameras:
            self._shown |= {camera_topic(name, config.rig.cameras[0]): name for name in TOPIC if TOPIC[name].per_camera}
        self._start = time.perf_counter()

    def run(self) -> Report:
        try:
            self._process()
        except BaseException as error:
            self.report.failure = 'interrupted' if isinstance(error, KeyboardInterrupt) else str(error) or repr(error)
            with _undivided():
                self._finish(failed=True)
            raise
        with _undivided():
            self._finish()
        return self.report

    def _process(self) -> None:
        try:
            for frame in self._read():
                self._place_camera(frame)
                self._place_rig(frame)
                self.sensors.read_to(frame.stamp_ns)
                self._take(self.pipeline.add_frame(frame))
                self.progress(self.report)
        except (SourceError, EncodingError):
            self._take(self.pipeline.flush())  # what was read is good
            raise
        self._take(self.pipeline.flush())
        self.aside.wait()
        if not self.pipeline.statistics.frames:
            raise SourceError(f'{self.source.path} holds no frames')

    def _read(self) -> Iterator[Frame]:
        while True:
            if self._upcoming:
                yield self._upcoming.popleft()
                continue
            if self._broken is not None:
                raise self._broken
            frame = self._next_frame()
            if frame is None:
                return
            yield frame

    def _next_frame(self) -> Frame | None:
        start = time.perf_counter()
        frame = next(self._frames, None)
        if frame is not None:
            self.report.timings.add('read', time.perf_counter() - start)
        return frame

    def _look_ahead(self) -> Collection[Frame]:
        """The frames of the next window, if they come as they should; where the recording breaks off, those before."""
        try:
            while self._broken is None and len(self._upcoming) < self.pipeline.windows.config.stride:
                frame = self._next_frame()
                if frame is None:
                    break
                self._upcoming.append(frame)
        except Exception as error:  # its turn comes when the frames before it are in the results
            self._broken = error
        return self._upcoming

    def _place_camera(self, frame: Frame) -> None:
        """Where the camera sits on the robot, once: from the recording's static TF, else as if standalone."""
        if self.base_from_cam is not None:
            return
        frames, make = self.config.frames, self.encoder.make
        mounts = StaticTransforms() if frames.standalone else self.source.static_transforms()
        self.base_from_cam = mounts.find(frames.base_frame, frame.frame_id)
        if self.base_from_cam is None:
            self.base_from_cam = BODY_FROM_OPTICAL
            mount = standalone_tf_static(self.messages, self.config, frame.stamp_ns, frame.frame_id)
        else:
            mount = make.tf(
                [make.transform(frame.stamp_ns, parent, child, pose) for child, (parent, pose) in mounts.edges.items()]
            )
        if mount.transforms and (self.wanted is None or '/tf_static' in self.wanted):
            self.bag.write('/tf_static', frame.stamp_ns, mount)
        self.pipeline.map.map_from_first_camera = self.base_from_cam
        self.sensors.mounts.fixed.edges.update(mounts.edges)
        if mounts.find(frames.base_frame, frame.frame_id) is None:
            self.sensors.mounts.add_fixed(frames.base_frame, frame.frame_id, self.base_from_cam)

    def _place_rig(self, frame: Frame) -> None:
        """Where the other cameras sit, from the recording's static TF, whenever one is seen for the first time."""
        predictor, cameras = self.pipeline.predictor, {one.camera: one.frame_id for one in (frame, *frame.views)}
        if not isinstance(predictor, RigPredictor) or self._mounted.issuperset(cameras):
            return
        self._mounted |= set(cameras)
        mounts = self.source.static_transforms()
        ref_from_cams = {camera: mounts.find(frame.frame_id, name) for camera, name in cameras.items()}
        known = {camera: pose for camera, pose in ref_from_cams.items() if pose is not None}
        if len(known) == len(cameras):
            predictor.rig = Rig(known)
        else:
            log.warning(
                'the recording does not say where cameras of the rig are mounted (%s): all stand where the network '
                'sees them', ', '.join(name for camera, name in cameras.items() if camera not in known),
            )  # fmt: skip

    def _take(self, update: Update | None) -> None:
        if update is None:
            return
        with _undivided():
            self._keep(update)

    def _keep(self, update: Update) -> None:
        """Into all results; its messages aside, while the next window is computed."""
        self.aside.wait()
        if self.export:
            self._remember(update)
        self.report.add_update(update)
        self.watch(self.pipeline, update)
        self.aside.hand_over(partial(self._write, self.encoder.messages(update, self.base_from_cam)))

    def _write(self, messages: Iterator[Output]) -> None:
        with self.report.timings.measure('encode'):
            outputs = list(messages)
        for output in outputs:
            self.report.add_message(self._shown[output.topic], output.stamp_ns, output.message)
        with self.report.timings.measure('write'):
            for output in outputs:
                if self.wanted is None or output.topic in self.wanted:
                    self.bag.write(*output)

    def _remember(self, update: Update) -> None:
        """Keep what exports need of an update."""
        for frame in self.scene.add(update):
            if 'colmap' in self.export:
                write_image(self.out / 'colmap' / 'images', frame)

    def _correct(self) -> None:
        """Where loops were closed, the way and the cloud of the result are those known in the end, in the map.

        And all of it has the size known in the end.
        """
        output_from_before = self.pipeline.finish()
        if output_from_before is not None:
            self.report.move(output_from_before)
            self.scene.move(output_from_before)
        self.pipeline.back_end.close()
        if self.pipeline.statistics.loops:
            known = dict(zip(*self.pipeline.trajectory(), strict=True))
            found = zip(self.report.stamps_ns, self.report.poses, strict=True)
            self.report.poses = [known.get(stamp, pose) for stamp, pose in found]

    def _finish(self, *, failed: bool = False) -> None:
        """Write all there is; what cannot be written is said at the end, and does not keep back the rest."""
        self.sensors.close()
        self.pipeline.upcoming = tuple  # or the network would live on until both are collected
        report = self.report
        errors: list[Exception] = []
        try:
            self.aside.wait()
        except Exception as error:
            errors.append(error)
        self.aside.close()
        self._correct()
        report.cloud = self.pipeline.points()
        report.counts = {**asdict(self.pipeline.statistics), 'skipped': self.source.skipped}
        report.messages = dict(self.bag.counts)
        for write in (self.bag.close, self._write_exports, self._write_files):
            try:
                write()
            except OutputError as error:
                errors.append(error)
        for one in errors:
            log.error('%s', one)
        if errors and not failed:
            raise errors[0]

    def _write_files(self) -> None:
        self.report.wall_s = time.perf_counter() - self._start
        write_files(self.report, self.out, dict(EXPORTS[one] for one in EXPORTS if one in self.export))

    def _write_exports(self) -> None:
        """What --export asks for."""
        snapshot = self.scene.snapshot(self.report.cloud, self.pipeline.trajectory())
        keep_images(self.out / 'colmap' / 'images', {image_name(view) for view in snapshot.views})
        for name, make in scene_files(snapshot, self.export).items():
            path = self.out / name
            make_folder(path.parent)
            write_atomically(path, make())


def write_files(report: Report, out: Path, exports: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write everything but the bag into the folder of results; what cannot be written does not keep back the rest.

    Args:
        report: of the run.
        out: the folder.
        exports: further results that are there, with a sentence for each.
    """
    errors = []
    note = describe_frame(report.config.frames.world_frame, report.metric)
    poses = np.array(report.poses).reshape(-1, 4, 4)
    has_scene = len(report.cloud[0]) + len(poses) > 0
    report.files = {name: text for name, text in FILES.items() if name != 'scene.glb' or has_scene} | dict(exports)
    makers: dict[str, Callable[[], bytes]] = {
        'trajectory_tum.txt': lambda: tum_trajectory(report.stamps_ns, poses, note).encode(),
        'summary.json': lambda: json.dumps(report.summary(), indent=2).encode(),
        'report.html': lambda: render(report).encode(),
        'cloud.ply': lambda: ply_cloud(*report.cloud, note),
        'scene.glb': lambda: glb_scene(*report.cloud, poses, report.aspect, note),
    }
    if not has_scene:
        del makers['scene.glb']
    for name, make in makers.items():  # the small ones first: a full disk takes the others
        try:
            write_atomically(out / name, make())
        except OutputError as error:
            errors.append(error)
    if errors:
        raise OutputError('; '.join(map(str, errors)))


def write_image(folder: Path, frame: PlacedFrame) -> None:
    """A frame's image as JPEG, under the name that a COLMAP model knows it by."""
    path = folder / image_name(View.of(frame))
    make_folder(path.parent)
    data = cv2.imencode('.jpg', cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])[1]
    write_atomically(path, data.tobytes())


def keep_images(folder: Path, names: Collection[str]) -> None:
    """Remove the images of views that are no longer remembered; what cannot be removed does no harm."""
    for path in folder.glob('*/*.jpg'):
        if str(path.relative_to(folder)) not in names:
            with suppress(OSError):
                path.unlink()


def make_folder(path: Path) -> None:
    """With those above it; OutputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f'cannot make {path}: {error.strerror or error}') from error


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, where nobody has said otherwise: what is being written aside becomes whole."""
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def _undivided() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block is through: a window is in all results, or in none."""
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread only
        yield
        return
    held: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda number, _: held.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    if held:
        raise KeyboardInterrupt


class _Notes(logging.Handler):
    """Keeps the warnings of a run for its report, each once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text not in self.texts and len(self.texts) < 20:
            self.texts.append(text)


def _prepare_folder(out: Path, source: Source, force: bool) -> None:
    if out.exists() and (not out.is_dir() or out.resolve() in (source.path.resolve(), source.path.resolve().parent)):
        raise OutputError(f'{out} cannot take the results: name a folder that the recording is not in')
    has_result = (out / 'result.mcap').exists()
    if (out / 'metadata.yaml').exists() and not has_result:
        raise OutputError(f'{out} holds a bag of its own; name another folder')
    if has_result and not force:
        raise OutputError(f'{out} holds results already; --force replaces them')
    make_folder(out)
    for folder in ('colmap', 'colmap_text') if has_result else ():
        shutil.rmtree(out / folder, ignore_errors=True)
    for name in (*FILES, 'metadata.yaml', 'report.html', 'cloud.pcd'):  # never a new bag beside an old report
        (out / name).unlink(missing_ok=True)


def describe_network(config: Config, predictor: Predictor) -> tuple[str, str]:
    """Names of model and device for the report."""
    if config.model.backend == 'fake':
        return 'no network (backend fake)', 'cpu'
    elsewhere = getattr(predictor, 'described_device', None)
    if elsewhere is not None:
        return config.model.source, elsewhere
    import torch

    device = torch.device(str(getattr(getattr(predictor, 'network', None), 'device', 'cpu')))
    if device.type == 'cuda':
        return config.model.source, f'{device} ({torch.cuda.get_device_name(device)})'
    return config.model.source, f'{device} ({platform.machine()}, {torch.get_num_threads()} threads)'


@dataclass(frozen=True)
class Recipe:
    """How recordings are read, and what is written of them: what the flags of `run` say, and of `batch` for many.

    Args:
        config: all settings.
        topic, camera_info_topic, mask_topic: of a bag; empty finds them.
        sensor_topics: of other sensors in a bag, by 'odom', 'depth', 'lidar', 'imu'.
        rate: images a second of a folder without stamps.
        skip_bad: go on after an image that cannot be decoded.
        only: topics of result.mcap; None writes all.
        export: further formats, of EXPORTS.

    Raises:
        SourceError, OutputError: a value that is not possible.
    """

    config: Config = field(default_factory=Config)
    topic: str = ''
    camera_info_topic: str = ''
    mask_topic: str = ''
    sensor_topics: Mapping[str, str] = field(default_factory=dict)
    rate: float = 10.0
    skip_bad: bool = False
    only: tuple[str, ...] | None = None
    export: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rate <= 0:
            raise SourceError(f'--rate must be above 0, got {self.rate:g}')
        topics = [topic.name for topic in topics_of(self.config.rig.cameras)]
        unknown = [topic for topic in self.only or () if topic not in topics]
        if unknown:
            raise OutputError(f'--only knows {" ".join(topics)}, not {" ".join(unknown)}')

    @staticmethod
    def from_flags(args: argparse.Namespace) -> Recipe:
        return Recipe(
            config_from_flags(args),
            args.topic,
            args.camera_info,
            args.mask_topic,
            {name: topic for name in SENSORS if (topic := getattr(args, f'{name}_topic'))},
            args.rate,
            args.skip_bad,
            tuple(args.only) if args.only is not None else None,
            tuple(args.export),
        )

    def open(self, path: Path) -> Source:
        """SourceError where there is nothing to read."""
        return open_source(
            path,
            self.topic,
            camera_info_topic=self.camera_info_topic,
            frame_id=self.config.frames.camera_optical_frame,
            rate=self.rate,
            skip_bad=self.skip_bad,
            rectify=self.config.camera.rectify == 'auto',
            rig=self.config.rig,
            find_masks=masks_of(path, self.config, self.mask_topic),
        )

    def run(
        self,
        source: Source,
        out: Path,
        *,
        predictor: Predictor | None = None,
        force: bool = False,
        progress: Callable[[Report], None] = lambda report: None,
    ) -> Report:
        """See run."""
        return run(
            source,
            out,
            self.config,
            predictor=predictor,
            wanted=self.only,
            force=force,
            progress=progress,
            sensor_topics=self.sensor_topics,
            export=self.export,
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('source', metavar='SOURCE', help='rosbag2 folder, .mcap, .db3, .bag, video, or image folder')
    parser.add_argument('--out', metavar='DIR', help='folder for the results; default runs/NAME')
    add_recipe_arguments(parser)


def add_recipe_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of Recipe.from_flags, and --force and --quiet."""
    parser.add_argument('--force', action='store_true', help='replace results that are there')
    parser.add_argument(
        '--topic', default='', help='image topic of a bag that has several; those of a rig, separated by commas'
    )
    parser.add_argument('--camera-info', default='', metavar='TOPIC', help='its CameraInfo, where it is no sibling')
    parser.add_argument('--mask-topic', default='', metavar='TOPIC', help='masks of a bag, for --mask-mode')
    for name, what in SENSORS.items():
        parser.add_argument(f'--{name}-topic', default='', metavar='TOPIC', help=f'{what} of a bag that has several')
    parser.add_argument('--rate', type=float, default=10.0, help='images a second of a folder without stamps (10)')
    parser.add_argument('--skip-bad', action='store_true', help='log broken images and go on')
    parser.add_argument('--quiet', action='store_true', help='no progress bar')
    parser.add_argument(
        '--export', nargs='+', default=[], choices=EXPORTS, metavar='FORMAT', help=f'also write {", ".join(EXPORTS)}'
    )
    parser.add_argument(
        '--only', nargs='+', metavar='TOPIC', help='topics of result.mcap, such as ~/odom /tf; default all'
    )
    add_setting_flags(parser)


def main(args: argparse.Namespace) -> int:
    recipe = Recipe.from_flags(args)
    source = recipe.open(Path(args.source))
    out = Path(args.out) if args.out else Path('runs') / (Path(args.source).resolve().stem or 'run')
    try:
        report = _run_with_progress(recipe, source, out, args)
    except (VggtRosError, KeyboardInterrupt):
        if (out / 'report.html').exists():
            log.warning('results so far: %s', out / 'report.html')
        raise
    finally:
        source.close()
    print(f'{len(report.stamps_ns)} frames, {len(report.cloud[0])} points in {report.wall_s:.1f} s')
    print(out / 'report.html')
    return 0


def _run_with_progress(recipe: Recipe, source: Source, out: Path, args: argparse.Namespace) -> Report:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    def show(report: Report) -> None:
        bar.set_postfix(windows=len(report.windows), refresh=False)
        bar.update()

    with (
        logging_redirect_tqdm(),
        tqdm(total=len(source) or None, unit='frame', disable=args.quiet or None, mininterval=0.3) as bar,
    ):
        return recipe.run(source, out, force=args.force, progress=show)
