"""Many recordings: python -m benchmarks.batch

Twenty bags on two workers with nano, one of them broken, killed in the middle and resumed; the result against one run
after the other. One recording whole and in parts. Time against the number of workers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
CLIP = ROOT / 'vggt_ros/data/cabinet'
LENGTHS = (8, 12, 16)  # frames of a bag


def make_recordings(folder: Path, count: int) -> Path:
    """Folders of images, pieces of the demo clip, one with a picture that is none."""
    lines = [line for line in (CLIP / 'frames.txt').read_text().splitlines() if line[:1].isdigit()]
    for i in range(count):
        piece = folder / f'drive{i:02}'
        piece.mkdir(parents=True)
        first = i % 8 * 4
        chosen = lines[first : first + LENGTHS[i % len(LENGTHS)]]
        (piece / 'frames.txt').write_text('\n'.join(chosen) + '\n')
        for line in chosen:
            file = piece / line.split()[1]
            file.parent.mkdir(exist_ok=True)
            shutil.copy(CLIP / line.split()[1], file)
        shutil.copy(CLIP / 'camera.json', piece)
    broken = folder / 'drive07' / lines[7 % 8 * 4 + 5].split()[1]
    broken.write_bytes(b'no picture')
    return folder


def command(*words: object) -> list[str]:
    return [sys.executable, '-m', 'vggt_ros.cli', *map(str, words), '--device', 'cpu', '--quiet']


def seconds_of(*words: object) -> float:
    start = time.perf_counter()
    subprocess.run(command(*words), check=False, capture_output=True)
    return time.perf_counter() - start


def killed_and_resumed(recordings: Path, folder: Path, count: int) -> dict[str, object]:
    out, alone = folder / 'out', folder / 'alone'
    words = ('batch', recordings, '--out', out, '--workers', 2)
    running = subprocess.Popen(command(*words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and len(list(out.glob('drive*'))) < count // 2:
        time.sleep(0.05)
    running.send_signal(signal.SIGKILL)
    running.wait()
    time.sleep(3)  # Ray's processes see that it is gone, and end
    before = {path.name: path.stat().st_ino for path in out.glob('drive*') if not path.name.endswith('.failed')}
    resumed_s = seconds_of(*words)
    summary = json.loads((out / 'summary.json').read_text())
    kept = all((out / name).stat().st_ino == inode for name, inode in before.items())
    one_by_one_s = seconds_of('batch', recordings, '--out', alone, '--workers', 1)
    done = [row['name'] for row in summary['rows'] if row['state'] != 'failed']
    worst = max(worst_difference(out / name, alone / name) for name in done)
    return {
        'recordings': summary['recordings'],
        'done_before_the_kill': len(before),
        'kept_as_they_were': kept,
        'done_after': summary['done'],
        'failed': [f'{row["name"]}: {row["failure"][-60:]}' for row in summary['rows'] if row['state'] == 'failed'],
        'resumed_s': resumed_s,
        'one_by_one_s': one_by_one_s,
        'largest_difference_of_a_pose': worst,
    }


def worst_difference(one: Path, other: Path) -> float:
    a, b = (np.loadtxt(folder / 'trajectory_tum.txt', ndmin=2) for folder in (one, other))
    return float(np.abs(a[:, 1:] - b[:, 1:]).max()) if a.shape == b.shape else float('inf')


def split(folder: Path, workers: int, frames: int) -> dict[str, object]:
    """The clip to and fro three times, by one worker and in parts; times without those of starting."""
    recording = folder / 'long'
    recording.mkdir(parents=True)
    lines = [line.split() for line in (CLIP / 'frames.txt').read_text().splitlines() if line[:1].isdigit()]
    way = [one[1] for one in [*lines, *lines[::-1], *lines]]
    (recording / 'frames.txt').write_text(
        ''.join(f'{100 + 0.5 * i:.3f} {CLIP / file}\n' for i, file in enumerate(way))
    )
    shutil.copy(CLIP / 'camera.json', recording)
    words = (recording, '--force', '--out')
    whole_s = seconds_of('batch', *words, folder / 'whole', '--workers', 1)
    parts_s = seconds_of('batch', *words, folder / 'parts', '--workers', workers, '--split', frames)
    whole, parts = (json.loads((folder / one / 'long/summary.json').read_text()) for one in ('whole', 'parts'))
    residuals = [seam['residual'] for seam in whole['seams'] if seam['residual'] is not None]
    return {
        'frames': whole['frames'],
        'frames_a_part': frames,
        'workers': workers,
        'whole_s': whole['wall_s'],
        'in_parts_s': parts['wall_s'],
        'with_start_s': [whole_s, parts_s],
        'outside_the_network': whole['timings']['outside_network'],
        'largest_difference_of_a_pose': worst_difference(folder / 'whole/long', folder / 'parts/long'),
        'median_seam_residual': float(np.median(residuals)),
        'way': whole['path_length'],
    }


def speed_up(recordings: Path, folder: Path, most: int) -> list[dict[str, float]]:
    """Time of all recordings against workers, without that of starting: of an empty batch."""
    rows = []
    for workers in range(1, most + 1):
        out = folder / f'workers{workers}'
        total = seconds_of('batch', recordings, '--out', out, '--workers', workers)
        busy = sum(row['wall_s'] or 0.0 for row in json.loads((out / 'summary.json').read_text())['rows'])
        rows.append({'workers': workers, 'total_s': total, 'sum_of_recordings_s': busy})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--recordings', type=int, default=20)
    parser.add_argument('--only', choices=('killed', 'split', 'speed'))
    args = parser.parse_args()
    os.environ |= {'OMP_NUM_THREADS': '1', 'RAY_worker_niceness': '0'}  # alone or not, alike for one worker and several
    print(f'load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores', flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        recordings = make_recordings(folder / 'recordings', args.recordings)
        if args.only in (None, 'killed'):
            print(json.dumps(killed_and_resumed(recordings, folder / 'killed', args.recordings)), flush=True)
        if args.only in (None, 'split'):
            print(json.dumps(split(folder / 'split', 2, 24)), flush=True)
        if args.only in (None, 'speed'):
            print(json.dumps(speed_up(recordings, folder / 'speed', len(os.sched_getaffinity(0)))), flush=True)


if __name__ == '__main__':
    main()
