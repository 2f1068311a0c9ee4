"""Message classes by name, for rclpy and for bags, so that encode.py is written once."""

from __future__ import annotations

import array
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_ZERO = array.array('B', [0])


@dataclass(frozen=True)
class MessageTypes:
    """Where message classes come from, and what their sequence fields take.

    Args:
        find: 'sensor_msgs/msg/Image' -> class with keyword constructor.
        bytes_field: array of any type and shape -> what a uint8[] field takes.
        new_bytes: count -> what a uint8[] field takes, of that many bytes that are still to be written.
        doubles_field: float64 array -> what a float64[] field of free length takes.
        is_path_serialised: whether a nav_msgs/Path is made as the bytes of one (cdr.py).
    """

    find: Callable[[str], Any]
    bytes_field: Callable[[np.ndarray], Any]
    new_bytes: Callable[[int], Any]
    doubles_field: Callable[[np.ndarray], Any]
    is_path_serialised: bool = False

    def __getitem__(self, name: str) -> Any:
        return self.find(name)

    @staticmethod
    def with_data(kind: Any, data: Any, **fields: Any) -> Any:
        """A message of this class whose `data` is what a uint8[] field takes, itself and not a copy of it.

        The classes of rclpy copy what their constructor is given, and since Iron assignment copies as well unless
        fields are checked: three copies of each image.
        Source: ros2/rosidl_python, rosidl_generator_py/resource/_msg.py.em.
        """
        slots = getattr(kind, '__slots__', ())
        if '_data' not in slots:
            return kind(data=data, **fields)
        checked = {'check_fields': True} if '_check_fields' in slots else {}  # Humble checks always
        message = kind(**fields, **checked)
        message.data = data
        return message


def ros_messages(*, is_path_serialised: bool = False) -> MessageTypes:
    """The classes of the ROS 2 installation, as rclpy publishes them; it publishes bytes as well."""
    return MessageTypes(
        _import_message,
        _byte_array,
        lambda count: _ZERO * count,
        lambda values: array.array('d', values.tolist()),
        is_path_serialised,
    )


def bag_messages(store: Any = None) -> MessageTypes:
    """The classes of a rosbags typestore; ROS 2 Jazzy's unless one is given."""
    store = store or bag_typestore()
    return MessageTypes(
        store.types.__getitem__,
        _byte_view,
        lambda count: np.empty(count, np.uint8),
        lambda values: np.asarray(values, np.float64),
    )


def bag_typestore() -> Any:
    """The typestore our bags are written with; these messages are the same from Humble to Rolling."""
    from rosbags.typesys import Stores, get_typestore

    return get_typestore(Stores.ROS2_JAZZY)


def _import_message(name: str) -> Any:
    package, kind, message = name.split('/')
    return getattr(importlib.import_module(f'{package}.{kind}'), message)


def _byte_view(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _byte_array(values: np.ndarray) -> array.array:
    # array('B') is taken by reference; anything else is checked or copied byte by byte, up to 100 ms a megabyte.
    # Source: ros2/rosidl_python, rosidl_generator_py/resource/_msg.py.em.
    data = array.array('B')
    data.frombytes(_byte_view(values).data)
    return data
