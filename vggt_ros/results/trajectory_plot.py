"""A trajectory beside its reference from above, and its error over time, as a PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from vggt_ros.core.errors import OutputError
from vggt_ros.core.trajectory import Trajectory, position_errors


def plot_trajectory(
    fits: Sequence[tuple[str, Trajectory]], reference: Trajectory, seams_ns: np.ndarray, title: str
) -> bytes:
    """Draw aligned trajectories.

    Args:
        fits: names, and estimates in the frame of the reference, with its stamps.
        reference: metres.
        seams_ns: stamps at which a new window begins.
        title: of the picture.

    Raises:
        OutputError: matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError('--plot needs matplotlib: pip install matplotlib') from error
    figure = Figure(figsize=(11, 5), layout='constrained')
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    above, over_time = figure.subplots(1, 2)
    _draw_above(above, fits, reference)
    start = reference.stamps_ns[0]
    for _, estimate in fits:
        over_time.plot((reference.stamps_ns - start) / 1e9, position_errors(estimate, reference))
    for seam in seams_ns:
        over_time.axvline((seam - start) / 1e9, color='0.85', linewidth=0.8, zorder=0)
    over_time.set(xlabel='time [s]', ylabel='position error [m]', ylim=(0, None))
    if len(seams_ns):
        over_time.set_title('grey: a new window begins', fontsize='medium')
    image = io.BytesIO()
    figure.savefig(image, format='png', dpi=110)
    return image.getvalue()


def _draw_above(axes: Any, fits: Sequence[tuple[str, Trajectory]], reference: Trajectory) -> None:
    """Along the axis in which the reference moves least: a file does not say which way is up."""
    extent = np.ptp(reference.centres, axis=0)
    i, j = sorted(np.argsort(-extent, kind='stable')[:2])
    axes.plot(*reference.centres[:, [i, j]].T, color='black', label='reference')
    axes.plot(*reference.centres[0, [i, j]], 'o', color='black', label='start')
    for name, estimate in fits:
        axes.plot(*estimate.centres[:, [i, j]].T, label=name)
    axes.set(xlabel=f'{"xyz"[i]} [m]', ylabel=f'{"xyz"[j]} [m]')
    axes.set_aspect('equal', adjustable='datalim')
    axes.legend()
