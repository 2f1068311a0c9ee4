"""What a run keeps: checkpoints to resume from, the running average of the weights, and the export to fp16."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.nano import NANO
from training.optimiser import Optimiser
from vggt import VGGT

NAME = 'nano'


class Average:
    """Exponential moving average of a model's weights; it forgets its random start quickly."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model as it is after `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        state = model.state_dict()
        torch._foreach_lerp_([self.weights[name] for name in state], list(state.values()), 1 - decay)


def save_checkpoint(run: Path, step: int, learner: nn.Module, optimiser: Optimiser, average: Average) -> None:
    """Write everything that the next step depends on; a kill while writing leaves the older checkpoint whole."""
    tensors = {f'learner.{name}': value for name, value in learner.state_dict().items()}
    tensors |= {f'average.{name}': value for name, value in average.weights.items()}
    tensors |= {f'optimiser.{name}': value for name, value in optimiser.state().items()}
    tensors['step'] = torch.tensor(step)
    run.mkdir(parents=True, exist_ok=True)
    unfinished = run / 'checkpoint.unfinished'
    save_file({name: value.detach().clone().contiguous() for name, value in tensors.items()}, unfinished)
    unfinished.replace(run / 'checkpoint.safetensors')


def load_checkpoint(run: Path, learner: nn.Module, optimiser: Optimiser, average: Average) -> int:
    """Restore what save_checkpoint wrote; returns the step, 0 where there is no checkpoint."""
    path = run / 'checkpoint.safetensors'
    if not path.exists():
        return 0
    tensors = load_file(path)
    learner.load_state_dict(_under('learner.', tensors))
    average.weights = {
        name: value.to(average.weights[name].device) for name, value in _under('average.', tensors).items()
    }
    optimiser.load_state(_under('optimiser.', tensors))
    return int(tensors['step'])


def load_average(run: Path) -> tuple[VGGT, int]:
    """The averaged model of a run, ready to predict, and the step it was saved at.

    Raises:
        FileNotFoundError: the run has no checkpoint yet.
    """
    path = run / 'checkpoint.safetensors'
    if not path.exists():
        raise FileNotFoundError(f'{path} does not exist; train first: python -m training.train --run {run}')
    tensors = load_file(path)
    model = VGGT(NANO)
    model.load_state_dict(_under('average.', tensors))
    return model.eval(), int(tensors['step'])


def write_weights(run: Path, folder: Path, start: Path | None = None, share: float = 0.0) -> None:
    """Export the averaged weights as fp16 safetensors with their configuration beside them.

    The step in their metadata counts from random weights: a run that began with weights adds the steps of those.

    Args:
        run, folder: of the checkpoint, and where the weights go.
        start, share: weights that the run began with, and how much of those is mixed in, 0 to 1. Between two that one
            grew out of the other lie weights that keep more of what the first could. Source: Wortsman et al., Robust
            fine-tuning of zero-shot models, CVPR 2022.
    """
    model, step = load_average(run)
    if start is not None and share:
        before = load_file(start)
        for name, value in model.state_dict().items():
            value.lerp_(before[name].to(value), share)
    begun_at = json.loads((run / 'config.json').read_text()).get('begun_at', 0)
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, folder / f'{NAME}.safetensors', metadata={'format': 'pt', 'step': str(begun_at + step)})
    (folder / f'{NAME}.safetensors').chmod(0o644)  # the library writes files that only their owner can read
    (folder / f'{NAME}.json').write_text(json.dumps(NANO.to_dict(), indent=1) + '\n')


def step_of(weights: Path) -> int:
    """The step that write_weights noted, 0 where the file says none."""
    with safe_open(weights, 'pt') as file:
        return int((file.metadata() or {}).get('step', 0))


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
