"""The path from frames to map updates."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vggt_ros.core.bridging import Bridge
from vggt_ros.core.config import Config, WindowConfig, settings
from vggt_ros.core.errors import ConfigError, OutOfMemoryError
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import Sim3
from vggt_ros.core.keyframe import KeyframeGate
from vggt_ros.core.loops.back_end import BackEnd, Correction
from vggt_ros.core.loops.loop_report import LoopReport
from vggt_ros.core.metric.evidence import Evidence
from vggt_ros.core.metric.gravity import level_map
from vggt_ros.core.metric.metres import Metres
from vggt_ros.core.odometry_frame import OdometryFrame
from vggt_ros.core.placement import Seam, SeamStatus
from vggt_ros.core.planner import LatencyKeeper, Plan
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import Predictor
from vggt_ros.core.resolution import to_source_frame
from vggt_ros.core.sky import without_sky
from vggt_ros.core.stage_clock import StageClock, StageTimes
from vggt_ros.core.submap import Map, Submap, Update
from vggt_ros.core.window import Window, WindowBuffer

log = logging.getLogger(__name__)

TIME_JUMP_NS = 1_000_000_000  # further back than this is another run of the clock, not a late message


@dataclass
class Statistics:
    """What happened so far; only counts up.

    Args:
        frames: handed in.
        keyframes: of those, kept.
        windows: predicted and placed.
        duplicates: skipped, their stamp had just been seen.
        out_of_order: dropped, their stamp was older than one seen.
        given_up: keyframes that no window ever held, as a new map began or windows became smaller while they waited.
        restarts: windows started anew after a gap or a change of size or frame_id; the map goes on.
        resets: new maps, after a jump back in time or on request.
        held, degenerate: windows whose place the points could not tell (SeamStatus).
        refused: answers of the network that were not believed, because their points disagreed with the map.
        bridged: windows placed by another answer after one was refused.
        loops, loops_rejected: pairs of places looked at closely, and closed or not.
        failures: windows that the network failed on; frames that the next window holds too get another chance.
    """

    frames: int = 0
    keyframes: int = 0
    windows: int = 0
    duplicates: int = 0
    out_of_order: int = 0
    given_up: int = 0
    restarts: int = 0
    resets: int = 0
    held: int = 0
    degenerate: int = 0
    refused: int = 0
    bridged: int = 0
    loops: int = 0
    loops_rejected: int = 0
    failures: int = 0


class Pipeline:
    """Camera frames in, map updates out. The node and the bag reader both drive this class.

    The same frames, and the same evidence beside them, give the same updates, live or offline.

    Args:
        config: all settings.
        predictor: the network.
        evidence: what other sensors of the robot say: whoever receives them adds it there, before or while a window is
            computed.

    Attributes:
        upcoming: asked, before a window is put into the map, for frames that are there already and come next: a network
            on a device of its own begins with the window that they complete (Foresight). The updates stay the same.
    """

    def __init__(self, config: Config, predictor: Predictor, evidence: Evidence | None = None) -> None:
        self.config = config
        self.evidence = evidence or Evidence.of(config)
        self.keyframes = KeyframeGate(config.keyframe)
        self.windows = WindowBuffer(_fitting(config.window, predictor))
        self.latency = LatencyKeeper(self.windows.config)
        self.predictor = predictor
        self.map = Map(config)
        self.metres = Metres(config.scale, self.evidence)
        self.back_end = BackEnd(config, self.map, lambda window: predictor.predict_apart(window))
        self.bridge = Bridge(config, self.map, self.windows, self.back_end.withdraw)
        self.odometry = OdometryFrame()
        self._correction: Correction | None = None
        self._ahead = StageClock()  # what was done before the next window is complete
        self.statistics = Statistics()
        self._last: Frame | None = None
        self.upcoming: Callable[[], Iterable[Frame]] = tuple

    def add_frame(self, frame: Frame) -> Update | None:
        """Take the next frame; return an update when it completes a window, or ends one by a break in the stream."""
        self.statistics.frames += 1
        if not self._is_in_time(frame):
            return None
        ended = self._end_window_at_break(frame)
        self._last = frame
        if not self.keyframes.accept(frame):
            return ended
        self.statistics.keyframes += 1
        window = self.windows.add(frame)
        if window is not None:
            return self._process(window)
        self._look_ahead(frame)
        return ended

    def warm_up(self) -> None:
        """Let the network make itself ready and measure itself, on the thread that will run it."""
        warm_up = getattr(self.predictor, 'warm_up', None)
        if warm_up is None:
            return
        now = self.windows.config
        planned: Plan | None = warm_up(now, self.config.stream.latency_budget_s)
        if planned is not None:
            log.info('%s', planned.reason)
            if planned.window != now:
                self._resize_windows(planned.window)  # they may grow back to what was asked for while running

    def flush(self) -> Update | None:
        """Process the frames still waiting for a full window: the end of a recording, or a pause."""
        window = self.windows.flush()
        return self._process(window) if window is not None else None

    def reset(self) -> None:
        """Start a new map: nothing before is remembered but the counts."""
        self.statistics.resets += 1
        self.keyframes.reset()
        self.statistics.given_up += self.windows.reset()
        self.predictor.reset()
        self.map.reset()
        self.metres.reset()
        self.bridge.reset()
        self.back_end.reset()
        self.odometry.reset()
        self._correction = None
        self._last = None

    def finish(self) -> Sim3 | None:
        """Wait for what is still being solved, move the map by it, and settle its scale: at the end of a recording.

        Returns:
            Where everything published lies now that the scale is settled (Update.output_from_before); None: it stays.
        """
        self._take_over(all_of_it=True)
        return self.metres.conclude()

    def trajectory(self) -> tuple[np.ndarray, np.ndarray]:
        """Stamps [N] and poses map_from_cam [N, 4, 4] of all frames remembered, as known now, in output units."""
        stamps, poses = self.map.trail.poses()
        return stamps, self.metres.output_from_map.transform_pose(poses)

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """The cloud so far, in the unit of the updates: [N, 3] float32 in the map and [N, 3] uint8 RGB."""
        xyz, rgb = self.map.points()
        return self.metres.points(xyz), rgb

    def reconfigure(self, config: Config) -> None:
        """Change settings that are dynamic while running; ConfigError names another one."""
        _refuse_static_changes(self.config, config)
        self.keyframes.config = config.keyframe
        if config.window != self.config.window:
            self._resize_windows(config.window)
            self.latency.asked = config.window
        self.map.reconfigure(config)
        self.config = self.bridge.config = config

    def halve_windows(self) -> bool:
        """Half as many frames in a window from now on, to save memory; False where there are too few for that."""
        window = self.windows.config
        if window.size < 4:  # with two of two frames nothing would be shared
            return False
        size = window.size // 2
        self._resize_windows(dataclasses.replace(window, size=size, stride=min(window.stride, size // 2)))
        return True

    def _resize_windows(self, config: WindowConfig) -> None:
        self.statistics.given_up += self.windows.resize(config)

    def _is_in_time(self, frame: Frame) -> bool:
        """Whether the stamp follows the last one; a jump back by over a second may reset the map."""
        if self._last is None or frame.stamp_ns > self._last.stamp_ns:
            return True
        back_ns = self._last.stamp_ns - frame.stamp_ns
        if back_ns > TIME_JUMP_NS and self.config.stream.on_time_jump == 'reset':
            # frames still waiting are dropped: to whoever listens, their stamps now lie in the future
            waiting = f', without {n} frame(s) that waited for a window' if (n := self.windows.waiting) else ''
            log.warning('stamps went back by %.3f s: starting a new map%s', back_ns / 1e9, waiting)
            self.reset()
            return True
        if back_ns == 0:
            self.statistics.duplicates += 1
        else:
            self.statistics.out_of_order += 1
        return False

    def _end_window_at_break(self, frame: Frame) -> Update | None:
        """At a gap or another camera: the update of the frames waiting, and a window that shares nothing."""
        reason = self._break_between(self._last, frame)
        if reason is None:
            return None
        log.warning('%s: starting a new window that shares no frames with the last', reason)
        self.statistics.restarts += 1
        try:
            return self.flush()
        finally:  # also where the network fails: the frame at hand starts anew
            self._last = frame
            self.statistics.given_up += self.windows.reset()
            self.keyframes.reset()

    def _break_between(self, last: Frame | None, frame: Frame) -> str | None:
        max_gap_s = self.config.stream.max_frame_gap_s
        if last is None:
            return None
        if frame.size != last.size:
            return f'image size changed from {last.size[1]}x{last.size[0]} to {frame.size[1]}x{frame.size[0]}'
        if frame.frame_id != last.frame_id:
            return f'frame_id changed from {last.frame_id!r} to {frame.frame_id!r}'
        gap_s = (frame.stamp_ns - last.stamp_ns) / 1e9
        return f'no frame for {gap_s:.3f} s' if 0 < max_gap_s < gap_s else None

    def _look_ahead(self, frame: Frame) -> None:
        """Let the network encode a frame while its window is not complete: that is then off the way to its depth."""
        anticipate = getattr(self.predictor, 'anticipate', None)
        if anticipate is not None:
            self._ahead.anticipate(anticipate, frame)

    def _begin_next(self, window: Window) -> None:
        """Let the network begin with the window after this one, where its frames are there and nothing breaks."""
        begin = getattr(self.predictor, 'begin', None)
        if begin is None or window.frames[-1] is not self._last:  # else a frame that is no part of it comes first
            return
        gate, last, keyframes = copy.copy(self.keyframes), window.frames[-1], []
        for frame in self.upcoming():
            if frame.stamp_ns <= last.stamp_ns or self._break_between(last, frame) is not None:
                break
            last = frame
            if gate.accept(frame):
                keyframes.append(frame)
        foreseen = self.windows.foresee(keyframes)
        if foreseen is not None:
            begin(foreseen)

    def _process(self, window: Window) -> Update:
        clock, self._ahead = self._ahead, StageClock()
        ahead_s = clock.total_s
        clock.resume()
        try:
            placed = self.bridge.place(window, lambda frames: self._answer(clock, frames))
        except OutOfMemoryError as error:
            return self._process_in_parts(window, error)
        except Exception:
            self.statistics.failures += 1
            self.windows.retract(window)
            raise
        self._begin_next(window)
        placement = self.metres.observe(placed.prediction, placed.placement, placed.window.shared)
        self.map.rescale(self.metres.factor)
        clock.stop('align_s')
        update = self.map.insert(Submap(placed.prediction, placement, placed.window.shared))
        clock.stop('map_s')
        loop = self.back_end.add(self.map.submaps[-1])
        clock.stop('loop_s')
        if self.config.camera.output_resolution == 'input':
            update = _at_source_resolution(update, placed.window, placed.prediction)
        update = self._report(self.metres.convert(update), loop)
        clock.stop('map_s')
        self._count(placed.placement.seam)
        self._keep_latency(clock.total_s - ahead_s)
        return dataclasses.replace(update, times=clock.times)

    def _keep_latency(self, seconds: float) -> None:
        """Smaller windows where they take longer than the budget, from the newest frame on."""
        now = self.windows.config
        chosen = self.latency.observe(seconds, now, self.config.stream.latency_budget_s)
        if chosen != now:
            log.info('a window took %.3f s: window_size %d, window_stride %d', seconds, chosen.size, chosen.stride)
            self._resize_windows(chosen)

    def _process_in_parts(self, window: Window, error: OutOfMemoryError) -> Update:
        """The window is too large for the memory that is free: smaller ones from now on, and no frame is lost."""
        parts = self.windows.halve(window)
        if not parts:
            self.statistics.failures += 1
            raise error
        now = self.latency.asked = self.windows.config
        log.warning('%s; going on with window_size %d and window_stride %d', error, now.size, now.stride)
        return _joined([self._process(part) for part in parts])

    def _answer(self, clock: StageClock, window: Window) -> Prediction:
        """What the network says; and what was solved beside it moves the map before the window is placed."""
        prediction = clock.network(self.predictor.predict, window)
        if self.config.mask.sky:
            prediction = without_sky(prediction)
        self._take_over()
        clock.stop('loop_s')
        return self._level(prediction)

    def _take_over(self, *, all_of_it: bool = False) -> None:
        correction = self.back_end.take_over(all_of_it=all_of_it)
        if correction is not None:
            self.odometry.correct(*self.metres.correct(correction.old_map_from_cam, correction.new_map_from_cam))
            self._correction = correction

    def _report(self, update: Update, loop: LoopReport | None) -> Update:
        """With what the back end did: the loop looked at, and the way so far where it moved."""
        moved_path = None
        if self._correction is not None:
            stamps, poses = self.map.trail.poses(self.config.map.path_max_size)
            before = stamps <= self._correction.last_stamp_ns
            poses = self.metres.output_from_map.transform_pose(poses[before])
            moved_path = dict(zip(stamps[before].tolist(), poses, strict=True))
            self._correction = None
        if loop is not None:
            self.statistics.loops += loop.is_closed
            self.statistics.loops_rejected += not loop.is_closed
        return dataclasses.replace(update, map_from_odom=self.odometry.map_from_odom, moved_path=moved_path, loop=loop)

    def _level(self, prediction: Prediction) -> Prediction:
        """Turn a map that begins level, where an IMU tells how."""
        if self.config.scale.gravity_source == 'imu' and self.map.latest is None:
            self.map.levelling = level_map(self.map.map_from_first_camera, prediction, self.evidence)
        return prediction

    def _count(self, seam: Seam) -> None:
        self.statistics.windows += 1
        self.statistics.held += seam.status is SeamStatus.HELD
        self.statistics.degenerate += seam.status is SeamStatus.DEGENERATE
        self.statistics.refused += seam.refused + (seam.status is SeamStatus.REFUSED)
        self.statistics.bridged += seam.status is SeamStatus.BRIDGED


def _fitting(window: WindowConfig, predictor: Predictor) -> WindowConfig:
    """The sizes asked for, or smaller ones where the memory that is free does not allow them."""
    plan = getattr(predictor, 'plan', None)
    planned: Plan | None = plan(window) if plan is not None else None
    if planned is None or planned.window == window:
        return window
    log.warning('window_size %d, window_stride %d: %s', planned.window.size, planned.window.stride, planned.reason)
    return planned.window


def _joined(updates: list[Update]) -> Update:
    """The updates of the parts of a window as one: the last, with the new frames of all."""
    times = [dataclasses.asdict(update.times) for update in updates]
    together = StageTimes(**{stage: sum(one[stage] for one in times) for stage in times[0]})
    frames = tuple(frame for update in updates for frame in update.frames)
    return dataclasses.replace(updates[-1], frames=frames, times=together)


def _at_source_resolution(update: Update, window: Window, prediction: Prediction) -> Update:
    if prediction.transform is None:
        return update
    frames = [
        to_source_frame(placed, frame, prediction.transform)
        for placed, frame in zip(update.frames, window.new, strict=True)
    ]
    return dataclasses.replace(update, frames=tuple(frames))


def _refuse_static_changes(old: Config, new: Config) -> None:
    before, after = old.values(), new.values()
    changed = [one.name for one in settings() if not one.dynamic and before[one.name] != after[one.name]]
    if changed:
        raise ConfigError(f'{", ".join(changed)} cannot change while running; restart to change it')
