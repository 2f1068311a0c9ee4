"""The ROS 2 distributions we support: the one place that knows which one this is and where they differ."""

from __future__ import annotations

import importlib.metadata
import os
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Distro:
    """One distribution, as far as we notice.

    Args:
        name: as ROS_DISTRO has it.
        ubuntu: release that its apt packages are for.
        python: of that release.
        numpy: major version of that release; compiled packages such as cv_bridge fit this one alone.
        rclpy: major version, by which wheels are told apart.
        fast_dds: major version; 3 renamed the variable that names the profiles, and times in them.
        has_discovery_range: ROS_AUTOMATIC_DISCOVERY_RANGE instead of ROS_LOCALHOST_ONLY (since Iron).
        until: end of its support.

    Source: REP 2000; ros/rosdistro, the distribution.yaml of each; ros2/rmw_fastrtps.
    """

    name: str
    ubuntu: str
    python: str
    numpy: int
    rclpy: int
    fast_dds: int
    has_discovery_range: bool
    until: str

    @property
    def profiles_variable(self) -> str:
        """Environment variable that names Fast DDS's profiles; version 3 reads the old one too, and complains."""
        return 'FASTRTPS_DEFAULT_PROFILES_FILE' if self.fast_dds < 3 else 'FASTDDS_DEFAULT_PROFILES_FILE'

    @property
    def stay_local(self) -> dict[str, str]:
        """Environment that keeps discovery on this machine; the later distributions warn about the old variable."""
        if self.has_discovery_range:
            return {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
        return {'ROS_LOCALHOST_ONLY': '1'}


DISTROS = (
    Distro('humble', '22.04', '3.10', 1, 3, 2, False, 'May 2027'),
    Distro('jazzy', '24.04', '3.12', 1, 7, 2, True, 'May 2029'),
    Distro('kilted', '24.04', '3.12', 1, 9, 3, True, 'November 2026'),
    Distro('lyrical', '26.04', '3.14', 2, 10, 3, True, 'May 2031'),
    Distro('rolling', '26.04', '3.14', 2, 11, 3, True, 'goes on'),
)


def this_distro() -> Distro:
    """The distribution that runs: that of ROS_DISTRO, else that of the rclpy installed, else the newest.

    The wheels of PyPI set no ROS_DISTRO. A distribution we do not list counts as the newest one before it.
    """
    name = os.environ.get('ROS_DISTRO', '')
    for one in DISTROS:
        if one.name == name:
            return one
    major = _rclpy_major()
    older = [one for one in DISTROS if major is None or one.rclpy <= major]
    return (older or DISTROS)[-1 if older else 0]


def subscription_event_callbacks(**callbacks: Any) -> Any:
    """rclpy's SubscriptionEventCallbacks; Humble has it in another module."""
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ImportError:
        from rclpy.qos_event import SubscriptionEventCallbacks
    return SubscriptionEventCallbacks(**callbacks)


def _rclpy_major() -> int | None:
    for package in ('rclpy', 'ros-rclpy'):
        try:
            return int(importlib.metadata.version(package).split('.')[0])
        except (importlib.metadata.PackageNotFoundError, ValueError):
            continue
    return None
