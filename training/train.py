"""Train nano from procedural scenes, within a time budget, resumable to the step.

    python -m training.pool runs/pool &                    # once, in the background: windows to draw from
    python -m training.train --minutes 90 --resume         # runs/nano: checkpoint, log, curves, pictures
    python -m training.train --export vggt/weights         # averaged weights as fp16, with their configuration
    python -m training.train --export new --start old.safetensors --keep 0.2       # a fifth of what it began with

What a step draws depends on the seed and the step alone, so a run that is stopped and resumed ends at the same
parameters as one that was not, once the pool is complete. Not so with --run-down, where the rate follows the clock.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from training.attention import matrix_attention
from training.batches import Batch, draw_batch
from training.correspondence import (
    PatchMatcher,
    Probe,
    attention_loss,
    correspond,
    frame_scale_loss,
    pair_loss,
    relative_depth_loss,
    shift_loss,
    watch_queries_and_keys,
)
from training.grow import grow
from training.losses import camera_loss, regression_loss
from training.nano import MATCHING_LAYERS, PROBED_LAYERS, make_nano
from training.optimiser import Optimiser
from training.parallel import KEPT_BYTES, GradientWorkers
from training.plots import draw_sample, plot_curves
from training.pool import Pool
from training.state import Average, load_average, load_checkpoint, save_checkpoint, step_of, write_weights
from vggt import VGGT
from vggt.compiled_blocks import CompiledBlocks
from vggt.layers.rope import grid_rotary_table
from vggt.model import pick
from vggt.weights import load_vggt
from vggt_ros.core.memory import keep_freed_memory

_AHEAD = 3  # steps whose batches are drawn beside the one that a GPU computes
_PROBE_RATE = 10.0  # linear probes of a model that stays as it is bear a higher rate


@dataclass(frozen=True)
class Stage:
    """A part of the curriculum."""

    until: int  # step at which it ends
    image_size: tuple[int, int]  # H, W
    frames: tuple[int, ...]  # views of a scene, one of these at random for each step
    frames_per_step: int  # of each process; scenes = frames_per_step // views
    wide: bool = False  # prefer large motion, where a shift is more than a fraction of a patch
    probes_only: bool = False  # the model stays as it is
    whole: bool = True  # False: only up to the first frame block, only the contrastive loss; a fifth of the time


@dataclass(frozen=True)
class TrainConfig:
    """Every setting of a run."""

    seed: int = 0
    begun_at: int = 0  # steps that the weights of --start have been through; those of the run count from 0
    learning_rate: float = 1e-3  # of the matrices; see optimiser.py for the others
    warm_up: int = 200
    run_down: int = 900
    run_down_minutes: float = 0.0  # the rate also follows the clock: it sinks over the last minutes of the budget
    weight_decay: float = 0.03
    clip: float = 1.0
    average_decay: float = 0.995
    stages: tuple[Stage, ...] = (
        # First learn to recognise patches. Then pairs at three quarters of the size, where a step costs half.
        Stage(1_200, (72, 96), (2,), 16, whole=False),
        Stage(5_677, (72, 96), (2, 2, 4), 24, wide=True),
        Stage(7_120, (96, 128), (2, 4, 8, 8), 24),
    )
    # Weights of the losses. Rotation counts threefold: a degree is only 0.009 in a quaternion.
    camera: float = 5.0
    rotation: float = 3.0
    fov: float = 0.5
    shift: float = 0.5
    pair_turn: float = 6.0
    pair_direction: float = 1.0
    pair_length: float = 0.2
    depth: float = 1.0
    relative_depth: float = 2.0
    frame_scale: float = 1.0
    patches: float = 0.5
    attention: float = 0.5
    place: float = 3.0
    point: float = 0.5

    @property
    def steps(self) -> int:
        """Length of the whole schedule."""
        return self.stages[-1].until

    @property
    def settle(self) -> int:
        """Steps before the model itself begins to move."""
        return max((s.until for s in self.stages if s.probes_only), default=0)

    def from_weights(self, settle: int = 60, begun_at: int = 0) -> TrainConfig:
        """The last stage alone, as weights that have been through the others need it; steps count from there.

        Weights come without the probes, which are no part of the model. A probe that knows nothing would pull at the
        tokens, so for the first `settle` steps only the probes learn.
        """
        last = self.stages[-1]
        half = max(last.frames_per_step // 2, *last.frames)
        first = replace(last, until=settle, frames_per_step=half, probes_only=True)
        return replace(self, stages=(first, last), warm_up=min(self.warm_up, settle), begun_at=begun_at)

    def scaled(self, steps: int | None = None, frames_factor: int = 1) -> TrainConfig:
        """The same schedule with another end, and with batches frames_factor as large."""
        stages = [replace(s, frames_per_step=frames_factor * s.frames_per_step) for s in self.stages]
        if steps is not None:
            stages = [s for s, begin in zip(stages, (0, *(s.until for s in stages)), strict=False) if begin < steps]
            stages[-1] = replace(stages[-1], until=steps)
        return replace(self, stages=tuple(stages))

    def stage(self, step: int) -> Stage:
        """The stage that a step belongs to."""
        return next((s for s in self.stages if step < s.until), self.stages[-1])

    def rate(self, step: int, minutes_left: float = math.inf) -> float:
        """Learning rate: linear warm-up, a plateau, and over the last `run_down` steps half a cosine to a hundredth.

        With a plateau a run can be made longer after the fact: what comes before the end stays as it was. Where
        other work shares the machine nobody knows how many steps a budget has room for; then `run_down_minutes` lets
        the rate sink by the clock as well, and what is lower counts.

        Args:
            step: from 0.
            minutes_left: of the time budget.
        """
        if self.stage(step).probes_only:
            return _PROBE_RATE * self.learning_rate
        progress = 1 + (step - self.steps) / self.run_down
        if self.run_down_minutes > 0:
            progress = max(progress, 1 - minutes_left / self.run_down_minutes)
        warm = (step + 1 - self.settle) / self.warm_up
        sunk = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
        return self.learning_rate * min(sunk, warm)


class Learner(nn.Module):
    """The model and its probes, with one call from a batch to a loss."""

    def __init__(self, config: TrainConfig, model: VGGT) -> None:
        super().__init__()
        self.config = config
        self.model = model
        self.matcher = PatchMatcher(model.config.embed_dim)
        self.probes = nn.ModuleList(Probe(2 * model.config.embed_dim) for _ in PROBED_LAYERS)
        self._compiled: CompiledBlocks | None = None

    def compile_blocks(self, backend: str = 'inductor') -> None:
        """From now on, whenever the whole model learns; a hook in a block would be compiled with it, so not those."""
        watched = [self.model.aggregator.global_blocks[i] for i in MATCHING_LAYERS]
        blocks = [block for block in self.model.aggregator.blocks() if block not in watched]
        self._compiled = CompiledBlocks(blocks, backend)

    def match_patches(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Contrastive loss alone, as the first stage of training uses it, and its parts for the log."""
        aggregator, config = self.model.aggregator, self.model.config
        H, W = batch.images.shape[-2:]
        grid = (H // config.patch_size, W // config.patch_size)
        scenes, frames = batch.images.shape[:2]
        special = aggregator.special_tokens(scenes, frames)
        table = grid_rotary_table(
            *grid,
            config.num_special_tokens,
            config.embed_dim // config.num_heads,
            config.rope_frequency,
            special.device,
        )
        with self._precision(batch.images.device.type):
            tokens = aggregator.encode(batch.images.flatten(0, 1)).unflatten(0, (scenes, frames))
            tokens = torch.cat((special.to(tokens.dtype), tokens), dim=2)
            tokens = aggregator.frame_blocks[0](tokens.flatten(0, 1), table).unflatten(0, (scenes, frames))
        truth = correspond(batch.targets, config.patch_size)
        loss, matched = self.matcher(tokens[:, :, config.num_special_tokens :], truth, grid)
        return loss, {'patches': loss.detach(), 'patches_matched': matched}

    def forward(
        self, batch: Batch, decoded: list[int], asked: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of a batch, and its parts for the log.

        Args:
            batch: input and truth.
            decoded: frames whose depth is decoded; the dense head costs as much as half of the transformer.
            asked: patches whose matching and attention are supervised, None for all.
        """
        model, config, targets = self.model, self.config, batch.targets
        if model.camera_head is None or model.depth_head is None:
            raise ValueError(f'training needs a camera and a depth head, this model has {model.config.heads}')
        special, patch = model.config.num_special_tokens, model.config.patch_size
        H, W = batch.images.shape[-2:]
        with self._precision(batch.images.device.type), watch_queries_and_keys(model, MATCHING_LAYERS) as seen:
            with self._compiled.compiling() if self._compiled else nullcontext():
                layers = model.aggregator(batch.images)
            on_cpu = batch.images.device.type == 'cpu'
            chunk = None if on_cpu else batch.images.shape[0] * len(decoded)  # all at once: a GPU waits for launches
            picked = {i: pick(x, decoded) for i, x in layers.items()}
            depth, confidence = model.depth_head(picked, (H, W), special, chunk)
        poses = model.camera_head(layers[model.config.depth - 1][:, :, 0].float())
        camera = camera_loss(poses, targets)
        shift = shift_loss(poses, targets)
        pairs = pair_loss(poses, targets)
        dense = regression_loss(
            depth.float(), confidence.float(), targets.depth[:, decoded, ..., None], targets.valid[:, decoded], 'grad'
        )
        frame_scale = frame_scale_loss(depth[..., 0].float(), targets, decoded)
        relative = relative_depth_loss(depth[..., 0].float(), targets, decoded)
        truth = correspond(targets, patch)
        grid = (H // patch, W // patch)
        patches, patches_matched = self.matcher(layers[0][:, :, special:, : model.config.embed_dim], truth, grid, asked)
        matching = [attention_loss(model, seen[i], truth, grid, asked) for i in MATCHING_LAYERS]
        probed = [
            probe(layers[i][:, :, special:], targets, truth, patch)
            for probe, i in zip(self.probes, PROBED_LAYERS, strict=True)
        ]
        parts = {
            **camera,
            'shift': shift,
            **pairs,
            **{f'depth_{name}': value for name, value in dense.items()},
            'frame_scale': frame_scale,
            'relative_depth': relative,
            'patches': patches,
            'patches_matched': patches_matched,
            'attention': torch.stack([loss for loss, _ in matching]).mean(),
            'matched': matching[-1][1],
            'place': torch.stack([p['place'] for p in probed]).mean(),
            'point': torch.stack([p['point'] for p in probed]).mean(),
        }
        loss = (
            config.camera * (camera['translation'] + config.rotation * camera['rotation'] + config.fov * camera['fov'])
            + config.shift * shift
            + config.pair_turn * pairs['pair_turn']
            + config.pair_direction * pairs['pair_direction']
            + config.pair_length * pairs['pair_length']
            + config.depth * sum(dense.values())
            + config.frame_scale * frame_scale
            + config.relative_depth * relative
            + config.patches * patches
            + config.attention * parts['attention']
            + config.place * parts['place']
            + config.point * parts['point']
        )
        return loss, parts

    def fit_probes(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the probes and the matcher on a model that does not learn, and its parts for the log."""
        config, targets = self.model.config, batch.targets
        special, patch = config.num_special_tokens, config.patch_size
        H, W = batch.images.shape[-2:]
        with torch.no_grad(), self._precision(batch.images.device.type):
            layers = self.model.aggregator(batch.images)
        truth = correspond(targets, patch)
        patches, matched = self.matcher(layers[0][:, :, special:, : config.embed_dim], truth, (H // patch, W // patch))
        probed = [
            probe(layers[i][:, :, special:], targets, truth, patch)
            for probe, i in zip(self.probes, PROBED_LAYERS, strict=True)
        ]
        parts = {
            'patches': patches,
            'patches_matched': matched,
            **{name: torch.stack([p[name] for p in probed]).mean() for name in ('place', 'point')},
        }
        loss = parts['patches'] + parts['place'] + parts['point']
        return loss, parts

    @staticmethod
    @contextmanager
    def _precision(device: str) -> Iterator[None]:
        with torch.autocast(device, torch.bfloat16), matrix_attention() if device == 'cpu' else nullcontext():
            yield


def _numbers(parts: dict[str, Tensor]) -> dict[str, float]:
    """Read all at once, behind the last launch: a GPU is waited for with every reading."""
    return dict(zip(parts, torch.stack([value.detach().float() for value in parts.values()]).tolist(), strict=True))


@dataclass(frozen=True)
class Draw:
    """What chance decides of one step's share of one process.

    Attributes:
        batch: input and truth.
        decoded: frames whose depth is decoded.
        asked: patches whose matching and attention are supervised.
    """

    batch: Batch
    decoded: list[int]
    asked: Tensor


class StepGradient:
    """Gradient of one step's share of one process; picklable, so that workers can be started with it.

    On a GPU the batches of the next steps are drawn on threads of their own meanwhile.
    """

    def __init__(self, config: TrainConfig, pool: Path, device: str = 'cpu') -> None:
        self.config = config
        self.pool_path = pool
        self.device = device
        self.pool: Pool | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._ahead: dict[int, Future[Draw]] = {}

    def __call__(self, learner: Learner, step: int, rank: int) -> dict[str, float]:
        """Add the gradient to the learner's parameters and return the parts of the loss."""
        stage = self.config.stage(step)
        drawn = self._drawn(step, rank, learner.model.config.patch_size)
        if not stage.whole:
            loss, parts = learner.match_patches(drawn.batch)
        elif stage.probes_only:
            loss, parts = learner.fit_probes(drawn.batch)
        else:
            loss, parts = learner(drawn.batch, drawn.decoded, drawn.asked)
        loss.backward()
        return _numbers({'loss': loss, **parts})

    def _drawn(self, step: int, rank: int, patch_size: int) -> Draw:
        if self.device == 'cpu':
            return self._draw(step, rank, patch_size)
        self._threads = self._threads or ThreadPoolExecutor(_AHEAD)
        for later in range(step, step + _AHEAD + 1):
            if later not in self._ahead:
                self._ahead[later] = self._threads.submit(self._draw, later, rank, patch_size)
        return self._ahead.pop(step).result()

    def _draw(self, step: int, rank: int, patch_size: int) -> Draw:
        self.pool = self.pool or Pool(self.pool_path)
        rng = np.random.default_rng((self.config.seed, step, rank))
        stage = self.config.stage(step)
        frames = int(np.random.default_rng((self.config.seed, step)).choice(stage.frames))  # alike in all processes
        scenes = stage.frames_per_step // frames
        batch = draw_batch(self.pool, rng, self.pool.ready(), scenes, frames, stage.image_size, stage.wide, self.device)
        decoded = sorted(rng.permutation(frames)[: max(1, frames // 2)].tolist())
        patches = math.prod(stage.image_size) // patch_size**2
        return Draw(batch, decoded, torch.from_numpy(rng.permutation(patches)[: patches // 3]))


def train(
    config: TrainConfig,
    pool: Path,
    run: Path,
    minutes: float,
    *,
    resume: bool = False,
    start: Path | None = None,
    stop_at: int | None = None,
    processes: int = 1,
    threads: int = 1,
    device: str = 'cpu',
    compiled: bool = False,
) -> int:
    """Train until the schedule or the time is over, or SIGTERM comes; save, and return the step reached.

    Args:
        config: what to do.
        pool: folder of rendered windows.
        run: folder for checkpoint, log and pictures.
        minutes: time budget.
        resume: go on from the checkpoint in run, if there is one.
        start: weights to begin with where nothing is resumed, such as the shipped ones; config should be one
            `from_weights`.
        stop_at: stop before this step, with the schedule left as it is.
        processes, threads: how the work is spread over one machine.
        device: where the network is trained, such as cuda; another one than the CPU takes one process.
        compiled: compile the blocks, for each number of frames anew: some minutes on a processor, for 6 % there.

    Raises:
        FileNotFoundError: the pool is empty or missing.
        ValueError: several processes are asked for on a GPU, or for compiled blocks.
    """
    if device != 'cpu' and processes != 1:
        raise ValueError(f'training on {device} takes one process, got {processes}; use --processes 1')
    if compiled and processes != 1:
        raise ValueError(f'compiled blocks stay in their process, got {processes} of them; use --processes 1')
    started = time.monotonic()
    torch.set_num_threads(threads)
    if device != 'cpu':
        torch.set_float32_matmul_precision('high')  # what autocast leaves alone: losses and the camera head
        torch.backends.cudnn.benchmark = True  # three shapes of a batch, over and over
    if not (pool / 'ready.npy').exists() or not len(Pool(pool).ready()):
        raise FileNotFoundError(f'no rendered windows in {pool}; make some: python -m training.pool {pool}')
    learner = Learner(config, make_nano(config.seed)).to(device)
    optimiser = Optimiser(learner, config.learning_rate, config.weight_decay)
    average = Average(learner.model, config.average_decay)
    step = load_checkpoint(run, learner, optimiser, average) if resume else 0
    if step == 0 and start is not None:
        learner.model.load_state_dict(grow(load_vggt(start), learner.model.config, config.seed).state_dict())
        average = Average(learner.model, config.average_decay)
    if compiled:
        learner.compile_blocks()
    run.mkdir(parents=True, exist_ok=True)
    (run / 'config.json').write_text(json.dumps(asdict(config), indent=1))
    end = config.steps if stop_at is None else min(stop_at, config.steps)
    saved = reported = time.monotonic()
    stopped: list[int] = []
    previous = signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))  # finish the step, then save
    with GradientWorkers(learner, StepGradient(config, pool, device), processes, threads) as workers:
        while not stopped and step < end and time.monotonic() - started < 60 * minutes:
            rate = config.rate(step, minutes - (time.monotonic() - started) / 60)
            optimiser.set_rate(rate)
            parts = workers.gradients(step)
            norm = nn.utils.clip_grad_norm_(learner.parameters(), config.clip)
            if not torch.isfinite(norm):
                print(f'step {step}: gradient is not finite, skipped', flush=True)
            else:
                optimiser.step()
            optimiser.zero_grad()
            average.update(learner.model, step)
            step += 1
            now = time.monotonic()
            _log(run, step, now - started, rate, float(norm), parts)
            if now - reported > 30:
                print(f'step {step} ' + ' '.join(f'{k} {v:.3f}' for k, v in parts.items()), flush=True)
                reported = now
            if now - saved > 300:
                save_checkpoint(run, step, learner, optimiser, average)
                _draw(run)
                saved = now
    signal.signal(signal.SIGTERM, previous)
    save_checkpoint(run, step, learner, optimiser, average)
    _draw(run)
    return step


def _draw(run: Path) -> None:
    """Curves and a sample picture; a run must not end because a picture could not be drawn."""
    try:
        plot_curves(run)
        draw_sample(load_average(run)[0], run / 'sample.png')
    except OSError as error:
        print(f'no pictures: {error}', flush=True)


def _log(run: Path, step: int, seconds: float, rate: float, norm: float, parts: dict[str, float]) -> None:
    line = {'step': step, 'seconds': round(seconds, 1), 'rate': rate, 'norm': norm, **parts}
    with (run / 'log.jsonl').open('a') as file:
        file.write(json.dumps(line) + '\n')


def main() -> None:
    """Command line; see the head of this file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--pool', type=Path, default=Path('runs/pool'))
    parser.add_argument('--run', type=Path, default=Path('runs/nano'))
    parser.add_argument('--minutes', type=float, default=60)
    parser.add_argument('--resume', action='store_true', help='go on from the checkpoint in --run, if there is one')
    parser.add_argument(
        '--start', type=Path, help='weights to begin with, as vggt/weights/nano.safetensors; again with --resume'
    )
    parser.add_argument('--run-down', type=float, default=0.0, help='minutes before the end in which the rate sinks')
    parser.add_argument('--rate', type=float, default=TrainConfig.learning_rate, help='learning rate of the plateau')
    parser.add_argument('--processes', type=int, default=2)
    parser.add_argument('--threads', type=int, default=1, help='of each process')
    parser.add_argument('--device', default='cpu', help='cpu, or cuda with --processes 1')
    parser.add_argument('--compile', action='store_true', help='compile the blocks, which pays on a GPU')
    parser.add_argument('--steps', type=int, help='length of the schedule, if it is to end elsewhere than planned')
    parser.add_argument('--frames-factor', type=int, default=1, help='larger batches, for a GPU: 32 or so')
    parser.add_argument('--export', type=Path, help='only write nano.safetensors and nano.json into this folder')
    parser.add_argument('--keep', type=float, default=0.0, help='with --export: share of --start in the weights')
    arguments = parser.parse_args()
    if arguments.export:
        write_weights(arguments.run, arguments.export, arguments.start, arguments.keep)
        return
    keep_freed_memory(KEPT_BYTES, KEPT_BYTES)
    config = TrainConfig(learning_rate=arguments.rate, run_down_minutes=arguments.run_down)
    if arguments.start:
        config = config.from_weights(begun_at=step_of(arguments.start))
    config = config.scaled(arguments.steps, arguments.frames_factor)
    train(
        config,
        arguments.pool,
        arguments.run,
        arguments.minutes,
        resume=arguments.resume,
        start=arguments.start,
        processes=arguments.processes,
        threads=arguments.threads,
        device=arguments.device,
        compiled=arguments.compile,
    )


if __name__ == '__main__':
    main()
