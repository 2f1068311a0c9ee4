"""The relay's images over Zenoh and over DDS on one bad link: python -m benchmarks.zenoh_link (as root, Linux)

Needs `pip install eclipse-zenoh`. The link is that of benchmarks.offboard: 20 Mbit/s, 40 ms each way, 2 % loss. At
10 Hz one end sends an image as the relay makes it (518x392, JPEG 80), the other answers at once with 700 bytes, as
large as an odometry; after a while the link is cut for ten seconds. Zenoh: two routers with config/zenoh_robot.json5
and config/zenoh_gpu.json5, with the addresses of the two namespaces put in. DDS: a publisher and a subscription with
the relay's QoS and Fast DDS's profile for lossy links. Not rmw_zenoh itself, which PyPI does not have: to a message it
adds an attachment of some 50 bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.offboard import CAMERA_HZ, ENDS, ROOT, start, two_namespaces
from vggt_ros.dds import wireless_profile

IMAGE, ANSWER = 'relay/image_rect/compressed', 'vggt/odom'
HEADER = struct.Struct('<q')  # the stamp, ns
ANSWER_BYTES = 700
CASES = ('dds', 'zenoh tcp', 'zenoh udp')
Take = Callable[[bytes], None]


def images() -> list[bytes]:
    """As the relay sends them, a stamp's room before each."""
    from vggt_ros.recorded.source import open_source
    from vggt_ros.shrink import Shrink, encode

    shrink = Shrink(518, 14)
    frames = [frame for _, frame in zip(range(40), open_source(ROOT / 'vggt_ros/data/cabinet'), strict=False)]
    return [bytes(encode(shrink(frame).image, 'jpeg', 80)) for frame in frames]


def over_zenoh(end: str, protocol: str, take: Take) -> Callable[[bytes], None]:
    """A router with our configuration; gives how to send, and hands on what comes."""
    import zenoh

    config = zenoh.Config.from_file(str(ROOT / f'config/zenoh_{end}.json5'))
    there = f'{protocol}/{ENDS["gpu"]}:7447'
    addresses = {'robot': ('connect/endpoints', [there]), 'gpu': ('listen/endpoints', [there])}
    config.insert_json5(addresses[end][0], json.dumps(addresses[end][1]))
    if end == 'robot':
        config.insert_json5('listen/endpoints', '[]')
    session = zenoh.open(config)
    out, back = (IMAGE, ANSWER) if end == 'robot' else (ANSWER, IMAGE)
    keep = [session, session.declare_subscriber(f'0/{back}/**', lambda sample: take(sample.payload.to_bytes()))]
    publisher = session.declare_publisher(f'0/{out}/type/hash', congestion_control=zenoh.CongestionControl.DROP)

    def send(data: bytes) -> None:
        publisher.put(data)
        assert keep  # lives as long as this

    return send


def over_dds(end: str, take: Take) -> Callable[[bytes], None]:
    import rclpy
    from rclpy.duration import Duration
    from rclpy.qos import QoSProfile, ReliabilityPolicy
    from sensor_msgs.msg import CompressedImage

    rclpy.init()
    node = rclpy.create_node(end)
    qos = QoSProfile(depth=4, reliability=ReliabilityPolicy.RELIABLE, lifespan=Duration(seconds=1))
    out, back = (IMAGE, ANSWER) if end == 'robot' else (ANSWER, IMAGE)
    publisher = node.create_publisher(CompressedImage, out, qos)
    node.create_subscription(CompressedImage, back, lambda one: take(bytes(one.data)), 50)
    threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()

    def send(data: bytes) -> None:
        message = CompressedImage()
        message.data.frombytes(data)
        publisher.publish(message)

    return send


def run_end(end: str, case: str, seconds: float, out: Path) -> None:
    """One end, in its namespace."""
    came: list[tuple[int, int]] = []
    sender: list[Callable[[bytes], None]] = []

    def take(data: bytes) -> None:
        if end == 'robot':
            came.append((HEADER.unpack_from(data)[0], time.time_ns()))
        elif sender:
            sender[0](data[: HEADER.size].ljust(ANSWER_BYTES, b'.'))

    sender.append(over_dds(end, take) if case == 'dds' else over_zenoh(end, case.split()[1], take))
    if end == 'gpu':
        signal.pause()
    pictures, sent = images(), []

    def film(until: Callable[[], bool]) -> None:
        begin = time.monotonic()
        for i in range(10**6):
            if until():
                return
            time.sleep(max(0.0, begin + i / CAMERA_HZ - time.monotonic()))
            now = time.time_ns()
            sender[0](HEADER.pack(now) + pictures[i % len(pictures)])
            sent.append(now)

    film(lambda: bool(came))
    out.with_suffix('.begun').touch()
    end_s = time.monotonic() + seconds
    film(lambda: time.monotonic() > end_s)
    out.write_text(json.dumps({'sent': sent, 'came': came}))
    os._exit(0)


def measure(case: str, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    out, told = folder / f'{case.replace(" ", "_")}.json', folder / 'link.json'
    with two_namespaces(told) as link, contextlib.ExitStack() as stack:
        total = args.steady + args.cut + args.after
        for end in ('gpu', 'robot'):
            words = ('--end', end, '--case', case, '--seconds', str(total), '--out', str(out))
            process = start(end, wireless_profile(), '-m', 'benchmarks.zenoh_link', *words, log=folder / f'{end}.log')
            stack.callback(process.wait)
            stack.callback(lambda one=process: one.poll() is None and os.killpg(one.pid, signal.SIGKILL))
        deadline = time.monotonic() + 90
        while not out.with_suffix('.begun').exists():
            if time.monotonic() > deadline or process.poll() is not None:
                return {'case': case, 'failed': (folder / 'robot.log').read_text()[-500:]}
            time.sleep(0.05)
        before, began = json.loads(told.read_text())['bytes'], time.time_ns()
        time.sleep(args.steady)
        after, cut_at = json.loads(told.read_text())['bytes'], time.time_ns()
        os.kill(link, signal.SIGUSR1)
        time.sleep(args.cut)
        os.kill(link, signal.SIGUSR1)
        mended = time.time_ns()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(args.after + 60)
        result = json.loads(out.read_text())
    sent = [stamp for stamp in result['sent'] if began <= stamp < cut_at - 1_000_000_000]
    latency = {stamp: (when - stamp) / 1e6 for stamp, when in result['came']}
    found = [latency[stamp] for stamp in sent if stamp in latency]
    back = [(stamp, when) for stamp, when in result['came'] if when > mended]
    return {
        'case': case,
        'images': len(sent),
        'without_answer_percent': 100 * (1 - len(found) / len(sent)),
        'latency_ms': {q: round(float(np.percentile(found, q)), 1) for q in (50, 90, 99)} if found else {},
        'bytes_an_image_out': (after[0] - before[0]) / (args.steady * CAMERA_HZ),
        'bytes_an_image_back': (after[1] - before[1]) / (args.steady * CAMERA_HZ),
        'recovery_s': (min((when for stamp, when in back if stamp > mended), default=np.nan) - mended) / 1e9,
        'oldest_after_the_cut_s': max(((when - stamp) / 1e9 for stamp, when in back), default=None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('cases', nargs='*', default=list(CASES), help=f'of {", ".join(CASES)}')
    parser.add_argument('--steady', type=float, default=20.0)
    parser.add_argument('--cut', type=float, default=10.0)
    parser.add_argument('--after', type=float, default=15.0)
    parser.add_argument('--end', help=argparse.SUPPRESS)
    parser.add_argument('--case', help=argparse.SUPPRESS)
    parser.add_argument('--seconds', type=float, help=argparse.SUPPRESS)
    parser.add_argument('--out', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.end:
        run_end(args.end, args.case, args.seconds, args.out)
    if os.geteuid() != 0:
        sys.exit('namespaces and TAP devices need root')
    print(f'load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores', flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for case in args.cases:
            print(json.dumps(measure(case, args, Path(folder))), flush=True)


if __name__ == '__main__':
    main()
