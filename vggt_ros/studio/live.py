"""LiveScene: the node's messages in a browser, drawn by viser: camera, depth, growing cloud, path, status.

viser rather than Rerun: both showed the same cloud in a headless Chromium without a GPU, and viser's wheel has 4 MB
where Rerun's has 170. Foxglove's viewer was not tried: it is no Python package.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import viser

from vggt_ros.decode import decode_image, stamp_ns

IMAGES_PER_S = 8.0  # of each of the two pictures; a browser shows no more over a slow line
MAX_NEW_POINTS = 200_000  # of world_points kept until the next map comes; the oldest go
POINTS_SHARE = 1 / 150  # size of a point, as share of the scene
PANEL_WIDTH = 290  # pixels
LEVELS = {0: 'ok', 1: 'warning', 2: '**error**', 3: 'stale'}
DIAGNOSTICS = '/diagnostics'
# What is looked at, of topics.TOPICS.
TOPICS = (
    '~/rgb/image_rect_color',
    '~/rgb/camera_info',
    '~/depth/image_color',
    '~/camera_pose',
    '~/path',
    '~/world_points',
    '~/map_points',
    DIAGNOSTICS,
)


class LiveScene:
    """A page on loopback that shows whatever messages are added, of rclpy or of a bag alike.

    Args:
        port: to serve on.
        title: what is shown, for people.
    """

    def __init__(self, port: int, title: str) -> None:
        self.server = viser.ViserServer(host='127.0.0.1', port=port, label=title, verbose=False)
        self.server.scene.set_up_direction('+z')
        self.server.gui.configure_theme(show_logo=False, show_share_button=False)
        blank = np.full((96, 128, 3), 230, np.uint8)
        self._status = self.server.gui.add_markdown(f'**{title}**: waiting for messages')
        self._pictures = {
            '~/rgb/image_rect_color': self.server.gui.add_image(blank, label='Camera', format='jpeg'),
            '~/depth/image_color': self.server.gui.add_image(blank, label='Depth: near red, far blue', format='jpeg'),
        }
        self.title = title
        self.counts: dict[str, int] = {}
        self.points = 0
        self._shown_at: dict[str, float] = {}
        self._new: list[tuple[np.ndarray, np.ndarray]] = []
        self._lines: dict[str, str] = {}
        self._latency_s = math.nan
        self._fov, self._aspect, self._size = 1.0, 4 / 3, 1.0
        self._image: np.ndarray | None = None

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.server.get_port()}'

    def add(self, topic: str, message: Any, now_ns: int | None = None) -> None:
        """Show a message.

        Args:
            topic: one of TOPICS; others are passed over.
            message: with the fields of its ROS type.
            now_ns: ROS time now, for the latency; None in a replay.
        """
        if topic not in TOPICS:
            return
        self.counts[topic] = self.counts.get(topic, 0) + 1
        if topic in self._pictures:
            self._show_picture(topic, message)
        elif topic == '~/rgb/camera_info':
            self._fov = 2 * math.atan2(message.height / 2, float(message.k[4]))
            self._aspect = message.width / message.height
        elif topic == '~/camera_pose':
            if now_ns is not None:
                self._latency_s = (now_ns - stamp_ns(message.header.stamp)) / 1e9
            self._show_camera(message.pose)
        elif topic == '~/path':
            self._show_path(message.poses)
        elif topic == '~/world_points':
            self._show_new_points(*points_of(message))
        elif topic == '~/map_points':
            self._show_map(*points_of(message))
        else:
            self._lines.update({one.name: _line(one) for one in message.status})
        if self._is_due('status', 0.3):
            self.show_status()

    def close(self) -> None:
        self.server.stop()

    def _show_picture(self, topic: str, message: Any) -> None:
        if not self._is_due(topic, 1 / IMAGES_PER_S):
            return
        image = decode_image(message)
        times = max(1, PANEL_WIDTH // image.shape[1])  # the panel shows an image at its own size, or smaller
        self._pictures[topic].image = np.repeat(np.repeat(image, times, axis=0), times, axis=1)
        if topic == '~/rgb/image_rect_color':
            self._image = image

    def _show_camera(self, pose: Any) -> None:
        p, q = pose.position, pose.orientation
        self.server.scene.add_camera_frustum(
            '/camera', self._fov, self._aspect, scale=0.08 * self._size, color=(255, 140, 0), image=self._image,
            wxyz=(q.w, q.x, q.y, q.z), position=(p.x, p.y, p.z), thickness=2.0, thickness_units='screen',
        )  # fmt: skip

    def _show_path(self, poses: Any) -> None:
        way = np.array([[one.pose.position.x, one.pose.position.y, one.pose.position.z] for one in poses])
        if len(way) > 1:
            steps = np.stack([way[:-1], way[1:]], axis=1).astype(np.float32)
            self.server.scene.add_line_segments('/path', steps, (30, 110, 255), thickness=3.0, thickness_units='screen')

    def _show_new_points(self, xyz: np.ndarray, rgb: np.ndarray) -> None:
        """Points of the last windows, until a map comes that has them."""
        self._new.append((xyz, rgb))
        while sum(len(one) for one, _ in self._new) > MAX_NEW_POINTS and len(self._new) > 1:
            self._new.pop(0)
        clouds = np.concatenate([one for one, _ in self._new]), np.concatenate([one for _, one in self._new])
        self._show_cloud('/new', *clouds)

    def _show_map(self, xyz: np.ndarray, rgb: np.ndarray) -> None:
        self._new.clear()
        if '/new' in self._shown_at:
            self.server.scene.remove_by_name('/new')
        self.points = len(xyz)
        self._show_cloud('/map', xyz, rgb)

    def _show_cloud(self, name: str, xyz: np.ndarray, rgb: np.ndarray) -> None:
        if not len(xyz):
            return
        is_first = not {'/new', '/map'} & self._shown_at.keys()
        self._shown_at[name] = time.monotonic()
        self._size = float(np.linalg.norm(np.percentile(xyz, 95, axis=0) - np.percentile(xyz, 5, axis=0))) or 1.0
        self.server.scene.add_point_cloud(
            name, xyz, rgb, point_size=POINTS_SHARE * self._size, point_shape='rounded', precision='float32',
            point_shading='flat',
        )  # fmt: skip
        if is_first:
            self._look_at(np.median(xyz, axis=0))

    def _look_at(self, centre: np.ndarray) -> None:
        """From behind and above the start, over the whole scene; x is ahead and z up."""
        position = centre + self._size * np.array([-1.0, 0.0, 0.6])
        clients = self.server.get_clients().values()
        cameras: list[Any] = [self.server.initial_camera, *(client.camera for client in clients)]
        for camera in cameras:
            camera.position, camera.look_at = tuple(position.tolist()), tuple(centre.tolist())

    def show_status(self) -> None:
        """Tell how far it is; `add` does so now and then."""
        frames = self.counts.get('~/camera_pose', 0)
        latency = f', latency {self._latency_s:.2f} s' if math.isfinite(self._latency_s) else ''
        lines = [f'**{self.title}**', f'{frames} frames, {self.points:,} points in the map{latency}']
        lines += self._lines.values() if self._lines else ['scale: not told, as no diagnostics come']
        self._status.content = '\n\n'.join(lines)

    def _is_due(self, what: str, period_s: float) -> bool:
        now = time.monotonic()
        if now - self._shown_at.get(what, -math.inf) < period_s:
            return False
        self._shown_at[what] = now
        return True


def points_of(message: Any) -> tuple[np.ndarray, np.ndarray]:
    """A PointCloud2 of ours -> [N, 3] float32 points and [N, 3] uint8 RGB, without what is unknown."""
    packed = np.frombuffer(message.data, np.uint8).reshape(-1, message.point_step)
    xyz = packed[:, :12].copy().view(np.float32)
    known = np.isfinite(xyz).all(axis=1)
    return xyz[known], packed[known][:, 14:11:-1].copy()


def _line(status: Any) -> str:
    """A diagnostic status as a line: what, how bad, the sentence; latency where it tells one."""
    level = status.level[0] if isinstance(status.level, bytes) else int(status.level)
    latency = next((f', latency {one.value} s' for one in status.values if one.key == 'latency s'), '')
    return f'{status.name.partition(": ")[2] or status.name}: {LEVELS.get(level, level)}, {status.message}{latency}'
