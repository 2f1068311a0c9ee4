"""What /diagnostics says: input, inference, output and tracking, each with a level, a sentence and figures."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue

from vggt_ros.core.config import Config
from vggt_ros.core.metric.scale_report import ScaleReport, ScaleState
from vggt_ros.core.pipeline import Statistics
from vggt_ros.core.rig import RigFit
from vggt_ros.core.submap import Seam, SeamStatus
from vggt_ros.live.mailbox import Mailbox
from vggt_ros.live.tally import Tally
from vggt_ros.moments import Moments


@dataclass(frozen=True)
class Health:
    """All that the diagnostics look at.

    Args:
        config: settings.
        tally: of the worker.
        statistics: of the pipeline.
        mailbox: the waiting images.
        silence: why no image comes; empty while they come.
        deaf: which of the sensors that tell metres or up are silent; empty while all speak.
        is_needed: whether anybody wants results; without, the network rests.
        device: where the network runs.
        rivals: who else publishes transforms that are ours; empty where nobody does.
        idle_s: steady seconds since the last image.
        rate_hz: images a second, of late.
        moments: of a rig's images; None without a rig.
        rig_fit: how well the last window fitted the mounts of a rig; None where it was not compared.
        lost: images that were overwritten by newer ones in the subscription, or lost on their way.
        busy_s: seconds that the worker has been at one window; 0 while that is as usual.
    """

    config: Config
    tally: Tally
    statistics: Statistics
    mailbox: Mailbox[Any]
    silence: str
    deaf: str
    is_needed: bool
    device: str
    rivals: str = ''
    idle_s: float = 0.0
    rate_hz: float = 0.0
    moments: Moments[Any] | None = None
    rig_fit: RigFit | None = None
    lost: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True)
class Standing:
    """What there is to say about the node itself, in every state of its life.

    Args:
        state: of its life cycle.
        failure: why it is not active though it should be; empty where it is as it should.
        namesake: that another node has this name; empty where none has.
    """

    state: str
    failure: str = ''
    namesake: str = ''

    @property
    def status(self) -> tuple[str, bytes, str, Mapping[str, object]]:
        """Task, level, sentence and figures."""
        figures = {'state': self.state}
        if self.state != 'active' and self.failure:
            return 'node', DiagnosticStatus.ERROR, f'{self.state}: {self.failure}', figures
        if self.state != 'active':
            return 'node', DiagnosticStatus.WARN, f'{self.state}: images are not taken', figures
        if self.namesake:
            return 'node', DiagnosticStatus.WARN, self.namesake, figures
        return 'node', DiagnosticStatus.OK, 'active', figures


class Rate:
    """How many a second, of a count that is looked at now and then."""

    def __init__(self) -> None:
        self._count, self._at = 0, 0.0

    def measure(self, count: int, now: float) -> float:
        """Since the last look; 0 at the first, and after the count began anew."""
        grown, passed = count - self._count, now - self._at
        is_first, self._count, self._at = self._at == 0.0 or grown < 0, count, now
        return 0.0 if is_first or passed <= 0 else grown / passed


def hardware(predictor: Any) -> str:
    """What the network runs on: the GPU's name, or cpu."""
    device = str(getattr(getattr(predictor, 'network', None), 'device', 'cpu'))
    torch = sys.modules.get('torch')
    return torch.cuda.get_device_name(device) if torch is not None and device.startswith('cuda') else device


def _gpu_memory() -> Mapping[str, str]:
    torch = sys.modules.get('torch')
    if torch is None or not torch.cuda.is_available():
        return {}
    return {'peak GPU memory MB': f'{torch.cuda.max_memory_allocated() / 1e6:.0f}'}


def diagnostics(standing: Standing, health: Health | None, name: str) -> DiagnosticArray:
    """The array to publish; the caller fills in its stamp. Without health, the node is not active."""
    array = DiagnosticArray()
    device = health.device if health is not None else ''
    for task, level, message, figures in (standing.status, *(_tasks(health) if health is not None else ())):
        values = [KeyValue(key=key, value=str(value)) for key, value in figures.items()]
        array.status.append(
            DiagnosticStatus(level=level, name=f'{name}: {task}', message=message, hardware_id=device, values=values)
        )
    return array


def worst(array: DiagnosticArray) -> tuple[int, str]:
    """The highest level of an array, as a number, and the task that has it."""
    status = max(array.status, key=lambda one: ord(one.level))
    return ord(status.level), status.name.partition(': ')[2]


def _tasks(health: Health) -> Iterator[tuple[str, bytes, str, Mapping[str, object]]]:
    tally = health.tally
    yield ('input', *_input(health))
    yield ('inference', *_inference(health))
    yield ('output', *_output(health))
    yield ('tracking', *_tracking(tally.seam, health.statistics, tally.scale))
    yield ('scale', *_scale(tally.scale, health.config, health.deaf))
    if health.config.rig.cameras:
        yield ('rig', *_rig(health.rig_fit, health.config))


def _input(health: Health) -> tuple[bytes, str, Mapping[str, object]]:
    tally, mailbox = health.tally, health.mailbox
    figures: dict[str, object] = {
        'image': tally.image,
        'rate hz': f'{health.rate_hz:.1f}',
        'received': mailbox.received,
        'skipped because newer ones came': mailbox.dropped,
        'lost before they were taken': health.lost,
        'given up while they waited': mailbox.cleared + health.statistics.given_up,
        'not decodable': tally.bad_images,
        'last not decodable': tally.last_bad_image,
        'duplicate stamps': health.statistics.duplicates,
        'out of order': health.statistics.out_of_order,
        'calibrated': not tally.uncalibrated,
    }
    if health.moments is not None:
        figures |= {
            'moments without some camera': health.moments.incomplete,
            'moments dropped without the reference': health.moments.without_reference,
        }
    if health.silence:
        return DiagnosticStatus.WARN, health.silence, figures
    gap_s = health.config.stream.max_frame_gap_s
    if mailbox.received and 0 < gap_s < health.idle_s:
        return DiagnosticStatus.WARN, f'no image for {health.idle_s:.1f} s; max_frame_gap_s is {gap_s:g}', figures
    if tally.uncalibrated:
        return DiagnosticStatus.WARN, 'no CameraInfo: intrinsics are those of the network', figures
    return DiagnosticStatus.OK, 'images come', figures


def _inference(health: Health) -> tuple[bytes, str, Mapping[str, object]]:
    tally = health.tally
    times_ms = 1e3 * np.array(tally.window_s or [math.nan])
    figures = {
        'last window ms': f'{times_ms[-1]:.1f}',
        'mean window ms': f'{times_ms.mean():.1f}',
        'p95 window ms': f'{np.percentile(times_ms, 95):.1f}',
        'windows': health.statistics.windows,
        'windows lost': tally.failures,
        'window_size': health.config.window.size,
        'model': health.config.model.source,
        **_gpu_memory(),
        **{f'{stage} s': f'{seconds:.3f}' for stage, seconds in tally.stage_s.items()},
    }
    if tally.out_of_memory and not tally.last_failure:
        return DiagnosticStatus.WARN, 'the GPU ran out of memory: windows are half as long now', figures
    if health.busy_s:
        usual = f', {max(tally.window_s):.1f} s was the slowest of late' if tally.window_s else ''
        text = f'the network has been at one window for {health.busy_s:.0f} s{usual}'
        return DiagnosticStatus.ERROR, text, figures
    if tally.last_failure:
        return DiagnosticStatus.ERROR, f'windows lost: {tally.last_failure}', figures
    if not health.is_needed:
        return DiagnosticStatus.OK, 'resting: nobody listens', figures
    return DiagnosticStatus.OK, 'running', figures


def _output(health: Health) -> tuple[bytes, str, Mapping[str, object]]:
    tally, limit_s = health.tally, health.config.stream.max_latency_s
    figures = {
        'frames published': tally.published,
        'latency s': f'{tally.latency_s:.3f}',
        'dropped as too late': tally.late,
    }
    if tally.changed_camera:
        changed = f'intrinsics or size of {tally.changed_camera} changed while running: nvblox, for one, stops at that'
        return DiagnosticStatus.ERROR, changed, figures
    if health.rivals:
        return DiagnosticStatus.WARN, health.rivals, figures
    if tally.is_late:
        return DiagnosticStatus.WARN, f'results older than max_latency_s ({limit_s:g} s) were dropped', figures
    return DiagnosticStatus.OK, 'results go out' if tally.published else 'no result yet', figures


def _scale(scale: ScaleReport, config: Config, deaf: str) -> tuple[bytes, str, Mapping[str, object]]:
    source = config.scale.scale_source
    figures = {
        'source': source,
        'state': scale.state.value,
        'metres per unit of the map': f'{scale.factor:.5g}',
        'spread': f'{scale.spread:.3f}',
        'error': f'{scale.error:.4f}',
        'windows': scale.observations,
        'windows that agree': scale.agreeing,
        'windows that say nothing': scale.silent,
        'gravity': config.scale.gravity_source,
    }
    if source == 'none' or scale.source == source:
        message = scale.describe()
    else:
        message = 'no window yet'
    if scale.state is ScaleState.DOUBTED or scale.is_conflict:
        return DiagnosticStatus.ERROR, message, figures
    if deaf:
        return DiagnosticStatus.WARN, f'{message}; {deaf}', figures
    if scale.is_unknown:
        return DiagnosticStatus.WARN, message, figures
    return DiagnosticStatus.OK, message, figures


def _rig(fit: RigFit | None, config: Config) -> tuple[bytes, str, Mapping[str, object]]:
    names = config.rig.cameras
    if fit is None:
        return DiagnosticStatus.WARN, 'cameras stand where the network sees them: no mounts in TF, or no window yet', {}
    figures: dict[str, object] = {'metres per unit': f'{fit.metres_per_unit:.4g}', 'its error': f'{fit.error:.3f}'}
    for camera, turn in fit.turn_deg.items():
        figures[f'{names[camera]} off its mount, degrees'] = f'{turn:.2f}'
        figures[f'{names[camera]} off its mount, metres'] = f'{fit.shift[camera]:.4f}'
    if fit.misjudged:
        which = ', '.join(names[camera] for camera in fit.misjudged)
        text = f'the network sees {which} elsewhere than TF: its depth is not used; is the mount right?'
        return DiagnosticStatus.WARN, text, figures
    return DiagnosticStatus.OK, 'cameras are seen where they are mounted', figures


def _tracking(seam: Seam | None, statistics: Statistics, scale: ScaleReport) -> tuple[bytes, str, Mapping[str, object]]:
    figures: dict[str, object] = {
        'unit': 'metres' if scale.is_metric else 'unit of the first window, not metres',
        'windows held': statistics.held,
        'windows degenerate': statistics.degenerate,
        'answers refused': statistics.refused,
        'windows bridged': statistics.bridged,
        'loops closed': statistics.loops,
        'loops rejected': statistics.loops_rejected,
        'restarts': statistics.restarts,
        'resets': statistics.resets,
    }
    if seam is None:
        return DiagnosticStatus.OK, 'no window yet', figures
    figures |= {
        'seam': seam.status.value,
        'inlier ratio': f'{seam.inlier_ratio:.3f}',
        'residual': f'{seam.residual:.4f}',
        'scale ratio': f'{seam.scale_ratio:.4f}',
        'rotation deg': f'{seam.rotation_deg:.3f}',
    }
    if seam.status is SeamStatus.HELD:
        return DiagnosticStatus.ERROR, 'lost: the last window could not be joined to the one before', figures
    if seam.status is SeamStatus.REFUSED:
        return DiagnosticStatus.ERROR, 'lost: the points of the last window disagree with the map; refused', figures
    if seam.status is SeamStatus.DEGENERATE:
        return DiagnosticStatus.WARN, 'the last window was joined by camera poses alone', figures
    if seam.status is SeamStatus.BRIDGED:
        return DiagnosticStatus.WARN, 'an answer of the network was refused, and bridged by another', figures
    return DiagnosticStatus.OK, 'windows fit together', figures
