"""The engine of the demo: one loaded model, a thread that runs one job at a time, and a queue. No page, no Gradio.

with Engine() as engine:
    job = engine.submit(JobInput.load("examples/teapot"), JobSettings(seed=7, compare=True))
    for event in job.events():
        print(event.kind, event.row)
    print(job.wait().view)
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fast_sam3d.checkpoints.load import find_checkpoint, load_checkpoint
from fast_sam3d.config.compose import check_methods, load
from fast_sam3d.demo.events import Cancelled
from fast_sam3d.demo.folders import JobFolders
from fast_sam3d.demo.inputs import JobInput
from fast_sam3d.demo.job import Job
from fast_sam3d.demo.object_job import Model, run_object_job
from fast_sam3d.demo.settings import JobSettings, configuration
from fast_sam3d.errors import ConfigError, FastSam3dError, InputError, is_out_of_memory, one_line
from fast_sam3d.run.export import check_exports
from fast_sam3d.run.memory import DoesNotFit, free_memory, remedies

__all__ = ["Engine"]

log = logging.getLogger(__name__)

MOST_WAITING = 20
"""Jobs; further ones are refused."""
MOST_BYTES = 2**30
"""Of the pictures of waiting jobs, likewise."""


class Engine:
    """Loads a model in the background and runs jobs with it, one at a time; a context manager.

    Args:
        values: keys of the configuration, such as {"pipeline.tag": "mini"}; as of `fast_sam3d.config.compose.load`.
        overrides: Hydra overrides of every job.
        folder: of the results; None: a temporary one, which is removed at the end.
        keep: of this many jobs the results are kept; None: of all. Default: 20 in a temporary folder, else all.
        start: load the model now; else `start` does.

    Attributes:
        checkpoint: that is loaded; `checkpoint.reason` says why it was chosen.
        embedded: it is the embedded model, to which photographs are out of distribution.
        state: "loading", "ready" or "failed"; the next job after a failure tries again.
        problem: why loading failed.

    Raises:
        FastSam3dError: there is no such checkpoint, a setting is wrong, or the folder cannot be written.
    """

    def __init__(
        self,
        values: Mapping[str, Any] = {},
        overrides: Sequence[str] = (),
        folder: Path | None = None,
        keep: int | Literal["default"] | None = "default",
        start: bool = True,
    ) -> None:
        self._values, self._overrides = dict(values), tuple(overrides)
        asked = load(self._overrides, self._values).pipeline
        if asked.model != "sam3d":
            raise ConfigError(f"the demo does not run {asked.model}: leave pipeline.model out")
        self.checkpoint = find_checkpoint(asked.tag, asked.device, asked.runtime)
        self.embedded = self.checkpoint.kind == "mini"
        self.folders = JobFolders(folder, (20 if folder is None else None) if keep == "default" else keep)
        self.state: Literal["loading", "ready", "failed"] = "loading"
        self.problem = ""
        self._loading = asked.loading
        self._model: Model | None = None
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="fast-sam3d-engine", daemon=True)
        if start:
            self.start()

    def start(self) -> None:
        """Begin to load the model, and to run jobs. Safe to repeat."""
        with self._changed:
            if not self._closed and self._thread.ident is None:
                self._thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def submit(self, given: JobInput, settings: JobSettings | None = None, scene: bool = False) -> Job:
        """Put a job at the end of the queue.

        Args:
            settings: None: the defaults.
            scene: reconstruct every mask and compose the scene; else the one mask that there is.

        Raises:
            FastSam3dError: settings that are wrong, several masks without `scene`, a full or closed queue.
        """
        settings = JobSettings() if settings is None else settings
        if not scene and len(given.masks) != 1:
            raise InputError(f"there are {len(given.masks)} masks: give one, or reconstruct them as a scene")
        config = configuration(settings, Path("image.png"), self._values, self._overrides)
        check_methods(config)
        check_exports(config.output)
        self.start()
        job = Job(given, settings, scene, _left=self._leave)
        with self._changed:
            if self._closed:
                raise FastSam3dError("the demo has ended: start it again")
            size = sum(each.given.image.nbytes for each in self._waiting if each.given is not None)
            if len(self._waiting) >= MOST_WAITING or size > MOST_BYTES:
                raise FastSam3dError(f"{len(self._waiting)} jobs are waiting already: try again later")
            self._waiting.append(job)
            self._jobs[job.id] = job
            while len(self._jobs) > MOST_WAITING + (self.folders.keep or 100):
                self._jobs.popitem(last=False)
            self._say_places()
            self._changed.notify_all()
        return job

    def job(self, id: str) -> Job | None:
        """A job that is not too old."""
        return self._jobs.get(id)

    @property
    def queue(self) -> tuple[str, ...]:
        """Ids of the job that runs and of those that wait, in order."""
        with self._changed:
            return tuple(job.id for job in ([] if self._running is None else [self._running]) + [*self._waiting])

    def wait_until_loaded(self, timeout: float | None = None) -> bool:
        """Wait while the model is loading. Returns whether it is ready."""
        with self._changed:
            self._changed.wait_for(lambda: self.state != "loading" or self._closed, timeout)
            return self.state == "ready"

    def close(self) -> None:
        """Cancel every job, wait for the thread to stop, and remove the temporary folder. Safe to repeat.

        It stops at the next step of a job, or when the model is loaded: torch does not survive an exit in between.
        """
        with self._changed:
            self._closed = True
            jobs = [*self._waiting, *([] if self._running is None else [self._running])]
            self._changed.notify_all()
        for job in jobs:
            job.cancel()
        if self._thread.ident is not None:
            self._thread.join()
        self.folders.close()

    def _leave(self, job: Job) -> bool:
        """Take a waiting job out of the queue. False if it does not wait."""
        with self._changed:
            if job not in self._waiting:
                return False
            self._waiting.remove(job)
            self._say_places()
            return True

    def _say_places(self) -> None:
        """Tell every waiting job how many are before it, if that has changed."""
        before = 0 if self._running is None else 1
        for place, job in enumerate(self._waiting, before):
            kind: Literal["loading", "waiting"] = "loading" if self.state == "loading" and place == 0 else "waiting"
            if job.fresh or (job.last.kind, job.last.place) != (kind, place):
                message = "the model is loading" if kind == "loading" else f"{place} before this one" * (place > 0)
                job.say(kind, message, place)

    def _work(self) -> None:
        """The thread: load, then one job after another."""
        self._load()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                retry = self.state == "failed" and not self._model
            if retry:
                self._load()
            with self._changed:
                if not self._waiting:
                    continue
                job = self._running = self._waiting.popleft()
                self._say_places()
            try:
                self._run(job)
            finally:
                with self._changed:
                    self._running = None
                    self._say_places()

    def _load(self) -> None:
        with self._changed:
            self.state, self.problem = "loading", ""
            self._say_places()
        begin = time.perf_counter()
        try:
            pipeline = load_checkpoint(self.checkpoint, *self._loading)
            seconds = time.perf_counter() - begin
            self._model = Model(pipeline, self.checkpoint, seconds, self._values, self._overrides)
            log.info("loaded on %s in %.1f s", pipeline.device, seconds)
        except Exception as error:
            self.problem = _sentence(error)
            log.error("the model cannot be loaded: %s", self.problem)
        with self._changed:
            self.state = "failed" if self._model is None else "ready"
            self._say_places()
            self._changed.notify_all()

    def _run(self, job: Job) -> None:
        """Run a job to its end, whatever that is; a job without results leaves no files."""
        given = job.given
        if self._model is None or given is None:
            job.end("failed", f"the model cannot be loaded: {self.problem}")
            return
        job.say("started")
        try:
            job.watch.check()
            job.folder = self.folders.create(f"{given.folder_name[:60]}-{job.id}")
            run = _scene_job() if job.scene else run_object_job
            results = run(job, given, self._model, job.folder)
            job.watch.check()
        except Cancelled:
            self._drop(job)
            job.end("cancelled", "cancelled")
        except BaseException as error:
            self._drop(job)
            if not isinstance(error, FastSam3dError):
                log.error("a job failed", exc_info=error)
            job.end("failed", _sentence(error))
            error.__traceback__ = None  # its frames hold the memory of the run
        else:
            job.end("done", "", results)
        finally:
            free_memory()
            _trim()

    def _drop(self, job: Job) -> None:
        """Remove the files of a job without results."""
        job.view = {}
        if job.folder is not None:
            self.folders.remove(job.folder.name)


def _trim() -> None:
    """Give freed memory back to the system: glibc keeps it, and a server's memory would grow for many jobs."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _scene_job() -> Any:
    from fast_sam3d.demo.scene_job import run_scene_job  # imports torch, which the page does not wait for

    return run_scene_job


def _sentence(error: BaseException) -> str:
    """What to say about an error, in one sentence."""
    if isinstance(error, DoesNotFit) or is_out_of_memory(error):
        return f"out of memory: {remedies()}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the results cannot be written ({error.strerror}): free some space"
    return one_line(error)
