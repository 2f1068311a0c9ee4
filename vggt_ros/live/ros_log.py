"""Python's logging -> the ROS log, so that core needs to know nothing of ROS."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

from rclpy.logging import LoggingSeverity

NAMES = ('vggt', 'vggt_ros')
SPEAKER: ContextVar[str] = ContextVar('SPEAKER', default='')  # name of the logger whose node works here; empty: any


class RosLogHandler(logging.Handler):
    """Passes what our packages log to a node's logger.

    Args:
        logger: of the node.
    """

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def attach(self) -> None:
        """Listen to our packages, at the level that the node's logger has."""
        is_debug = self._logger.get_effective_level() <= LoggingSeverity.DEBUG
        for name in NAMES:
            logging.getLogger(name).addHandler(self)
            logging.getLogger(name).setLevel(logging.DEBUG if is_debug else logging.INFO)

    def detach(self) -> None:
        """Stop listening."""
        for name in NAMES:
            logging.getLogger(name).removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if SPEAKER.get() not in ('', self._logger.name):  # another robot of the same process
            return
        # rclpy refuses a line of code that logs at one severity now and at another then, so each has its own.
        text = self.format(record)
        if record.levelno >= logging.ERROR:
            self._logger.error(text)
        elif record.levelno >= logging.WARNING:
            self._logger.warning(text)
        elif record.levelno >= logging.INFO:
            self._logger.info(text)
        else:
            self._logger.debug(text)
