"""Conversions between messages and arrays, each against a plain copy of the bytes it makes and the usual slow way.

    python -m benchmarks.messages                       # 640x480
    python -m benchmarks.messages --width 1280 --height 720 --json

Method: ours, the copy and the usual way take turns in every round, so that whatever else runs disturbs all alike. Times
are processor time of the thread, medians over rounds; the copy goes into new memory, as a message's bytes must. The
usual ways: bytes taken out of the array and put into the message again (as cv_bridge does), a checked assignment of a
list, and a cloud packed point by point.
"""

from __future__ import annotations

import argparse
import array
import json
import statistics
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from benchmarks.machine import commit, cpu_name
from vggt_ros.clouds import lift, voxel_points
from vggt_ros.core.memory import keep_freed_memory
from vggt_ros.decode import decode_image
from vggt_ros.encode import MessageMaker
from vggt_ros.messages import ros_messages

STAMP_NS, FRAME_ID = 1_700_000_000_123_456_789, 'camera_optical_frame'


@dataclass(frozen=True, eq=False)
class Case:
    """One conversion.

    Args:
        name: what it makes.
        nbytes: of its result.
        ours: the conversion.
        usual: the usual slow way to the same bytes; None where there is none to speak of.
    """

    name: str
    nbytes: int
    ours: Callable[[], Any]
    usual: Callable[[], Any] | None = None


def cases(height: int, width: int) -> list[Case]:
    """Every conversion of the node, on a smooth picture with some depth unknown."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    slope = np.linspace(1, 4, width, dtype=np.float32)
    depth = np.broadcast_to(slope, (height, width)).copy()
    depth[:, : width // 10] = np.nan
    K = np.array([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1.0]])
    make = MessageMaker(ros_messages())
    raw, bgr = raw_image(image, 'rgb8'), raw_image(image, 'bgr8')
    nv12 = raw_image(np.resize(image[..., 0], (height * 3 // 2, width)), 'nv12', height)
    planes = lift(depth, image, K)
    pose = np.eye(4)

    def cloud() -> Any:
        return make.organised_cloud(STAMP_NS, FRAME_ID, *lift(depth, image, K))

    def filtered() -> Any:
        return make.cloud(STAMP_NS, FRAME_ID, voxel_points(*planes, 0.02))

    return [
        Case('decode rgb8', image.nbytes, lambda: decode_image(raw)),
        Case('decode bgr8', image.nbytes, lambda: decode_image(bgr), lambda: swapped_by_copies(bgr)),
        Case('decode nv12', image.nbytes, lambda: decode_image(nv12)),
        Case(
            'depth 32FC1',
            depth.nbytes,
            lambda: make.image(STAMP_NS, FRAME_ID, '32FC1', depth),
            lambda: list(depth.tobytes()),
        ),
        Case(
            'colour rgb8',
            image.nbytes,
            lambda: make.image(STAMP_NS, FRAME_ID, 'rgb8', image),
            lambda: by_bytes(image),
        ),
        Case('cloud, organised', 16 * depth.size, cloud, lambda: cloud_by_points(depth, image, K)),
        Case('cloud, packed planes to message', 16 * depth.size, lambda: packed_cloud(make, planes)),
        Case('cloud, one point a voxel', len(filtered().data), filtered),
        Case('transform', 56, lambda: make.tf([make.transform(STAMP_NS, 'odom', 'base_link', pose)])),
    ]


def packed_cloud(make: MessageMaker, planes: tuple[np.ndarray, ...]) -> Any:
    """A PointCloud2 of points that are lifted already."""
    x, y, z, rgb = planes
    return make.organised_cloud(STAMP_NS, FRAME_ID, x, y, z, rgb)


def raw_image(pixels: np.ndarray, encoding: str, height: int = 0) -> Any:
    """What decode reads of an Image."""
    data = array.array('B')
    data.frombytes(pixels.tobytes())
    return SimpleNamespace(
        height=height or pixels.shape[0], width=pixels.shape[1], encoding=encoding, is_bigendian=0,
        step=pixels[0].nbytes, data=data,
    )  # fmt: skip


def by_bytes(pixels: np.ndarray) -> array.array[int]:
    """Out of the array into bytes, and into the message's array."""
    data = array.array('B')
    data.frombytes(pixels.tobytes())
    return data


def swapped_by_copies(message: Any) -> np.ndarray:
    """Bytes, array, channels turned round one after the other."""
    pixels = np.frombuffer(bytes(message.data), np.uint8).reshape(message.height, message.width, 3)
    return np.ascontiguousarray(pixels[..., ::-1])


def cloud_by_points(depth: np.ndarray, image: np.ndarray, K: np.ndarray) -> bytes:
    """A cloud in a loop over its points."""
    data = []
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    for v in range(depth.shape[0]):
        for u in range(depth.shape[1]):
            z = float(depth[v, u])
            r, g, b = image[v, u].tolist()
            data.append(struct.pack('<fffI', (u - cx) / fx * z, (v - cy) / fy * z, z, r << 16 | g << 8 | b))
    return b''.join(data)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """Milliseconds of ours, of the copy and of the usual way."""
    source = np.zeros(case.nbytes, np.uint8)
    ways: dict[str, Callable[[], Any]] = {'ours': case.ours, 'copy': source.copy}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for one in range(rounds + 1):
        for name, way in ways.items():
            seconds = processor_seconds(way)
            if one:  # the first round warms up
                taken[name].append(seconds)
    ours, copy = (statistics.median(taken[name]) for name in ('ours', 'copy'))
    quartiles = statistics.quantiles(taken['ours'], n=4)
    usual = processor_seconds(case.usual) if case.usual else None
    return {
        'conversion': case.name,
        'bytes': case.nbytes,
        'ours_ms': ours * 1e3,
        'spread_ms': (quartiles[2] - quartiles[0]) * 1e3,
        'copy_ms': copy * 1e3,
        'copies': ours / copy,
        'usual_ms': usual * 1e3 if usual is not None else None,
        'speed_up': usual / ours if usual is not None else None,
    }


def processor_seconds(call: Callable[[], Any]) -> float:
    """Of this thread, for one call."""
    begin = time.thread_time()
    call()
    return time.thread_time() - begin


def table(results: list[dict[str, Any]]) -> str:
    """One row a conversion."""
    names = ('conversion', 'MB', 'ours [ms]', 'middle half [ms]', 'copy [ms]', 'copies', 'usual [ms]', 'speed-up')
    rows = [f'| {" | ".join(names)} |', '|---' * len(names) + '|']
    for one in results:
        usual = ('-', '-') if one['usual_ms'] is None else (f'{one["usual_ms"]:.2f}', f'{one["speed_up"]:.0f}')
        rows.append(
            f'| {one["conversion"]} | {one["bytes"] / 1e6:.2f} | {one["ours_ms"]:.3f} | {one["spread_ms"]:.3f} | '
            f'{one["copy_ms"]:.3f} | {one["copies"]:.1f} | {usual[0]} | {usual[1]} |'
        )
    return '\n'.join(rows)


def main() -> None:
    """Measure every conversion and print one table, or one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or '').split('\n')[0])
    parser.add_argument('--width', type=int, default=640)
    parser.add_argument('--height', type=int, default=480)
    parser.add_argument('--rounds', type=int, default=100)
    parser.add_argument('--default-malloc', action='store_true', help='do not let malloc keep freed memory')
    parser.add_argument('--json', action='store_true')
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if not arguments.default_malloc:
        keep_freed_memory()  # as the node and the command line do
    results = [measure(case, arguments.rounds) for case in cases(arguments.height, arguments.width)]
    if arguments.json:
        print(json.dumps({'machine': cpu_name(), 'commit': commit(), 'conversions': results}))
        return
    print(
        f'{arguments.width}x{arguments.height}, {cpu_name()}, commit {commit()}, processor time, '
        f'median of {arguments.rounds}\n\n{table(results)}'
    )


if __name__ == '__main__':
    main()
