"""Fast DDS set up for large messages, before the first node of a process is made."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

from vggt_ros.distro import DISTROS, this_distro

log = logging.getLogger(__name__)

PROFILES = Path(__file__).parent / 'data' / 'dds'
VARIABLES = {one.profiles_variable for one in DISTROS}
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
    return {'ROS_DOMAIN_ID': str(domain_id), **this_distro().stay_local, **_profile('loopback.xml')}


def _profile(name: str) -> dict[str, str]:
    return {this_distro().profiles_variable: str(PROFILES / name)}
