"""Distribution of scenes over Ray actors. A worker that dies is replaced, and its object is retried.

Each worker has one object at a time, so the driver knows which object a worker died with (Ray's `ActorPool` does not
say), and only a few scenes are planned ahead: memory does not grow with the number of scenes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Hashable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fast_sam3d import __version__
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cluster.actor import Reply, SceneActor, WorkerInfo, WorkerSetup
from fast_sam3d.cluster.connect import capacity, connected
from fast_sam3d.cluster.job import SceneJob, completed_on_disk
from fast_sam3d.cluster.schedule import next_task
from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.config.compose import Config
from fast_sam3d.errors import ConfigError, FastSam3dError, OutputError
from fast_sam3d.run.progress import ObjectsProgress
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask

__all__ = ["ClusterEngine"]

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
REMIND_SECONDS = 30.0
END_SECONDS = 10.0  # for killed workers to exit
MAX_DEATHS_IN_A_ROW = 10  # plus one per worker, without a finished object in between


@dataclass(slots=True, eq=False)
class ClusterWorker:
    """An actor, as seen by the driver.

    Args:
        info: None until its process has started. ready: the pipeline is loaded.
        call: scene and object that it processes; no object: it composes the scene.
        place: scene and group of its last object.
    """

    number: int
    actor: Any
    info: WorkerInfo | None = None
    ready: bool = False
    call: tuple[SceneJob, ObjectTask | None] | None = None
    place: tuple[SceneJob, Hashable] | None = None

    def __str__(self) -> str:
        at = "" if self.info is None else f" (process {self.info.pid} on {self.info.host})"
        return f"worker {self.number}{at}"


class ClusterEngine:
    """Processes scenes on Ray actors with one pipeline each.

    Args:
        identity: `scene.worker.config_identity` of config and checkpoint.
        progress: receives every object.
        cwd: base of relative paths.

    Raises:
        ConfigError: workers cannot use the device.
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
        settings.check_device(config.pipeline.device)
        self._setup = WorkerSetup(config, checkpoint, identity, settings.cpus_per_worker, str(cwd))
        self._settings, self._progress = settings, progress
        self._gpus = settings.gpus_per_worker or 0.0
        self._stack = ExitStack()
        self._ray: Any = None
        self._actor_class: Any = None
        self._death_errors: tuple[type[Exception], ...] = ()
        self._open: list[SceneJob] = []
        self._workers: list[ClusterWorker] = []
        self._refs: dict[Any, ClusterWorker] = {}
        self._started = 0
        self._deaths = 0  # since the last finished object
        self._waits_since = self._reminded = 0.0

    @property
    def pids(self) -> list[int]:
        """Process ids of the started workers, on any machine."""
        return [worker.info.pid for worker in self._workers if worker.info is not None]

    def run(self, jobs: Iterator[SceneJob]) -> Generator[SceneJob, None, None]:
        """Process scenes, and yield each with its summary or error; the caller closes it.

        Args:
            jobs: consumed a few scenes ahead of the workers.

        Raises:
            FastSam3dError: no worker can load the pipeline, gets resources, or survives.
        """
        more = True
        try:
            while True:
                job = None
                if more and self._needs_scene():
                    job = next(jobs, None)
                    more = job is not None
                if job is not None:
                    self._progress.without(len(job.outcomes))
                    if job.summary is not None:
                        yield job
                    else:
                        self._open.append(job)
                        if not self._workers:
                            self._connect()
                self._assign()
                if not more and not self._open:
                    return
                if self._workers:
                    yield from self._collect(0.0 if more and self._needs_scene() else POLL_SECONDS)
        finally:
            self._stop()

    def _needs_scene(self) -> bool:
        """Whether to plan another scene, so that a worker that finishes its scene has a new one."""
        workers = len(self._workers)
        taken = {worker.place[0] for worker in self._workers if worker.place is not None}
        fresh = any(job.waiting and job not in taken for job in self._open)
        waiting = sum(len(job.waiting) for job in self._open)
        return len(self._open) < max(workers, 1) + 2 and (not fresh or waiting <= workers)

    def _connect(self) -> None:
        """Connect to the cluster and start workers, now that there is an object to process."""
        ray = self._ray = self._stack.enter_context(connected(self._settings))
        errors = ray.exceptions
        self._death_errors = (
            errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError,
        )  # fmt: skip
        self._actor_class = ray.remote(SceneActor)
        device = self._setup.config.pipeline.device
        if self._settings.gpus_per_worker is None:
            exist = ray.cluster_resources().get("GPU", 0) > 0
            self._gpus = 1.0 if device == "cuda" or (device is None and exist) else 0.0
        pipeline = replace(self._setup.config.pipeline, device=device or ("cuda" if self._gpus else "cpu"))
        self._setup = replace(self._setup, config=replace(self._setup.config, pipeline=pipeline))
        self._progress.begin()
        for _ in range(self._worker_count()):
            self._start_worker()

    @property
    def _needs(self) -> str:
        return f"{self._settings.cpus_per_worker} core(s) and {self._gpus:g} GPU(s)"

    def _worker_count(self) -> int:
        room, asked = capacity(self._ray, self._settings.cpus_per_worker, self._gpus), self._settings.workers
        if asked is None and not room:
            raise ConfigError(
                f"no machine of the Ray cluster has {self._needs} for a worker: ask for fewer with --cpus_per_worker "
                "and --gpus_per_worker"
            )
        if asked is not None and asked > room:
            log.warning("%d workers requested, but the Ray cluster has room for %d now: each needs %s", asked, room,
                        self._needs)  # fmt: skip
        count = max(1, min(asked or room, self._progress.left))
        log.info("%d worker(s) with %s each", count, self._needs)
        return count

    def _start_worker(self) -> None:
        if not self._waits_since:
            self._waits_since = self._reminded = time.monotonic()
        # No restarts by Ray: the driver counts the deaths of each object.
        options = {"num_cpus": self._settings.cpus_per_worker, "num_gpus": self._gpus}
        actor = self._actor_class.options(**options, max_restarts=0, max_task_retries=0).remote(self._setup)
        worker = ClusterWorker(self._started, actor)
        self._started += 1
        self._workers.append(worker)
        self._refs[actor.info.remote()] = worker
        self._refs[actor.load.remote()] = worker

    def _assign(self) -> None:
        """Give each idle worker a scene to compose or an object."""
        for worker in self._workers:
            if not worker.ready or worker.call is not None:
                continue
            job = next((job for job in self._open if job.composable), None)
            if job is not None:
                job.composing, worker.call = True, (job, None)
                self._refs[worker.actor.compose.remote(job.composition())] = worker
                continue
            others = [other.place for other in self._workers if other is not worker and other.place is not None]
            found = next_task(self._open, worker.place, others)
            if found is not None:
                job, task = worker.call = found
                worker.place = (job, task.group)
                job.waiting.remove(task)
                job.running += 1
                self._refs[worker.actor.process.remote(task)] = worker

    def _collect(self, seconds: float) -> Iterator[SceneJob]:
        """Wait for a reply, handle it, and yield the scenes that it finishes."""
        done, _ = self._ray.wait(list(self._refs), num_returns=1, timeout=seconds)
        if not done:
            self._check_wait()
        for ref in done:
            worker = self._refs.pop(ref)
            try:
                reply = self._ray.get(ref)
            except self._death_errors as error:
                self._died(worker, error)
            else:
                self._handle(worker, reply)
        for job in [job for job in self._open if job.finished]:
            self._open.remove(job)
            yield job

    def _handle(self, worker: ClusterWorker, reply: WorkerInfo | str | Reply) -> None:
        if isinstance(reply, WorkerInfo):
            self._waits_since, worker.info = 0.0, reply
            if reply.version != __version__:
                self._give_up(worker, f"it has fast-sam3d {reply.version}, and this is {__version__}")
        elif isinstance(reply, str):
            if reply:
                self._give_up(worker, f"it cannot load the pipeline: {reply}")
            else:
                worker.ready = True
                log.info("%s is ready", worker)
        elif reply.unfit:
            self._give_up(worker, reply.unfit)
        elif worker.call is not None:
            (job, task), worker.call = worker.call, None
            for line in reply.warnings:
                log.warning("%s: %s", job.name, line)
            if task is None:
                job.composing, job.summary = False, reply.summary
                job.error = FastSam3dError(reply.error) if reply.error else None
            else:
                job.running -= 1
                if reply.outcome is not None:
                    self._record(job, reply.outcome)
                elif job.error is None:
                    job.error = OutputError(reply.error)
                    self._progress.without(len(job.waiting))
                    job.waiting.clear()
            if not reply.error:
                self._deaths = 0

    def _record(self, job: SceneJob, outcome: ObjectOutcome) -> None:
        job.outcomes[outcome.number] = outcome
        self._progress.object_done(f"{job.name}/{outcome.number}", outcome.status)
        if outcome.status == "failed":
            log.error("%s, object %d failed: %s", job.name, outcome.number, outcome.message)

    def _remove(self, worker: ClusterWorker) -> None:
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        self._refs = {ref: other for ref, other in self._refs.items() if other is not worker}

    def _give_up(self, worker: ClusterWorker, reason: str) -> None:
        """Remove a worker that cannot be used; a replacement would fail in the same way."""
        log.error("%s is not used: %s", worker, reason)
        self._remove(worker)
        self._requeue(worker)
        if not self._workers:
            raise FastSam3dError(f"no worker can be used, and finished objects are kept: {reason}")

    def _requeue(self, worker: ClusterWorker) -> None:
        if worker.call is None:
            return
        job, task = worker.call
        if task is None:
            job.composing = False
            return
        job.running -= 1
        if job.error is None:
            job.waiting.append(task)

    def _died(self, worker: ClusterWorker, error: Exception) -> None:
        if not worker.ready:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = lines[-1] if "creation task" in str(error) else "out of memory, or killed"
            self._give_up(worker, f"its process ended before the pipeline was loaded: {why}")
            return
        self._remove(worker)
        self._deaths += 1
        log.warning("%s died; another worker continues its work", worker)
        if self._deaths > MAX_DEATHS_IN_A_ROW + len(self._workers):
            raise FastSam3dError(
                f"{self._deaths} workers in a row died without finishing an object; finished objects are kept: check "
                "their memory (fewer --workers) and Ray's logs"
            )
        self._requeue(worker)
        if worker.call is not None:
            self._count_death(*worker.call)
        self._start_worker()

    def _count_death(self, job: SceneJob, task: ObjectTask | None) -> None:
        key = -1 if task is None else task.number
        job.deaths[key] = count = job.deaths.get(key, 0) + 1
        why = f"its worker died {count} time{'s' * (count > 1)} (out of memory, or killed)"
        if task is None:
            if count > self._settings.max_retries:
                job.error = FastSam3dError(f"the scene could not be composed: {why}")
            return
        outcome = completed_on_disk(task)
        if outcome is None and count > self._settings.max_retries:
            outcome = ObjectOutcome(task.number, "failed", why)
        if outcome is not None and task in job.waiting:
            job.waiting.remove(task)
            self._record(job, outcome)

    def _check_wait(self) -> None:
        """Limit the wait for a cluster without free resources."""
        if not self._waits_since or any(worker.info is not None for worker in self._workers):
            return
        now = time.monotonic()
        waited = now - self._waits_since
        if waited > self._settings.wait_seconds:
            raise FastSam3dError(
                f"the Ray cluster had no room for a worker in {waited:.0f} s; each needs {self._needs}: "
                "see `ray status`"
            )
        if now - self._reminded > REMIND_SECONDS:
            self._reminded = now
            log.warning(
                "no room for a worker in the Ray cluster yet; each needs %s; waited %.0f s", self._needs, waited
            )

    def _stop(self) -> None:
        """End all workers, and wait until none can write any more."""
        refs = list(self._refs)
        try:
            for worker in list(self._workers):
                self._remove(worker)
            if refs:
                self._ray.wait(refs, num_returns=len(refs), timeout=END_SECONDS)
        finally:
            for job in self._open:
                job.close()
            self._open.clear()
            self._stack.close()
