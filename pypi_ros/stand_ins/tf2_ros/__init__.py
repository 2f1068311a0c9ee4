"""Stand-in for tf2_ros where only the ROS 2 wheels of PyPI are installed; the real package always wins over it.

Covers buffers, listener and broadcasters with their time rules; what it lacks raises and names the real package.

Source: behaviour of ros2/geometry2 (tf2, tf2_py, tf2_ros_py), compared in test/pypi_ros.
"""

from tf2_ros.buffer import Buffer
from tf2_ros.exceptions import (
    ConnectivityException,
    ExtrapolationException,
    InvalidArgumentException,
    LookupException,
    TimeoutException,
    TransformException,
)
from tf2_ros.static_transform_broadcaster import StaticTransformBroadcaster
from tf2_ros.transform_broadcaster import TransformBroadcaster
from tf2_ros.transform_listener import TransformListener

__all__ = [
    'Buffer',
    'ConnectivityException',
    'ExtrapolationException',
    'InvalidArgumentException',
    'LookupException',
    'StaticTransformBroadcaster',
    'TimeoutException',
    'TransformBroadcaster',
    'TransformException',
    'TransformListener',
]

_ONLY_IN_THE_REAL_PACKAGE = (
    'BufferClient',
    'BufferCore',
    'BufferInterface',
    'NotImplementedException',
    'TransformRegistration',
    'TypeException',
    'convert',
)


def __getattr__(name: str) -> object:
    if name in _ONLY_IN_THE_REAL_PACKAGE:
        # Not an AttributeError: `from tf2_ros import X` would swallow its message.
        raise NotImplementedError(
            f'tf2_ros.{name} is not in this stand-in; install the real tf2_ros (apt: ros-<distro>-tf2-ros-py)'
        )
    raise AttributeError(f'neither tf2_ros nor its stand-in from pypi_ros has {name!r}')
