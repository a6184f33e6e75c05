"""A scene's objects in parallel: worker processes that are forked from the loaded process."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fast_sam3d.adapters.memory import residency_of
from fast_sam3d.outputs.folder import clear_unfinished
from fast_sam3d.run.processes import Lost, can_fork, in_forks
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask, ObjectWorker

__all__ = ["Engine", "in_parallel", "processes_for"]

log = logging.getLogger(__name__)

Engine = Callable[[Iterable[ObjectTask]], Iterator[ObjectOutcome]]
"""Processes tasks in any order, in this process or elsewhere, and yields each outcome when it is known."""


def in_parallel(worker: ObjectWorker, processes: int) -> Engine:
    """An engine of forked processes with one thread each; outcomes come in order of completion.

    On a CPU two objects in parallel are faster than one with two threads. What objects share, their picture and the
    batch of their sparse structures, is computed before the fork, with all threads. An object whose process dies, for
    example out of memory, is run again alone, then with fewer formats.

    Args:
        worker: with its pipeline on the CPU.
    """

    def run(tasks: Iterable[ObjectTask]) -> Iterator[ObjectOutcome]:
        for _, together in itertools.groupby(tasks, key=lambda task: (task.folder, task.group)):
            yield from made(list(together))

    def made(tasks: Sequence[ObjectTask]) -> Iterator[ObjectOutcome]:
        worker.prepare(tasks[0])
        tasks = sorted(tasks, key=worker.voxels, reverse=True)  # the others would wait for a large one at the end
        lost = []
        for index, answer in in_forks(worker.process, tasks, processes):
            if isinstance(answer, Lost):
                log.warning("object %d: its process ended with %s; it is run again, alone", tasks[index].number, answer)
                lost.append(tasks[index])
            else:
                yield answer
        for task in lost:
            clear_unfinished(task.target.parent)
            yield alone(task)

    def alone(task: ObjectTask) -> ObjectOutcome:
        ended: list[str] = []
        for formats in ((), *worker.smaller):
            again = functools.partial(worker.process, formats=formats, ended=tuple(ended))
            ((_, answer),) = in_forks(again, [task], 1)
            if not isinstance(answer, Lost):
                return answer
            clear_unfinished(task.target.parent)
            ended.append(f"{', '.join(formats) or 'everything'}, alone: its process ended with {answer}")
        return ObjectOutcome(task.number, "failed", f"it may not fit into the memory ({'; '.join(ended)})")

    return run


def processes_for(pipeline: Any, objects: int, asked: int | None = None) -> int:
    """The number of processes for a scene's objects: on a CPU, as many as torch has threads.

    It depends on the scene, not on what is complete, so that a resumed run rounds like an uninterrupted one.

    Args:
        pipeline: loaded.
        objects: in the scene.
        asked: requested number, used where possible.
    """
    import torch

    if asked == 1 or objects < 2 or str(pipeline.device) != "cpu" or not can_fork():
        if asked is not None and asked > 1:
            log.info("the objects are processed one after another: more processes need Linux, a CPU and two objects")
        return 1
    if residency_of(pipeline) is not None:
        if asked is not None:
            log.info("the objects are processed one after another: each process would have its own copy of the weights")
        return 1
    return min(asked or torch.get_num_threads(), objects)
