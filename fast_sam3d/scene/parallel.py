"""Who makes a scene's objects on this machine: this process, one after another, or several that are forked from it."""

from __future__ import annotations

import functools
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fast_sam3d.outputs.folder import clear_unfinished
from fast_sam3d.run.processes import Lost, can_fork, in_forks
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask, ObjectWorker

__all__ = ["Engine", "in_parallel", "processes_for"]

log = logging.getLogger(__name__)

Engine = Callable[[Iterable[ObjectTask]], Iterator[ObjectOutcome]]
"""Makes objects in any order, in this process or elsewhere, and tells what became of each as it is done."""


def in_parallel(worker: ObjectWorker, processes: int) -> Engine:
    """Forks of this process, each with one thread, in the order in which they are done.

    On a CPU two objects at once are made faster than one with two threads. What the objects share, their picture and
    the batch of their sparse structures, is made here, with all threads, before the fork. An object whose process dies,
    as where the memory does not suffice, is made again alone, then in the next smaller mode.

    Args:
        worker: has its pipeline, and nothing of it on a GPU.
    """

    def run(tasks: Iterable[ObjectTask]) -> Iterator[ObjectOutcome]:
        for _, together in itertools.groupby(tasks, key=lambda task: (task.folder, task.group)):
            yield from made(list(together))

    def made(tasks: Sequence[ObjectTask]) -> Iterator[ObjectOutcome]:
        worker.prepare(tasks[0])
        tasks = sorted(tasks, key=worker.voxels, reverse=True)  # a large one at the end would be waited for
        lost = []
        for index, answer in in_forks(worker.process, tasks, processes):
            if isinstance(answer, Lost):
                log.warning(
                    "object %d: its process ended with %s; it is made again, alone", tasks[index].number, answer
                )
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
        return ObjectOutcome(task.number, "failed", f"does it fit into the memory? ({'; '.join(ended)})")

    return run


def processes_for(pipeline: Any, objects: int, asked: int | None = None) -> int:
    """How many processes make a scene's objects: as many as torch has threads, on a CPU.

    It depends on the scene, not on what of it is done: so a run that goes on rounds as one that was not stopped.

    Args:
        pipeline: loaded.
        objects: in the scene.
        asked: take so many, where that can be done.
    """
    import torch

    if asked == 1 or objects < 2 or str(pipeline.device) != "cpu" or not can_fork():
        if asked is not None and asked > 1:
            log.info("the objects are made one after another: more processes need Linux, a CPU and two objects")
        return 1
    return min(asked or torch.get_num_threads(), objects)
