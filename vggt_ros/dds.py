"""Fast DDS set up for large messages, and kept to this machine, before the first node of a process is made."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import re
import shutil
import socket
import time
from pathlib import Path

from vggt_ros.core.errors import VggtRosError
from vggt_ros.distro import DISTROS, this_distro

log = logging.getLogger(__name__)

PROFILES = Path(__file__).parent / 'data' / 'dds'
VARIABLES = {one.profiles_variable for one in DISTROS}
SHARED_MEMORY = Path('/dev/shm')
DOMAINS = range(1, 102)  # above, ports clash with those the system hands out (Linux)
# On loopback a participant looks for others at so many ports: the 33rd of a domain is told of nothing that starts after
# it. Source: rmw_fastrtps, participant.cpp (maxInitialPeersRange); measured with 35 contexts in one process.
MOST_PARTICIPANTS = 32
_FIRST_PORT, _PORTS = 7410, 250  # of the first participant of domain 0, and from there to that of the next domain
ROOM_BYTES = 4 * 32 * 2**20  # several processes with segments of 32 MiB; a container has 64 MiB unless told otherwise

_SEGMENT = re.compile('(fastdds|fastrtps)_[0-9a-f]{16}')
_SETTLED_S = 10.0  # an owner takes its lock a moment after it has made the file

_claims: list[socket.socket] = []  # on the domain that this process was given last


def make_room_for_images() -> None:
    """Let Fast DDS share images and clouds whole, unless it is configured already or the machine lacks the memory.

    Other middlewares do not look at these variables.
    """
    if any(name in os.environ for name in VARIABLES) or not SHARED_MEMORY.is_dir():
        return
    if _has_room('large messages may be lost'):
        os.environ.update(_profile('large_messages.xml'))


def stay_on_this_machine(domain_id: int) -> dict[str, str]:
    """Environment of processes that talk to each other only, on loopback, in a domain of their own.

    Args:
        domain_id: 0 to 101, see DOMAINS.
    """
    # Fast DDS then says that it fails to create a segment, and sends by UDP on loopback what fits into no memory.
    _has_room('messages go by UDP, which is slower')
    return {'ROS_DOMAIN_ID': str(domain_id), **this_distro().stay_local, **_profile('loopback.xml')}


def wireless_profile() -> Path:
    """Profile for a link that loses packets, in the words of this distribution's Fast DDS."""
    return PROFILES / ('wireless_fast_dds_2.xml' if this_distro().fast_dds < 3 else 'wireless.xml')


def free_domain() -> int:
    """A domain that nobody on this machine is in, so that demonstrations and tests beside each other do not meet.

    It stays this process's own, against others that look for one before anybody has joined it, until the process ends
    or asks for the next.

    Raises:
        VggtRosError: every domain is in use.
    """
    for domain_id in random.SystemRandom().sample(DOMAINS, len(DOMAINS)):
        if participants(domain_id):
            continue
        claim = _bind(_FIRST_PORT - 1 + _PORTS * domain_id)  # just below the participants; DDS has no use for it
        if claim is None:
            continue
        while _claims:
            _claims.pop().close()
        _claims.append(claim)
        return domain_id
    raise VggtRosError(f'domains {DOMAINS[0]} to {DOMAINS[-1]} are all in use on this machine; end what is not needed')


def participants(domain_id: int) -> list[int]:
    """Which places of a domain are taken by processes of this machine, this one among them.

    Source: OMG DDSI-RTPS 2.5, section 9.6.2.3: port = 7400 + 250 domain + 10 + 2 participant.
    """
    return [one for one in range(MOST_PARTICIPANTS) if not _can_bind(_FIRST_PORT + _PORTS * domain_id + 2 * one)]


def _can_bind(port: int) -> bool:
    bound = _bind(port)
    if bound is not None:
        bound.close()
    return bound is not None


def _bind(port: int) -> socket.socket | None:
    """A socket on a port of loopback; None where the port is taken."""
    bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        bound.bind(('127.0.0.1', port))
    except OSError:
        bound.close()
        return None
    return bound


def _has_room(consequence: str) -> bool:
    """Whether the segments fit into shared memory, without those of the dead, and a warning where they do not."""
    free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else 0
    if free < ROOM_BYTES:
        free += remove_segments_of_the_dead()
    if free < ROOM_BYTES:
        text = '%s has %d MB free, segments need %d: %s; empty it, or give a container more (docker run --ipc=host)'
        log.warning(text, SHARED_MEMORY, free >> 20, ROOM_BYTES >> 20, consequence)
    return free >= ROOM_BYTES


def remove_segments_of_the_dead() -> int:
    """Remove the shared memory of killed processes, which Fast DDS leaves for ever; returns the bytes that frees.

    A process holds a lock on a file beside each of its segments while it lives. Files of other users are left alone.
    Source: Fast DDS, RobustExclusiveLock.hpp; `fastdds shm clean` looks at the same locks.
    """
    import fcntl  # which Windows lacks, as it lacks the folder

    freed = 0
    for lock in SHARED_MEMORY.glob('fast*_el'):
        segment = lock.with_name(lock.name.removesuffix('_el'))
        if not _SEGMENT.fullmatch(segment.name):
            continue
        with contextlib.suppress(OSError):  # held by who lives, another user's, or gone meanwhile
            found = lock.lstat()
            if found.st_uid != os.geteuid() or time.time() - found.st_mtime < _SETTLED_S:
                continue
            with lock.open('rb') as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                size = segment.stat().st_blocks * 512
                segment.unlink()
                freed += size
                lock.unlink()
    return freed


def _profile(name: str) -> dict[str, str]:
    return {this_distro().profiles_variable: str(PROFILES / name)}
