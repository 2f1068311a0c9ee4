"""Examples of one click: where their frames and their stored results are, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).resolve().parents[1] / 'data'


@dataclass(frozen=True)
class Example:
    """An example.

    Args:
        title: for its button.
        source: what open_source takes.
        interval_s: seconds between the frames that are used.
        mode: how its stored result was made.
        credit: author and licence.
    """

    title: str
    source: Path
    interval_s: float
    mode: str
    credit: str

    @property
    def stored(self) -> Path:
        """Its result, as scripts/studio_examples.py made it."""
        return self.source / 'studio.npz'

    @property
    def note(self) -> str:
        """What is said beside its result."""
        return f'Made with nano. Images: {self.credit}.'


EXAMPLES = {
    'cabinet': Example(
        'Cabinet (real camera)',
        DATA / 'cabinet',
        2.0,
        'all',
        'TUM RGB-D benchmark, Sturm et al., IROS 2012, CC BY 4.0',
    ),
    'room': Example(
        'Room (rendered)',
        DATA / 'room',
        0.0,
        'all',
        'rendered for this package, Apache-2.0',
    ),
}
