"""Go on with a larger model from the weights of a smaller one: it begins by saying the same."""

from __future__ import annotations

import re

import torch
from torch import Tensor

from training.nano import make_nano
from vggt import VGGT, VGGTConfig

_PAIR = re.compile(r'aggregator\.(frame|global)_blocks\.(\d+)\.(.*)')
_SILENT = ('attn.proj.weight', 'attn.proj.bias', 'mlp.fc2.weight', 'mlp.fc2.bias')  # what a block adds comes from these


def grow(smaller: VGGT, config: VGGTConfig, seed: int = 0) -> VGGT:
    """A model of another configuration that begins with what a smaller one knows.

    New pairs of frame and global attention stand before the last pair and are silent at first, so that the heads read
    from the same blocks as before. Where the camera head's hidden layer is narrower, the units that can say least
    leave: those whose weights in, times those out, have the smallest norm.

    Args:
        smaller: the model to begin with.
        config: of the model to make. May differ in depth, in the layers that the depth head reads and in the mlp_ratio
            of the camera head.
        seed: of what is new.

    Raises:
        ValueError: config has fewer pairs, or other tensors do not fit.
    """
    added = config.depth - smaller.config.depth
    if added < 0:
        raise ValueError(f'a model of {smaller.config.depth} pairs cannot grow into one of {config.depth}')
    model = make_nano(seed, config)
    fresh = model.state_dict()
    last = smaller.config.depth - 1
    state = {_moved(name, last, added): value for name, value in smaller.state_dict().items()}
    for name, value in fresh.items():
        pair = _PAIR.fullmatch(name)
        if pair and last <= int(pair[2]) < last + added:
            state[name] = torch.zeros_like(value) if pair[3] in _SILENT else value
    _narrow_camera_head(state, fresh)
    wrong = [name for name, value in fresh.items() if state[name].shape != value.shape]
    if wrong:
        raise ValueError(f'{len(wrong)} tensors have another shape in the larger model, such as {wrong[0]}')
    model.load_state_dict(state)
    return model


def _moved(name: str, last: int, added: int) -> str:
    pair = _PAIR.fullmatch(name)
    if pair and int(pair[2]) == last:
        return f'aggregator.{pair[1]}_blocks.{last + added}.{pair[3]}'
    return name


def _narrow_camera_head(state: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    for name in [name for name in state if re.fullmatch(r'camera_head\.trunk\.\d+\.mlp\.fc1\.weight', name)]:
        inwards, bias, outwards = (name.replace('fc1.weight', end) for end in ('fc1.weight', 'fc1.bias', 'fc2.weight'))
        say = state[inwards].norm(dim=1) * state[outwards].norm(dim=0)
        kept = say.topk(min(len(say), len(wanted[bias]))).indices.sort().values
        state[inwards], state[bias], state[outwards] = state[inwards][kept], state[bias][kept], state[outwards][:, kept]
