"""Message classes by name, for rclpy and for bags, so that encode.py is written once."""

from __future__ import annotations

import array
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class MessageTypes:
    """Where message classes come from, and what their sequence fields take.

    Args:
        find: 'sensor_msgs/msg/Image' -> class with keyword constructor.
        doubles_field: float64 array -> what a float64[] field of free length takes.
        publishes_bytes: whether poses, odometry and path are made as the bytes of such messages (cdr.py).
    """

    find: Callable[[str], Any]
    doubles_field: Callable[[np.ndarray], Any]
    publishes_bytes: bool = False

    def __getitem__(self, name: str) -> Any:
        return self.find(name)

    @staticmethod
    def with_data(kind: Any, data: np.ndarray, **fields: Any) -> Any:
        """A message of this class whose `data`, a uint8[], are the bytes of an array, where they are and not copied.

        The classes of rclpy take an array.array, and copy what their constructor is given; since Iron an assignment
        copies as well. What they are serialised from may be any buffer, so it is put past both: an image or a cloud is
        copied once less, and need not be filled with zeros first.
        Source: ros2/rosidl_python, rosidl_generator_py/resource/_msg.py.em and _msg_support.c.em, Humble to Rolling.
        """
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
        if '_data' not in getattr(kind, '__slots__', ()):
            return kind(data=data, **fields)
        message = kind(**fields)
        message._data = data
        return message


def ros_messages(*, publishes_bytes: bool = False) -> MessageTypes:
    """The classes of the ROS 2 installation, as rclpy publishes them; where that is asked for, bytes as well."""
    return MessageTypes(_import_message, lambda values: array.array('d', values.tolist()), publishes_bytes)


def bag_messages(store: Any = None) -> MessageTypes:
    """The classes of a rosbags typestore; ROS 2 Jazzy's unless one is given."""
    store = store or bag_typestore()
    return MessageTypes(store.types.__getitem__, lambda values: np.asarray(values, np.float64))


def bag_typestore() -> Any:
    """The typestore our bags are written with; these messages are the same from Humble to Rolling."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def _import_message(name: str) -> Any:
    package, kind, message = name.split('/')
    return getattr(importlib.import_module(f'{package}.{kind}'), message)
