"""The distribution is known from the environment, else from the rclpy that is installed."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from pathlib import Path

import pytest

from vggt_ros import distro as module
from vggt_ros.distro import DISTROS, Distro, this_distro
from vggt_ros.doctor import Level, _ros

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch):
    """Set what the environment and the installed packages say."""

    def set_to(name: str = '', **versions: str) -> None:
        monkeypatch.delenv('ROS_DISTRO', raising=False)
        if name:
            monkeypatch.setenv('ROS_DISTRO', name)

        def version(package: str) -> str:
            if package.replace('-', '_') not in versions:
                raise importlib.metadata.PackageNotFoundError(package)
            return versions[package.replace('-', '_')]

        monkeypatch.setattr(module.importlib.metadata, 'version', version)

    return set_to


@pytest.mark.parametrize(
    'versions, expected',
    [
        ({'rclpy': '3.3.21'}, 'humble'),
        ({'ros_rclpy': '7.1.6'}, 'jazzy'),
        ({'ros_rclpy': '9.1.2'}, 'kilted'),
        ({'rclpy': '10.0.10'}, 'lyrical'),
        ({'rclpy': '4.1.0'}, 'humble'),  # Iron: between Humble and Jazzy
        ({'rclpy': '12.0.0'}, 'rolling'),  # of the future
        ({'rclpy': '1.9.0'}, 'humble'),  # of the past
        ({}, 'rolling'),
    ],
)
def test_without_ros_distro_the_version_of_rclpy_tells(installed, versions: dict[str, str], expected: str) -> None:
    installed(**versions)
    assert this_distro().name == expected


@pytest.mark.parametrize('distro', DISTROS, ids=lambda one: one.name)
def test_ros_distro_wins(installed, distro: Distro) -> None:
    installed(distro.name, ros_rclpy='9.1.2')
    assert this_distro() is distro


def test_each_fast_dds_is_told_in_its_own_variable(installed, monkeypatch: pytest.MonkeyPatch) -> None:
    from vggt_ros.dds import stay_on_this_machine

    installed('humble')
    assert {'FASTRTPS_DEFAULT_PROFILES_FILE', 'ROS_LOCALHOST_ONLY'} <= set(stay_on_this_machine(3))
    installed('jazzy')
    assert {'FASTRTPS_DEFAULT_PROFILES_FILE', 'ROS_AUTOMATIC_DISCOVERY_RANGE'} <= set(stay_on_this_machine(3))
    installed('lyrical')
    assert {'FASTDDS_DEFAULT_PROFILES_FILE', 'ROS_AUTOMATIC_DISCOVERY_RANGE'} <= set(stay_on_this_machine(3))


def test_the_doctor_says_when_the_python_is_not_that_of_the_distribution(
    installed, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = next(one for one in DISTROS if one.python != '.'.join(map(str, sys.version_info[:2])))
    installed(other.name)
    monkeypatch.setattr('vggt_ros.doctor._is_importable', lambda name: False)
    (finding,) = _ros()
    assert finding.level is Level.FAIL
    assert f'made for Python {other.python}' in finding.text


def test_nobody_else_asks_which_distribution_it_is() -> None:
    """Names of distributions and the variable that names this one are looked at in distro.py alone."""
    asked = re.compile('^(ROS_DISTRO|humble|jazzy|kilted|lyrical|rolling)$')
    only_to_say = {'doctor.py', 'launch_parts.py'}  # the name goes into a command to type
    for path in (ROOT / 'vggt_ros').rglob('*.py'):
        if path.name in only_to_say | {'distro.py'}:
            continue
        words = [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)]
        assert not [word for word in words if isinstance(word, str) and asked.match(word)], path
