"""Tally: what the worker did so far."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from vggt_ros.core.metric.scale_report import ScaleReport
from vggt_ros.core.submap import Seam

RECENT = 100  # windows whose times make up the figures of the diagnostics


@dataclass
class Tally:
    """What the worker did so far; written by it and, while it publishes aside, by that thread; read by the diagnostics.

    Args:
        bad_images: dropped because they could not be decoded.
        last_bad_image: why the last of them could not.
        failures: windows lost because the network, or anything after it, failed.
        late: frames whose results were dropped, as they had come longer than max_latency_s ago.
        published: frames whose results went out.
        stage_s: seconds spent so far by stage, named as in report.STAGES; 'read' is decoding, 'write' publishing.
        window_s: seconds of the last windows, from taking the images to the last message.
        latency_s: seconds from the arrival of the newest image to its results, of the last window.
        seam, scale: of the last window.
        image: size and encoding of the last image.
        uncalibrated: there is no usable CameraInfo.
        last_failure: text of the last error; empty once a window has gone well again.
        is_late: all of the last window was dropped for its age.
        busy_since: steady seconds when the worker began what it is at; None while it waits.
        device_lost: why the device can compute no more in this process; empty while it can.
        out_of_memory: the GPU's memory ran out, and windows have been halved.
        gave_up: it ran out again: the node should stop.
        changed_camera: optical frame of a camera whose published intrinsics or size changed while running.
    """

    bad_images: int = 0
    last_bad_image: str = ''
    failures: int = 0
    late: int = 0
    published: int = 0
    stage_s: dict[str, float] = field(default_factory=dict)
    window_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    latency_s: float = float('nan')
    seam: Seam | None = None
    scale: ScaleReport = field(default_factory=ScaleReport)
    image: str = ''
    uncalibrated: bool = False
    last_failure: str = ''
    is_late: bool = False
    busy_since: float | None = None
    device_lost: str = ''
    out_of_memory: bool = False
    gave_up: bool = False
    changed_camera: str = ''

    @contextmanager
    def busy(self) -> Iterator[None]:
        """While the worker is at something that could hang."""
        since = self.busy_since
        self.busy_since = since or time.monotonic()  # one thing may be a part of another
        try:
            yield
        finally:
            self.busy_since = since

    def add_times(self, **seconds: float) -> None:
        for stage, more in seconds.items():
            self.stage_s[stage] = self.stage_s.get(stage, 0.0) + more
