"""Workers on Ray: processes of this machine or of a cluster, each with a network of its own.

Ray starts them, moves frames and predictions between them, and starts again one that died. Its documentation:
https://docs.ray.io/en/latest/ray-core/actors.html.
"""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from vggt_ros.batch.jobs import Job
from vggt_ros.batch.parts import Answer, Part, Workers, predict_part
from vggt_ros.batch.work import Outcome, fail, load, process, process_in_parts
from vggt_ros.core.config import WindowConfig
from vggt_ros.core.devices import available_cores
from vggt_ros.core.errors import ConfigError
from vggt_ros.core.planner import Plan
from vggt_ros.core.predictor import Predictor, RigPredictor, make_predictor
from vggt_ros.run import Recipe, describe_network

POLL_S = 0.5  # between two looks at how far the workers are
REACH_S = 10.0  # waited for the head of a cluster
JOINERS = 2  # long recordings at once: while one is being written, the workers compute the next


class _Worker:
    """A process with a network: recordings one after the other, or parts of them."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._predictor: Predictor | None = None
        self._frames = 0

    def describe(self) -> str:
        """Load the network; what it runs on."""
        return describe_network(self._recipe.config, self._load())[1]

    def process(self, job: Job) -> Outcome:
        network = getattr(self._load(), 'network', None)
        return process(job, self._recipe, network, self._count)

    def predict_part(self, part: Part) -> Answer:
        return predict_part(self._load(), part)

    def plan(self, window: WindowConfig) -> Plan | None:
        plan = getattr(self._load(), 'plan', None)
        return plan(window) if plan is not None else None

    @ray.method(concurrency_group='watch')
    def frames(self) -> int:
        """Frames processed so far."""
        return self._frames

    def _load(self) -> Predictor:
        if self._predictor is None:  # lazily: Ray makes a new object where the process died
            predictor = make_predictor(self._recipe.config, load(self._recipe))
            self._predictor = predictor.predictor if isinstance(predictor, RigPredictor) else predictor
        return self._predictor

    def _count(self) -> None:
        self._frames += 1


class _Joiner:
    """A process that joins the parts of long recordings."""

    def __init__(self, recipe: Recipe, device: str, frames_a_part: int) -> None:
        self._recipe, self._device, self._frames_a_part = recipe, device, frames_a_part
        self._frames = 0

    def process(self, job: Job, workers: Sequence[Any]) -> Outcome:
        self._workers, self._load = workers, [0] * len(workers)
        crew = Workers(self._submit, len(workers), self._plan, self._device)
        return process_in_parts(job, self._recipe, crew, self._frames_a_part, self._count)

    @ray.method(concurrency_group='watch')
    def frames(self) -> int:
        """Frames processed so far."""
        return self._frames

    def _plan(self, window: WindowConfig) -> Plan | None:
        plan: Plan | None = ray.get(self._workers[0].plan.remote(window))
        return plan

    def _submit(self, part: Part) -> Future[Answer]:
        least = min(range(len(self._workers)), key=self._load.__getitem__)
        self._load[least] += 1
        answer: Future[Answer] = Future()

        def take(computed: Future[Answer]) -> None:
            self._load[least] -= 1
            error = computed.exception()
            if error is None:
                answer.set_result(computed.result())
            else:
                answer.set_exception(_cause(error))

        self._workers[least].predict_part.remote(part).future().add_done_callback(take)
        return answer

    def _count(self) -> None:
        self._frames += 1


class RayWorkers:
    """Workers on Ray, from here until the block ends.

    Args:
        recipe: how recordings are processed.
        count: of workers; 0 takes one a GPU, or else one a processor core.
        address: of a Ray cluster; empty starts Ray on this machine, for this machine only.

    Raises:
        ConfigError: the cluster cannot be reached, has too little, or the network cannot be loaded there.
    """

    def __init__(self, recipe: Recipe, count: int = 0, address: str = '') -> None:
        self._recipe = recipe
        _connect(address, count)
        try:
            self._start(count)
        except BaseException:
            ray.shutdown()
            raise

    def _start(self, count: int) -> None:
        resources = ray.cluster_resources()
        cpus, gpus = int(resources.get('CPU', 1)), int(resources.get('GPU', 0))
        if self._recipe.config.model.device == 'cpu' or self._recipe.config.model.backend == 'fake':
            gpus = 0
        count = count or gpus or cpus
        if gpus and count > gpus:
            raise ConfigError(f'--workers {count} needs as many GPUs, Ray has {gpus}')
        if count > cpus:
            raise ConfigError(f'--workers {count} needs as many processor cores, Ray has {cpus}')
        self._worker_class = ray.remote(
            num_cpus=max(1, cpus // count),  # Ray gives torch as many threads
            num_gpus=1 if gpus else 0,
            max_restarts=-1,
            max_task_retries=1,  # a recording that kills its worker twice has failed
            concurrency_groups={'watch': 1},
        )(_Worker)
        self.workers = [self._worker_class.remote(self._recipe) for _ in range(count)]
        try:
            self.device = ray.get([worker.describe.remote() for worker in self.workers])[0]
        except RayError as error:
            raise ConfigError(f'a worker could not start: {_cause(error)}') from error

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(self, *_: object) -> None:
        ray.shutdown()

    def process(
        self,
        whole: Sequence[Job],
        long: Sequence[Job] = (),
        frames_a_part: int = 0,
        progress: Callable[[int], None] = lambda frames: None,
    ) -> Iterator[Outcome]:
        """Outcomes as they come.

        Args:
            whole: recordings that a worker does alone.
            long: recordings whose parts all workers share; they come first.
            frames_a_part: of those.
            progress: told the frames done so far, about twice a second.
        """
        joiner_class = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=1, concurrency_groups={'watch': 1})(
            _Joiner
        )
        joiners = [
            joiner_class.remote(self._recipe, self.device, frames_a_part) for _ in range(min(JOINERS, len(long)))
        ]
        everybody = [*joiners, *self.workers]
        self._counts = [0] * len(everybody)
        yield from self._spread(long, joiners, everybody, progress, self.workers)
        yield from self._spread(whole, self.workers, everybody, progress)

    def _spread(
        self,
        jobs: Sequence[Job],
        over: Sequence[Any],
        everybody: Sequence[Any],
        progress: Callable[[int], None],
        *more: Any,
    ) -> Iterator[Outcome]:
        """Each job to whoever is free, and what he needs for it."""
        waiting, free = deque(jobs), deque(over)
        running: dict[Any, tuple[Job, Any]] = {}
        while waiting or running:
            while waiting and free:
                job, worker = waiting.popleft(), free.popleft()
                running[worker.process.remote(job, *more)] = job, worker
            finished, _ = ray.wait(list(running), timeout=POLL_S)
            progress(self._count(everybody))
            for one in finished:
                job, worker = running.pop(one)
                free.append(worker)
                yield _outcome(one, job)

    def _count(self, everybody: Sequence[Any]) -> int:
        """Frames done so far; of a worker that does not answer at once, as many as it said before."""
        asked = [one.frames.remote() for one in everybody]
        answered, _ = ray.wait(asked, num_returns=len(asked), timeout=POLL_S)
        for i, one in enumerate(asked):
            if one in answered:
                with suppress(RayError):
                    self._counts[i] = max(self._counts[i], ray.get(one))
        return sum(self._counts)


def _connect(address: str, count: int) -> None:
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # nothing is told to anybody
    try:
        if ':' in address and '://' not in address:
            host, _, port = address.rpartition(':')
            socket.create_connection((host, int(port)), REACH_S).close()  # Ray itself would try for minutes
        if address:
            ray.init(address=address, log_to_driver=False)
        else:
            cpus = max(count, available_cores())
            # The loopback address: Ray listens where its node's address is, and nobody else is to reach it.
            ray.init(
                address='local', num_cpus=cpus, include_dashboard=False, log_to_driver=False,
                _node_ip_address='127.0.0.1', configure_logging=False,
            )  # fmt: skip
    except Exception as error:  # Ray raises a bare one where it could not be started in time
        raise ConfigError(f'Ray cannot be started or reached{f" at {address}" if address else ""}: {error}') from error


def _outcome(reference: Any, job: Job) -> Outcome:
    try:
        outcome: Outcome = ray.get(reference)
    except RayActorError:
        return fail(job, 'its worker died twice, for want of memory perhaps')
    except RayError as error:
        return fail(job, str(_cause(error)))
    return outcome


def _cause(error: BaseException) -> BaseException:
    """What went wrong in a worker, without Ray's account of where."""
    return error.cause if isinstance(error, RayTaskError) and error.cause is not None else error
