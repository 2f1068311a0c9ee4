"""Faults of the network between camera and node: python fault_network.py FOLDER prints an Outcome for each, as JSON;
with the word "held" after it, what comes of a result that the link held back.

Camera and node stand in network namespaces of their own, joined by two TAP devices and a process that carries packets
from one to the other, late, or not at all. No module of the kernel but tun is needed. Source: tap in Linux,
Documentation/networking/tuntap.rst; namespaces(7).
"""

from __future__ import annotations

import ctypes
import dataclasses
import fcntl
import json
import mmap
import os
import random
import select
import shutil
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000  # sched.h
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x2, 0x1000  # linux/if_tun.h
MTU = 9000
UDP_ALONE = """<?xml version="1.0" encoding="UTF-8"?>
<dds xmlns="http://www.eprosima.com"><profiles>
  <transport_descriptors><transport_descriptor>
    <transport_id>udp</transport_id><type>UDPv4</type>
    <sendBufferSize>4194304</sendBufferSize><receiveBufferSize>4194304</receiveBufferSize>
  </transport_descriptor></transport_descriptors>
  <participant profile_name="udp_alone" is_default_profile="true"><rtps>
    <userTransports><transport_id>udp</transport_id></userTransports>
    <useBuiltinTransports>false</useBuiltinTransports>
  </rtps></participant>
</profiles></dds>
"""


class NotPermittedError(OSError):
    """This machine does not let us make a network; its text says what is missing."""


class Wire:
    """Two ends in namespaces of their own; this process is at the second, `first` names the namespace of the other."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        ends = []
        self.first = ''
        for number in (1, 2):
            if libc.unshare(CLONE_NEWNET):
                raise NotPermittedError(f'a network namespace is not permitted: {os.strerror(ctypes.get_errno())}')
            if number == 1:
                self._namespace = os.open('/proc/self/ns/net', os.O_RDONLY)
                self.first = f'/proc/{os.getpid()}/fd/{self._namespace}'
            ends.append(_tap(f'10.77.0.{number}/24'))
        self._settings = mmap.mmap(-1, 16)
        self.set()
        self._carrier = os.fork()
        if self._carrier == 0:
            try:
                _carry(ends, self._settings)
            finally:
                os._exit(0)

    def set(self, *, loss: float = 0.0, delay_s: float = 0.0) -> None:
        """From now on so many packets are lost, and the rest come so much later, both ways."""
        self._settings[:16] = struct.pack('dd', loss, delay_s)

    def close(self) -> None:
        os.kill(self._carrier, 9)
        os.waitpid(self._carrier, 0)


def _tap(address: str) -> int:
    try:
        tap = os.open('/dev/net/tun', os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack('16sH', b'tap0', IFF_TAP | IFF_NO_PI))
    except OSError as error:
        raise NotPermittedError(f'a TAP device is not permitted: {error.strerror}') from error
    if shutil.which('ip') is None or shutil.which('nsenter') is None:
        raise NotPermittedError('the commands ip (iproute2) and nsenter (util-linux) are missing')
    up = f'addr add {address} dev tap0', f'link set tap0 mtu {MTU} up', 'link set lo up'
    for rule in (*up, 'route add 224.0.0.0/4 dev tap0'):
        subprocess.run(['ip', *rule.split()], check=True)
    return tap


def _carry(ends: list[int], settings: mmap.mmap) -> None:
    """Packets from each end to the other, until killed."""
    chance = random.Random(0)
    waiting: deque[tuple[float, int, bytes]] = deque()
    while True:
        due_s = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.05
        ready = select.select(ends, [], [], due_s)[0]
        loss, delay_s = struct.unpack('dd', settings[:16])
        for end in ready:
            packet = os.read(end, MTU + 100)
            if chance.random() >= loss:
                waiting.append((time.monotonic() + delay_s, ends[end == ends[0]], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, end, packet = waiting.popleft()
            try:
                os.write(end, packet)
            except OSError:  # its queue is full: a wire loses what does not fit
                continue


# A publisher of results that nobody wants after half a second; it sends one for each line that it reads.
WRITER = """
import sys, time
import rclpy
from builtin_interfaces.msg import Time
from rclpy.duration import Duration
from rclpy.qos import QoSProfile
from std_msgs.msg import Header
rclpy.init()
results = rclpy.create_node('writer').create_publisher(
    Header, '/result', QoSProfile(depth=10, lifespan=Duration(seconds=0.5))
)
for line in sys.stdin:
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    results.publish(Header(stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=line.strip()))
    print('sent', flush=True)
"""


def main(folder: Path, what: str = 'faults') -> int:
    try:
        wire = Wire()
    except NotPermittedError as reason:
        print(json.dumps({'not permitted': str(reason)}))
        return 0
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    from vggt_ros.distro import this_distro

    profile = folder / 'udp_alone.xml'
    profile.write_text(UDP_ALONE)
    os.environ[this_distro().profiles_variable] = str(profile)
    for name in this_distro().stay_local:
        os.environ.pop(name, None)
    print(json.dumps(hold_back(wire) if what == 'held' else try_faults(wire, folder)))
    wire.close()
    return 0


def hold_back(wire: Wire) -> dict[str, list[tuple[str, float]]]:
    """One result is lost on the way, the next comes, then the link is cut: what two subscriptions get, how old (s)."""
    import rclpy
    from rclpy.duration import Duration
    from rclpy.qos import QoSProfile
    from std_msgs.msg import Header

    writer = subprocess.Popen(
        ['nsenter', f'--net={wire.first}', sys.executable, '-c', WRITER],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    rclpy.init()
    node = rclpy.create_node('reader')
    got: dict[str, list[tuple[str, float]]] = {'as it comes': [], 'with a lifespan': []}
    for name, qos in (
        ('as it comes', QoSProfile(depth=10)),
        ('with a lifespan', QoSProfile(depth=10, lifespan=Duration(seconds=0.5))),
    ):

        def keep(message: Header, name: str = name) -> None:
            age_ns = time.time_ns() - message.stamp.sec * 10**9 - message.stamp.nanosec
            got[name].append((message.frame_id, age_ns / 1e9))

        node.create_subscription(Header, '/result', keep, qos)

    def send(name: str) -> None:
        print(name, file=writer.stdin, flush=True)
        writer.stdout.readline()

    def spin(done: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not done() and time.monotonic() < end:
            rclpy.spin_once(node, timeout_sec=0.02)

    def have(result: str) -> bool:
        return all(any(one == result for one, _ in several) for several in got.values())

    while not have('first'):
        send('first')
        spin(lambda: have('first'), 0.2)
    wire.set(loss=1.0)
    send('lost')
    time.sleep(0.1)
    wire.set(delay_s=0.3)
    send('held')
    time.sleep(0.1)  # it is on its way; the question for the lost one will not get back
    wire.set(loss=1.0)
    spin(lambda: False, 1.5)
    wire.set()
    send('last')
    spin(lambda: have('last'))
    writer.kill()
    writer.wait()
    return got


def try_faults(wire: Wire, folder: Path) -> dict[str, Any]:
    from fault_bench import Bench

    bench = Bench(folder, prefix=['nsenter', f'--net={wire.first}'])
    outcomes = {}
    for name, loss, delay_s, seconds in (('loss', 0.2, 0.0, 2), ('delay', 0.0, 0.2, 0), ('cut', 1.0, 0.0, 3)):
        bench.begin()
        wire.set(loss=loss, delay_s=delay_s)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            bench.send(must=False)
            time.sleep(0.1)
        if not seconds:
            bench.good(12)
        with bench.fault(takes_recovery=seconds > 0):
            wire.set()
        if name == 'cut':
            bench.sees('no frame for|no image for')
        outcomes[name] = dataclasses.asdict(bench.finish())
    bench.close()
    return outcomes


if __name__ == '__main__':
    sys.exit(main(Path(sys.argv[1]), *sys.argv[2:]))
