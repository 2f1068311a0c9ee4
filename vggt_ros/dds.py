"""Fast DDS set up for large messages, before the first node of a process is made."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

PROFILES = Path(__file__).parent / 'data' / 'dds'
FAST_DDS_2 = ('humble', 'iron', 'jazzy')
VARIABLES = ('FASTDDS_DEFAULT_PROFILES_FILE', 'FASTRTPS_DEFAULT_PROFILES_FILE')  # of Fast DDS 3, and 2
SHARED_MEMORY = Path('/dev/shm')
ROOM_BYTES = 4 * 32 * 2**20  # several processes with segments of 32 MiB; a container has 64 MiB unless told otherwise


def make_room_for_images() -> None:
    """Let Fast DDS share images and clouds whole, unless it is configured already or the machine lacks the memory.

    Other middlewares do not look at these variables.
    """
    if any(name in os.environ for name in VARIABLES) or not SHARED_MEMORY.is_dir():
        return
    free = shutil.disk_usage(SHARED_MEMORY).free
    if free < ROOM_BYTES:
        log.warning(
            '%s has %d MB free: large messages may be lost; docker run needs --ipc=host', SHARED_MEMORY, free >> 20
        )
        return
    os.environ.update(_profile('large_messages.xml'))


def stay_on_this_machine(domain_id: int) -> dict[str, str]:
    """Environment of processes that talk to each other only, on loopback, in a domain of their own.

    Args:
        domain_id: 0 to 101; above, ports clash with those the system hands out (Linux).
    """
    # Humble knows the first name only; later ones warn about it, and go by the second.
    range_variable = (
        {'ROS_LOCALHOST_ONLY': '1'}
        if os.environ.get('ROS_DISTRO') == 'humble'
        else {'ROS_AUTOMATIC_DISCOVERY_RANGE': 'LOCALHOST'}
    )
    return {'ROS_DOMAIN_ID': str(domain_id), **range_variable, **_profile('loopback.xml')}


def _profile(name: str) -> dict[str, str]:
    # Version 3 reads the old name too, and complains.
    is_old = os.environ.get('ROS_DISTRO') in FAST_DDS_2
    return {VARIABLES[is_old]: str(PROFILES / name)}
