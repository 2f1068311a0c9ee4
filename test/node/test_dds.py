"""Domains: which are in use on this machine; and profiles, which Fast DDS must be able to read."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import rclpy

from vggt_ros import dds
from vggt_ros.core.errors import VggtRosError
from vggt_ros.dds import DOMAINS, PROFILES, free_domain, participants, wireless_profile
from vggt_ros.distro import this_distro

NEWER = {'heartbeatPeriod': 'heartbeat_period', 'heartbeatResponseDelay': 'heartbeat_response_delay'}
OTHER_VERSION = 'wireless.xml' if this_distro().fast_dds < 3 else 'wireless_fast_dds_2.xml'


def errors_of(profile: Path) -> list[str]:
    """What Fast DDS says about a profile; it goes on without what it does not understand."""
    program = 'import rclpy; rclpy.init(); rclpy.create_node("reader").destroy_node(); rclpy.shutdown()'
    environment = {**os.environ, this_distro().profiles_variable: str(profile)}
    done = subprocess.run([sys.executable, '-c', program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [line for line in (done.stdout + done.stderr).splitlines() if 'XMLPARSER' in line]


@pytest.mark.parametrize('profile', sorted(one.name for one in PROFILES.glob('*.xml') if one.name != OTHER_VERSION))
def test_fast_dds_understands_the_profiles_of_its_version(domain: int, profile: str) -> None:
    assert errors_of(PROFILES / profile) == []


def test_the_wireless_profiles_of_both_versions_say_the_same(domain: int) -> None:
    assert wireless_profile().name != OTHER_VERSION
    assert errors_of(PROFILES / OTHER_VERSION)  # it does tell of what it does not understand
    older, newer = ((PROFILES / name).read_text() for name in ('wireless_fast_dds_2.xml', 'wireless.xml'))
    for before, after in NEWER.items():
        older = older.replace(before, after)
    assert older.partition('<dds')[2] == newer.partition('<dds')[2]


def test_who_is_in_a_domain_is_seen_until_it_leaves(domain: int) -> None:
    assert participants(domain) == []
    contexts = [rclpy.Context() for _ in range(2)]
    nodes = []
    for context in contexts:
        rclpy.init(context=context)
        nodes.append(rclpy.create_node('somebody', context=context))
    assert len(participants(domain)) == 2
    for node, context in zip(nodes, contexts, strict=True):
        node.destroy_node()
        rclpy.shutdown(context=context)
    assert participants(domain) == []


def test_a_free_domain_has_nobody_in_it(domain: int) -> None:
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('somebody', context=context)
    free = {free_domain() for _ in range(300)}  # each of 101 domains would be met by chance
    assert domain not in free
    assert free <= set(DOMAINS)
    node.destroy_node()
    rclpy.shutdown(context=context)


def test_a_domain_that_was_given_is_nobody_elses_before_anybody_is_in_it() -> None:
    mine = free_domain()
    asking = 'from vggt_ros.dds import free_domain; print(*(free_domain() for _ in range(1000)))'
    given = subprocess.run([sys.executable, '-c', asking], capture_output=True, text=True, check=True).stdout.split()
    assert participants(mine) == []
    assert len(set(given)) > 50
    assert str(mine) not in given


def test_where_every_domain_is_in_use_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dds, 'participants', lambda domain_id: [0])
    with pytest.raises(VggtRosError, match='domains 1 to 101 are all in use on this machine'):
        free_domain()


def test_the_shared_memory_of_the_dead_makes_room_and_that_of_the_living_stays(domain: int) -> None:
    def segments_of(process: subprocess.Popen[str]) -> set[Path]:
        opened = [os.readlink(one) for one in Path(f'/proc/{process.pid}/fd').iterdir()]
        locks = [one for one in opened if re.fullmatch('/dev/shm/fast(dds|rtps)_[0-9a-f]{16}_el', one)]
        return {Path(one.removesuffix('_el')) for one in locks}

    program = 'import rclpy; rclpy.init(); node = rclpy.create_node("somebody"); print("here", flush=True); input()'
    pipes = {'stdin': subprocess.PIPE, 'stdout': subprocess.PIPE, 'text': True}
    dead, alive = (subprocess.Popen([sys.executable, '-c', program], **pipes) for _ in range(2))
    assert [one.stdout.readline() for one in (dead, alive)] == ['here\n'] * 2
    lost, kept = segments_of(dead), segments_of(alive)
    assert lost
    assert kept
    dead.kill()
    dead.wait()
    for one in lost | kept:
        os.utime(f'{one}_el', (1, 1))  # else they are too young to be judged
    room = sum(one.stat().st_blocks * 512 for one in lost)
    assert dds.remove_segments_of_the_dead() >= room
    assert not any(one.exists() or Path(f'{one}_el').exists() for one in lost)
    assert all(one.exists() and Path(f'{one}_el').exists() for one in kept)
    alive.communicate('\n')


def test_a_full_shared_memory_is_said_and_how_to_have_more(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dds.stay_on_this_machine(3)
        assert not caplog.records
        monkeypatch.setattr(dds, 'ROOM_BYTES', 1 << 60)
        assert dds.stay_on_this_machine(3)['ROS_DOMAIN_ID'] == '3'
    assert '/dev/shm has' in caplog.text
    assert 'messages go by UDP, which is slower; empty it, or give a container more' in caplog.text
