"""Pieces of work, shared out to processes and kept as they are done."""

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
    """Do every piece of work that is not done yet, with a bar that tells the time left.

    Args:
        keys: of the pieces, in order.
        start: called once in each process as `start(job, threads)`; a module's own function, as `work`.
        work: called with a key, gives the piece's rows.
        job: what the processes need to know; goes through pickle.
        processes: 1 works in this one.
        threads: of torch in each; None leaves them alone.
        kept: what an earlier start has finished, which is not done again; every piece is added when it is done.
        title: of the bar.

    Returns:
        the rows of each key, in the order of `keys`.
    """
    done: dict[K, Rows] = {} if kept is None else {key: kept.rows[key] for key in keys if key in kept.rows}
    if done:
        log.info("%d of %d objects were measured before: %s", len(done), len(keys), kept.path if kept else "")
    left = [key for key in keys if key not in done]
    with Bar(title, len(keys), len(done)) as bar:
        for key, rows in _results(left, start, work, job, processes, threads):
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
    """Keys with their rows, as they are done."""
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
    with worker_pool(processes, start, (job, before if threads is None else threads)) as pool:
        jobs = {pool.submit(work, key): key for key in keys}
        for done in as_completed(jobs):
            yield jobs[done], done.result()
