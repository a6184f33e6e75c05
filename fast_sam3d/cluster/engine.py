"""Spreads scenes over the workers of a Ray cluster, and loses nothing when one of them dies.

The driver plans a few scenes ahead, gives each worker the object that it makes and at most one more, and waits. What is
submitted is bounded by the number of workers, never by the number of objects. Who may make what next is `schedule`'s.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fast_sam3d import __version__
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cluster.actor import Closed, Hello, Made
from fast_sam3d.cluster.connect import connected
from fast_sam3d.cluster.job import SceneJob
from fast_sam3d.cluster.pool import Pool, Worker, check_device
from fast_sam3d.cluster.schedule import Schedule
from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.config.compose import Config
from fast_sam3d.errors import FastSam3dError, OutputError
from fast_sam3d.run.progress import ObjectsProgress
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask

__all__ = ["ClusterEngine"]

log = logging.getLogger(__name__)

SUBMITTED_PER_WORKER = 2  # the one that it works at, and one more so that it need not wait for the driver
POLL_SECONDS = 1.0
REMIND_SECONDS = 30.0
END_SECONDS = 10.0  # for killed workers to be gone
DEATHS_IN_A_ROW = 10  # and one per worker: more without a single object made in between, and something else is wrong


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """What was asked of a worker."""

    worker: Worker
    what: str
    job: SceneJob | None = None
    task: ObjectTask | None = None


class ClusterEngine:
    """Makes the objects of scenes on Ray actors, each of which holds a pipeline.

    Args:
        identity: `scene.worker.config_identity` of the two before it.
        progress: told of every object.
        cwd: that relative paths start from.

    Raises:
        ConfigError: a device that no worker can have.
    """

    def __init__(
        self,
        config: Config,
        checkpoint: Checkpoint,
        identity: Mapping[str, Any],
        settings: ClusterSettings,
        progress: ObjectsProgress,
        cwd: Path,
    ) -> None:
        check_device(config.pipeline.device, settings)
        self._config, self._checkpoint, self._identity = config, checkpoint, identity
        self._settings, self._progress, self._cwd = settings, progress, cwd
        self._stack = ExitStack()
        self._ray: Any = None
        self._pool: Pool | None = None
        self._death: tuple[type[Exception], ...] = ()
        self._schedule: Schedule[SceneJob, ObjectTask] = Schedule(lambda task: task.group)
        self._closing: deque[SceneJob] = deque()
        self._open: list[SceneJob] = []
        self._workers: list[Worker] = []
        self._calls: dict[Any, _Call] = {}
        self._unfit: list[str] = []
        self._deaths = 0  # since the last object
        self._waits_since = self._reminded = 0.0

    @property
    def submitted(self) -> int:
        """Objects and scenes that workers were given and have not returned."""
        return sum(worker.submitted for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Process ids of the workers that have said hello, on whatever machine they are."""
        return [worker.hello.pid for worker in self._workers if worker.hello is not None]

    def run(self, jobs: Iterator[SceneJob]) -> Generator[SceneJob, None, None]:
        """Runs scenes, and gives each as it is done, with its summary or error; to `close` it is the caller's part.

        Args:
            jobs: opened when there is room for one more, a few ahead of the workers.

        Raises:
            FastSam3dError: no worker can load the pipeline, finds room, or stays alive.
        """
        more = True
        try:
            while True:
                opened = None
                if more and self._room():
                    opened = next(jobs, None)
                    more = opened is not None
                if opened is not None and opened.summary is not None:
                    self._progress.without(len(opened.outcomes))
                    yield opened
                elif opened is not None:
                    self._take(opened)
                self._submit()
                if not more and not self._open:
                    return
                if self._workers:
                    yield from self._collect(0.0 if more and self._room() else POLL_SECONDS)
        finally:
            self._stop()

    def _room(self) -> bool:
        """Whether one more scene should be planned: so that a worker that is done with its own finds a fresh one."""
        workers = max(len(self._workers), 1)
        if len(self._open) >= SUBMITTED_PER_WORKER * workers + 2:
            return False
        return not self._schedule.unvisited or self._schedule.waiting <= workers

    def _take(self, job: SceneJob) -> None:
        self._open.append(job)
        self._progress.without(len(job.outcomes))
        self._schedule.add(job, job.tasks)
        if not self._workers:
            self._begin()

    def _begin(self) -> None:
        """There is something to make: only now a cluster is needed."""
        ray = self._ray = self._stack.enter_context(connected(self._settings))
        errors = ray.exceptions
        self._death = (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError)
        self._pool = Pool(ray, self._config, self._checkpoint, self._identity, self._settings, self._cwd)
        self._progress.begin()
        for _ in range(self._pool.wanted(self._progress.left)):
            self._hire()

    def _hire(self) -> None:
        assert self._pool is not None
        if not self._waits_since:
            self._waits_since = self._reminded = time.monotonic()
        worker = self._pool.start()
        self._workers.append(worker)
        self._calls[worker.actor.hello.remote()] = _Call(worker, "hello")
        self._calls[worker.actor.load.remote()] = _Call(worker, "load")

    def _submit(self) -> None:
        ready = [worker for worker in self._workers if worker.ready]
        for worker in ready:
            if not worker.submitted:
                self._give(worker)
        for worker in ready:
            # No one may hold a second object that another could begin with at once.
            while 0 < worker.submitted < SUBMITTED_PER_WORKER and self._schedule.waiting > len(self._workers):
                if not self._give(worker, split=False):
                    break

    def _give(self, worker: Worker, split: bool = True) -> bool:
        if self._closing:
            job = self._closing.popleft()
            ref = worker.actor.close.remote(job.closing())
            self._calls[ref] = _Call(worker, "close", job)
        else:
            found = self._schedule.next(worker.number, split)
            if found is None:
                return False
            job, task = found
            job.running += 1
            self._calls[worker.actor.make.remote(task)] = _Call(worker, "make", job, task)
        worker.submitted += 1
        return True

    def _collect(self, seconds: float) -> Iterator[SceneJob]:
        """Waits for an answer, and takes those that are there. Gives the scenes that are done by them."""
        answered, _ = self._ray.wait(list(self._calls), num_returns=1, timeout=seconds)
        if not answered:
            self._check_wait()
        for ref in answered:
            try:
                answer = self._ray.get(ref)
            except self._death as error:
                self._died(self._calls[ref].worker, error)
            else:
                self._answered(self._calls.pop(ref), answer)
        yield from self._finished()

    def _answered(self, call: _Call, answer: Any) -> None:
        worker, job, task = call.worker, call.job, call.task
        if isinstance(answer, Hello):
            self._waits_since = 0.0
            worker.hello = answer
            log.debug("%s is there", worker.label)
            if answer.version != __version__:
                self._give_up(worker, f"it has fast-sam3d {answer.version} and here is {__version__}")
        elif call.what == "load":
            if answer:
                self._give_up(worker, f"it cannot load the pipeline: {answer}")
            else:
                worker.ready = True
                log.info("%s is ready", worker.label)
        elif isinstance(answer, Made) and job is not None and task is not None:
            worker.submitted -= 1
            job.running -= 1
            self._remark(job, answer.remarks)
            if answer.outcome is not None:
                self._deaths = 0
                self._know(job, answer.outcome)
            elif answer.unfit:
                self._again(job, task)
                self._give_up(worker, answer.unfit)
            elif job.error is None:
                self._abandon(job, OutputError(answer.stop))
        elif isinstance(answer, Closed) and job is not None:
            worker.submitted -= 1
            self._deaths = 0
            self._remark(job, answer.remarks)
            job.summary, job.composing = answer.summary, False
            if answer.summary is None:
                job.error = FastSam3dError(answer.error)

    def _know(self, job: SceneJob, outcome: ObjectOutcome) -> None:
        job.outcomes[outcome.number] = outcome
        self._progress.object_done(f"{job.name}/{outcome.number}", outcome.status)
        if outcome.status == "failed":
            log.error("%s, object %d failed: %s", job.name, outcome.number, outcome.message)

    def _remark(self, job: SceneJob, remarks: tuple[str, ...]) -> None:
        for line in remarks:
            log.warning("%s: %s", job.name, line)

    def _abandon(self, job: SceneJob, error: FastSam3dError) -> None:
        job.error = error
        self._schedule.drop(job)
        self._progress.without(sum(task.number not in job.outcomes for task in job.tasks) - job.running)

    def _again(self, job: SceneJob, task: ObjectTask) -> None:
        if job.error is None:
            self._schedule.add(job, [task])

    def _finished(self) -> Iterator[SceneJob]:
        for job in list(self._open):
            if job.summary is not None or (job.error is not None and not job.running and not job.composing):
                self._open.remove(job)
                yield job
            elif job.made and not job.composing:
                job.composing = True
                self._closing.append(job)

    def _dismiss(self, worker: Worker) -> list[_Call]:
        """Ends a worker. Returns what it was asked and has not answered, in that order."""
        self._workers.remove(worker)
        self._schedule.leave(worker.number)
        self._ray.kill(worker.actor)
        lost = {ref: call for ref, call in self._calls.items() if call.worker is worker}
        for ref in lost:
            del self._calls[ref]
        return list(lost.values())

    def _give_up(self, worker: Worker, reason: str) -> None:
        """A worker that is of no use where it is, and that another in its place would not better."""
        log.error("%s is given up: %s", worker.label, reason)
        self._unfit.append(reason)
        self._return(self._dismiss(worker))
        if not self._workers:
            raise FastSam3dError(f"no worker is of use, and what is finished is kept: {self._unfit[-1]}")

    def _died(self, worker: Worker, error: Exception) -> None:
        if not worker.ready:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = lines[-1] if "creation task" in str(error) else "out of memory, or killed"
            self._give_up(worker, f"its process ended before the pipeline was loaded: {why}")
            return
        lost = [call for call in self._dismiss(worker) if call.job is not None]
        self._deaths += 1
        log.warning("%s has died; what it was at goes to another", worker.label)
        if self._deaths > DEATHS_IN_A_ROW + len(self._workers):
            raise FastSam3dError(
                f"{self._deaths} workers in a row have died without an object in between, and what is finished is "
                "kept: look at their memory (fewer --workers) and at Ray's logs"
            )
        # It was at the first of them; the other had not begun.
        if lost:
            self._blame(lost[0])
        self._return(lost[1:])
        self._hire()

    def _blame(self, call: _Call) -> None:
        job, task = call.job, call.task
        assert job is not None
        key = -1 if task is None else task.number
        job.attempts[key] = job.attempts.get(key, 0) + 1
        often = job.attempts[key] > self._settings.max_retries
        times = f"{job.attempts[key]} time" + "s" * (job.attempts[key] > 1)
        what = f"the process that made it died {times} (out of memory, or killed)"
        if task is None:
            if often:
                job.error, job.composing = FastSam3dError(f"the scene could not be composed: {what}"), False
            else:
                self._closing.append(job)
            return
        job.running -= 1
        found = job.found(task)
        if found is not None:
            self._know(job, found)
        elif often and job.error is None:
            self._know(job, ObjectOutcome(task.number, "failed", what))
        else:
            self._again(job, task)

    def _return(self, calls: list[_Call]) -> None:
        """What a worker had and did not begin goes back, without blame."""
        for call in calls:
            if call.job is None:
                continue
            if call.task is None:
                self._closing.append(call.job)
            else:
                call.job.running -= 1
                self._again(call.job, call.task)

    def _check_wait(self) -> None:
        """Nobody may wait for ever for a cluster that has no room."""
        now = time.monotonic()
        if not self._waits_since or any(worker.hello is not None for worker in self._workers):
            return
        gone = now - self._waits_since
        need = "" if self._pool is None else self._pool.need
        if gone > self._settings.wait_seconds:
            raise FastSam3dError(
                f"the Ray cluster has had no room for a worker in {gone:.0f} s; each takes {need}: look at `ray status`"
            )
        if now - self._reminded > REMIND_SECONDS:
            self._reminded = now
            log.warning("the Ray cluster has no room yet for a worker; each takes %s; %.0f s gone", need, gone)

    def _stop(self) -> None:
        """Ends all workers, and waits until none can write any more."""
        refs = list(self._calls)
        try:
            for worker in list(self._workers):
                self._dismiss(worker)
            if refs:
                self._ray.wait(refs, num_returns=len(refs), timeout=END_SECONDS)
        finally:
            for job in self._open:
                job.close()
            self._open.clear()
            self._stack.close()
