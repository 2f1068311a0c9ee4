"""What known mounts are worth: poses and metres of windows seen by a rig, with errors as a network makes them.

python -m benchmarks.rig [--json]
python -m benchmarks.rig --network nano [--rooms 20]    # a real network in rendered rooms instead

A robot drives along an arc with three cameras: one ahead, one 25 cm to the right of it, one looking back 36 cm away.
A window has 8 moments. Every camera of every moment errs on its own: in turn, and in place by a share of the window's
extent. Nothing is rendered; what is measured is rig.Rig alone, not a network.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from training.paths import draw_path
from training.renderer import render
from training.scenes import make_scene
from vggt_ros.core.config import Config
from vggt_ros.core.frame import Frame
from vggt_ros.core.geometry import BODY_FROM_OPTICAL, invert_rigid, rotation_angle
from vggt_ros.core.prediction import Prediction
from vggt_ros.core.predictor import make_predictor
from vggt_ros.core.rig import Rig, all_views, split_cameras
from vggt_ros.core.window import Window

MOMENTS, RUNS = 8, 200
STEP = 0.15  # metres between moments
TURN_DEG = 0.3  # rms of a camera's turn, as in benchmarks.simulated
SHARES = (0.003, 0.01, 0.03, 0.1, 0.3)  # rms of a camera's place, of the window's extent; 0.01 in benchmarks.simulated


def camera_at(x: float, y: float, z: float, yaw_deg: float) -> np.ndarray:
    """[4, 4] base_from_cam: at a place of the robot, turned to the left by yaw."""
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler('z', yaw_deg, degrees=True).as_matrix()
    turn[:3, 3] = x, y, z
    return turn @ BODY_FROM_OPTICAL


MOUNTS = {0: camera_at(0, 0, 0, 0), 1: camera_at(0, -0.25, 0, -60), 2: camera_at(-0.3, 0.2, 0, 170)}


def beside(right: float, yaw_deg: float) -> np.ndarray:
    """[4, 4] a second camera in the optical frame of the first, so many metres to the right, turned to the right."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler('y', yaw_deg, degrees=True).as_matrix()
    pose[0, 3] = right
    return pose


PAIRS = {
    '20 cm beside, looking alike': beside(0.2, 0.0),
    '20 cm beside, turned by 30 degrees': beside(0.2, 30.0),
    '20 cm beside, turned by 60 degrees': beside(0.2, 60.0),
}


def measure(share: float, seed: int) -> dict[str, float]:
    """Errors of one window: rms place of the robot in metres and turn in degrees, alone and held, and of the metres."""
    rng = np.random.default_rng(seed)
    world_from_base = arc(rng)
    extent = float(np.ptp(world_from_base[:, :3, 3], axis=0).max())
    scale = math.exp(rng.normal(0, 0.5))
    true_poses = [pose @ MOUNTS[c] for pose in world_from_base for c in MOUNTS]
    poses = np.stack([spoil(rng, pose, share * extent) for pose in true_poses])
    prediction = predict(poses, scale)
    held, fit = Rig(MOUNTS).hold(prediction)
    truth = invert_rigid(true_poses[0]) @ np.stack(true_poses[::3])
    errors = {}
    for name, one in (('alone', prediction), ('held', held)):
        seen = one.window_from_cam.copy()
        seen[:, :3, 3] /= scale
        place = np.linalg.norm(seen[1:, :3, 3] - truth[1:, :3, 3], axis=1)
        turn = rotation_angle(np.swapaxes(seen[1:, :3, :3], 1, 2) @ truth[1:, :3, :3])
        errors[f'{name}_m'] = float(np.sqrt(np.mean(place**2)))
        errors[f'{name}_deg'] = math.degrees(float(np.sqrt(np.mean(turn**2))))
    return {**errors, 'metres_off': abs(math.log(fit.metres_per_unit * scale)), 'said': fit.error}


def arc(rng: np.random.Generator) -> np.ndarray:
    """[MOMENTS, 4, 4] poses of the robot: forward, turning by up to 5 degrees a step."""
    poses, turn = [np.eye(4)], rng.uniform(-5, 5)
    for _ in range(MOMENTS - 1):
        step = np.eye(4)
        step[:3, :3] = Rotation.from_euler('z', turn, degrees=True).as_matrix()
        step[0, 3] = STEP
        poses.append(poses[-1] @ step)
    return np.stack(poses)


def spoil(rng: np.random.Generator, pose: np.ndarray, shift: float) -> np.ndarray:
    error = np.eye(4)
    error[:3, :3] = Rotation.from_rotvec(rng.normal(0, math.radians(TURN_DEG) / math.sqrt(3), 3)).as_matrix()
    error[:3, 3] = rng.normal(0, shift / math.sqrt(3), 3)
    return pose @ error


def predict(poses: np.ndarray, scale: float) -> Prediction:
    """What a network that sees these poses says, in a unit of its own; images and depth are empty."""
    image, count = np.zeros((1, 1, 3), np.uint8), len(poses)
    frames = [
        Frame(1 + moment, image, 'cam0', views=tuple(Frame(1 + moment, image, f'cam{c}', camera=c) for c in (1, 2)))
        for moment in range(MOMENTS)
    ]
    flat, rows = all_views(Window(tuple(frames), 0))
    scaled = poses.copy()
    scaled[:, :3, 3] *= scale
    blank = np.ones((count, 1, 1), np.float32)
    K = np.tile(np.eye(3), (count, 1, 1))
    cam_from_window = invert_rigid(scaled) @ scaled[0]
    ids = tuple(frame.frame_id for frame in flat)
    stamps = tuple(frame.stamp_ns for frame in flat)
    images = np.zeros((count, 1, 1, 3), np.uint8)
    return split_cameras(Prediction(stamps, ids, images, cam_from_window, K, K, blank, blank), flat, rows)


def try_network(model: str, rooms: int) -> None:
    """How a network sees two cameras of known mounts: rendered rooms, a hand-held way of 4 moments in each."""
    config = Config().with_values({'model_id': model, 'window_size': 4, 'window_stride': 2, 'device': 'cpu'})
    predictor = make_predictor(config)
    print('| second camera | off its mount, degrees | not understood | metres off | rooms that tell metres |')
    print('| --- | --- | --- | --- | --- |')
    for name, mount in PAIRS.items():
        fits, metres = [], []
        for seed in range(rooms):
            window, truth = rendered_window(seed, mount)
            predictor.reset()
            prediction = predictor.predict(window)
            held, fit = Rig({0: MOUNTS[0], 1: MOUNTS[0] @ mount}).hold(prediction)
            fits.append(fit)
            true_metres = float(np.nanmedian(truth / prediction.depth[0]))
            if math.isfinite(held.metres_per_unit):
                metres.append(abs(math.log(held.metres_per_unit / true_metres)))
        turns = [fit.turn_deg[1] for fit in fits]
        lost = sum(1 in fit.misjudged for fit in fits) / rooms
        off = f'{100 * np.median(metres):.0f} %' if metres else '-'
        print(f'| {name} | {np.median(turns):.1f} | {100 * lost:.0f} % | {off} | {100 * len(metres) / rooms:.0f} % |')


def rendered_window(seed: int, mount: np.ndarray) -> tuple[Window, np.ndarray]:
    """A window of 4 moments of two cameras, and the true depth of its first frame on the network's grid."""
    rng = np.random.default_rng(seed)
    scene = make_scene(rng)
    height, width = 96, 128
    K = np.array([[110.0, 0, width / 2], [0, 110.0, height / 2], [0, 0, 1]])
    path = np.tile(np.eye(4), (4, 1, 1))
    path[:, :3] = draw_path(rng, scene, 4, 2 * math.atan(width / 2 / 110))
    cameras = np.stack([turn @ pose for pose in path for turn in (np.eye(4), invert_rigid(mount))])
    with torch.no_grad():
        colour, depth = render(
            scene,
            torch.from_numpy(cameras[:, :3]).float(),
            torch.from_numpy(np.tile(K, (8, 1, 1))).float(),
            (height, width),
        )
    pixels = (255 * colour.clamp(0, 1).numpy().transpose(0, 2, 3, 1) ** (1 / 2.2)).round().astype(np.uint8)
    frames = []
    for moment in range(4):
        stamp, (first, second) = 1 + 10**8 * moment, pixels[2 * moment : 2 * moment + 2]
        view = Frame(stamp, np.ascontiguousarray(second), 'second', K, camera=1)
        frames.append(Frame(stamp, np.ascontiguousarray(first), 'first', K, views=(view,)))
    return Window(tuple(frames), 0), depth[0].numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json', action='store_true')
    parser.add_argument('--network', default='', metavar='MODEL', help='model_id of a network to try on rendered rooms')
    parser.add_argument('--rooms', type=int, default=20)
    arguments = parser.parse_args()
    if arguments.network:
        try_network(arguments.network, arguments.rooms)
        return
    rows = []
    for share in SHARES:
        runs = [measure(share, seed) for seed in range(RUNS)]
        known = [run for run in runs if math.isfinite(run['metres_off'])]
        row = {name: float(np.median([run[name] for run in runs])) for name in runs[0] if name.endswith(('_m', '_deg'))}
        row |= {name: float(np.median([run[name] for run in known])) for name in ('metres_off', 'said') if known}
        rows.append({'share': share, **row, 'windows_with_metres': len(known) / RUNS})
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print(f'{RUNS} windows of {MOMENTS} moments and 3 cameras; medians')
    print('| error of a camera | one camera: m, degrees | rig: m, degrees | metres off | said | windows |')
    print('| --- | --- | --- | --- | --- | --- |')
    for row in rows:
        metres = f'{100 * row["metres_off"]:.1f} % | {100 * row["said"]:.1f} %' if 'said' in row else '- | -'
        print(
            f'| {100 * row["share"]:g} % | {row["alone_m"]:.4f}, {row["alone_deg"]:.2f} | '
            f'{row["held_m"]:.4f}, {row["held_deg"]:.2f} | {metres} | {100 * row["windows_with_metres"]:.0f} % |'
        )


if __name__ == '__main__':
    main()
