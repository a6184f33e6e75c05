"""Parallel, resumable measurement of many objects."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from typing import Any, TypeVar

import torch

from fast_sam3d.bench.record import Key, Record, Rows
from fast_sam3d.run.pool import worker_pool
from fast_sam3d.run.progress import Bar

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Key)
LOOK_SECONDS = 0.5  # between looks at the runs that the workers have done

_done: Callable[[], object] | None = None
_counted = 0  # runs of the present unit


def run_done() -> None:
    """Count one run of the unit that is being measured, for the progress bar."""
    global _counted  # of this worker process
    _counted += 1
    if _done is not None:
        _done()


def collect(
    keys: Sequence[K],
    start: Callable[[Any, int], None],
    work: Callable[[K], Rows],
    job: Any,
    processes: int = 1,
    threads: int | None = 1,
    kept: Record | None = None,
    title: str = "bench",
    runs: int = 1,
) -> dict[K, Rows]:
    """Measure every object that is not measured yet, with a progress bar over runs.

    Args:
        keys: of the objects, in order.
        start: called once in each process as `start(job, threads)`; a top-level function, as `work`.
        work: returns the rows of a key.
        job: passed to the processes by pickle.
        processes: 1: this process.
        threads: of torch in each; None: unchanged.
        kept: results of an interrupted run, to resume from; every finished object is added.
        title: of the bar.
        runs: of each object, which `work` counts by `run_done`.

    Returns:
        the rows by key, in the order of `keys`.
    """
    done: dict[K, Rows] = {} if kept is None else {key: kept.rows[key] for key in keys if key in kept.rows}
    if done:
        log.info("%d of %d objects are already measured: %s", len(done), len(keys), kept.path if kept else "")
    missing = [key for key in keys if key not in done]
    with Bar(title, len(keys) * runs, len(done) * runs) as bar:
        for key, rows in _results(missing, start, work, job, processes, threads, runs, bar):
            if kept is not None:
                kept.add(key, rows)
            done[key] = rows
    return {key: done[key] for key in keys}


def _results(
    keys: Sequence[K],
    start: Callable[[Any, int], None],
    work: Callable[[K], Rows],
    job: Any,
    processes: int,
    threads: int | None,
    runs: int,
    bar: Bar,
) -> Iterator[tuple[K, Rows]]:
    """(key, rows) of finished objects, in any order."""
    if not keys:
        return
    before = torch.get_num_threads()
    threads = before if threads is None else threads
    if processes == 1:
        _begin(start, job, threads, bar.advance)
        try:
            yield from ((key, _unit(work, key, runs)) for key in keys)
        finally:
            torch.set_num_threads(before)
        return
    earlier, counter = bar.done, multiprocessing.get_context("spawn").Value("q", 0)
    with worker_pool(processes, _begin_worker, start, job, threads, counter) as pool:
        jobs = {pool.submit(_unit, work, key, runs): key for key in keys}
        pending = set(jobs)
        while pending:
            finished, pending = wait(pending, LOOK_SECONDS, FIRST_COMPLETED)
            yield from ((jobs[each], each.result()) for each in finished)
            bar.update(earlier + counter.value)


def _begin(start: Callable[[Any, int], None], job: Any, threads: int, done: Callable[[], object]) -> None:
    global _done  # of this worker process
    _done = done
    start(job, threads)


def _begin_worker(start: Callable[[Any, int], None], job: Any, threads: int, counter: Any) -> None:
    def count() -> None:
        with counter.get_lock():
            counter.value += 1

    _begin(start, job, threads, count)


def _unit(work: Callable[[K], Rows], key: K, runs: int) -> Rows:
    """The rows of one object, with `runs` runs counted."""
    global _counted  # of this worker process
    _counted = 0
    rows = work(key)
    for _ in range(_counted, runs):  # of an object that could not be loaded
        run_done()
    return rows
