"""VggtNode: subscribe, hand images to one worker thread, publish its results."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any, NoReturn

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock, ClockType
from rclpy.executors import Executor, ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import SetBool, Trigger

from vggt_ros.core.config import Config, settings
from vggt_ros.core.errors import ConfigError, GaveUpError
from vggt_ros.core.memory import keep_freed_memory, leave_loaded_alone
from vggt_ros.core.metric.evidence import Evidence
from vggt_ros.core.pipeline import Pipeline
from vggt_ros.core.predictor import Predictor, make_predictor
from vggt_ros.dds import make_room_for_images
from vggt_ros.decode import stamp_ns
from vggt_ros.encode import Encoder
from vggt_ros.live.diagnostics import Health, Rate, Standing, diagnostics, hardware, worst
from vggt_ros.live.inputs import Inputs
from vggt_ros.live.mailbox import Mailbox
from vggt_ros.live.mask_inputs import MaskInputs
from vggt_ros.live.outputs import Outputs
from vggt_ros.live.ros_log import RosLogHandler
from vggt_ros.live.save_services import SaveServices
from vggt_ros.live.sensors import Sensors
from vggt_ros.live.tally import Tally
from vggt_ros.live.tf_watch import TfWatch
from vggt_ros.live.transforms import RobotTransforms, TfMounts
from vggt_ros.live.watchdog import Watchdog, is_noted, limit_s
from vggt_ros.live.worker import Worker, explain
from vggt_ros.masks import Masks
from vggt_ros.messages import ros_messages
from vggt_ros.moments import Moments
from vggt_ros.parameters import Parameters, initialise
from vggt_ros.rare_encodings import convert_to_rgb
from vggt_ros.results.scene import Scene, Snapshot
from vggt_ros.throttle import Throttle
from vggt_ros.topics import NODE_NAME, TOPICS

log = logging.getLogger('vggt_ros.node')  # also where this file is run as __main__

WATCH_PERIOD_S = 1.0  # diagnostics, and the look at whether images come
PATIENCE_S = 5.0  # between two lines about a model that takes long to load
SILENCE_S = 5.0  # without an image for so long we say why; rtabmap_ros has the same patience
MAX_AHEAD_S = 0.1  # an image from further in the future than this has a clock of its own
STOP_S = 5.0  # waited for the window being computed when the process ends
DEACTIVATE_S = 60.0  # and when it goes on; a large model on a CPU takes that long

_told_to_end = threading.Event()  # by a signal


class VggtNode(LifecycleNode):
    """Camera images in; depth, clouds, poses and TF out.

    Args:
        make_predictor: gives the network for the settings; several nodes in one process may share one.
        node_arguments: of rclpy's LifecycleNode.

    configure loads the network, activate subscribes and starts the worker, deactivate stops it, cleanup frees all.
    The executor's thread only receives images and answers services; decoding, inference and publishing are the
    worker's. rclpy turns an exception in a transition into ERROR without a word, so each transition says its own.
    """

    def __init__(self, make_predictor: Callable[[Config], Predictor] = make_predictor, **node_arguments: Any) -> None:
        super().__init__(NODE_NAME.lstrip('/'), **node_arguments)
        self._make_predictor = make_predictor
        self._log_handler = RosLogHandler(self.get_logger())
        self._log_handler.attach()
        self._settings = Parameters(self)
        self.declare_parameter('autostart', True)
        self._transforms: RobotTransforms | None = None  # kept over cleanup: TF remembers ten seconds
        self._configured = contextlib.ExitStack()  # what cleanup takes down again
        self._pipeline: Pipeline | None = None
        self._outputs: Outputs | None = None
        self._inputs: Inputs | None = None
        self._sensors: Sensors | None = None
        self._saves: SaveServices | None = None
        self._worker: Worker | None = None
        self._mask_inputs: MaskInputs | None = None
        self._mailbox: Mailbox[Any] = Mailbox(1)
        self._is_enabled = True
        self._rate = Rate()
        self._last_image_s = [0.0]  # by camera
        self._moments: Moments[Any] = Moments(1, 0)
        self._throttle = Throttle()
        self._state = 'unconfigured'
        self._failure = ''  # why we are not active although we should be
        self._is_restart_due = False  # it failed by itself; what a caller asked for in vain is up to the caller
        self._is_on_trial = False  # started anew after a failure, and no result has come yet
        self._watchdog = Watchdog(WATCH_PERIOD_S)
        self._left: list[Worker] = []  # at a window that never ended; their threads cannot be stopped
        self._level = 0  # of the diagnostics, at the last look
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        # Steady time: the watch goes on while a simulation is paused.
        self.create_timer(WATCH_PERIOD_S, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def autostart(self) -> bool:
        """Whether the process configures and activates the node itself, so that plain `ros2 run` works."""
        return bool(self.get_parameter('autostart').value)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the network and create what publishes; FAILURE with one line where that cannot be."""
        try:
            self._configure(self._settings.config)
        except Exception as error:
            self._say_failure('configure', error)
            self._free()
            return TransitionCallbackReturn.FAILURE
        self._state, self._failure, self._is_restart_due = 'inactive', '', False
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Subscribe and start the worker."""
        try:
            self._activate(self._settings.config)
        except Exception as error:
            self._say_failure('activate', error)
            self._stop(STOP_S)
            return TransitionCallbackReturn.FAILURE
        self._state, self._failure = 'active', ''
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Take no more images, finish and publish the window being computed; the network stays loaded."""
        if self._failure:  # rclpy goes on with on_error then
            return TransitionCallbackReturn.ERROR
        self._stop(DEACTIVATE_S)
        self._state = 'inactive'
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the network and all publishers."""
        self._free()
        self._state, self._is_on_trial = 'unconfigured', False
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free, from any state."""
        self._stop(STOP_S)
        self._free()
        self._state = 'finalized'
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Back to unconfigured, from where it can be tried again; a thread that is stuck is left to itself."""
        if not self._stop(0.0 if self._failure else STOP_S) and self._worker is not None:
            self._left.append(self._worker)
            self._worker = None
        self._free()
        self._state = 'unconfigured'
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> bool:
        """Stop for good; False when a window is still being computed and its thread could not be joined."""
        is_stopped = self._stop(STOP_S)
        if self._saves is not None:
            is_stopped &= self._saves.wait()
        self._log_handler.detach()
        return is_stopped and not any(worker.is_alive for worker in self._left)

    def _say_failure(self, transition: str, error: Exception) -> None:
        if self.context.ok():  # else the process is told to end, and that is why it failed
            self._failure = f'cannot {transition}: {explain(error)}'
            log.error('cannot %s: %s', transition, explain(error))
            log.debug('cannot %s', transition, exc_info=True)

    def _configure(self, config: Config) -> None:
        start = time.monotonic()
        if self._transforms is None:
            self._transforms = RobotTransforms(self)
        evidence = Evidence.of(config, TfMounts(self._transforms, config.frames.tf_timeout_s))
        with saying_so(f'loading model {config.model.source} goes on'):
            predictor = self._make_predictor(config)
        self._pipeline = Pipeline(config, predictor, evidence)
        name = config.model.source if config.model.backend == 'vggt' else config.model.backend
        log.info('model %s ready in %.1f s', name, time.monotonic() - start)
        self._outputs = Outputs(self, config.window.size, config.stream.max_latency_s, config.rig.cameras)
        self._configured.callback(self._outputs.destroy)
        self._tf_watch = TfWatch(self, self._outputs.sent, lambda: self._settings.config.frames.published_children)
        self._configured.callback(self._tf_watch.destroy)
        self._again = self.create_timer(
            1 / config.frames.tf_rate, self._correct_odometry, clock=Clock(clock_type=ClockType.STEADY_TIME)
        )
        self._configured.callback(self.destroy_timer, self._again)
        self._follow(config)
        self._scene = Scene(config)
        self._saves = SaveServices(self, config.save, self._ask_snapshot)
        self._configured.callback(self._saves.destroy)
        for kind, name, callback in ((Trigger, '~/reset', self._on_reset), (SetBool, '~/enable', self._on_enable)):
            self._configured.callback(self.destroy_service, self.create_service(kind, name, callback))
        if config.scale.scale_source == 'none':
            log.warning(
                'lengths are in the unit of the first window, not metres: set scale_source, to odometry for example'
            )
        elif config.scale.is_measured:
            log.warning(
                'lengths are not metres until the scale is locked: waiting for %d windows that agree on it (%s)',
                config.scale.scale_min_observations,
                config.scale.scale_source,
            )

    def _activate(self, config: Config) -> None:
        assert self._pipeline is not None
        assert self._outputs is not None
        assert self._transforms is not None
        if self._worker is not None and self._worker.is_alive:
            raise ConfigError('the window of the last activation is still being computed; try again when it is done')
        self._mailbox = Mailbox(config.window.stride)
        self._moments = Moments(len(config.rig.cameras), round(config.rig.camera_sync_s * 1e9))
        self._last_image_s = [time.monotonic()] * max(1, len(config.rig.cameras))
        self._inputs = Inputs(self, config.input, self._on_image, self._on_camera_info, config.rig.cameras)
        masks = tuple(Masks(config.mask, name) for name in config.rig.cameras or ('',))
        self._worker = Worker(
            self._pipeline,
            Encoder(config, ros_messages(publishes_bytes=True), self._pipeline.points),
            self._transforms,
            self._outputs,
            lambda: self._settings.config,
            self._mailbox,
            data_clock=self._data_clock,
            convert=convert_to_rgb,
            is_rectified=self._inputs.is_rectified,
            scene=self._scene,
            masks=masks,
        )
        self._mask_inputs = MaskInputs(self, config.mask, masks, config.rig.cameras)
        self._sensors = Sensors(self, config.scale, self._pipeline.evidence)
        if self._pipeline.statistics.frames:  # the robot may have moved since the last activation
            self._worker.ask_reset()
        self._transforms.resume()
        self._worker.start()
        for image, camera_info in self._inputs.topics:
            log.info('waiting for images on %s and %s', image, camera_info)

    def _stop(self, timeout_s: float) -> bool:
        """No more images in; whether the worker has ended."""
        if self._inputs is not None:
            self._inputs.destroy()
            self._inputs = None
        if self._mask_inputs is not None:
            self._mask_inputs.destroy()
            self._mask_inputs = None
        if self._sensors is not None:
            self._sensors.destroy()
            self._sensors = None
        if self._worker is None or self._worker.stop(timeout_s):
            self._worker = None
            return True
        log.warning('the window being computed takes longer than %g s: its results are dropped', timeout_s)
        return False

    def _free(self) -> None:
        self._configured.close()
        self._pipeline = self._outputs = self._saves = None
        if 'torch' in sys.modules and sys.modules['torch'].cuda.is_available():
            with contextlib.suppress(RuntimeError):  # of a device that is lost
                sys.modules['torch'].cuda.empty_cache()

    def _data_clock(self) -> float:
        if self.get_parameter('use_sim_time').value:
            return self.get_clock().now().nanoseconds * 1e-9
        return time.monotonic()  # the clock on the wall may be set while we run

    def _on_image(self, camera: int, message: Any) -> None:
        self._last_image_s[camera] = time.monotonic()
        self._note_clock(stamp_ns(message.header.stamp))
        if not self._is_needed() or self._is_late(stamp_ns(message.header.stamp)):
            return
        if len(self._last_image_s) == 1:
            self._mailbox.put(message)
            return
        for moment in self._moments.add(camera, stamp_ns(message.header.stamp), message):
            self._mailbox.put(moment)

    def _note_clock(self, image_ns: int) -> None:
        """Say when images come from the future: nobody has the TF of that time yet."""
        ahead_s = (image_ns - self.get_clock().now().nanoseconds) * 1e-9
        if ahead_s > MAX_AHEAD_S and not self._is_time_missing():
            text = f'the image has a stamp {ahead_s:.2f} s ahead of the clock here; synchronise the two (chrony, PTP)'
            self._throttle(log.warning, 'clock', text)

    def _is_late(self, image_ns: int) -> bool:
        """Whether an image was so long on its way that its pose would be of no use: where max_image_age_s says so."""
        most_s = self._settings.config.input.max_image_age_s
        age_s = (self.get_clock().now().nanoseconds - image_ns) * 1e-9
        if not 0 < most_s < age_s:
            return False
        text = f'images come {age_s:.1f} s after their stamps and are dropped: the link is slow, or the clocks differ'
        self._throttle(log.warning, 'late', text)
        return True

    def _is_time_missing(self) -> bool:
        """Whether ROS time is to come from /clock, and none has come."""
        return bool(self.get_parameter('use_sim_time').value) and self.get_clock().now().nanoseconds == 0

    def _on_camera_info(self, camera: int, message: Any) -> None:
        if self._worker is not None:
            self._worker.camera_infos[camera].add(message)

    def _is_needed(self) -> bool:
        """Whether results would reach anybody: without, nothing is decoded and the network rests."""
        config = self._settings.config
        frames = config.frames
        return self._is_enabled and (
            config.stream.publish_when_unsubscribed
            or frames.publish_odom_to_base_tf
            or frames.publish_map_to_odom_tf
            or (self._outputs is not None and self._outputs.is_anybody_listening())
        )

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success = self._worker is not None
        response.message = 'a new map starts with the next image' if response.success else 'the node is not active'
        if self._worker is not None:
            self._worker.ask_reset()
        return response

    def _ask_snapshot(self) -> Future[Snapshot]:
        """The map as it is when the window being computed is done; what a node that is not active still holds."""
        worker = self._worker
        if worker is not None:
            return worker.ask_snapshot()
        answer: Future[Snapshot] = Future()
        assert self._pipeline is not None
        answer.set_result(self._scene.snapshot(self._pipeline.points(), self._pipeline.trajectory()))
        return answer

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._is_enabled = request.data
        response.success = True
        response.message = 'images are processed' if request.data else 'images are ignored; the model stays loaded'
        return response

    def _watch(self) -> None:
        """Once a second: say why nothing comes, and how things are; act where the network is stuck or lost."""
        health = self._look() if self._worker is not None and self._pipeline is not None else None
        array = diagnostics(self._standing(), health, self.get_fully_qualified_name().lstrip('/'))
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)
        self._say_level(*worst(array))
        if health is not None:
            self._act(health.tally)
        elif self._failure and self._is_on_trial:
            raise GaveUpError(self._failure)
        elif self._is_restart_due and self._state == 'unconfigured' and self.autostart:
            self._start_again()

    def _look(self) -> Health:
        """How things are while active, and a line in the log about what is not as it should be."""
        assert self._worker is not None
        assert self._pipeline is not None
        worker, pipeline = self._worker, self._pipeline
        self._follow(self._settings.config)
        silence = self._describe_silence()
        if silence:
            self._throttle(log.warning, 'silence', silence)
        deaf = self._sensors.describe_silence() if self._sensors is not None else ''
        if deaf:
            self._throttle(log.warning, 'sensors', deaf)
        self._tf_watch.tick()
        rivals = self._tf_watch.describe()
        if rivals:
            self._throttle(log.warning, 'rivals', rivals)
        if self._is_time_missing():
            self._throttle(log.warning, 'no clock', 'use_sim_time is set and no /clock has come')
        config = self._settings.config
        busy_s = self._watchdog.look(worker.tally.busy_since)
        return Health(
            config=config,
            tally=worker.tally,
            statistics=pipeline.statistics,
            mailbox=self._mailbox,
            silence=silence,
            deaf=deaf,
            is_needed=self._is_needed(),
            device=hardware(pipeline.predictor),
            rivals=rivals,
            idle_s=time.monotonic() - max(self._last_image_s),
            rate_hz=self._rate.measure(self._mailbox.received, time.monotonic()),
            moments=self._moments if config.rig.cameras else None,
            rig_fit=getattr(pipeline.predictor, 'fit', None),
            lost=self._inputs.lost if self._inputs is not None else 0,
            busy_s=busy_s if is_noted(busy_s, tuple(worker.tally.window_s)) else 0.0,
        )

    def _standing(self) -> Standing:
        name = self.get_fully_qualified_name()
        known = self.get_node_names_and_namespaces()
        namesakes = sum(f'{namespace.rstrip("/")}/{one}' == name for one, namespace in known) - 1
        if namesakes <= 0:
            return Standing(self._state, self._failure)
        text = f'{namesakes} other node(s) called {name}: topics and services mix; rename one, as in -r __node:=vggt2'
        self._throttle(log.warning, 'namesake', text)
        return Standing(self._state, self._failure, text)

    def _say_level(self, level: int, task: str) -> None:
        """A line in the log when the diagnostics get worse or better."""
        if level != self._level:
            self._level = level
            log.info('diagnostics: %s', 'OK' if not level else f'{("WARN", "ERROR")[level - 1]} of {task}')

    def _act(self, tally: Tally) -> None:
        """Deactivate where the memory does not suffice; start anew where the network is stuck or its device lost."""
        busy_s = self._watchdog.busy_s
        if tally.gave_up:
            log.error('out of memory with smaller windows, too: deactivated; lower window_size or input_width')
            self.trigger_deactivate()
        elif tally.device_lost:
            self._fail(f'the device is lost: {tally.device_lost}')
        elif busy_s > limit_s(self._settings.config.stream.window_timeout_s, tuple(tally.window_s)):
            self._fail(f'the network is stuck: it has been at one window for {busy_s:.0f} s')
        elif tally.published:
            self._is_on_trial = False

    def _fail(self, reason: str) -> None:
        """By way of on_error to unconfigured: from there it can be configured again."""
        log.error('%s; back to unconfigured', reason)
        self._failure, self._is_restart_due = reason, True
        self.trigger_deactivate()

    def _start_again(self) -> None:
        """What autostart started it starts again, once; without a result after that it takes a new process."""
        log.warning('starting again after: %s', self._failure)
        self._is_on_trial, self._is_restart_due = True, False
        start(self)

    def _follow(self, config: Config) -> None:
        """Listen to TF, and let the timer of map -> odom wake the executor, only where the settings ask for it."""
        if config.reads_tf and self._transforms is not None:
            self._transforms.listen()
        if config.frames.corrects_odometry == self._again.is_canceled():
            (self._again.reset if config.frames.corrects_odometry else self._again.cancel)()

    def _correct_odometry(self) -> None:
        if self._outputs is not None and self._worker is not None:
            self._outputs.correct_odometry(self._settings.config)

    def _describe_silence(self) -> str:
        now = time.monotonic()
        silent = [camera for camera, last in enumerate(self._last_image_s) if now - last >= SILENCE_S]
        if self._inputs is None or not silent:
            return ''
        said = '; '.join(self._inputs.describe_silence(camera) for camera in silent)
        if self._is_time_missing():
            return f'{said}; use_sim_time is set and no /clock has come either'
        return said


@contextlib.contextmanager
def saying_so(what: str, period_s: float = PATIENCE_S) -> Iterator[None]:
    """Log at intervals that something takes its time: weights that are downloaded, or lie on a slow disk."""
    done, start = threading.Event(), time.monotonic()

    def say() -> None:
        while not done.wait(period_s):
            log.info('%s: %.0f s so far', what, time.monotonic() - start)

    speaker = threading.Thread(target=say, name='vggt_patience', daemon=True)
    speaker.start()
    try:
        yield
    finally:
        done.set()
        speaker.join()


def usage() -> str:
    """What `ros2 run vggt_ros node --help` prints."""
    parameters = '\n'.join(f'  {one.name:28} {one.default!r:14} {one.help}' for one in settings())
    topics = '\n'.join(f'  {topic.name:28} {topic.help}' for topic in TOPICS)
    autostart = f'  {"autostart":28} {True!r:14} configure and activate at once'
    return (
        'Turn camera images into depth, clouds, poses and TF.\n\n'
        'ros2 run vggt_ros node --ros-args -r image:=/camera/image_raw -p standalone:=true\n\n'
        f'Parameters (name, default, meaning):\n{parameters}\n{autostart}\n\n'
        f'Topics published:\n{topics}'
    )


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to stop; the exit code is 0 then; 1 when it could not start or go on, and why."""
    if {'-h', '--help'} & set(sys.argv if args is None else args):
        print(usage())
        return 0
    keep_freed_memory()
    make_room_for_images()
    _told_to_end.clear()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT, too: a shell has what it starts with & ignore that
        signal.signal(number, _interrupt)  # rclpy calls it after its own: a model that loads is left at once
    code, node = 1, None
    try:
        initialise(args)
        node = VggtNode()
        leave_loaded_alone()  # not the network: that goes with cleanup
        if node.autostart and not start(node):
            code = 1 if rclpy.ok() else 0
            return code
        spin(node)
        code = 0
    except (KeyboardInterrupt, ExternalShutdownException):
        code = 0
    except (ConfigError, GaveUpError) as error:
        print(f'{NODE_NAME.lstrip("/")}: {error}', file=sys.stderr)
    except Exception as error:
        # A signal that comes while rclpy is in a call leaves it by several exceptions, some before the context ends.
        code = int(rclpy.ok() and not _told_to_end.is_set())
        if code:
            traceback.print_exc()
            print(f'{NODE_NAME.lstrip("/")}: ended by {explain(error)}', file=sys.stderr)
    finally:
        _end(node, code)
    return code


def _interrupt(*_: object) -> NoReturn:
    _told_to_end.set()
    raise KeyboardInterrupt


def spin(node: VggtNode, executor: Executor | None = None) -> None:
    """Answer calls, on an executor of one's own or the one of the process, until the process is told to end.

    Where a callback takes down a subscription whose event is waiting to be handled, rclpy raises InvalidHandle; it
    catches that for everything but events. There is nothing left to handle then.
    Source: ros2/rclpy, rclpy/executors.py, _wait_for_ready_callbacks, and event_handler.py, take_data.
    """
    while True:
        try:
            rclpy.spin(node, executor)
        except Exception as error:
            if type(error).__name__ != 'InvalidHandle' or not rclpy.ok():  # its module differs from Humble to Rolling
                raise
        else:
            return


def start(node: VggtNode) -> bool:
    """Configure and activate; False where either failed and the log says why."""
    return (
        node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        and node.trigger_activate() == TransitionCallbackReturn.SUCCESS
    )


def _end(node: VggtNode | None, code: int) -> None:
    try:
        is_stopped = node is None or node.close()
    except KeyboardInterrupt:  # asked twice: do not wait for the window
        is_stopped = False
    if not is_stopped:
        # A thread inside the network cannot be interrupted, and the interpreter crashes when it ends under one.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    with contextlib.suppress(Exception):  # the context may be gone already
        if node is not None:
            node.destroy_node()
    rclpy.try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
