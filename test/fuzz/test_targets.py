"""Every decoder and reader of fuzz/, with the few inputs that a test suite has time for; python -m fuzz tries more."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

pytest.importorskip('rclpy', reason='rclpy is not importable: source a ROS 2 installation, or run `make test`')

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fuzz.contract import check
from fuzz.targets import TARGETS

# The same inputs each time: what a lucky day would find belongs into python -m fuzz, not into a pull request.
PROFILE = settings(
    derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck), print_blob=False
)


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    ours = logging.getLogger('vggt_ros')
    level = ours.level
    ours.setLevel(logging.ERROR)
    yield
    ours.setLevel(level)


@pytest.mark.parametrize('name', TARGETS)
def test_nothing_but_a_result_or_our_errors_in_words(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    @settings(PROFILE, max_examples=TARGETS[name].examples)
    @given(st.binary(max_size=120))
    @example(b'')
    def try_one(data: bytes) -> None:
        check(TARGETS[name].run, data)

    try_one()
    capfd.readouterr()


@pytest.mark.parametrize('name', [name for name in TARGETS if name != 'command_line'])
def test_what_the_targets_start_from_is_valid(name: str) -> None:
    """Else all of them would be refused at the door, and nothing behind it tried."""
    assert check(TARGETS[name].run, b'')
