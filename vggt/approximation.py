"""What inference may leave out, at the price of another result.

Source: AVGGT, 2025, for early global blocks that look at one frame and for fewer keys. What each costs here is measured
in docs/benchmarks.md; none of them is lossless.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vggt.errors import ConfigError

if TYPE_CHECKING:
    from vggt.model import VGGT


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

    def apply(self, model: VGGT) -> None:
        """Let a model leave it out from now on.

        Raises:
            ConfigError: the network has not as much to leave out.
        """
        depth, head = model.config.depth, model.camera_head
        if not (0 <= self.local_blocks < depth and self.key_stride >= 1):
            raise ConfigError(
                f'local_blocks must be 0..{depth - 1} for this network and key_stride at least 1, got {self}'
            )
        if head is not None and self.camera_iterations:
            if not 1 <= self.camera_iterations <= head.iterations:
                raise ConfigError(f'camera_iterations must be 0..{head.iterations}, got {self}')
            head.iterations = self.camera_iterations
        model.aggregator.approximation = self


EXACT = Approximation()
