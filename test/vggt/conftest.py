"""Tests of the network import neither ROS nor vggt_ros."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # golden.py and sizes shared by the test modules
