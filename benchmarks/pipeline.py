"""From the publication of an image to the last of its results, through the real node in another process.

    python -m benchmarks.pipeline                        # 640x480 at 30 a second, all outputs, for 20 s
    python -m benchmarks.pipeline --seconds 5 --json     # one JSON object

Method: this process publishes images and subscribes to everything; the node runs in a second one with a stand-in that
answers at once, so that what is measured is all but the network. Windows of 8 with a stride of 1: every image has
results of its own, and waits for no other. An image's latency ends when the last message with its stamp has come here,
the map apart, which has a period of its own. Messages come as bytes and their stamps are read from those, as a consumer
in C++ costs no Python; --deserialise makes Python objects of all of them. Images of the first second are not counted.
The processor's shares are those of the processes, of one core, while images come. Milliseconds outside the network are
those of the node's worker, from taking an image to its last message, as the diagnostics have them; resizing for the
network is counted apart. The same images then go through the usual ways in this process, without any ROS between: an
image by copies, a depth image as a list, a cloud point by point.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import commit, cpu_name, processor_seconds_of
from benchmarks.messages import by_bytes, cloud_by_points, processor_seconds, raw_image, swapped_by_copies
from vggt_ros.core.memory import keep_freed_memory
from vggt_ros.dds import free_domain, stay_on_this_machine
from vggt_ros.results.report import STAGES
from vggt_ros.topics import NODE_NAME, TOPICS, Topic

ROOT = Path(__file__).resolve().parents[1]
IMAGE, OPTICAL = '/benchmark/image', 'benchmark_optical_frame'
STATIC = ('/tf_static', '~/map_points')  # not made for every image
WARM_UP_S = 1.0
DEADLINE_S = 60.0
PARAMETERS: dict[str, str | int] = {
    'backend': 'fake',
    'window_size': 8,
    'window_stride': 1,
    'standalone': 'true',
    'input_reliability': 'reliable',
    'intrinsics_mode': 'locked',
}
NETWORK = ('network', 'prepare')  # stages, after live.tally; all others are outside


class Listener:
    """Subscribes to what the node publishes, and notes when the last message of each stamp came.

    Args:
        node: owns the subscriptions.
        is_raw: messages come as bytes.
    """

    def __init__(self, node: Any, is_raw: bool) -> None:
        from diagnostic_msgs.msg import DiagnosticArray

        self.arrivals: dict[int, dict[str, float]] = {}
        self.stages: list[dict[str, float]] = []
        self._is_raw = is_raw
        self.subscriptions = [self._listen(node, topic) for topic in TOPICS if topic.name not in STATIC]
        node.create_subscription(DiagnosticArray, '/diagnostics', self._note_stages, 10)

    def per_image(self, stamps: Collection[int]) -> set[str]:
        """Topics with a message for most of these stamps: the others tell of rare things."""
        came = Counter(name for stamp in stamps for name in self.arrivals.get(stamp, {}))
        return {name for name, count in came.items() if 2 * count > len(stamps)}

    def complete(self, expected: set[str]) -> dict[int, float]:
        """Stamp -> steady seconds of the last message, for the stamps all of whose topics have come."""
        return {stamp: max(got.values()) for stamp, got in self.arrivals.items() if expected <= got.keys()}

    def stages_ms(self) -> dict[str, float]:
        """Of the node's worker, a published frame, between the first and the last diagnostics."""
        first, last = self.stages[0], self.stages[-1]
        spent = {stage: last[stage] - first.get(stage, 0.0) for stage in last}
        published = spent.pop('published')
        return {stage: 1e3 * seconds / published for stage, seconds in spent.items()}

    def _listen(self, node: Any, topic: Topic) -> Any:
        from rclpy.qos import QoSProfile

        from vggt_ros.messages import ros_messages

        name = topic.name.replace('~', NODE_NAME)
        stamp_of = (raw_tf_stamp_ns if topic.name == '/tf' else raw_stamp_ns) if self._is_raw else message_stamp_ns

        def note(message: Any) -> None:
            self.arrivals.setdefault(stamp_of(message), {})[topic.name] = time.monotonic()

        return node.create_subscription(ros_messages()[topic.type], name, note, QoSProfile(depth=100), raw=self._is_raw)

    def _note_stages(self, message: Any) -> None:
        values = {one.key: one.value for status in message.status for one in status.values}
        stages = {key[:-2]: float(value) for key, value in values.items() if key.endswith(' s') and key[:-2] in STAGES}
        if stages:
            self.stages.append({**stages, 'published': float(values['frames published'])})


def raw_stamp_ns(data: bytes) -> int:
    """Of a serialised message that begins with a header; four bytes say how it is serialised."""
    seconds, nanoseconds = struct.unpack_from('<iI', data, 4)
    return seconds * 10**9 + nanoseconds


def raw_tf_stamp_ns(data: bytes) -> int:
    """Of a serialised TFMessage: that of its first transform, behind their number."""
    seconds, nanoseconds = struct.unpack_from('<iI', data, 8)
    return seconds * 10**9 + nanoseconds


def message_stamp_ns(message: Any) -> int:
    stamp = (message.transforms[0] if hasattr(message, 'transforms') else message).header.stamp
    return stamp.sec * 10**9 + stamp.nanosec


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Run the node, send it images, and sum up."""
    os.environ.update(stay_on_this_machine(free_domain()))
    import rclpy

    rclpy.init()
    node = rclpy.create_node('benchmark')
    listener = Listener(node, is_raw=not arguments.deserialise)
    publisher = image_publisher(node)
    threading.Thread(target=rclpy.spin, args=(node,), daemon=True).start()
    with running_node(arguments) as process:
        wait_for(lambda: publisher.get_subscription_count(), process)
        wait_for(lambda: all(node.count_publishers(one.topic_name) for one in listener.subscriptions), process)
        time.sleep(1.0)  # matched at the far ends too
        wait_for(lambda: _send_first(publisher, arguments, listener), process)
        listener.stages.clear()
        sent, seconds, shares = _send(publisher, process.pid, arguments)
        time.sleep(1.0)
    counted = {stamp: at for stamp, at in sent.items() if at - min(sent.values()) > WARM_UP_S}
    expected = listener.per_image(counted)
    done = listener.complete(expected)
    latencies = sorted((done[stamp] - at) * 1e3 for stamp, at in counted.items() if stamp in done)
    rclpy.shutdown()
    stages = listener.stages_ms()
    return {
        'images': len(counted),
        'topics': len(expected),
        'rate': len(sent) / seconds,
        'latency_ms': {'p50': percentile(latencies, 50), 'p95': percentile(latencies, 95), 'max': latencies[-1]},
        'frames_lost': len(counted) - len(latencies),
        'cpu_percent': shares['node'],
        'cpu_percent_here': shares['here'],
        'cpu_ms_per_image': shares['node'] / 100 * seconds / len(sent) * 1e3,
        'outside_network_ms': sum(ms for stage, ms in stages.items() if stage not in NETWORK),
        'stages_ms': stages,
        'usual_ms_per_image': usual_ms(arguments),
        'size': [arguments.width, arguments.height],
        'machine': cpu_name(),
        'commit': commit(),
    }


@contextmanager
def running_node(arguments: argparse.Namespace) -> Iterator[subprocess.Popen[bytes]]:
    """The node in a process of its own, until the block ends."""
    words = [word for name, value in PARAMETERS.items() for word in ('-p', f'{name}:={value}')]
    command = [sys.executable, '-m', 'vggt_ros.node', '--ros-args', '-r', f'image:={IMAGE}', *words]
    command += ['-p', f'input_width:={arguments.input_width}'] if arguments.input_width else []
    command += ['-p', f'output_resolution:={arguments.output_resolution}']
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(DEADLINE_S)
            if arguments.log:
                log.seek(0)
                sys.stderr.buffer.write(log.read())


def image_publisher(node: Any) -> Any:
    """Of the images that the node takes."""
    from rclpy.qos import QoSProfile
    from sensor_msgs.msg import Image

    return node.create_publisher(Image, IMAGE, QoSProfile(depth=10))


def _send_first(publisher: Any, arguments: argparse.Namespace, listener: Listener) -> bool:
    """Images one by one until results come: the node waits for a calibration first."""
    publisher.publish(image_message(arguments, time.time_ns()))
    time.sleep(0.1)
    return len(listener.arrivals) > int(PARAMETERS['window_size'])


def _send(publisher: Any, pid: int, arguments: argparse.Namespace) -> tuple[dict[int, float], float, dict[str, float]]:
    """Publish at the rate; stamps with steady seconds, seconds in all, percent of a core of the two processes."""
    messages = [image_message(arguments, 0, seed) for seed in range(8)]
    sent: dict[int, float] = {}
    pids = {'node': pid, 'here': os.getpid()}
    begin, used = time.monotonic(), {name: processor_seconds_of(one) for name, one in pids.items()}
    for i in range(round(arguments.seconds * arguments.rate)):
        time.sleep(max(0.0, begin + i / arguments.rate - time.monotonic()))
        message, stamp_ns = messages[i % len(messages)], time.time_ns()
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
        sent[stamp_ns] = time.monotonic()
        publisher.publish(message)
    seconds = time.monotonic() - begin
    shares = {name: (processor_seconds_of(one) - used[name]) / seconds * 100 for name, one in pids.items()}
    return sent, seconds, shares


def image_message(arguments: argparse.Namespace, stamp_ns: int, seed: int = 0) -> Any:
    """Noise of `height` and `width`."""
    from sensor_msgs.msg import Image

    shape = (arguments.height, arguments.width, 3)
    message = Image(height=shape[0], width=shape[1], encoding='bgr8', step=3 * shape[1])
    message.header.frame_id = OPTICAL
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.data.frombytes(np.random.default_rng(seed).integers(0, 256, shape, np.uint8).tobytes())
    return message


def usual_ms(arguments: argparse.Namespace) -> float:
    """Processor milliseconds of the usual ways for one image: decode, colour, depth and a cloud, no ROS between."""
    image = np.zeros((arguments.height, arguments.width, 3), np.uint8)
    depth = np.ones(image.shape[:2], np.float32)
    K = np.eye(3)
    raw = raw_image(image, 'bgr8')
    ways = (
        lambda: swapped_by_copies(raw),
        lambda: by_bytes(image),
        lambda: list(depth.tobytes()),
        lambda: cloud_by_points(depth, image, K),
    )
    return 1e3 * sum(processor_seconds(way) for way in ways)


def percentile(values: list[float], percent: int) -> float:
    """Of at least two values."""
    return statistics.quantiles(values, n=100, method='inclusive')[percent - 1]


def wait_for(is_true: Any, process: subprocess.Popen[bytes]) -> None:
    """Until it is; SystemExit where the process ends before, or it takes too long."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_true():
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit('the node did not come up, or answers nothing; --log shows what it said')
        time.sleep(0.05)


def main() -> None:
    """Measure, and print a table or one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--seconds', type=float, default=20.0)
    parser.add_argument('--rate', type=float, default=30.0, help='images a second')
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--input-width', type=int, default=0, help="of the stand-in's grid; 0 is its own, 112")
    parser.add_argument('--output-resolution', choices=('input', 'model'), default='model', help='of the node')
    parser.add_argument('--deserialise', action='store_true', help='make Python objects of all messages that come')
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--log', action='store_true', help='show what the node said')
    keep_freed_memory()  # or every image that comes is paged in anew
    result = measure(arguments := parser.parse_args())
    if arguments.json:
        print(json.dumps(result))
        return
    latency = result['latency_ms']
    print(
        f'{arguments.width}x{arguments.height}, {result["rate"]:.1f} images a second, {result["topics"]} topics, '
        f'{result["machine"]}, commit {result["commit"]}\n\n'
        f'| images | p50 [ms] | p95 [ms] | max [ms] | lost | node, of one core | sender and listener | '
        f'node [ms an image] | outside the network [ms] | usual ways [ms an image] |\n{"|---" * 10}|\n'
        f'| {result["images"]} | {latency["p50"]:.1f} | {latency["p95"]:.1f} | {latency["max"]:.1f} | '
        f'{result["frames_lost"]} | {result["cpu_percent"]:.0f} % | {result["cpu_percent_here"]:.0f} % | '
        f'{result["cpu_ms_per_image"]:.1f} | {result["outside_network_ms"]:.1f} | '
        f'{result["usual_ms_per_image"]:.0f} |\n\nmilliseconds an image of the worker, by stage: '
        + ', '.join(f'{stage} {ms:.2f}' for stage, ms in result['stages_ms'].items())
    )


if __name__ == '__main__':
    main()
