"""One recording of a batch: processed as `vggt_ros run` does, its results renamed when they are whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vggt import StreamingVGGT
from vggt_ros.batch.jobs import Job, read_summary
from vggt_ros.batch.parts import AheadSource, PartsPredictor, Workers
from vggt_ros.core.errors import VggtRosError
from vggt_ros.core.predictor import Predictor, RigPredictor, load_network, make_predictor
from vggt_ros.recorded.source import Source
from vggt_ros.run import Recipe

log = logging.getLogger(__name__)

DONE, KEPT, FAILED = 'done', 'done before', 'failed'


@dataclass(frozen=True)
class Outcome:
    """What became of a recording.

    Args:
        job: the recording.
        state: DONE now, KEPT from an earlier call, or FAILED.
        words: why it failed.
        summary: of the results, also of those so far; None where there are none.
    """

    job: Job
    state: str
    words: str = ''
    summary: dict[str, Any] | None = None


def load(recipe: Recipe) -> StreamingVGGT | None:
    """The network that all recordings of a worker share; None for backend fake."""
    return None if recipe.config.model.backend == 'fake' else load_network(recipe.config)


def process(job: Job, recipe: Recipe, network: StreamingVGGT | None, progress: Callable[[], None]) -> Outcome:
    """Process a recording whole."""
    return _process(job, recipe, lambda source: (source, make_predictor(recipe.config, network)), progress)


def process_in_parts(
    job: Job, recipe: Recipe, workers: Workers, frames_a_part: int, progress: Callable[[], None]
) -> Outcome:
    """Process a recording whose windows are computed by several workers."""

    def split(source: Source) -> tuple[Source, Predictor]:
        parts = PartsPredictor(workers, frames_a_part)
        predictor = RigPredictor(parts) if len(recipe.config.rig.cameras) > 1 else parts
        return AheadSource(source, recipe.config, parts), predictor

    return _process(job, recipe, split, progress)


def _process(
    job: Job,
    recipe: Recipe,
    prepare: Callable[[Source], tuple[Source, Predictor]],
    progress: Callable[[], None],
) -> Outcome:
    """Nothing that goes wrong with one recording ends the batch."""
    source = None
    try:
        out = job.begin()
        source = recipe.open(job.source)
        frames, predictor = prepare(source)
        recipe.run(frames, out, predictor=predictor, progress=lambda report: progress())
        job.finish()
    except VggtRosError as error:
        return fail(job, str(error))
    except Exception as error:
        log.debug('%s', job.source, exc_info=True)
        return fail(job, f'{type(error).__name__}: {error}')
    finally:
        if source is not None:
            source.close()
    return Outcome(job, DONE, summary=job.summary())


def fail(job: Job, words: str) -> Outcome:
    """The outcome of a recording that broke off; what there is of its results is kept."""
    try:
        job.fail()
    except VggtRosError as error:  # a full or vanished disk: said beside the reason itself
        words = f'{words}; {error}'
    return Outcome(job, FAILED, words, read_summary(job.failed))


def one_after_the_other(jobs: Sequence[Job], recipe: Recipe, progress: Callable[[], None]) -> Iterator[Outcome]:
    """Process recordings in this process, with one network."""
    network = load(recipe)
    for job in jobs:
        yield process(job, recipe, network, progress)
