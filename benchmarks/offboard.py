"""A robot without a GPU over a bad link: python -m benchmarks.offboard (as root, Linux)

Two network namespaces, joined by a link of 20 Mbit/s, 40 ms each way and 2 % loss, with a queue of 100 ms. At one end a
camera of 640x480 at 10 Hz and the relay, at the other the node with a stub or with nano. After a while the link is cut
for ten seconds. The same with raw images and with Fast DDS as it comes. The link is a program that passes frames
between two TAP devices, since not every kernel has netem; nothing leaves the two namespaces.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import heapq
import json
import os
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
ENDS = {'robot': '10.77.0.1', 'gpu': '10.77.0.2'}
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000  # Source: Linux, if_tun.h
RATE_BITS, DELAY_S, LOSS, QUEUE_S = 20e6, 0.040, 0.02, 0.1
CAMERA_HZ = 10.0
UDP_ALONE = """<dds xmlns="http://www.eprosima.com"><profiles>
<transport_descriptors><transport_descriptor><transport_id>udp</transport_id><type>UDPv4</type></transport_descriptor>
</transport_descriptors>
<participant profile_name="udp" is_default_profile="true"><rtps>
<userTransports><transport_id>udp</transport_id></userTransports><useBuiltinTransports>false</useBuiltinTransports>
</rtps></participant></profiles></dds>"""  # no shared memory, which knows no namespaces; else Fast DDS as it comes
CASES = {  # name: (relay width and multiple, or raw; profile; parameters of the node)
    'relay 518x392, stub': ((518, 14), 'wireless', {'backend': 'fake'}),
    'relay 128x96, nano': ((128, 8), 'wireless', {'device': 'cpu'}),
    'relay 518x392, stub, Fast DDS as it comes': ((518, 14), 'plain', {'backend': 'fake'}),
    'raw 640x480, stub': (None, 'wireless', {'backend': 'fake'}),
    'raw 640x480, stub, Fast DDS as it comes': (None, 'plain', {'backend': 'fake'}),
}


class Link:
    """Passes Ethernet frames both ways, late, seldom and slowly, until the process ends; SIGUSR1 cuts and mends it."""

    def __init__(self, devices: list[int]) -> None:
        self.devices = devices
        self.bytes, self.lost, self.is_cut = [0, 0], [0, 0], False
        self._free_at = [0.0, 0.0]
        self._heap: list[tuple[float, int, int, bytes]] = []
        self._count = 0
        self._random = random.Random(0)

    def toggle(self, *_: object) -> None:
        self.is_cut = not self.is_cut

    def run(self, told: Path) -> None:
        said = 0.0
        while True:
            now = time.monotonic()
            wait = max(0.0, self._heap[0][0] - now) if self._heap else 0.2
            readable, _, _ = select.select(self.devices, [], [], min(wait, 0.2))
            for device in readable:
                self._take(self.devices.index(device), os.read(device, 65536))
            now = time.monotonic()
            while self._heap and self._heap[0][0] <= now:
                _, _, to, data = heapq.heappop(self._heap)
                with contextlib.suppress(OSError):
                    os.write(self.devices[to], data)
            if now - said > 0.2:
                said = now
                told.write_text(json.dumps({'bytes': self.bytes, 'lost': self.lost}))

    def _take(self, came_from: int, data: bytes) -> None:
        now = time.monotonic()
        begin = max(now, self._free_at[came_from])
        if self.is_cut or begin - now > QUEUE_S:
            self.lost[came_from] += 1
            return
        self._free_at[came_from] = begin + len(data) * 8 / RATE_BITS
        self.bytes[came_from] += len(data)
        if self._random.random() < LOSS:
            self.lost[came_from] += 1
            return
        self._count += 1
        heapq.heappush(self._heap, (self._free_at[came_from] + DELAY_S, self._count, 1 - came_from, data))


def open_tap(name: str) -> int:
    device = os.open('/dev/net/tun', os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack('16sH', name.encode(), IFF_TAP | IFF_NO_PI))
    return device


def sh(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@contextlib.contextmanager
def two_namespaces(told: Path) -> Iterator[int]:
    """Both ends and the link between them; gives the process of the link."""
    names = {end: f'vggt_{end}' for end in ENDS}
    devices = []
    try:
        for end, address in ENDS.items():
            sh('ip', 'netns', 'add', names[end])
            devices.append(open_tap(f'tap_{end}'))
            sh('ip', 'link', 'set', f'tap_{end}', 'netns', names[end])
            inside = ('ip', 'netns', 'exec', names[end], 'ip')
            sh(*inside, 'addr', 'add', f'{address}/24', 'dev', f'tap_{end}')
            sh(*inside, 'link', 'set', f'tap_{end}', 'up')
            sh(*inside, 'link', 'set', 'lo', 'up')
            sh(*inside, 'route', 'add', '224.0.0.0/4', 'dev', f'tap_{end}')
        process = os.fork()
        if process == 0:
            link = Link(devices)
            signal.signal(signal.SIGUSR1, link.toggle)
            link.run(told)
        try:
            yield process
        finally:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    finally:
        for device in devices:
            os.close(device)
        for name in names.values():
            subprocess.run(['ip', 'netns', 'del', name], check=False, capture_output=True)


def start(end: str, profile: Path, *command: str, log: Path) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ, 'PYTHONPATH': str(ROOT), 'ROS_DOMAIN_ID': '77', 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET',
        'FASTDDS_DEFAULT_PROFILES_FILE': str(profile), 'FASTRTPS_DEFAULT_PROFILES_FILE': str(profile),
    }  # fmt: skip
    environment.pop('ROS_LOCALHOST_ONLY', None)
    with log.open('w') as output:
        return subprocess.Popen(
            ['ip', 'netns', 'exec', f'vggt_{end}', sys.executable, *command],
            env=environment, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip


def robot_end(topic: str, seconds: float, out: Path) -> None:
    """A camera and whoever reads the odometry, on one clock."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from nav_msgs.msg import Odometry
    from rclpy.duration import Duration
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CameraInfo, Image

    from vggt_ros.recorded.source import open_source

    frames = [frame for _, frame in zip(range(40), open_source(ROOT / 'vggt_ros/data/cabinet'), strict=False)]
    rclpy.init()
    node = rclpy.create_node('robot')
    qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
    images = node.create_publisher(Image, topic, qos)
    infos = node.create_publisher(CameraInfo, 'camera/camera_info', qos)
    sent: list[int] = []
    came: list[tuple[int, int]] = []

    def film() -> None:
        frame = frames[len(sent) % len(frames)]
        height, width = frame.size
        now = time.time_ns()
        image = Image(height=height, width=width, step=3 * width, encoding='rgb8')
        image.header.frame_id = 'camera'
        image.header.stamp.sec, image.header.stamp.nanosec = divmod(now, 10**9)
        image.data.frombytes(frame.image.tobytes())
        infos.publish(
            CameraInfo(
                header=image.header, height=height, width=width, k=frame.K.reshape(9),
                p=np.hstack([frame.K, np.zeros((3, 1))]).reshape(12), r=np.eye(3).reshape(9),
                d=[0.0] * 5, distortion_model='plumb_bob',
            )
        )
        images.publish(image)
        sent.append(now)

    def keep(message: Odometry) -> None:
        stamp = message.header.stamp
        came.append((stamp.sec * 10**9 + stamp.nanosec, time.time_ns()))

    told: list[tuple[int, int, int]] = []

    def note(message: DiagnosticArray) -> None:
        for status in message.status:
            values = {one.key: one.value for one in status.values}
            if 'skipped because newer ones came' in values:
                told.append((time.time_ns(), int(values['received']), int(values['skipped because newer ones came'])))

    fresh = QoSProfile(depth=50, lifespan=Duration(seconds=2))  # or a result waits in DDS for one lost before it
    node.create_subscription(Odometry, '/vggt/odom', keep, fresh)
    node.create_subscription(DiagnosticArray, '/diagnostics', note, 10)
    node.create_timer(1 / CAMERA_HZ, film)
    while not came:  # both ends have found each other
        rclpy.spin_once(node, timeout_sec=0.1)
    out.with_suffix('.begun').touch()
    sent.clear()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        rclpy.spin_once(node, timeout_sec=0.05)
    out.write_text(json.dumps({'sent': sent, 'came': came, 'told': told}))
    os._exit(0)


def measure(name: str, steady_s: float, cut_s: float, after_s: float, folder: Path) -> dict[str, object]:
    size, profile_name, parameters = CASES[name]
    profile = ROOT / 'vggt_ros/data/dds/wireless.xml'
    if profile_name == 'plain':
        profile = folder / 'plain.xml'
        profile.write_text(UDP_ALONE)
    out, told = folder / 'came.json', folder / 'link.json'
    out.unlink(missing_ok=True)
    out.with_suffix('.begun').unlink(missing_ok=True)
    common = {'standalone': 'true', 'window_size': 4, 'window_stride': 2, 'input_reliability': 'reliable'}
    common |= {'max_image_age_s': 2.0, 'max_latency_s': 2.0, **parameters}
    image = '/camera/image'
    if size is not None:
        common['image_transport'] = 'compressed'
        image = '/relay/image_rect'
    settings = [word for key, value in common.items() for word in ('-p', f'{key}:={value}')]
    with two_namespaces(told) as link, contextlib.ExitStack() as stack:
        def run(end: str, label: str, *command: str) -> subprocess.Popen[bytes]:
            process = start(end, profile, *command, log=folder / f'{label}.log')
            stack.callback(process.wait)
            stack.callback(lambda: os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None)
            return process

        run('gpu', 'node', '-m', 'vggt_ros.node', '--ros-args', '-r', f'image:={image}', *settings)
        if size is not None:
            run(
                'robot', 'relay', '-m', 'vggt_ros.relay', '--ros-args', '-r', 'image:=/camera/image',
                '-p', f'width:={size[0]}', '-p', f'multiple:={size[1]}', '-p', 'input_reliability:=reliable',
            )  # fmt: skip
        total = steady_s + cut_s + after_s
        robot = run('robot', 'robot', '-m', 'benchmarks.offboard', '--robot-end', str(out), '--seconds', str(total))
        begun = out.with_suffix('.begun')
        deadline = time.monotonic() + 60
        while not begun.exists():
            if time.monotonic() > deadline or robot.poll() is not None:
                return {'case': name, 'failed': 'no result in 60 s'}
            time.sleep(0.05)
        bytes_before, began = json.loads(told.read_text())['bytes'], time.time_ns()
        time.sleep(steady_s)
        bytes_after, cut_at = json.loads(told.read_text())['bytes'], time.time_ns()
        os.kill(link, signal.SIGUSR1)
        time.sleep(cut_s)
        os.kill(link, signal.SIGUSR1)
        mended = time.time_ns()
        robot.wait(after_s + 30)
    result = json.loads(out.read_text())
    return {'case': name, **figures(result, began, cut_at, mended, bytes_before, bytes_after, steady_s)}


def figures(
    result: dict[str, list], began: int, cut_at: int, mended: int, before: list[int], after: list[int], steady_s: float
) -> dict[str, object]:
    """What is counted: frames sent in the steady time up to a second before its end."""
    until = cut_at - 1_000_000_000
    sent = [stamp for stamp in result['sent'] if began <= stamp < until]
    latency = {stamp: (when - stamp) / 1e6 for stamp, when in result['came']}
    found = [latency[stamp] for stamp in sent if stamp in latency]
    new = [when for stamp, when in result['came'] if stamp > mended]
    back = [(stamp, when) for stamp, when in result['came'] if when > mended]
    told = [one for one in result['told'] if began <= one[0] < until]
    (first, received, skipped), (last, *at_last) = told[0], told[-1]
    filmed = (last - first) / 1e9 * CAMERA_HZ
    return {
        'frames': len(sent),
        'arrived_percent': 100 * (at_last[0] - received) / filmed,
        'passed_over_for_newer_percent': 100 * (at_last[1] - skipped) / filmed,
        'without_result_percent': 100 * (1 - len(found) / max(1, len(sent))),
        'latency_ms': {q: float(np.percentile(found, q)) for q in (50, 90, 99)} if found else {},
        'bytes_a_frame_up': (after[0] - before[0]) / (steady_s * CAMERA_HZ),
        'bytes_a_frame_down': (after[1] - before[1]) / (steady_s * CAMERA_HZ),
        'recovery_s': (min(new) - mended) / 1e9 if new else None,
        'oldest_result_after_the_cut_s': max(((when - stamp) / 1e9 for stamp, when in back), default=None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--cases', nargs='*', type=int, help='numbers of cases, from 0')
    parser.add_argument('--steady', type=float, default=25.0)
    parser.add_argument('--cut', type=float, default=10.0)
    parser.add_argument('--after', type=float, default=12.0)
    parser.add_argument('--keep', help='folder for the logs')
    parser.add_argument('--robot-end', help=argparse.SUPPRESS)
    parser.add_argument('--seconds', type=float, default=0.0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.robot_end:
        robot_end('camera/image', args.seconds, Path(args.robot_end))
    if os.geteuid() != 0:
        sys.exit('namespaces and TAP devices need root')
    names = list(CASES)
    print(f'load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores')
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.keep or temporary)
        folder.mkdir(exist_ok=True)
        for i in args.cases if args.cases is not None else range(len(names)):
            print(json.dumps(measure(names[i], args.steady, args.cut, args.after, folder)), flush=True)


if __name__ == '__main__':
    main()
