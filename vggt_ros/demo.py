"""The real node on real frames, without a camera: start it, replay the shipped clip, record, check, report."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vggt_ros.core.config import Config
from vggt_ros.core.errors import VggtRosError
from vggt_ros.flags import add_setting_flags, config_from_flags

log = logging.getLogger(__name__)

CLIP = Path(__file__).parent / 'data' / 'cabinet'
CLIP_NAME = 'cabinet clip of the TUM RGB-D benchmark (Sturm et al., IROS 2012; CC BY 4.0)'
SHORT_FRAMES = 20
RATE = 2.0  # the clip has 1.5 images a second: three a second is what a small model keeps up with on two cores
START_S = 120.0  # for the node to import torch and load its weights on a slow machine
RESULT_S = 60.0  # for the results of the last image
FIGURES_S = 5.0  # for the diagnostics, which come once a second
UNIT_WARNING = 'lengths are in the unit'
END_S = 15.0  # for the node to end
# How the demo differs from the node's defaults: no robot, no lost image, and patience with a slow machine.
NODE_SETTINGS = {'standalone': True, 'input_reliability': 'reliable', 'max_latency_s': 9.0}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--out', metavar='DIR', default='runs/demo', help='folder for the results (runs/demo)')
    parser.add_argument('--short', action='store_true', help=f'only {SHORT_FRAMES} images')
    parser.add_argument('--speed', type=float, default=RATE, help=f'seconds of the clip per second ({RATE:g})')
    parser.add_argument('--clip', metavar='SOURCE', default=str(CLIP), help='another video or folder of images')
    add_setting_flags(parser)


def main(args: argparse.Namespace) -> int:
    from vggt_ros.dds import free_domain, stay_on_this_machine

    config = config_from_flags(args).with_values(NODE_SETTINGS)
    # Before rclpy is imported: it looks at these once.
    os.environ.update(stay_on_this_machine(free_domain()))
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    report = run_demo(out, Path(args.clip), config, SHORT_FRAMES if args.short else 0, args.speed)
    for check in report.checks:
        print(f'{"ok  " if check.is_good else "FAIL"}  {check.name}: {check.detail}')
    print(out / 'report.html')
    return 0 if report.is_good else 1


def run_demo(out: Path, clip: Path, config: Config, count: int = 0, speed: float = RATE) -> Any:
    """Run it; the report has the checks.

    Args:
        out: folder for the results; those of an earlier demo are replaced.
        clip: a video or a folder of images.
        config: settings of the node.
        count: only so many images; 0 takes all.
        speed: seconds of the clip per second.

    Raises:
        VggtRosError: the node did not start, or died.
    """
    import rclpy
    from rclpy.signals import SignalHandlerOptions

    from vggt_ros.recorded.source import open_source
    from vggt_ros.replay import FrameTape
    from vggt_ros.results.result_bag import ResultBag
    from vggt_ros.run import FILES

    for name in (*FILES, 'report.html', 'metadata.yaml', 'node.log'):
        (out / name).unlink(missing_ok=True)
    print(f'starting the node with {"no network (fake)" if config.model.backend == "fake" else config.model.source}')
    source = open_source(clip)
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)  # Ctrl-C is the command line's
    try:
        tape = FrameTape(source, count=count)
        with ResultBag(out / 'result.mcap') as bag, NodeProcess(config, tape, out / 'node.log') as process:
            demo = _Demo(rclpy.create_node('vggt_demo'), tape, bag, process, config, clip)
            demo.run(speed)
        return demo.finish(out)
    finally:
        rclpy.try_shutdown()
        source.close()


class NodeProcess:
    """`ros2 run vggt_ros node` in a process of its own, its output in a file.

    Args:
        config: its settings, all given by name.
        tape: gives the image topic.
        log_file: for what it says.
    """

    def __init__(self, config: Config, tape: Any, log_file: Path) -> None:
        self.log_file = log_file
        defaults = Config().values()
        parameters = {name: value for name, value in config.values().items() if value != defaults[name]}
        with tempfile.NamedTemporaryFile('w', suffix='.yaml', delete=False) as file:
            file.write(_parameter_file(parameters))
        self._parameter_file = Path(file.name)
        command = [sys.executable, '-m', 'vggt_ros.node', '--ros-args', '--params-file', file.name]
        command += ['-r', f'image:={tape.image_topic}', '-r', f'camera_info:={tape.camera_info_topic}']
        with log_file.open('w') as output:
            # A group of its own: Ctrl-C in the terminal is for us, and we end the node in order.
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def require_alive(self) -> None:
        """VggtRosError with the last lines it said when the node has ended."""
        if self._process.poll() is not None:
            said = '\n  '.join(self.log_file.read_text().splitlines()[-8:])
            raise VggtRosError(f'the node ended with code {self._process.returncode}; {self.log_file} says\n  {said}')

    def stop(self) -> int | None:
        """Ctrl-C; the exit code, or None when it had to be killed."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(END_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                return None
        return self._process.returncode

    def __enter__(self) -> NodeProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._parameter_file.unlink(missing_ok=True)


class _Demo:
    """The robot around the node: camera, recorder, and the eyes on both."""

    def __init__(self, node: Any, tape: Any, bag: Any, process: NodeProcess, config: Config, clip: Path) -> None:
        from diagnostic_msgs.msg import DiagnosticArray

        from vggt_ros.checks import LiveChecks
        from vggt_ros.record import Recorder
        from vggt_ros.results.report import Report

        self._node, self._bag, self._process, self._tape = node, bag, process, tape
        model = 'no network (backend fake)' if config.model.backend == 'fake' else config.model.source
        self._report = Report(CLIP_NAME if clip == CLIP else str(clip), config, model)
        self._sent_ns: list[int] = []
        self._checks = LiveChecks(self._sent_ns, config.frames.odom_frame)
        self._figures: dict[str, str] = {}
        self._recorder = Recorder(node, bag, self._look)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._take_diagnostics, 10)

    def run(self, speed: float) -> None:
        """Play the clip into the node until its last image has come back, then end the node."""
        from tqdm import tqdm

        from vggt_ros.replay import Player

        with _spinning(self._node):
            player = Player(self._node, self._tape, rate=speed)
            self._wait(
                lambda: player.image_subscribers() and self._recorder.is_connected(), START_S, 'topics of the node'
            )
            time.sleep(1.0)  # DDS matches both ends one after the other, and tells about the near one only
            start = time.monotonic()
            with tqdm(total=self._tape.topics[-1].count, unit='image', desc='replaying', disable=None) as bar:
                player.play(lambda message: self._note_sent(message, bar))
            self._wait(self._has_newest, RESULT_S, 'results of the last image', is_fatal=False)
            self._report.wall_s = time.monotonic() - start
            self._figures.clear()
            self._wait(lambda: 'windows' in self._figures, FIGURES_S, 'diagnostics', is_fatal=False)
            self._exit_code = self._process.stop()

    def finish(self, out: Path) -> Any:
        """Check what was recorded and write the report."""
        from vggt_ros.results.report import STAGES, Check
        from vggt_ros.run import write_files

        report = self._report
        report.checks = list(self._checks.results())
        ended = 'exit code 0' if self._exit_code == 0 else f'exit code {self._exit_code}'
        report.checks.append(Check('the node ends when it is told to', self._exit_code == 0, ended))
        report.device = self._figures.get('device', '')
        report.notes = self._warnings()
        for stage in STAGES:
            report.timings.add(stage, float(self._figures.get(f'{stage} s', 0.0)))
        report.counts = {key: int(value) for key, value in self._figures.items() if value.isdigit()}
        write_files(report, out)
        return report

    def _look(self, topic: str, stamp_ns: int, message: Any) -> None:
        self._checks.look(topic, stamp_ns, message)
        self._report.add_message(topic, stamp_ns, message)

    def _note_sent(self, message: Any, bar: Any) -> None:
        self._process.require_alive()
        if message.topic == self._tape.image_topic:
            self._sent_ns.append(message.time_ns)
            bar.update()

    def _has_newest(self) -> bool:
        done = self._checks.stamps
        return all(done[topic] and done[topic][-1] == self._sent_ns[-1] for topic in ('~/odom', '~/points', '~/path'))

    def _take_diagnostics(self, array: Any) -> None:
        for status in array.status:
            self._figures['device'] = status.hardware_id
            self._figures.update({one.key: one.value for one in status.values})

    def _warnings(self) -> list[str]:
        lines = self._process.log_file.read_text().splitlines()
        said = [line.split(']: ', 1)[-1] for line in lines if line.startswith(('[WARN]', '[ERROR]'))]
        return [text for text in said if not text.startswith(UNIT_WARNING)]  # the page says so itself

    def _wait(self, is_true: Callable[[], object], seconds: float, what: str, is_fatal: bool = True) -> None:
        deadline = time.monotonic() + seconds
        while not is_true():
            self._process.require_alive()
            if time.monotonic() > deadline:
                if is_fatal:
                    raise VggtRosError(f'no {what} within {seconds:g} s; see {self._process.log_file}')
                log.warning('no %s within %g s', what, seconds)
                return
            time.sleep(0.05)


@contextlib.contextmanager
def _spinning(node: Any) -> Iterator[None]:
    """Spin a node in a thread while the block runs; what goes wrong in a callback is raised at its end."""
    from rclpy.executors import SingleThreadedExecutor

    executor = SingleThreadedExecutor()
    executor.add_node(node)
    stopped = threading.Event()
    errors: list[BaseException] = []

    def spin() -> None:
        try:
            while not stopped.is_set():
                executor.spin_once(timeout_sec=0.1)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=spin, name='vggt_recorder', daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        executor.shutdown()
    if errors:
        raise errors[0]


def _parameter_file(parameters: dict[str, Any]) -> str:
    """A ROS parameter file: YAML, in which JSON's scalars are at home."""
    import json

    lines = [f'    {name}: {json.dumps(value)}' for name, value in parameters.items()]
    return '\n'.join(['/**:', '  ros__parameters:', *lines]) + '\n'
