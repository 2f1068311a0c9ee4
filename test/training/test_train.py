"""The loop: resuming, workers, schedule, export."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from training.nano import make_nano
from training.parallel import GradientWorkers
from training.pool import Pool
from training.state import load_average, step_of, write_weights
from training.train import Learner, Stage, StepGradient, TrainConfig, train
from training.windows import HELD_BACK_SEED
from vggt.weights import load_vggt

SMALL = replace(
    TrainConfig(),
    warm_up=2,
    stages=(Stage(2, (48, 64), (2,), 4, whole=False), Stage(4, (48, 64), (2, 3), 6)),
)


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / 'checkpoint.safetensors')


@pytest.fixture(scope='module')
def finished(pool_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp('run')
    assert train(SMALL, pool_folder, run, minutes=5, resume=False) == 4
    return run


def test_a_resumed_run_ends_where_an_unbroken_one_does(finished: Path, pool_folder: Path, tmp_path: Path) -> None:
    assert train(SMALL, pool_folder, tmp_path, minutes=5, stop_at=1) == 1
    assert train(SMALL, pool_folder, tmp_path, minutes=5, stop_at=3, resume=True) == 3
    assert train(SMALL, pool_folder, tmp_path, minutes=5, resume=True) == 4
    unbroken, resumed = tensors_of(finished), tensors_of(tmp_path)
    assert unbroken.keys() == resumed.keys()
    assert [name for name in unbroken if not torch.equal(unbroken[name], resumed[name])] == []


def test_training_moves_the_weights_and_the_average_follows(finished: Path, pool_folder: Path, tmp_path: Path) -> None:
    train(SMALL, pool_folder, tmp_path, minutes=5, stop_at=0)
    start, end = tensors_of(tmp_path), tensors_of(finished)
    name = 'aggregator.frame_blocks.0.attn.qkv.weight'
    assert not torch.equal(start[f'learner.model.{name}'], end[f'learner.model.{name}'])
    assert not torch.equal(end[f'average.{name}'], end[f'learner.model.{name}'])


def test_a_run_leaves_log_curves_and_sample(finished: Path) -> None:
    lines = [json.loads(line) for line in (finished / 'log.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [1, 2, 3, 4]
    assert 'patches_matched' in lines[0]
    assert 'rotation' in lines[3]
    assert (finished / 'curves.png').stat().st_size > 1000
    assert (finished / 'sample.png').stat().st_size > 1000


def test_the_time_budget_ends_a_run(pool_folder: Path, tmp_path: Path) -> None:
    assert train(SMALL, pool_folder, tmp_path, minutes=0) == 0
    assert (tmp_path / 'checkpoint.safetensors').exists()


def test_a_missing_pool_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'training\.pool'):
        train(SMALL, tmp_path / 'nowhere', tmp_path, minutes=1)


def test_learning_rate_warms_up_and_sinks() -> None:
    config = TrainConfig()
    rates = [config.rate(step) for step in range(config.steps)]
    peak = rates.index(max(rates))
    assert rates[:peak] == sorted(rates[:peak])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert max(rates) == config.learning_rate
    assert rates[-1] < 0.02 * config.learning_rate


def test_the_rate_can_follow_the_clock() -> None:
    config = replace(TrainConfig(), run_down_minutes=50)
    step = config.warm_up + 1
    rates = [config.rate(step, minutes_left=left) for left in (90, 50, 40, 25, 10, 0)]
    assert rates[:2] == [config.learning_rate] * 2
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[3] == pytest.approx(0.505 * config.learning_rate)
    assert rates[-1] == pytest.approx(0.01 * config.learning_rate)
    assert config.rate(config.steps - 1, minutes_left=90) < 0.02 * config.learning_rate  # steps that run out count too


def test_weights_that_are_gone_on_with_warm_up_after_their_probes() -> None:
    config = TrainConfig().from_weights(settle=60)
    assert config.stage(59).probes_only
    assert not config.stage(60).probes_only
    assert config.rate(60) < config.rate(80) < config.rate(config.settle + config.warm_up) == config.learning_rate


def test_a_schedule_can_end_elsewhere_and_have_larger_batches() -> None:
    config = TrainConfig()
    begin = config.stages[1].until
    longer, shorter = config.scaled(begin + 5_000, 4), config.scaled(begin)
    assert longer.steps == begin + 5_000
    assert [s.frames_per_step for s in longer.stages] == [4 * s.frames_per_step for s in config.stages]
    assert shorter.stages == config.stages[:2]
    plateau_end = longer.steps - longer.run_down
    assert longer.rate(plateau_end) == config.learning_rate > longer.rate(plateau_end + longer.run_down // 2)


def test_compiled_blocks_stay_in_one_process(pool_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--processes 1'):
        train(SMALL, pool_folder, tmp_path, minutes=1, processes=2, compiled=True)


def test_a_gpu_takes_one_process(pool_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--processes 1'):
        train(SMALL, pool_folder, tmp_path, minutes=1, processes=2, device='cuda')


def test_exported_weights_load_by_the_public_path_and_say_the_same(finished: Path, tmp_path: Path) -> None:
    write_weights(finished, tmp_path)
    shipped = load_vggt(tmp_path / 'nano.safetensors')
    averaged, step = load_average(finished)
    assert step == 4
    assert (tmp_path / 'nano.safetensors').stat().st_size < 16_000_000
    images = torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        depth, shipped_depth = averaged(images).depth, shipped(images).depth
    # fp16 keeps 11 bits: 5e-4 relative for each weight, some ten layers deep and partly averaged out.
    assert torch.allclose(depth, shipped_depth, rtol=2e-2)
    assert not torch.equal(depth, shipped_depth)


def test_exported_weights_may_keep_a_share_of_those_that_the_run_began_with(finished: Path, tmp_path: Path) -> None:
    average, _ = load_average(finished)
    start = {name: torch.full_like(value, 2.0) for name, value in average.state_dict().items()}
    save_file(start, tmp_path / 'start.safetensors')
    write_weights(finished, tmp_path, tmp_path / 'start.safetensors', 0.25)
    for name, value in load_vggt(tmp_path / 'nano.safetensors').state_dict().items():
        torch.testing.assert_close(value, (0.75 * average.state_dict()[name] + 0.5).to(value), rtol=1e-3, atol=1e-3)


def test_a_run_starts_from_shipped_weights_with_its_probes_alone(
    finished: Path, pool_folder: Path, tmp_path: Path
) -> None:
    write_weights(finished, tmp_path)
    start = tmp_path / 'nano.safetensors'
    config, run = SMALL.from_weights(settle=2, begun_at=step_of(start)), tmp_path / 'run'
    assert train(config, pool_folder, run, minutes=5, start=start, stop_at=2) == 2
    settled, ended = tensors_of(run), tensors_of(finished)
    model = [name for name in settled if name.startswith('learner.model.')]
    shipped = {name: ended[name.replace('learner.model.', 'average.')].half().float() for name in model}
    assert [name for name in model if not torch.equal(settled[name], shipped[name])] == []
    assert not torch.equal(settled['learner.probes.0.read.weight'], ended['learner.probes.0.read.weight'])
    assert train(config, pool_folder, run, minutes=5, resume=True, start=start) == SMALL.steps
    moved = tensors_of(run)
    name = 'learner.model.aggregator.global_blocks.2.mlp.fc1.weight'
    assert not torch.equal(moved[name], shipped[name])
    write_weights(run, tmp_path)
    assert step_of(start) == 4 + SMALL.steps  # those of both runs


def test_workers_leave_the_mean_gradient(pool_folder: Path) -> None:
    learner, function = Learner(SMALL, make_nano(0)), StepGradient(SMALL, pool_folder)
    trained = [p for p in learner.parameters() if p.requires_grad]
    losses = [function(learner, 3, rank)['loss'] for rank in (0, 1)]
    expected = [None if p.grad is None else p.grad / 2 for p in trained]  # the two have added up
    for parameter in trained:
        parameter.grad = None
    with GradientWorkers(learner, function, processes=2, threads=1) as workers:
        numbers = workers.gradients(3)
    assert numbers['loss'] == pytest.approx(sum(losses) / 2, rel=1e-6)
    for parameter, wanted in zip(trained, expected, strict=True):
        if wanted is not None:  # a parameter that nothing reads has no gradient in one process, and zeros in two
            assert torch.allclose(parameter.grad, wanted, rtol=1e-4, atol=1e-7)


def test_a_dead_worker_is_told(pool_folder: Path) -> None:
    with GradientWorkers(Learner(SMALL, make_nano(0)), StepGradient(SMALL, pool_folder), 2, threads=1) as workers:
        workers._workers[0].kill()
        workers._workers[0].join()
        with pytest.raises(RuntimeError, match='died'):
            workers.gradients(0)


def test_held_back_seeds_cannot_enter_a_pool(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=str(HELD_BACK_SEED)):
        Pool(tmp_path, windows=HELD_BACK_SEED + 1)


def test_compiled_blocks_have_the_same_gradient(pool_folder: Path) -> None:
    config = replace(SMALL, stages=(Stage(4, (48, 64), (2, 3), 6),))
    gradients = {}
    for is_compiled in (False, True):
        learner = Learner(config, make_nano(0))
        if is_compiled:
            learner.compile_blocks('aot_eager')
        numbers = StepGradient(config, pool_folder)(learner, 1, 0)
        assert numbers['loss'] > 0
        gradients[is_compiled] = {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}
    assert gradients[True].keys() == gradients[False].keys()
    for name, expected in gradients[False].items():
        difference = (gradients[True][name] - expected).norm()
        assert difference <= 0.05 * expected.norm() + 1e-6, name  # bfloat16 rounds elsewhere


def test_batches_drawn_ahead_are_those_drawn_in_turn(pool_folder: Path) -> None:
    in_turn, ahead = (StepGradient(SMALL, pool_folder, device) for device in ('cpu', 'cpu:0'))  # as any device but cpu
    for step in (2, 3):
        ours, theirs = (one._drawn(step, 0, 8) for one in (ahead, in_turn))
        assert torch.equal(ours.batch.images, theirs.batch.images)
        assert torch.equal(ours.asked, theirs.asked)
        assert ours.decoded == theirs.decoded
