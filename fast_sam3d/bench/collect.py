"""Parallel, resumable measurement of many objects."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from typing import Any, TypeVar

import torch

from fast_sam3d.bench.record import Key, Record, Rows
from fast_sam3d.run.pool import worker_pool
from fast_sam3d.run.progress import Bar

log = logging.getLogger(__name__)

K = TypeVar("K", bound=Key)


def collect(
    keys: Sequence[K],
    start: Callable[[Any, int], None],
    work: Callable[[K], Rows],
    job: Any,
    processes: int = 1,
    threads: int | None = 1,
    kept: Record | None = None,
    title: str = "bench",
) -> dict[K, Rows]:
    """Measure every object that is not measured yet, with a progress bar.

    Args:
        keys: of the objects, in order.
        start: called once in each process as `start(job, threads)`; a top-level function, as `work`.
        work: returns the rows of a key.
        job: passed to the processes by pickle.
        processes: 1: this process.
        threads: of torch in each; None: unchanged.
        kept: results of an interrupted run, to resume from; every finished object is added.
        title: of the bar.

    Returns:
        the rows by key, in the order of `keys`.
    """
    done: dict[K, Rows] = {} if kept is None else {key: kept.rows[key] for key in keys if key in kept.rows}
    if done:
        log.info("%d of %d objects are already measured: %s", len(done), len(keys), kept.path if kept else "")
    missing = [key for key in keys if key not in done]
    with Bar(title, len(keys), len(done)) as bar:
        for key, rows in _results(missing, start, work, job, processes, threads):
            if kept is not None:
                kept.add(key, rows)
            done[key] = rows
            bar.advance()
    return {key: done[key] for key in keys}


def _results(
    keys: Sequence[K],
    start: Callable[[Any, int], None],
    work: Callable[[K], Rows],
    job: Any,
    processes: int,
    threads: int | None,
) -> Iterator[tuple[K, Rows]]:
    """(key, rows) of finished objects, in any order."""
    if not keys:
        return
    before = torch.get_num_threads()
    if processes == 1:
        start(job, before if threads is None else threads)
        try:
            yield from ((key, work(key)) for key in keys)
        finally:
            torch.set_num_threads(before)
        return
    with worker_pool(processes, start, job, before if threads is None else threads) as pool:
        jobs = {pool.submit(work, key): key for key in keys}
        for done in as_completed(jobs):
            yield jobs[done], done.result()
