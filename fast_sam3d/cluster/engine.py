"""Distribution of scenes over Ray actors. A worker that dies is replaced, and its object is retried.

Each worker has one object at a time, so the driver knows which object a worker died with (Ray's `ActorPool` does not
say), and only a few scenes are planned ahead: memory does not grow with the number of scenes.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fast_sam3d import __version__
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cluster.actor import Reply, SceneActor
from fast_sam3d.cluster.connect import capacity, connected
from fast_sam3d.cluster.job import SceneJob, completed_on_disk
from fast_sam3d.cluster.schedule import Place, next_task
from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.cluster.watch import ClusterWatch
from fast_sam3d.config.compose import Config
from fast_sam3d.errors import ConfigError, FastSam3dError, OutputError
from fast_sam3d.outputs.folder import clear_unfinished
from fast_sam3d.outputs.interrupts import interrupts_deferred
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
        host, node, pid: of its process; 0 until it has started. ready: the pipeline is loaded.
        call: scene and object that it processes; no object: it composes the scene.
        place: of its last object.
    """

    number: int
    actor: Any
    host: str = ""
    node: str = ""
    pid: int = 0
    ready: bool = False
    call: tuple[SceneJob, ObjectTask | None] | None = None
    place: Place | None = None

    def __str__(self) -> str:
        return f"worker {self.number}" + (f" (process {self.pid} on {self.host})" if self.pid else "")


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
        self._config, self._settings, self._progress = config, settings, progress
        self._given = (checkpoint, identity, settings.cpus_per_worker, str(cwd))
        self._gpus = settings.gpus_per_worker or 0.0
        self._stack = ExitStack()
        self._ray: Any = None
        self._open: list[SceneJob] = []
        self._workers: list[ClusterWorker] = []
        self._refs: dict[Any, ClusterWorker] = {}
        self._numbers = itertools.count()
        self._deaths = 0  # since the last finished object
        self._waits_since, self._reminders = 0.0, 0

    def run(self, jobs: Iterator[SceneJob]) -> Generator[SceneJob, None, None]:
        """Process scenes, and yield each with its summary or error; the caller closes it.

        Args:
            jobs: consumed a few scenes ahead of the workers.

        Raises:
            FastSam3dError: no worker can load the pipeline, gets resources, or survives.
        """
        more = True
        try:
            while more or self._open:
                if more and self._needs_scene():
                    job = next(jobs, None)
                    if job is None:
                        more = False
                        continue
                    self._progress.without(len(job.outcomes))
                    if job.summary is not None:
                        yield job
                    else:
                        self._open.append(job)
                        if self._ray is None:
                            self._connect()
                if self._workers:
                    # A signal handler that raises an error inside of Ray's compiled code becomes a SystemError.
                    with interrupts_deferred():
                        self._assign()
                        self._collect(0.0 if more and self._needs_scene() else POLL_SECONDS)
                    yield from self._finished()
        finally:
            with interrupts_deferred():
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
        self._watch = ClusterWatch(ray, self._settings.address or os.environ.get("RAY_ADDRESS"))
        self._stack.callback(self._watch.stop)
        pipeline = self._config.pipeline
        if self._settings.gpus_per_worker is None:
            exist = ray.cluster_resources().get("GPU", 0) > 0
            self._gpus = 1.0 if pipeline.device == "cuda" or (pipeline.device is None and exist) else 0.0
        device = pipeline.device or ("cuda" if self._gpus else "cpu")
        self._config = replace(self._config, pipeline=replace(pipeline, device=device))
        self._progress.begin()
        self._waits_since = time.monotonic()
        with interrupts_deferred():
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
        # No restarts by Ray: the driver counts the deaths of each object.
        options = {"num_cpus": self._settings.cpus_per_worker, "num_gpus": self._gpus, "max_restarts": 0,
                   "max_task_retries": 0}  # fmt: skip
        actor = self._ray.remote(SceneActor).options(**options).remote(self._config, *self._given)
        worker = ClusterWorker(next(self._numbers), actor)
        self._workers.append(worker)
        self._refs |= {actor.info.remote(): worker, actor.load.remote(): worker}

    def _busy(self, job: SceneJob) -> bool:
        return any(worker.call is not None and worker.call[0] is job for worker in self._workers)

    def _assign(self) -> None:
        """Give each idle worker a scene to compose or an object."""
        for worker in self._workers:
            if not worker.ready or worker.call is not None:
                continue
            job = next((job for job in self._open if not (job.waiting or job.error or self._busy(job))), None)
            others = [other.place for other in self._workers if other is not worker and other.place is not None]
            if job is not None:
                worker.call = job, None
                clear_unfinished(job.target)  # of dead workers
                ref = worker.actor.compose.remote(job.folder, job.asked, job.target, job.identities, job.outcomes)
            elif (found := next_task(self._open, worker.place, others)) is not None:
                job, task = worker.call = found
                worker.place = (job, task.group)
                job.waiting.remove(task)
                ref = worker.actor.process.remote(task)
            else:
                continue
            self._refs[ref] = worker

    def _collect(self, seconds: float) -> None:
        """Wait for a reply, and handle it."""
        lost = self._watch.lost_nodes()
        for worker in [worker for worker in self._workers if worker.node in lost]:
            log.warning("%s: its node %s of the cluster is lost", worker, worker.host)
            self._replace(worker)
        if not any(worker.pid for worker in self._workers):
            self._check_room()
        done, _ = self._ray.wait(list(self._refs), num_returns=1, timeout=seconds)
        errors = self._ray.exceptions
        for ref in done:
            worker = self._refs.pop(ref)
            try:
                reply = self._ray.get(ref)
            except (
                errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError
            ) as error:  # fmt: skip
                self._died(worker, error)
            else:
                self._handle(worker, reply)

    def _finished(self) -> Iterator[SceneJob]:
        for job in [job for job in self._open if job.summary or (job.error and not self._busy(job))]:
            self._open.remove(job)
            yield job

    def _check_room(self) -> None:
        """Report, and at last raise, that no worker's process has started."""
        now, limit = time.monotonic(), self._settings.wait_seconds
        waited = now - self._waits_since
        if waited > limit:
            raise FastSam3dError(
                f"the Ray cluster had no room for a worker in {waited:.0f} s; each needs {self._needs}: see "
                "`ray status`"
            )
        if waited // REMIND_SECONDS > self._reminders:
            self._reminders += 1
            log.warning(
                "no room for a worker in the Ray cluster yet; each needs %s; waited %.0f s", self._needs, waited
            )

    def _handle(self, worker: ClusterWorker, reply: tuple[str, int, str, str] | Reply) -> None:
        if isinstance(reply, tuple):
            worker.host, worker.pid, version, worker.node = reply
            if version != __version__:
                self._give_up(worker, f"it has fast-sam3d {version}, and this is {__version__}")
        elif reply.unfit:
            self._give_up(worker, reply.unfit)
        elif worker.call is None:
            worker.ready = True
            log.info("%s is ready", worker)
        else:
            (job, task), worker.call = worker.call, None
            for line in reply.warnings:
                log.warning("%s: %s", job.name, line)
            if not reply.error:
                self._deaths = 0
                if task is None:
                    job.summary = reply.value
                else:
                    self._record(job, reply.value)
            elif job.error is None:
                job.error = FastSam3dError(reply.error) if task is None else OutputError(reply.error)
                self._progress.without(len(job.waiting))
                job.waiting.clear()

    def _record(self, job: SceneJob, outcome: ObjectOutcome) -> None:
        job.outcomes[outcome.number] = outcome
        self._progress.object_done(f"{job.name}/{outcome.number}", outcome.status)
        if outcome.status == "failed":
            log.error("%s, object %d failed: %s", job.name, outcome.number, outcome.message)

    def _remove(self, worker: ClusterWorker) -> None:
        """End a worker; its object waits for another one."""
        self._workers.remove(worker)
        self._ray.kill(worker.actor)
        self._refs = {ref: other for ref, other in self._refs.items() if other is not worker}
        job, task = worker.call or (None, None)
        if job is not None and task is not None and job.error is None:
            job.waiting.append(task)

    def _give_up(self, worker: ClusterWorker, reason: str) -> None:
        """Remove a worker that cannot be used; a replacement would fail in the same way."""
        log.error("%s is not used: %s", worker, reason)
        self._remove(worker)
        if not self._workers:
            raise FastSam3dError(f"no worker can be used, and finished objects are kept: {reason}")

    def _died(self, worker: ClusterWorker, error: Exception) -> None:
        if not worker.ready:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = lines[-1] if "creation task" in str(error) else "out of memory, or killed"
            self._give_up(worker, f"its process ended before the pipeline was loaded: {why}")
            return
        log.warning("%s died; another worker continues its work", worker)
        self._replace(worker)

    def _replace(self, worker: ClusterWorker) -> None:
        self._remove(worker)
        self._deaths += 1
        if self._deaths > MAX_DEATHS_IN_A_ROW + len(self._workers):
            raise FastSam3dError(
                f"{self._deaths} workers in a row died without finishing an object; finished objects are kept: check "
                "their memory (fewer --workers) and Ray's logs"
            )
        if worker.call is not None:
            self._count_death(*worker.call)
        if not any(other.pid for other in self._workers):
            self._waits_since, self._reminders = time.monotonic(), 0
        self._start_worker()

    def _count_death(self, job: SceneJob, task: ObjectTask | None) -> None:
        number = None if task is None else task.number
        job.deaths[number] += 1
        count = job.deaths[number]
        why = f"its worker died {count} time{'s' * (count > 1)} (out of memory, or killed)"
        retried = count <= self._settings.max_retries
        if task is None:
            job.error = None if retried else FastSam3dError(f"the scene could not be composed: {why}")
        elif task in job.waiting:
            outcome = completed_on_disk(task) or (None if retried else ObjectOutcome(task.number, "failed", why))
            if outcome is not None:
                job.waiting.remove(task)
                self._record(job, outcome)

    def _stop(self) -> None:
        """End all workers, and wait until none can write any more."""
        refs = list(self._refs)
        try:
            for worker in list(self._workers):
                self._remove(worker)
            if refs and not self._watch.dead:
                self._ray.wait(refs, num_returns=len(refs), timeout=END_SECONDS)
        finally:
            for job in self._open:
                job.close()
            self._open.clear()
            self._stack.close()
