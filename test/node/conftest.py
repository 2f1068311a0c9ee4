"""Tests with the real rclpy: a domain of their own, on this machine only."""

from __future__ import annotations

import os

import pytest

# Chosen before rclpy is imported anywhere; child processes inherit it. 1..100 is free of the ports of other domains.
os.environ['ROS_DOMAIN_ID'] = str(1 + os.getpid() % 100)
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
os.environ.setdefault('OMP_NUM_THREADS', '1')

pytest.importorskip('rclpy', reason='rclpy is not importable: source a ROS 2 installation, or run `make test`')
