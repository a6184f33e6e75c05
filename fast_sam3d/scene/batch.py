"""Objects of one picture that share a batch, where a pipeline can sample several sparse structures at once.

Which objects share one depends on the scene alone, never on what is done already: they are taken in fixed groups, in
order. So a scene that was stopped solves the whole group again and gives each object the same numbers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fast_sam3d.errors import InputError
from fast_sam3d.run.object import with_alpha

if TYPE_CHECKING:
    from fast_sam3d.inputs.load import ObjectInput

__all__ = ["Ahead", "Masked", "groups_of"]

log = logging.getLogger(__name__)

Name = TypeVar("Name", bound=Hashable)


class Masked(NamedTuple):
    """An object to be made: image [H, W, 3] uint8, mask [H, W] bool, pointmap [H, W, 3] or None."""

    image: Any
    mask: Any
    pointmap: Any


def groups_of(names: Sequence[Name], size: int) -> dict[Name, tuple[Name, ...]]:
    """The group of each: `size` neighbours, the last one may be smaller. No groups of one."""
    groups = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
    return {name: group for group in groups if len(group) > 1 for name in group}


class Ahead:
    """Samples the sparse structures of a group in one batch, before the first of its objects runs.

    Where that cannot be done each object is solved in its own run, and a line in the log says why, once.

    Args:
        pipeline: with or without the method `sample_structures` of `model.pipeline.Pipeline`.
        seed, ss_steps: of the objects' runs.
    """

    def __init__(self, pipeline: Any, seed: int | None, ss_steps: int | None) -> None:
        self._pipeline, self._seed, self._ss_steps = pipeline, seed, ss_steps
        self._told = False
        self._group: Hashable = None
        self.voxels: list[int] = []
        """Of each object of the group that was solved last, in order; empty where it was not."""

    def prepare(self, group: Hashable, objects: Iterable[ObjectInput | Masked]) -> None:
        """Solves a group, unless it is the one that was solved last.

        Args:
            group: tells groups apart.
            objects: of the group; only looked at if they are to be solved.
        """
        if group == self._group:
            return
        self.forget()
        self._group = group
        why = None
        if not hasattr(self._pipeline, "sample_structures"):
            why = "this pipeline takes one at a time"
        elif self._seed is None:
            why = "there is no seed"
        else:
            from fast_sam3d.scene.structures import solve_structures

            begin = time.perf_counter()
            try:
                given = [(with_alpha(item.image, item.mask), None, item.pointmap) for item in objects]
                solved = solve_structures(self._pipeline, given, self._seed, self._ss_steps)
            except (InputError, MemoryError, RuntimeError) as error:
                # Whose fault it is shows when each runs by itself.
                log.info("some objects are solved one by one, because together it failed: %s", error)
                return
            self._pipeline.solved_ahead.extend(solved)
            self.voxels = [each.voxels for each in solved]
            if solved:
                log.debug("sparse structures of %d objects: %.1f s", len(solved), time.perf_counter() - begin)
            else:
                why = "the method may decide differently for each"
        if why and not self._told:
            self._told = True
            log.info("the objects are solved one by one, because %s", why)

    def forget(self) -> None:
        """Lets go of what was solved."""
        self._group, self.voxels = None, []
        if hasattr(self._pipeline, "solved_ahead"):
            self._pipeline.solved_ahead.clear()
