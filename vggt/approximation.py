"""What inference may leave out, at the price of another result.

Source: AVGGT, 2025, for early global blocks that look at one frame and for fewer keys. What each costs here is measured
in docs/benchmarks.md; none of them is lossless.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Approximation:
    """Each is off by default, and each changes the result.

    Args:
        camera_iterations: rounds of the camera head; 0 runs as many as the network was trained with.
        key_stride: in global attention, of the frames after the first every n-th patch is attended to.
        local_blocks: so many global blocks, from the first on, let each frame see itself only.
    """

    camera_iterations: int = 0
    key_stride: int = 1
    local_blocks: int = 0


EXACT = Approximation()
