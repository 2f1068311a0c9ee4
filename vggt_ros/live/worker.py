"""Worker: one thread that turns waiting images into results, and one beside it that publishes them."""

from __future__ import annotations

import contextvars
import dataclasses
import logging
import queue
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np

from vggt_ros.aside import Aside
from vggt_ros.core.config import Config, FramesConfig, MaskConfig
from vggt_ros.core.errors import EncodingError, ShapeError, VggtRosError
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import invert_rigid
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import RigPredictor
from vggt_ros.core.rig import Rig
from vggt_ros.core.submap import Update
from vggt_ros.decode import CameraInfoCache, decode_frame, is_distorted, stamp_ns
from vggt_ros.encode import Encoder, Output
from vggt_ros.live.correction import MapToOdom
from vggt_ros.live.mailbox import Letter, Mailbox
from vggt_ros.live.silence import Silence
from vggt_ros.live.tally import Tally
from vggt_ros.masks import Masks
from vggt_ros.moments import Moment
from vggt_ros.rectify import Rectifiers
from vggt_ros.results.scene import Scene, Snapshot
from vggt_ros.throttle import Throttle

log = logging.getLogger(__name__)

MAP = '~/map_points'
LEAST_PAUSE_S = 0.5  # a slow camera's images are so far apart; the stream has not paused between them
KNOWN_S = 60.0  # how long it is known when an image came; max_latency_s is 9 at most
TICK_S = 0.1  # how often a worker without images looks for requests and for the end of the stream


class Sink(Protocol):
    """Where results go.

    `map_to_odom` holds the correction of an odometry that is not ours, and has it sent at a steady rate.
    """

    map_to_odom: MapToOdom

    @property
    def is_open(self) -> bool:
        """Whether anything can be published at all; no more once the process is told to end."""

    @property
    def wanted(self) -> Collection[str]:
        """Names of topics worth making messages for."""

    def publish(self, outputs: Iterable[Output]) -> None:
        """Publish in the given order."""

    def announce_camera(self, config: Config, stamp_ns: int, optical_frame: str) -> None:
        """Publish the static TF robot -> optical frame."""


class Mount(Protocol):
    """Where the camera sits on the robot, and the robot in its own odometry."""

    def base_from_cam(
        self, frames: FramesConfig, optical_frame: str, stamp_ns: int, timeout_s: float
    ) -> np.ndarray | None:
        """[4, 4], or None where it is not known."""

    def ref_from_cam(
        self, frames: FramesConfig, reference: str, optical_frame: str, stamp_ns: int, timeout_s: float
    ) -> np.ndarray | None:
        """[4, 4], or None where it is not known."""

    def odom_from_base(self, frames: FramesConfig, stamp_ns: int, timeout_s: float) -> np.ndarray | None:
        """[4, 4], or None where it is not known."""

    def stop_waiting(self) -> None:
        """Let a waiting lookup give up."""


@dataclass(frozen=True, eq=False)
class Taken:
    """An image that was decoded before its turn.

    Args:
        frame: the frame.
        start: when it was taken, steady seconds.
    """

    frame: Frame
    start: float


class Worker:
    """Takes images from a mailbox, runs the pipeline, publishes.

    Its thread alone touches the pipeline. Messages are made and published aside, in order, while the next window is
    computed; the thread waits for that before the next update, and before it touches the encoder.

    Args:
        pipeline, encoder: the path from frames to messages.
        mount: where the camera sits.
        sink: where messages go.
        settings: gives all settings as they stand; asked between windows.
        mailbox: the waiting images: messages, or with a rig Moments of messages.
        data_clock: seconds of the time the data lives in: steady, or ROS time under use_sim_time.
        convert: decodes the rarer encodings (decode.decode_image).
        is_rectified: for each camera whether its images are rectified (decode.decode_frame).
        scene: takes down what goes into the map, for whoever saves it.
        masks: of each camera.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        encoder: Encoder,
        mount: Mount,
        sink: Sink,
        settings: Callable[[], Config],
        mailbox: Mailbox[Any],
        data_clock: Callable[[], float] = time.monotonic,
        convert: Callable[[Any], np.ndarray] | None = None,
        is_rectified: tuple[bool, ...] = (False,),
        scene: Scene | None = None,
        masks: tuple[Masks, ...] = (),
    ) -> None:
        self.tally = Tally()
        self.camera_infos = tuple(CameraInfoCache() for _ in is_rectified)
        self.masks = masks or tuple(Masks(MaskConfig()) for _ in is_rectified)
        self._pipeline, self._encoder, self._mount, self._sink = pipeline, encoder, mount, sink
        self._settings, self._mailbox = settings, mailbox
        self._convert, self._is_rectified = convert, is_rectified
        self._config = pipeline.config
        rectify = self._config.camera.rectify == 'auto'
        self._rectifiers = [Rectifiers() if rectify else None for _ in is_rectified]
        self._silence = Silence(data_clock)
        self._throttle = Throttle()
        self._taken: deque[Letter[Any] | Taken] = deque()
        self._arrivals: OrderedDict[int, float] = OrderedDict()  # stamp -> steady seconds
        self._is_mount_known = False  # whether the map starts at the robot's base
        self._mounted: set[int] = set()  # cameras of a rig whose mounts are known
        self._was_map_wanted = False
        self._waits_for_calibration = self._config.camera.intrinsics_mode == 'camera_info'
        self.scene = scene or Scene(pipeline.config)
        self._snapshots_asked: queue.SimpleQueue[Future[Snapshot]] = queue.SimpleQueue()
        self._reset_asked = threading.Event()
        self._stopping = threading.Event()
        self._abandoned = False
        self._aside = Aside('vggt_publisher')
        pipeline.upcoming = self._upcoming
        in_context = contextvars.copy_context()  # what it logs is said by the node that started it
        self._thread = threading.Thread(target=in_context.run, args=(self._run,), name='vggt_worker', daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Finish the window being computed and stop; False when that takes longer: its results are then dropped."""
        self._stopping.set()
        self._mailbox.wake()
        self._mount.stop_waiting()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        self._abandoned = self.is_alive
        return not self._abandoned

    @property
    def is_alive(self) -> bool:
        return self._thread.is_alive()

    def ask_reset(self) -> None:
        """Start a new map before the next image."""
        self._reset_asked.set()
        self._mailbox.clear()
        self._mailbox.wake()

    def ask_snapshot(self) -> Future[Snapshot]:
        """The scene as it is when the window being computed is done."""
        asked: Future[Snapshot] = Future()
        self._snapshots_asked.put(asked)
        self._mailbox.wake()
        if not self.is_alive:  # nobody else touches the map any more
            self._answer_snapshots()
        return asked

    def _answer_snapshots(self) -> None:
        while True:
            try:
                asked = self._snapshots_asked.get_nowait()
            except queue.Empty:
                return
            try:
                asked.set_result(self.scene.snapshot(self._pipeline.points(), self._pipeline.trajectory()))
            except Exception as error:
                asked.set_exception(error)

    def _run(self) -> None:
        self._guard(self._pipeline.warm_up)
        try:
            self._work()
        finally:
            self._pipeline.upcoming = tuple  # or the network would live on until the two of us are collected
            self._await_publication()
            self._aside.close()
            self._answer_snapshots()

    def _work(self) -> None:
        while not self._stopping.is_set() and self._sink.is_open:
            if self._waits_for_calibration and self._is_calibration_pending():
                self._answer_snapshots()
                self._stopping.wait(TICK_S / 5)
                continue
            if not self._taken:
                self._taken.extend(self._mailbox.take(TICK_S))
            self._guard(self._between_windows)
            is_idle = not self._taken
            for _ in range(len(self._taken)):  # those taken meanwhile come after what is asked for between windows
                if self._stopping.is_set() or not self._taken:
                    break
                self._silence.end()
                with self.tally.busy():
                    self._guard(self._take_in, self._taken.popleft())
            if is_idle:
                with self.tally.busy():
                    self._guard(self._rest)

    def _guard(self, work: Callable[..., None], *args: Any) -> None:
        """Nothing that goes wrong with one image or window ends the stream."""
        try:
            work(*args)
        except Exception as error:
            if self._sink.is_open:
                self._note(error)

    def _await_publication(self) -> None:
        """Until all messages so far are out; what went wrong with them is told."""
        with self.tally.busy():
            self._guard(self._aside.wait)

    def _note(self, error: Exception) -> None:
        if isinstance(error, (EncodingError, ShapeError)):
            self.tally.bad_images += 1
            self.tally.last_bad_image = str(error)
            self._throttle(log.error, 'image', f'image dropped: {error}')
            return
        self.tally.failures += 1
        self.tally.last_failure = f'{type(error).__name__}: {error}'
        if is_out_of_memory(error):
            self._save_memory()
        elif is_device_lost(error):
            self.tally.device_lost = explain(error).partition('\n')[0]
        log.debug('the window failed', exc_info=error)
        self._throttle(log.error, type(error).__name__, f'window dropped: {explain(error)}')

    def _save_memory(self) -> None:
        """Go on with half the frames in a window, once; where that does not help, give up."""
        if self.tally.out_of_memory or not self._pipeline.halve_windows():
            self.tally.gave_up = True
            return
        self.tally.out_of_memory = True
        window = self._pipeline.windows.config
        self._mailbox.stride = window.stride
        log.warning('out of memory: going on with windows of %d frames, %d of them new', window.size, window.stride)

    def _between_windows(self) -> None:
        """Take over requests and changed settings."""
        self._answer_snapshots()
        if self._reset_asked.is_set():
            self._reset_asked.clear()
            self._await_publication()
            self._pipeline.reset()
            self._encoder.reset()
            self.scene.reset()
            self._sink.map_to_odom.reset()
            self._is_mount_known = False
        config = self._settings()
        if config != self._config:
            self._pipeline.reconfigure(config)
            self._await_publication()
            self._encoder.config = self._config = config
        self._mailbox.stride = self._pipeline.windows.config.stride  # smaller where memory or time ran out

    def _is_calibration_pending(self) -> bool:
        """Whether images, come or to come, should go on waiting for the first CameraInfo."""
        if all(infos.find(0) is not None for infos in self.camera_infos):
            self._waits_for_calibration = False
            return False
        arrival = self._mailbox.peek_first_arrival()
        timeout_s = self._config.camera.camera_info_timeout_s
        if arrival is None or time.monotonic() - arrival < timeout_s:
            return True
        self._waits_for_calibration = False
        self.tally.uncalibrated = True
        log.warning(
            'no CameraInfo within %.1f s of the first image: going on with the intrinsics that the network sees in '
            'the first window; remap camera_info if the camera is calibrated',
            timeout_s,
        )
        return False

    def _take_in(self, one: Letter[Any] | Taken) -> None:
        taken = one if isinstance(one, Taken) else self._read(one)
        frame = taken.frame
        self._place_first_camera(frame)
        self._place_rig(frame)
        self._publish(self._pipeline.add_frame(frame), taken.start)

    def _read(self, letter: Letter[Any]) -> Taken:
        start = time.monotonic()
        frame = self._decode(letter.message)
        self.tally.add_times(read=time.monotonic() - start)
        self._note_arrival(frame.stamp_ns, letter.arrival)
        return Taken(frame, start)

    def _upcoming(self) -> list[Frame]:
        """The frames that come next, where a window's worth of them waits: asked for while a window is placed."""
        if self._config.mask.mode == 'stamped':  # the newest image may wait for its mask, and the window placed for it
            return []
        letters = list(self._taken)
        if not letters and self._mailbox.has_all:
            letters.extend(self._mailbox.take(0.0))
        self._taken.clear()
        for one in letters:
            self._guard(self._read_ahead, one)
        return [one.frame for one in self._taken if isinstance(one, Taken)]

    def _read_ahead(self, one: Letter[Any] | Taken) -> None:
        self._taken.append(one if isinstance(one, Taken) else self._read(one))

    def _note_arrival(self, stamp_ns: int, arrival: float) -> None:
        """Kept far longer than a result may take: of what came before that, none is published any more."""
        self._arrivals[stamp_ns] = arrival
        self._arrivals.move_to_end(stamp_ns)
        while next(iter(self._arrivals.values())) < arrival - KNOWN_S:
            self._arrivals.popitem(last=False)

    def _decode(self, message: Any) -> Frame:
        """The frame of a message, or of a Moment, with the other cameras as its views."""
        if not isinstance(message, Moment):
            return self._decode_image(message)
        views = []
        for camera, one in message.items.items():
            try:
                views.append(dataclasses.replace(self._decode_image(one, camera), camera=camera))
            except (EncodingError, ShapeError) as error:
                if camera == 0:
                    raise
                self._note(error)  # the moment goes on without this view
        return dataclasses.replace(views[0], views=tuple(views[1:]))

    def _decode_image(self, message: Any, camera: int = 0) -> Frame:
        info = self.camera_infos[camera].find(stamp_ns(message.header.stamp))
        rectifiers, is_rectified = self._rectifiers[camera], self._is_rectified[camera]
        frame = decode_frame(
            message,
            info,
            convert=self._convert,
            frame_id='' if camera else self._config.frames.camera_optical_frame,
            rectified=is_rectified,
            rectifiers=rectifiers,
            find_mask=self.masks[camera].find,
        )
        self.tally.image = f'{frame.size[1]}x{frame.size[0]} {getattr(message, "encoding", None) or message.format}'
        self.tally.uncalibrated = frame.K is None
        if 'mono' in self.tally.image or '8UC1' in self.tally.image:
            self._throttle(log.info, 'grey', 'images are grey: colours of clouds and map are grey as well', once=True)
        if info is not None and not is_rectified and rectifiers is None and is_distorted(info):
            self._throttle(
                log.warning,
                'distortion',
                'CameraInfo has lens distortion, the image is not rectified, and rectify is never: depth and poses '
                'suffer towards the borders; set rectify:=auto, or give a rectified topic',
            )
        return frame

    def _place_first_camera(self, frame: Frame) -> None:
        """Let the map start at the robot's base, axes level with it, if TF knows where the camera is mounted."""
        if self._is_mount_known or self._pipeline.map.submaps:
            return
        frames, is_first = self._config.frames, self._pipeline.statistics.frames == 0
        if frames.standalone:
            self._sink.announce_camera(self._config, frame.stamp_ns, frame.frame_id)
        timeout_s = frames.tf_timeout_s if is_first else 0.0
        base_from_cam = self._mount.base_from_cam(frames, frame.frame_id, frame.stamp_ns, timeout_s)
        if base_from_cam is not None:
            self._pipeline.map.map_from_first_camera = base_from_cam
            self._is_mount_known = True

    def _place_rig(self, frame: Frame) -> None:
        """Tell the predictor where the cameras are mounted, once TF knows that of all that were seen."""
        predictor = self._pipeline.predictor
        cameras = (frame, *frame.views)
        if not isinstance(predictor, RigPredictor) or self._mounted.issuperset(one.camera for one in cameras):
            return
        is_first = self._pipeline.statistics.frames == 0
        timeout_s = self._config.frames.tf_timeout_s if is_first else 0.0
        ref_from_cams = {
            one.camera: self._mount.ref_from_cam(
                self._config.frames, frame.frame_id, one.frame_id, frame.stamp_ns, timeout_s
            )
            for one in cameras
        }
        known = {camera: pose for camera, pose in ref_from_cams.items() if pose is not None}
        if len(known) == len(cameras):
            predictor.rig = Rig(known)
            self._mounted = set(known)

    def _rest(self) -> None:
        """No image came for a tick. When the stream has paused, what waits for a full window goes out as a shorter one.

        Whoever subscribes to the map now gets it now, although no window completes.
        """
        stream = self._config.stream
        in_time_s = max(stream.max_latency_s / 2, LEAST_PAUSE_S)  # later, what waits would come too late
        pause_s = min(stream.max_frame_gap_s, in_time_s)
        if stream.max_frame_gap_s > 0 and self._silence.lasts(pause_s):
            self._publish(self._pipeline.flush(), time.monotonic())
        is_map_wanted = MAP in self._sink.wanted
        if is_map_wanted:
            self._await_publication()  # of which it may be a part
        if is_map_wanted and not self._was_map_wanted:
            self._sink.publish(self._encoder.encode_map())
        self._was_map_wanted = is_map_wanted

    def _publish(self, update: Update | None, start: float) -> None:
        if update is None or self._abandoned:
            return
        self._await_publication()
        self.tally.seam, self.tally.scale = update.seam, update.scale
        self.scene.add(update)
        self._count_stages(update)
        update = self._without_late(update)
        if not update.frames:
            self.tally.is_late = True
            self._encoder.move(update)
            return
        frames, newest = self._config.frames, update.frames[-1]
        base_from_cam = self._mount.base_from_cam(frames, newest.frame_id, newest.stamp_ns, frames.tf_timeout_s)
        wanted = self._sink.wanted
        map_from_odom = self._map_from_odom(update, base_from_cam)
        arrival = self._arrivals.get(newest.stamp_ns, start)
        first = self._first_correction(map_from_odom, newest.stamp_ns)
        encoded = Watched(self._encoder.messages(update, base_from_cam, wanted))
        is_map_known = MAP in wanted and self._was_map_wanted
        failures = self.tally.failures

        def publish() -> None:
            publishing = time.monotonic()
            self._sink.publish(chain(first, encoded))
            self.tally.changed_camera = self._encoder.changed_camera
            if map_from_odom is not None:
                self._sink.map_to_odom.take(map_from_odom, newest.stamp_ns, arrival)
            self._was_map_wanted = is_map_known or encoded.has_map
            now = time.monotonic()
            self.tally.add_times(encode=encoded.seconds, write=now - publishing - encoded.seconds)
            self.tally.published += len(update.frames)
            self.tally.is_late = False
            if self.tally.failures == failures:  # else the next window has failed meanwhile
                self.tally.last_failure = ''
            self.tally.latency_s = now - arrival
            self.tally.window_s.append(now - start)

        self._aside.hand_over(publish)

    def _without_late(self, update: Update) -> Update:
        """The update without the frames that came too long ago: whoever listens has no TF of that time any more.

        Each frame by itself, as one that waited for its window may be much older than the newest. All stay in the map.
        """
        now, most_s = time.monotonic(), self._config.stream.max_latency_s
        ages_s = [now - self._arrivals.get(frame.stamp_ns, now - KNOWN_S) for frame in update.frames]
        in_time = tuple(frame for frame, age_s in zip(update.frames, ages_s, strict=True) if age_s <= most_s)
        late = len(ages_s) - len(in_time)
        if not late:
            return update
        self.tally.late += late
        self._throttle(
            log.warning,
            'late',
            f'{late} of {len(ages_s)} results dropped: the oldest is {max(ages_s):.1f} s old, max_latency_s is '
            f'{most_s:g}; lower input_width or window_size, or take a smaller model or a GPU',
        )
        return dataclasses.replace(update, frames=in_time)

    def _count_stages(self, update: Update) -> None:
        times = update.times
        self.tally.add_times(prepare=times.prepare_s, network=times.network_s, align=times.align_s, map=times.map_s)
        self.tally.add_times(adjust=times.adjust_s, loop=times.loop_s)

    def _map_from_odom(self, update: Update, base_from_cam: np.ndarray | None) -> np.ndarray | None:
        """[4, 4] beside an odometry that is not ours: map_from_base @ (odom_from_base)^-1, after REP 105; else None."""
        frames, newest = self._config.frames, update.frames[-1]
        if base_from_cam is None or not frames.corrects_odometry:
            return None
        odom_from_base = self._mount.odom_from_base(frames, newest.stamp_ns, frames.tf_timeout_s)
        if odom_from_base is None:
            return None
        return newest.map_from_cam @ invert_rigid(base_from_cam) @ invert_rigid(odom_from_base)

    def _first_correction(self, map_from_odom: np.ndarray | None, stamp_ns: int) -> list[Output]:
        """map -> odom under the stamp of the first image; all later ones are sent at a steady rate, dated ahead."""
        if map_from_odom is None or self._sink.map_to_odom.serves(stamp_ns):
            return []
        make = self._encoder.make
        transform = make.map_to_odom(stamp_ns, self._config.frames, map_from_odom)
        return [Output('/tf', stamp_ns, make.tf([transform]))]


class Watched:
    """Messages as they are made: each is published while it is warm, and before the next is made.

    Args:
        outputs: makes them.

    Attributes:
        seconds: that making them has taken.
        has_map: whether the map was among them.
    """

    def __init__(self, outputs: Iterator[Output]) -> None:
        self._outputs = outputs
        self.seconds, self.has_map = 0.0, False

    def __iter__(self) -> Iterator[Output]:
        return self

    def __next__(self) -> Output:
        start = time.monotonic()
        try:
            output = next(self._outputs)
        finally:
            self.seconds += time.monotonic() - start
        self.has_map |= output.topic == MAP
        return output


def explain(error: BaseException) -> str:
    """One line about a failure, with the way out where there is one."""
    if is_out_of_memory(error):
        if 'torch' in sys.modules:
            sys.modules['torch'].cuda.empty_cache()
        return 'the GPU is out of memory; lower window_size or input_width, or take precision bf16'
    if isinstance(error, VggtRosError):
        return str(error)
    return f'{type(error).__name__}: {error}' if str(error) else type(error).__name__


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the memory of the GPU ran out, however that is wrapped."""
    return any(type(one).__name__ == 'OutOfMemoryError' for one in _causes(error))


def is_device_lost(error: BaseException) -> bool:
    """Whether the GPU can compute no more in this process: after such an error, every call on it fails.

    Source: CUDA runtime API, cudaError: cudaErrorLaunchFailure and others leave the process in an inconsistent state.
    """
    return any(
        isinstance(one, RuntimeError) and 'CUDA error' in str(one) and 'out of memory' not in str(one)
        for one in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
