"""Objects of one picture that share a batch, where a pipeline can sample several sparse structures at once.

Which objects share one depends on the scene alone, never on what is done already: they are taken in fixed groups, in
order. So a scene that was stopped solves the whole group again and gives each object the same numbers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from typing import Any

from fast_sam3d.errors import InputError
from fast_sam3d.object_run import with_alpha

__all__ = ["groups_of", "solve_ahead"]

log = logging.getLogger(__name__)


def groups_of(numbers: Sequence[int], size: int) -> dict[int, tuple[int, ...]]:
    """The group of each: `size` neighbours, the last one may be smaller. No groups of one."""
    groups = [tuple(numbers[start : start + size]) for start in range(0, len(numbers), size)]
    return {number: group for group in groups if len(group) > 1 for number in group}


def solve_ahead(pipeline: Any, objects: Iterable[Any], seed: int | None, ss_steps: int | None) -> None:
    """Samples the sparse structures of a group in one batch; the runs of its objects then find them.

    Where that cannot be done each object is solved in its own run, and a line in the log says why.

    Args:
        objects: with `image`, `mask` and `pointmap`, as `images.ObjectInput`.
    """
    if hasattr(pipeline, "solved_ahead"):
        pipeline.solved_ahead.clear()
    if not hasattr(pipeline, "solve_structures") or seed is None:
        why = "there is no seed" if seed is None else "this pipeline takes them so"
        log.info("the objects are solved one by one, because %s", why)
        return
    begin = time.perf_counter()
    try:
        given = [(with_alpha(item.image, item.mask), None, item.pointmap) for item in objects]
        solved = pipeline.solve_structures(given, seed, ss_steps)
    except (InputError, MemoryError, RuntimeError) as error:
        # Whose fault it is shows when each runs by itself.
        log.info("the objects are solved one by one, because together it failed: %s", error)
        return
    pipeline.solved_ahead.extend(solved)
    if solved:
        log.info("sparse structures of %d objects: %.1f s together", len(solved), time.perf_counter() - begin)
    else:
        log.info("the objects are solved one by one, because the method may decide differently for each")
