"""What goes wrong on robots, one function a fault: docs/reliability.md has a row for each.

A row does the fault to a bench that works, says what the user reads, and leaves a bench that works.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fault_bench import DEPTH, GAP_S, ODOM, SIZE, START_S, Bench, Outcome, stamp_of, to_time
from robot import DEADLINE_S, OPTICAL, ROOT, SETTLE_S, NodeProcess, wait_until
from rosgraph_msgs.msg import Clock
from safetensors.numpy import load_file, save_file
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger

from vggt_ros.recorded.recording import open_recording
from vggt_ros.results.result_bag import CHUNK_BYTES

SECOND_NS = 10**9
NANO = ROOT / 'vggt/weights/nano.safetensors'
END_S = 30.0  # for the end of a process that was told to end; five of them are the network's
NETWORK_S = 110.0  # for the process that tries the faults of the network


class NotPermitted(Exception):  # noqa: N818  a reason, not an error
    """This machine does not let the fault be made; its text says what is missing."""


Make = Callable[[Bench], 'Outcome | None']


@dataclass(frozen=True)
class Row:
    """A fault.

    Args:
        name: of the row in the table.
        make: does it to a bench.
        takes: which frames the fault itself takes.
    """

    name: str
    make: Callable[[Bench], Outcome | None]
    takes: str

    def run(self, bench: Bench) -> Outcome:
        """One try."""
        bench.begin()
        return self.make(bench) or bench.finish()


ROWS: list[Row] = []


def row(name: str, takes: str = 'none') -> Callable[[Make], Make]:
    """Enter a fault into the table."""

    def enter(make: Make) -> Make:
        ROWS.append(Row(name, make, takes))
        return make

    return enter


# Stamps and time.


@row('the images pause', 'those not sent')
def gap(bench: Bench) -> None:
    with bench.fault():
        time.sleep(2 * GAP_S)
    bench.sees(r'no frame for [\d.]+ s: starting a new window', 'no image for')


@row('a stamp comes twice', 'the second of each')
def duplicate(bench: Bench) -> None:
    bench.good(2)
    with bench.fault():
        bench.insist(r'duplicate stamps: [1-9]', lambda: (bench.good(1), bench.send(bench.last_ns, must=False)))


@row('the process stands still for a second')
def frozen(bench: Bench) -> None:
    """As on a machine that is overloaded: the subscription holds five images, and newer ones overwrite them."""
    bench.good(2)
    bench.node.process.send_signal(signal.SIGSTOP)
    for _ in range(20):
        bench.send()
        time.sleep(0.05)
    with bench.fault():
        bench.node.process.send_signal(signal.SIGCONT)
    bench.sees('image.s. on /camera/image_raw were never taken', 'lost before they were taken: [1-9]')


@row('images come out of order', 'the late ones')
def reordered(bench: Bench) -> None:
    bench.good(2)
    with bench.fault():
        bench.insist(r'out of order: [1-9]', lambda: (bench.good(1), bench.send(bench.last_ns - 500_000, must=False)))


@row('stamps go back ten seconds', 'those waiting for a full window')
def backward(bench: Bench) -> None:
    fill_window(bench)
    bench.good(2)
    with bench.fault():
        step_clock(bench, -10)
    bench.sees(r'stamps went back by [\d.]+ s: starting a new map')
    step_clock(bench, 10)


@row('stamps lie a minute ahead, then no more', 'those waiting for a full window')
def future(bench: Bench) -> None:
    step_clock(bench, 60)
    fill_window(bench)
    bench.good(4)
    with bench.fault():
        step_clock(bench, -60)
    bench.sees(r'the image has a stamp [\d.]+ s ahead of the clock here', 'stamps went back by')


@row('a bag loops, without a clock')
def loop(bench: Bench) -> None:
    start = bench.last_ns
    for _ in range(2):
        bench.last_ns = start
        for i in range(1, 16):
            bench.good(1, stamp_ns=start + i * SECOND_NS // 10)
    bench.last_ns = start + 2 * SECOND_NS
    came = len(bench.robot.received[ODOM])
    with bench.fault():
        pass
    bench.robot.wait_until(lambda: len(bench.robot.received[ODOM]) > came, 'odometry after the loop')
    bench.sees('stamps went back by', 'stamps on /tf went back')


@row('a bag loops, with its clock')
def loop_with_clock(bench: Bench) -> None:
    clock = bench.robot.create_publisher(Clock, '/clock', 10)
    bench.set_parameters(use_sim_time=True)
    start = bench.last_ns
    for _ in range(2):
        for i in range(1, 16):
            clock.publish(Clock(clock=to_time(start + i * SECOND_NS // 10)))
            bench.good(1, stamp_ns=start + i * SECOND_NS // 10)
    bench.sees('stamps went back by')
    bench.last_ns = start + 2 * SECOND_NS
    with bench.fault():
        bench.set_parameters(use_sim_time=False)
    bench.robot.destroy_publisher(clock)


def fill_window(bench: Bench) -> None:
    """Until a result comes: a new map drops what waits for its window, as its stamps then lie in the future."""

    def comes() -> bool:
        bench.good(1, must=False)
        return any(stamp_of(message) in bench.stamps for message in list(bench.robot.received[DEPTH]))

    bench.robot.wait_until(comes, 'a result before the fault')


def step_clock(bench: Bench, seconds: float) -> None:
    """The camera's clock is set anew."""
    bench.offset_ns += int(seconds * SECOND_NS)
    bench.last_ns = 0


# Images and their calibration.


@row('the resolution changes, and back')
def resolution(bench: Bench) -> None:
    bench.how = {'size': (SIZE[0] * 3 // 4, SIZE[1] // 2)}
    bench.insist('image size changed from 160x120 to 80x90', lambda: bench.good(1))
    with bench.fault():
        bench.how = {}
    bench.sees('nvblox, for one, stops at that')


@row('the encoding changes, and back')
def encoding(bench: Bench) -> None:
    for name in ('bgr8', 'mono8', 'rgb8'):
        bench.how = {'encoding': name}
        bench.good(3)
    with bench.fault():
        bench.how = {}
    bench.sees('input, image: 160x120 rgb8')


@row('an encoding that nobody knows', 'those images')
def unknown_encoding(bench: Bench) -> None:
    bad_images(bench, lambda image: setattr(image, 'encoding', 'hsv8'), "image encoding 'hsv8' is not supported")


@row('truncated images', 'those images')
def truncated(bench: Bench) -> None:
    def cut(image: Image) -> None:
        image.data = image.data[: len(image.data) // 3]

    bad_images(bench, cut, r'160x120 .rgb8. with step 480 is truncated: it needs 480 bytes a row')


@row('images that claim to be larger than any', 'those images')
def oversized(bench: Bench) -> None:
    def claim(image: Image) -> None:
        image.height = image.width = 2**32 - 1
        image.step = 0

    bad_images(bench, claim, r'4294967295x4294967295 .rgb8.')


@row('images without a stamp', 'those images')
def zero_stamp(bench: Bench) -> None:
    with bench.fault():
        bench.insist('the image has stamp 0', lambda: bench.send(0, must=False))


def bad_images(bench: Bench, change: Callable[[Image], object], said: str) -> None:
    with bench.fault():
        bench.insist(said, lambda: bench.send(must=False, change=change))


@row('CameraInfo is not that of the image', 'those images')
def lying_size(bench: Bench) -> None:
    bad_infos(bench, lambda info: setattr(info, 'width', 4096), 'input, last not decodable: .*4096')


@row('CameraInfo holds NaN', 'none: the network guesses the intrinsics')
def lying_nan(bench: Bench) -> None:
    bad_infos(bench, lambda info: setattr(info, 'k', [float('nan')] * 9), 'input: no CameraInfo: intrinsics are those')


def bad_infos(bench: Bench, change: Callable[[CameraInfo], object], said: str) -> None:
    with bench.fault():
        bench.insist(said, lambda: bench.send(must=False, change_info=change))


# TF.


@row('TF of the camera dies', 'of odometry alone')
def dead_tf(bench: Bench) -> None:
    bench.good(2)
    bench.tf_delay_s = None
    # said at intervals: on a busy machine TF may have come too late in the row before
    bench.insist(f'TF has no base_link <- {OPTICAL} at the stamp of the image', lambda: bench.good(1))
    lost_of = len(bench.robot.received[ODOM])
    with bench.fault():
        bench.tf_delay_s = 0.0
    bench.robot.wait_until(lambda: len(bench.robot.received[ODOM]) > lost_of, 'odometry again')


@row('TF comes 0.1 s after its image')
def late_tf(bench: Bench) -> None:
    bench.good(2)
    bench.tf_delay_s = 0.1
    bench.good(3)
    with bench.fault():
        bench.tf_delay_s = 0.0
    stamps = {stamp_of(message) for message in bench.robot.received[DEPTH]}
    odometry = bench.robot.received[ODOM]
    bench.robot.wait_until(lambda: stamps <= {stamp_of(message) for message in odometry}, 'odometry of all of them')


# Those who listen.


@row('a subscriber stops reading, then dies')
def subscriber(bench: Bench) -> None:
    consumer = bench.start_subscriber()
    consumer.send_signal(signal.SIGSTOP)
    bench.good(20)
    with bench.fault():
        consumer.kill()
        consumer.wait()


# The network.


@row('out of memory with large windows', 'of the window that failed')
def out_of_memory(bench: Bench) -> None:
    bench.order.write_text('memory of large windows')
    said = 'out of memory: going on with windows of 2 frames, 1 of them new'
    with bench.fault():
        bench.insist(said, lambda: bench.send(must=False))
    bench.sees('windows are half as long now')
    bench.order.write_text('')
    bench.change_state('deactivate', 'cleanup', 'configure', 'activate')
    bench.robot.wait_for_match()


@row('out of memory always', 'until it is activated again')
def never_enough_memory(bench: Bench) -> None:
    bench.order.write_text('memory')
    said = 'out of memory with smaller windows, too: deactivated; lower window_size or input_width'
    bench.insist(said, lambda: bench.send(must=False))
    bench.sees('node: inactive: images are not taken')
    with bench.fault():
        bench.order.write_text('')
        bench.change_state('cleanup', 'configure', 'activate')
        bench.robot.wait_for_match()


@row('the device is lost', 'until the node has started anew')
def device_lost(bench: Bench) -> None:
    bench.order.write_text('device')
    fails_and_starts_again(bench, 'the device is lost: RuntimeError: CUDA error: unspecified launch failure')


@row('the network hangs', 'until the node has started anew')
def stuck(bench: Bench) -> None:
    bench.set_parameters(window_timeout_s=1.5)
    bench.order.write_text('stuck')
    fails_and_starts_again(bench, r'the network is stuck: it has been at one window for \d+ s')
    bench.set_parameters(window_timeout_s=600.0)


def fails_and_starts_again(bench: Bench, said: str) -> None:
    bench.insist(f'{said}; back to unconfigured', lambda: bench.send(must=False))
    bench.sees('node: unconfigured: ')
    with bench.fault():
        bench.order.write_text('')
        bench.sees('starting again after: ')
        bench.robot.wait_until(lambda: bench.find('node: active'), 'the node active again')
        bench.robot.wait_for_match()


@row('the network returns NaN', 'none: unknown depth, odometry lost')
def not_a_number(bench: Bench) -> None:
    bench.order.write_text('nan')

    def is_lost() -> bool:
        bench.good(1)
        return any(message.pose.covariance[0] >= 9999 for message in bench.robot.received[ODOM])

    bench.robot.wait_until(is_lost, 'odometry that says that it is lost')
    bench.insist('tracking: lost: ', lambda: bench.good(1))  # diagnostics come once a second
    with bench.fault():
        bench.order.write_text('')


@row('the network takes ten times as long', 'those passed over for newer ones')
def slow(bench: Bench) -> None:
    bench.order.write_text('slow')
    bench.insist('skipped because newer ones came: [1-9]', lambda: bench.send(must=False))
    with bench.fault():
        bench.order.write_text('')


# Files.


@row('weights are cut short, then removed, while they run', 'until they are back and the node is configured again')
def weights_removed(bench: Bench) -> None:
    """In float32, as the large networks come: what needs no conversion is what a reader could leave in the file."""
    whole = {name: value.astype(np.float32) for name, value in load_file(NANO).items()}
    weights = bench.folder / 'weights.safetensors'
    save_file(whole, weights)
    shutil.copy(NANO.with_suffix('.json'), weights.with_suffix('.json'))
    depth: list[Image] = []
    listener = bench.robot.create_subscription(Image, '/weights/depth/image_rect', depth.append, 50)
    node = bench.start_node('weights', '', name='weights', backend='vggt', checkpoint_path=str(weights))

    def gives_results() -> None:
        seen = len(depth)
        reach(node, lambda: len(depth) > seen, lambda: bench.good(1))

    gives_results()
    with weights.open('r+b') as file:
        file.truncate(weights.stat().st_size // 2)
    gives_results()
    again = ('deactivate', 'cleanup', 'configure')
    assert bench.change_state(*again, node='weights') == [True, True, False]
    bench.sees('node: unconfigured: cannot configure: .*damaged or cut short .* delete it and download it again')
    weights.unlink()
    assert bench.change_state('configure', node='weights') == [False]
    bench.sees('node: unconfigured: cannot configure: there is no weights file .*weights.safetensors')
    save_file(whole, weights)
    start = time.monotonic()
    assert bench.change_state('configure', 'activate', node='weights') == [True, True]
    gives_results()
    recover_s = time.monotonic() - start
    assert node.stop() == 0
    assert 'Traceback' not in node.text
    bench.robot.destroy_subscription(listener)
    assert {stamp_of(message) for message in depth} <= bench.stamps
    with bench.fault():
        pass
    bench.outcome.recover_s = recover_s


@row('a map takes long to save')
def slow_save(bench: Bench) -> None:
    bench.order.write_text('slow save')
    bench.client(Trigger, '/vggt/save_map').wait_for_service(DEADLINE_S)
    time.sleep(SETTLE_S)
    answer = bench.client(Trigger, '/vggt/save_map').call_async(Trigger.Request())
    with bench.fault():
        bench.good(5)
    assert not answer.done()
    bench.order.write_text('')
    bench.robot.wait_until(answer.done, 'answer, though nothing else happens')
    assert answer.result().success


@row('the disk fills while a map is saved')
def full_disk(bench: Bench) -> None:
    with tmpfs(bench.maps, 16 << 10):
        answer = bench.robot.call(Trigger, '/vggt/save_map', Trigger.Request())
        left = list(bench.maps.iterdir())
    assert not answer.success
    assert left == []
    with bench.fault():
        pass
    bench.sees('cannot save to .*: the disk is full')
    saved = bench.robot.call(Trigger, '/vggt/save_map', Trigger.Request())
    assert saved.success, saved.message


class tmpfs:  # noqa: N801  (a context manager that reads as a thing)
    """A small disk in place of a folder. Source: mount(2), umount(2)."""

    def __init__(self, folder: Path, size: int) -> None:
        self._folder, self._size = str(folder).encode(), size
        self._libc = ctypes.CDLL(None, use_errno=True)

    def __enter__(self) -> None:
        if self._libc.mount(b'none', self._folder, b'tmpfs', 0, f'size={self._size}'.encode()):
            raise NotPermitted(f'mounting a small disk is not permitted: {os.strerror(ctypes.get_errno())}')

    def __exit__(self, *_: object) -> None:
        self._libc.umount2(self._folder, 2)  # MNT_DETACH


# The network between camera and node.


@row('the network loses a fifth of the packets', 'those sent until results come again')
def network_loss(bench: Bench) -> Outcome:
    return outcome_of_network(bench, 'loss')


@row('the network takes 0.2 s each way')
def network_delay(bench: Bench) -> Outcome:
    return outcome_of_network(bench, 'delay')


@row('the network is cut for three seconds', 'those sent until results come again')
def network_cut(bench: Bench) -> Outcome:
    return outcome_of_network(bench, 'cut')


def outcome_of_network(bench: Bench, fault: str) -> Outcome:
    """All three are done by one process, which goes into a network of its own."""
    if fault not in bench.of_network:
        folder = Path(tempfile.mkdtemp(dir=bench.folder))
        process = bench.start_program([str(ROOT / 'test/node/fault_network.py'), str(folder)], folder.name)
        assert process.wait(NETWORK_S) == 0, (bench.folder / f'{folder.name}.log').read_text()
        bench.of_network = json.loads((bench.folder / f'{folder.name}.log').read_text().splitlines()[-1])
    if 'not permitted' in bench.of_network:
        raise NotPermitted(bench.of_network['not permitted'])
    return Outcome(**bench.of_network.pop(fault))


# Whoever else is there.


@row('two nodes have one name')
def namesake(bench: Bench) -> None:
    other = bench.start_node('namesake', autostart=False)
    try:
        bench.sees(r'1 other node\(s\) called /vggt: topics and services mix', deadline_s=START_S)
    finally:
        code = other.stop()
    with bench.fault():
        assert code == 0


@row('a storm of parameters')
def parameter_storm(bench: Bench) -> None:
    with bench.fault():
        for i in range(30):
            good, bad = bench.set_parameters(max_latency_s=4.0 + i % 2, max_frame_gap_s=-1.0)
            assert good.successful
            assert not bad.successful
            bench.good(1)
    bench.set_parameters(max_latency_s=5.0)


@row('a storm of lifecycle transitions', 'while not active')
def lifecycle_storm(bench: Bench) -> None:
    chance = random.Random(0)
    names = ('configure', 'activate', 'deactivate', 'cleanup')
    for _ in range(40):
        bench.change_state(chance.choice(names))
        bench.send(must=False)
    with bench.fault():
        for name in ('deactivate', 'cleanup', 'configure', 'activate'):
            bench.change_state(name)
        bench.robot.wait_for_match()


# The end of the process, at every stage.

REACHED = 'the fault is due'  # in no sentence of the node's
HERE = f'print({REACHED!r}, flush=True)'
LOADS = f"""
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in what a shell starts with &
import vggt_ros.core.predictor as p
p.make_predictor = lambda config: ({HERE}, time.sleep(60))
"""
WARMS = f"""
import time
from vggt_ros.core.pipeline import Pipeline
Pipeline.warm_up = lambda self: ({HERE}, time.sleep(60))
"""
INFERS = f"""
import time
from vggt_ros.core.predictor import FakePredictor as P
P.predict = lambda self, window: ({HERE}, time.sleep(60))
P.works_on_device = True
"""
SAVES = f"""
import time
import vggt_ros.live.save_services as s
s.scene_files = lambda *_: {{'1': lambda: b'whole', '2': lambda: ({HERE}, time.sleep(SECONDS), b'whole')[-1]}}
"""


@row('SIGINT and SIGTERM while it configures', 'none: the process was to end')
def ends_configuring(bench: Bench) -> None:
    ends_when_told(bench, LOADS)


@row('SIGINT and SIGTERM while it warms up', 'none: the process was to end')
def ends_warming_up(bench: Bench) -> None:
    ends_when_told(bench, WARMS)


@row('SIGINT and SIGTERM while it waits', 'none: the process was to end')
def ends_waiting(bench: Bench) -> None:
    ends_when_told(bench, '', 'waiting for images')


@row('SIGINT and SIGTERM while it infers', 'the window being computed')
def ends_inferring(bench: Bench) -> None:
    ends_when_told(bench, INFERS, act=lambda _: bench.good(1))


@row('SIGINT and SIGTERM while it saves', 'none: the map is saved first')
def ends_saving(bench: Bench) -> None:
    before = set(bench.maps.iterdir())
    ends_when_told(bench, SAVES.replace('SECONDS', '1'), act=lambda name: ask_to_save(bench, name))
    saved = [folder for folder in bench.maps.iterdir() if folder not in before]
    assert len(saved) >= 2
    assert all((folder / file).read_bytes() == b'whole' for folder in saved for file in '12')


@row('SIGKILL while a map is saved', 'that map')
def killed_saving(bench: Bench) -> None:
    bench.good(4)
    assert bench.robot.call(Trigger, '/vggt/save_map', Trigger.Request()).success
    before = {path for path in bench.maps.iterdir() if path.name[0] != '.'}
    node = bench.start_node('killed', SAVES.replace('SECONDS', '60'), name='killed')
    with bench.fault():
        reach(node, lambda: REACHED in node.text, lambda: ask_to_save(bench, 'killed'))
        node.stop(signal.SIGKILL)
    assert {path for path in bench.maps.iterdir() if path.name[0] != '.'} == before
    assert (max(before) / 'cloud.ply').read_bytes().startswith(b'ply')


@row('SIGKILL while result.mcap is written', 'the last 1 MiB of messages')
def killed_writing(bench: Bench) -> None:
    folder = bench.folder / f'run{time.monotonic_ns()}'
    clip = ROOT / 'vggt_ros/data/cabinet'
    command = ['-m', 'vggt_ros.cli', 'run', str(clip), '--backend', 'fake', '--out', str(folder)]
    bag = folder / 'result.mcap'
    with bench.fault():
        run = bench.start_program(command)
        wait_until(lambda: bag.exists() and bag.stat().st_size > 3 << 20, deadline_s=START_S)
        run.kill()
        run.wait()
    written = bag.stat().st_size
    recording = open_recording(bag)
    read = sum(len(message.data) for message in recording.messages())
    recording.close()
    assert 0 <= written - read < 1.2 * CHUNK_BYTES


def ends_when_told(
    bench: Bench, before: str, reached: str = REACHED, act: Callable[[str], object] = lambda name: None
) -> None:
    """One process is ended by SIGINT, another by SIGTERM: code 0, no traceback, in seconds."""
    names = {number: f'{number.name.lower()}_{time.monotonic_ns()}' for number in (signal.SIGINT, signal.SIGTERM)}
    nodes = {number: bench.start_node(name, before, name=name) for number, name in names.items()}
    for number, node in nodes.items():
        reach(node, lambda node=node: reached in node.text, lambda number=number: act(names[number]))
    start = time.monotonic()
    for number, node in nodes.items():
        node.process.send_signal(number)
    for node in nodes.values():
        assert node.process.wait(DEADLINE_S) == 0, node.text
        assert 'Traceback' not in node.text
    ended_s = time.monotonic() - start
    assert ended_s < END_S
    with bench.fault():
        pass
    bench.outcome.recover_s = ended_s
    bench.outcome.sees.append('exit code 0')


def reach(node: NodeProcess, is_there: Callable[[], bool], act: Callable[[], object]) -> None:
    """Do something again and again, once a node is active, until it is so."""

    def look() -> bool:
        assert node.process.poll() is None, f'the node ended with {node.process.returncode}:\n{node.text}'
        if not is_there() and 'waiting for images' in node.text:
            act()
        return is_there()

    wait_until(look, deadline_s=START_S, period_s=0.1)


def ask_to_save(bench: Bench, name: str) -> None:
    """Without waiting for the answer, once the node has a map; images go to all nodes alike."""
    bench.good(1)
    bench.client(Trigger, f'/{name}/save_map').call_async(Trigger.Request())
