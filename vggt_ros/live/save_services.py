"""~/save_map and ~/save_trajectory: the map on disk, while images go on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from pathlib import Path
from typing import Any

from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.node import Node
from rclpy.task import Future as RosFuture
from std_srvs.srv import Trigger

from vggt_ros.core.config import SaveConfig
from vggt_ros.core.errors import OutputError, VggtRosError
from vggt_ros.results.exports import write_atomically
from vggt_ros.results.saving import new_name, save_directory, write_folder
from vggt_ros.results.scene import Snapshot, scene_files, trajectory_file

log = logging.getLogger(__name__)

PATIENCE_S = 120.0  # for the window being computed to end; a large model on a CPU takes that long
CLOSE_S = 5.0  # for a file being written, when the node goes


class SaveServices:
    """Answers both services on a thread of their own: the executor stays free for images, the worker for windows.

    A callback that waits for that thread holds its callback group, so the services have one of their own; and a future
    that another thread finishes does not wake the executor by itself.
    Source: ros2/rclpy, rclpy/task.py, Future.__await__; rclpy/executors.py, _wait_for_ready_callbacks.

    Args:
        node: owns the services.
        config: where to, and which formats.
        ask: for the scene as it is between two windows.
    """

    def __init__(self, node: Node, config: SaveConfig, ask: Callable[[], Future[Snapshot]]) -> None:
        self._node, self._config, self._ask = node, config, ask
        self._busy: threading.Thread | None = None
        group = ReentrantCallbackGroup()
        self._services = [
            node.create_service(Trigger, name, self._callback(save), callback_group=group)
            for name, save in (('~/save_map', self._save_map), ('~/save_trajectory', self._save_trajectory))
        ]

    def destroy(self) -> None:
        """Take the services down, after what is being written."""
        self.wait()
        for service in self._services:
            self._node.destroy_service(service)

    def wait(self) -> bool:
        """Until what is being written is whole; False when that takes longer."""
        if self._busy is not None:
            self._busy.join(CLOSE_S)
        return self._busy is None or not self._busy.is_alive()

    def _callback(self, save: Callable[[Snapshot], str]) -> Callable[[Any, Any], Any]:
        async def answer(_: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
            if self._busy is not None and self._busy.is_alive():
                response.success, response.message = False, 'another save is under way; try again when it is done'
                return response
            answered: RosFuture[tuple[bool, str]] = RosFuture(executor=self._node.executor)
            self._busy = threading.Thread(target=self._run, args=(save, answered), name='vggt_save', daemon=True)
            self._busy.start()
            result = await answered
            assert result is not None
            response.success, response.message = result
            return response

        return answer

    def _run(self, save: Callable[[Snapshot], str], answered: RosFuture[tuple[bool, str]]) -> None:
        try:
            answer = True, save(self._take())
            log.info('%s', answer[1])
        except VggtRosError as error:
            answer = False, str(error)
            log.error('%s', answer[1])  # not the error itself: whoever keeps the record would keep the node
        except Exception as error:  # whoever called waits for an answer
            answer = False, f'{type(error).__name__}: {error}'
            log.exception('cannot save')
        answered.set_result(answer)
        executor = self._node.executor
        if executor is not None:
            executor.wake()

    def _take(self) -> Snapshot:
        try:
            scene = self._ask().result(PATIENCE_S)
        except TimeoutError:
            raise OutputError(f'the window being computed takes longer than {PATIENCE_S:g} s; try again') from None
        if scene.is_empty:
            raise OutputError('there is nothing to save yet: no window has been placed in the map')
        return scene

    def _save_map(self, scene: Snapshot) -> str:
        files = scene_files(scene, self._config.formats.split())
        folder = write_folder(save_directory(self._config.directory), new_name('map'), files)
        return f'saved {len(scene.xyz)} points, {len(scene.stamps_ns)} poses, {len(scene.views)} views to {folder}'

    def _save_trajectory(self, scene: Snapshot) -> str:
        path: Path = save_directory(self._config.directory) / f'{new_name("trajectory")}.txt'
        write_atomically(path, trajectory_file(scene))
        return f'saved {len(scene.stamps_ns)} poses to {path}'
