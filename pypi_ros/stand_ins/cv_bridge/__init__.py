"""Stand-in for cv_bridge where only the ROS 2 wheels of PyPI are installed: Image messages to numpy and back.

Source: the public names of ros-perception/vision_opencv, cv_bridge/core.py, compared in test/pypi_ros.
"""

from cv_bridge.core import CvBridge, CvBridgeError

__all__ = ['CvBridge', 'CvBridgeError']

_ONLY_IN_THE_REAL_PACKAGE = ('boost', 'cvtColor2', 'cvtColorForDisplay', 'getCvType')


def __getattr__(name: str) -> object:
    if name in _ONLY_IN_THE_REAL_PACKAGE:
        raise NotImplementedError(
            f'cv_bridge.{name} is not in this stand-in; install the real cv_bridge (apt: ros-<distro>-cv-bridge)'
        )
    raise AttributeError(f'neither cv_bridge nor its stand-in from pypi_ros has {name!r}')
