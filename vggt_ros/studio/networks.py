"""Networks for the page: one is kept ready, with its point head where it has one, and it tells how far it is."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from vggt import StreamingVGGT
from vggt.errors import ConfigError as NetworkConfigError
from vggt.errors import VGGTError
from vggt.output import VGGTOutput
from vggt.pose_encoding import decode_pose_encoding
from vggt.weights import load_vggt
from vggt_ros.core.config import Config
from vggt_ros.core.devices import resolve_device, resolve_precision
from vggt_ros.core.errors import ConfigError
from vggt_ros.core.predictor import FakePredictor, Predictor, VggtPredictor

log = logging.getLogger(__name__)

HEADS = ('camera', 'depth')


class WatchedNetwork(StreamingVGGT):
    """Keeps the points of the last window, which the pipeline has no use for, and counts the blocks that are done.

    Args:
        as of StreamingVGGT.
    """

    def __init__(self, model: nn.Module, device: torch.device, dtype: torch.dtype, heads: Sequence[str]) -> None:
        super().__init__(model, device=device, dtype=dtype, heads=heads)  # type: ignore[arg-type]
        self.on_step: Callable[[float], None] = lambda share: None
        self.points: tuple[list[int], np.ndarray, np.ndarray] | None = None
        blocks = [*self.model.aggregator.frame_blocks, *self.model.aggregator.global_blocks]
        self._steps, self._done = len(blocks) + 2 * len(heads), 0  # a head takes about as long as two blocks
        for block in blocks:
            block.register_forward_hook(self._step)

    def predict(
        self, patch_tokens: Tensor, image_size: tuple[int, int], frames: Sequence[int] | None = None
    ) -> VGGTOutput:
        """As StreamingVGGT.predict; `points` then holds frames, [F, H, W, 3] in the frame of camera 0, confidence."""
        self._done = 0
        output = super().predict(patch_tokens, image_size, frames)
        self.points = self._points(output, image_size, frames)
        self.on_step(1.0)
        return output

    def _points(
        self, output: VGGTOutput, image_size: tuple[int, int], frames: Sequence[int] | None
    ) -> tuple[list[int], np.ndarray, np.ndarray] | None:
        if output.world_points is None or output.world_points_confidence is None or output.pose_encoding is None:
            return None
        points = output.world_points[0].double().cpu().numpy()
        cam_from_world = decode_pose_encoding(output.pose_encoding[0].double().cpu(), image_size)[0][0].numpy()
        in_first = points @ cam_from_world[:, :3].T + cam_from_world[:, 3]  # camera 0 lies only about at the origin
        indices = list(range(len(points))) if frames is None else list(frames)
        return indices, in_first, output.world_points_confidence[0].float().cpu().numpy()

    def _step(self, *_: object) -> None:
        self._done += 1
        self.on_step(self._done / self._steps)


class Networks:
    """Loads what is asked for, and keeps the last: weights of some gigabytes are not read for every click."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._predictor: Predictor | None = None

    def get(self, config: Config) -> Predictor:
        """The predictor that a configuration asks for, ready, with nothing left of an earlier job.

        Raises:
            ConfigError: the model or device cannot be had.
        """
        if config.model.backend == 'fake':
            return FakePredictor(config)
        model = config.model
        key = (model.source, model.device, model.precision, model.local_files_only)
        if self._predictor is None or self._key != key:
            self._predictor = None  # the old one's memory is free before the new one wants some
            self._predictor, self._key = VggtPredictor(config, load_watched(config)), key
        assert isinstance(self._predictor, VggtPredictor)
        self._predictor = VggtPredictor(config, self._predictor.network)
        return self._predictor


def load_watched(config: Config) -> WatchedNetwork:
    """The network that config.model names, with the point head where it has one.

    Raises:
        ConfigError: it cannot be had.
    """
    device = resolve_device(config.model)
    dtype = resolve_precision(config.model, device)
    name, local = config.model.source, config.model.local_files_only
    try:
        heads: tuple[str, ...] = (*HEADS, 'point')
        try:
            model = load_vggt(name, heads=heads, local_files_only=local)
        except NetworkConfigError:
            heads = HEADS
            model = load_vggt(name, heads=heads, local_files_only=local)
        return WatchedNetwork(model, device, dtype, heads)
    except VGGTError as error:
        raise ConfigError(str(error)) from error
