"""Camera paths: how the frames of a window came about. Hand-held, wheeled, turning in place, sideways, round a room."""

from __future__ import annotations

import math

import numpy as np

from training.scenes import Scene, camera_centres, random_rotation

KINDS = ('hand_held', 'wheeled', 'turning', 'sideways', 'orbit')
_SHARES, _SHARES_OF_SIGHTS = (0.4, 0.25, 0.15, 0.2, 0.0), (0.35, 0.15, 0.1, 0.2, 0.2)
_CLEARANCE_M = 0.25  # no camera closer to a surface than this
_WAY_CLEARANCE_M = 0.3  # likewise on a way round a room
LEAST_RADIUS_M = 0.9  # of a way round a room that is worth a walk
_SHARED_VIEW = 0.65  # largest turn between any two frames, as a share of the horizontal field of view
_TRIES = 60
_REST_PITCH_DEG = 8.0  # downwards: people and robots mind the floor


def draw_path(
    rng: np.random.Generator, scene: Scene, frames: int, horizontal_fov: float, sights: np.ndarray | None = None
) -> np.ndarray:
    """Draw a path through free space.

    Args:
        rng: source of chance.
        scene: the room the camera moves in.
        frames: number of views.
        horizontal_fov: radians; bounds the turn, so that all frames share a part of the view.
        sights: [P, 3] places to look at, metres; some paths go round one. None looks anywhere into the room.

    Returns:
        [frames, 3, 4] cam_from_world, metres.
    """
    kind = KINDS[rng.choice(len(KINDS), p=_SHARES if sights is None else _SHARES_OF_SIGHTS)]
    pace = np.exp(rng.uniform(np.log(0.4), np.log(2.0)))  # slow cameras as often as fast ones
    half = scene.room.half[0].numpy()
    for attempt in range(_TRIES):
        shrink = 0.93**attempt  # a cramped room allows only small motion
        start = rng.uniform(-0.8, 0.8, 3) * half
        start[2] = rng.uniform(0.2, 0.9) if kind == 'wheeled' else rng.uniform(0.6, min(2.0, 2 * half[2] - 0.3))
        positions, angles = _MOTIONS[kind](rng, frames, pace * shrink)
        angles = _within_shared_view(angles, horizontal_fov)
        if sights is None:
            heading = _look_into_the_room(rng, start, half)
        else:
            start[:2], heading, pitch = _look_at(rng, sights[rng.integers(len(sights))], start[2])
            if kind != 'wheeled':
                angles = angles + np.array([0, pitch, 0])
        # Steps are made in the frame of the first heading: x forward, y left, z up.
        c, s = np.cos(heading), np.sin(heading)
        positions = start + positions @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
        angles = angles + np.array([heading, 0, 0])
        if scene.clearance(positions).min() > _CLEARANCE_M or attempt == _TRIES - 1:
            break
    return np.stack([cam_from_world(p, *a) for p, a in zip(positions, angles, strict=True)])


def tumble(rng: np.random.Generator, scene: Scene, path: np.ndarray) -> np.ndarray:
    """Turn a path about its middle into any attitude in which it keeps clear of all surfaces, so that up means nothing.

    Args:
        rng: source of chance.
        scene: the room the camera moves in.
        path: [frames, 3, 4] cam_from_world, metres.

    Returns:
        The turned path, or the path itself where no turn of some tries fits.
    """
    rotation, positions = path[:, :, :3], camera_centres(path)
    middle = positions.mean(axis=0)
    for _ in range(_TRIES // 3):
        turn = random_rotation(rng)
        moved = middle + (positions - middle) @ turn.T
        if scene.clearance(moved).min() > _CLEARANCE_M:
            turned = rotation @ turn.T
            return np.concatenate([turned, -turned @ moved[..., None]], axis=2)
    return path


def walk_round(
    way: tuple[np.ndarray, np.ndarray],
    frames: int,
    laps: float,
    rng: np.random.Generator,
    aside: float = math.radians(25),
) -> np.ndarray:
    """[frames, 4, 4] cam_from_world along a way round a room, looking ahead and about; metres.

    The second lap does not step where the first did: it is off by some centimetres and degrees, as a robot is.

    Args:
        way: centre and radii, from way_round.
        frames: number of views.
        laps: times round the room, to the left.
        rng: source of chance.
        aside: how far to the right of straight on the camera looks, radians: towards the wall.
    """
    centre, radius = way
    angle = rng.uniform(0, 2 * math.pi) + 2 * math.pi * laps * np.arange(frames) / frames
    sway = 0.03 * np.sin(angle[:, None] * np.array([0.37, 0.53, 0.71]) + rng.uniform(0, 6, 3))
    places = np.column_stack([centre[0] + radius[0] * np.cos(angle), centre[1] + radius[1] * np.sin(angle)])
    places = np.column_stack([places, np.full(frames, centre[2])]) + sway
    ahead = np.arctan2(radius[1] * np.cos(angle), -radius[0] * np.sin(angle))
    yaw = np.unwrap(ahead) - aside
    yaw += math.radians(4) * np.sin(0.61 * angle + rng.uniform(0, 6))
    pitch = math.radians(8) + math.radians(2) * np.sin(0.83 * angle)
    path = np.tile(np.eye(4), (frames, 1, 1))
    path[:, :3] = [cam_from_world(p, y, q, 0.0) for p, y, q in zip(places, yaw, pitch, strict=True)]
    return path


def way_round(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centre [3] and radii [2] of the widest free ellipse among some drawn, metres; radii 0 where there is none."""
    half = scene.room.half[0].numpy()
    best = np.zeros(3), np.zeros(2)
    turn = np.linspace(0, 2 * math.pi, 120)
    for _ in range(_TRIES):
        radius = rng.uniform(0.35, 0.75) * (half[:2] - _WAY_CLEARANCE_M)
        centre = np.append(rng.uniform(-0.15, 0.15, 2) * half[:2], rng.uniform(1.0, 1.6))
        places = np.column_stack(
            [centre[0] + radius[0] * np.cos(turn), centre[1] + radius[1] * np.sin(turn), np.full(120, centre[2])]
        )
        if scene.clearance(places).min() > _WAY_CLEARANCE_M and radius.min() > best[1].min():
            best = centre, radius
    return best


def cam_from_world(position: np.ndarray, yaw: float, pitch: float, roll: float) -> np.ndarray:
    """[3, 4] transform of a camera.

    Args:
        position: [3] optical centre, world with z up.
        yaw: radians to the left, 0 looks along world x.
        pitch: radians downwards.
        roll: radians clockwise about the optical axis, as the camera sees itself.
    """
    forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    return np.concatenate([rotation, -rotation @ position[:, None]], axis=1)


def _look_into_the_room(rng: np.random.Generator, start: np.ndarray, half: np.ndarray) -> float:
    """A heading towards some place in the room that is not right in front of the lens."""
    for _ in range(10):
        target = rng.uniform(-0.9, 0.9, 2) * half[:2]
        if np.linalg.norm(target - start[:2]) > 0.4 * half[:2].max():
            break
    return float(np.arctan2(target[1] - start[1], target[0] - start[0]))


def _look_at(rng: np.random.Generator, sight: np.ndarray, height: float) -> tuple[np.ndarray, float, float]:
    """Where to stand [2] to look at a place [3] from a height, metres, and heading and pitch beyond rest, radians."""
    heading, distance = rng.uniform(-np.pi, np.pi), np.exp(rng.uniform(np.log(0.9), np.log(4.0)))
    pitch = np.arctan2(height - sight[2], distance) - np.radians(_REST_PITCH_DEG)
    return sight[:2] - distance * np.array([np.cos(heading), np.sin(heading)]), heading, min(pitch, np.radians(45))


def _within_shared_view(angles: np.ndarray, horizontal_fov: float) -> np.ndarray:
    spread = np.ptp(angles[:, :2], axis=0).max()
    largest = _SHARED_VIEW * horizontal_fov
    mean = angles.mean(axis=0)
    return mean + (angles - mean) * min(1.0, largest / max(spread, 1e-9))


def _smooth(rng: np.random.Generator, frames: int, sigma: float | np.ndarray, channels: int) -> np.ndarray:
    """[frames, channels] rates that change slowly: a mean and two thirds of it as a random walk."""
    steady = rng.normal(0, 1, channels)
    drift = np.cumsum(rng.normal(0, 0.35, (frames, channels)), axis=0)
    return sigma * (steady + drift)


def _rest_pose(rng: np.random.Generator, pitch_deg: float, roll_deg: float) -> np.ndarray:
    return np.radians([0.0, rng.normal(_REST_PITCH_DEG, pitch_deg), rng.normal(0, roll_deg)])


def _from_rates(rates: np.ndarray) -> np.ndarray:
    walk = np.cumsum(rates, axis=0)
    return walk - walk[:1]


_Motion = tuple[np.ndarray, np.ndarray]  # [frames, 3] positions in metres, [frames, 3] yaw, pitch, roll in radians


def _hand_held(rng: np.random.Generator, frames: int, pace: float) -> _Motion:
    positions = _from_rates(_smooth(rng, frames, 0.12 * pace * np.array([1, 1, 0.5]), 3))
    angles = _from_rates(_smooth(rng, frames, np.radians([5.0, 2.5, 1.5]) * pace, 3))
    return positions, angles + _rest_pose(rng, 12, 4)


def _wheeled(rng: np.random.Generator, frames: int, pace: float) -> _Motion:
    """Drives along its heading; the camera looks ahead, now and then to the side or back."""
    yaw = _from_rates(_smooth(rng, frames, np.radians(5.0) * pace, 1))[:, 0]
    mounting = rng.choice([0.0, np.pi, np.pi / 2, -np.pi / 2], p=[0.7, 0.1, 0.1, 0.1])
    step = np.abs(_smooth(rng, frames, 0.16 * pace, 1)[:, 0]) + 0.05 * pace
    direction = yaw + mounting
    velocity = step[:, None] * np.stack([np.cos(direction), np.sin(direction), np.zeros(frames)], axis=1)
    shake = np.radians(0.3) * rng.normal(0, 1, (frames, 2))
    return _from_rates(velocity), np.column_stack([yaw, shake]) + _rest_pose(rng, 6, 0.5)


def _turning(rng: np.random.Generator, frames: int, pace: float) -> _Motion:
    """Turns about a vertical axis that passes within 0.4 m of the lens, as a robot or a head does."""
    rate = rng.choice([-1, 1]) * np.radians(rng.uniform(1.5, 7.0)) * (0.4 + 0.6 * pace)
    yaw = rate * np.arange(frames) * (1 + 0.2 * rng.normal(0, 1, frames).cumsum() / frames)
    arm = rng.uniform(0.0, 0.4)
    positions = arm * np.stack([np.cos(yaw) - 1, np.sin(yaw), np.zeros(frames)], axis=1)
    return positions, np.column_stack([yaw, np.zeros((frames, 2))]) + _rest_pose(rng, 8, 2)


def _sideways(rng: np.random.Generator, frames: int, pace: float) -> _Motion:
    """Moves across the view, half of the time keeping a place ahead in the middle of the picture."""
    along = rng.uniform(0, 2 * np.pi)
    axis = np.array([0.2 * rng.normal(), np.cos(along), 0.5 * np.sin(along)])
    step = 0.15 * pace * (1 + 0.3 * rng.normal(0, 1, frames))
    positions = _from_rates(step[:, None] * axis)
    angles = _from_rates(_smooth(rng, frames, np.radians([1.0, 0.7, 0.5]) * pace, 3))
    if rng.random() < 0.5:
        distance = rng.uniform(1.5, 4.0)
        angles[:, 0] += np.arctan2(-positions[:, 1], distance)
        angles[:, 1] += np.arctan2(positions[:, 2], distance)
    return positions, angles + _rest_pose(rng, 10, 3)


def _orbit(rng: np.random.Generator, frames: int, pace: float) -> _Motion:
    """Walks round a place ahead and keeps it in the middle of the picture."""
    distance = np.exp(rng.uniform(np.log(0.9), np.log(4.0)))
    rate = rng.choice([-1, 1]) * np.radians(rng.uniform(1.5, 9.0)) * min(pace, 1.2)
    turn = _from_rates(rate * (1 + 0.2 * rng.normal(0, 1, (frames, 1))))[:, 0]
    far = distance * np.exp(_from_rates(rng.normal(0, 0.03, (frames, 1)))[:, 0])
    height = _from_rates(rng.normal(0, 0.03 * pace, (frames, 1)))[:, 0]
    positions = np.column_stack([distance - far * np.cos(turn), -far * np.sin(turn), height])
    shake = np.radians(1.5) * rng.normal(0, 1, (frames, 2)).cumsum(axis=0)
    return positions, np.column_stack([turn, shake]) + _rest_pose(rng, 6, 3)


_MOTIONS = {'hand_held': _hand_held, 'wheeled': _wheeled, 'turning': _turning, 'sideways': _sideways, 'orbit': _orbit}
