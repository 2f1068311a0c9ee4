"""The forms of the network that are compared; each runs in a process of its own, so that memory is its own too."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

Step = Callable[[], dict[str, Tensor]]  # one window: the outputs that all forms share
PARTS = ('patch tokens', 'frame blocks', 'global blocks', 'camera head', 'depth head', 'point head')


@dataclass(frozen=True)
class Workload:
    """What is measured.

    Attributes:
        height, width: of the images in pixels.
        frames: S, of a window.
        stride: new frames per window.
        dtype: of the large products.
        blocks: of the reference: so many of its 24 of each kind; 0: all.
    """

    height: int
    width: int
    frames: int
    stride: int
    dtype: str
    device: str
    model: str
    blocks: int = 0

    @property
    def torch_dtype(self) -> torch.dtype:
        """As torch names it."""
        return getattr(torch, self.dtype)

    def images(self) -> Tensor:
        """[S, 3, H, W] noise, the same in every process."""
        generator = torch.Generator().manual_seed(0)
        return torch.rand(self.frames, 3, self.height, self.width, generator=generator).to(self.device)

    def autocast(self) -> torch.autocast:
        """How the plain form and the reference run in a lower precision."""
        enabled = self.torch_dtype is not torch.float32
        return torch.autocast(torch.device(self.device).type, dtype=self.torch_dtype, enabled=enabled)


def build(form: str, workload: Workload, reference: Path | None) -> tuple[nn.Module, Step]:
    """The network of a form with the weights that all forms share, and its step."""
    if form == 'reference':
        return build_reference(workload, reference)
    return build_ours(form, workload)


def build_ours(form: str, workload: Workload) -> tuple[nn.Module, Step]:
    """'plain': every head, every frame, every window. 'streaming': the inference form, camera and depth."""
    from vggt import VGGT, StreamingVGGT, VGGTConfig, load_vggt

    if workload.model == '1b':
        config = VGGTConfig().with_heads(('camera', 'depth', 'point') if form == 'plain' else ('camera', 'depth'))
        with torch.device('meta'):
            model = VGGT(config)
        model = fill(model.to_empty(device=workload.device)).eval()
    else:
        model = load_vggt(workload.model, device=workload.device)
    images, size = workload.images(), (workload.height, workload.width)
    if form == 'plain':

        def plain_step() -> dict[str, Tensor]:
            with workload.autocast():
                output = model(images)
            return shared_outputs(output)

        return model, plain_step
    stream = StreamingVGGT(model, workload.device, workload.torch_dtype)
    new = list(range(workload.frames - workload.stride, workload.frames))
    seen = stream.encode(images[: new[0]]) if new[0] else images.new_zeros(0)

    def streaming_step() -> dict[str, Tensor]:
        fresh = stream.encode(images[new])
        tokens = torch.cat((seen, fresh)) if len(seen) else fresh
        output = stream.predict(tokens, size, frames=new)
        return shared_outputs(output)

    return model, streaming_step


def shared_outputs(output: Any) -> dict[str, Tensor]:
    """What all forms give."""
    return {'pose_encoding': output.pose_encoding, 'depth': output.depth}


def build_reference(workload: Workload, path: Path | None) -> tuple[nn.Module, Step]:
    """An upstream checkout. Its package is called vggt as well, so it takes that name in this process."""
    if path is None or not (path / 'vggt' / 'models' / 'vggt.py').is_file():
        raise SystemExit(f'--reference must be a checkout that holds vggt/models/vggt.py, got {path}')
    package = ModuleType('vggt')
    package.__path__ = [str(path / 'vggt')]
    sys.modules['vggt'] = package
    from vggt.models import vggt as upstream

    if workload.model != '1b':
        raise SystemExit('the reference has the 1b architecture only')
    with torch.device(workload.device):  # 1.2 billion random numbers that nobody reads take long on a processor
        model: Any = upstream.VGGT(enable_track=False)
    if workload.blocks:
        cut(model, workload.blocks)
    fill(model.to(workload.device)).eval()  # where ours is filled: each kind of device draws numbers of its own
    images = workload.images()

    def step() -> dict[str, Tensor]:
        with workload.autocast():
            output = model(images)
        return {'pose_encoding': output['pose_enc'], 'depth': output['depth'].squeeze(-1)}

    return model, step


def cut(model: Any, blocks: int) -> None:
    """Leave the reference its first blocks of each kind, the dense heads reading as in streaming.make_network."""
    aggregator = model.aggregator
    for part in (aggregator.patch_embed, aggregator):
        for name in ('blocks', 'frame_blocks', 'global_blocks'):
            if hasattr(part, name):
                setattr(part, name, getattr(part, name)[:blocks])
    for head in (model.depth_head, model.point_head):
        head.intermediate_layer_idx = [i * blocks // aggregator.depth for i in head.intermediate_layer_idx]
    aggregator.depth = aggregator.aa_block_num = blocks


@torch.no_grad()
def fill(model: nn.Module) -> Any:
    """Random weights that depend on the names only, so that every process has the same."""
    for name, parameter in model.state_dict().items():
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], 'little')
        generator = torch.Generator(parameter.device).manual_seed(seed)
        if name.endswith('weight') and parameter.ndim == 1:
            parameter.fill_(1.0)  # norms
        elif name.endswith('gamma'):
            parameter.fill_(0.3)
        else:
            parameter.uniform_(-0.03, 0.03, generator=generator)
    return model


def groups(model: Any) -> dict[str, list[nn.Module]]:
    """The parts, by the attribute names that ours and the reference share."""
    aggregator = model.aggregator
    heads = (model.camera_head, model.depth_head, model.point_head)
    named = [[aggregator.patch_embed], list(aggregator.frame_blocks), list(aggregator.global_blocks)]
    named += [[head] if head is not None else [] for head in heads]
    return dict(zip(PARTS, named, strict=True))
