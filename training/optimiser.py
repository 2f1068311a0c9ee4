"""Muon for the matrices of the transformer blocks, AdamW for everything else, behind one handle.

Muon turns the momentum of a matrix into the nearest orthogonal one before it steps, so that directions with a small
gradient move as well. From one checkpoint, with the same 250 batches, it brought rotation down 4 % and the place probe
3.5 % further than AdamW. It costs 0.11 s of a step of 0.45, so that batches are larger with it.
Source: Jordan et al., Muon, 2024; learning rates as AdamW's, Liu et al., Muon is Scalable for LLM Training, 2025.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

_OTHERS = 0.3  # learning rate of AdamW as a share of Muon's


class Optimiser:
    """One step for all parameters of a learner.

    Args:
        module: what is trained.
        learning_rate: of the matrices; the others get a share of it.
        weight_decay: of everything with more than one axis.
    """

    def __init__(self, module: nn.Module, learning_rate: float, weight_decay: float) -> None:
        matrices: list[Tensor] = []
        decayed: list[Tensor] = []
        others: list[Tensor] = []
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                continue
            if parameter.ndim == 2 and ('blocks.' in name or 'trunk.' in name):
                matrices.append(parameter)
            else:
                (decayed if parameter.ndim > 1 else others).append(parameter)
        self._parts: dict[str, torch.optim.Optimizer] = {
            'muon': torch.optim.Muon(
                matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn='match_rms_adamw'
            ),
            'adamw': torch.optim.AdamW(
                [{'params': decayed, 'weight_decay': weight_decay}, {'params': others, 'weight_decay': 0.0}],
                lr=_OTHERS * learning_rate,
                betas=(0.9, 0.98),
            ),
        }

    def set_rate(self, learning_rate: float) -> None:
        """Learning rate of the next steps."""
        for name, part in self._parts.items():
            for group in part.param_groups:
                group['lr'] = learning_rate if name == 'muon' else _OTHERS * learning_rate

    def step(self) -> None:
        """Move every parameter by its gradient."""
        for part in self._parts.values():
            part.step()

    def zero_grad(self) -> None:
        """Fill the gradients with zeros; they stay allocated, as other processes add to them."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=False)

    def state(self) -> dict[str, Tensor]:
        """What the next step depends on, by name."""
        return {
            f'{name}.{index}.{key}': value
            for name, part in self._parts.items()
            for index, state in part.state_dict()['state'].items()
            for key, value in state.items()
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take up what state() gave."""
        states: dict[str, dict[int, dict[str, Tensor]]] = {name: {} for name in self._parts}
        for path, value in tensors.items():
            name, index, key = path.split('.', 2)
            states[name].setdefault(int(index), {})[key] = value
        for name, part in self._parts.items():
            part.load_state_dict({'state': states[name], 'param_groups': part.state_dict()['param_groups']})
