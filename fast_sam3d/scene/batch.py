"""Batches of objects of one picture, where a pipeline can sample several sparse structures at once.

The groups are fixed, in the order of the masks, and do not depend on what is complete already. So an interrupted scene
samples the whole group again, and each object gets the same numbers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar

from fast_sam3d.adapters.memory import residency_of
from fast_sam3d.errors import InputError
from fast_sam3d.run.object import with_alpha
from fast_sam3d.serial import one_at_a_time

__all__ = ["Ahead", "groups_of"]

log = logging.getLogger(__name__)

Name = TypeVar("Name", bound=Hashable)


def groups_of(names: Sequence[Name], size: int) -> dict[Name, tuple[Name, ...]]:
    """The group of each name: `size` neighbours, fewer in the last one; without groups of one."""
    groups = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
    return {name: group for group in groups if len(group) > 1 for name in group}


class Ahead:
    """Samples the sparse structures of a group in one batch, before the first of its objects runs.

    Where that is impossible each object is sampled in its own run, and the reason is logged once.

    Args:
        pipeline: with or without the method `sample_structures` of `model.pipeline.Pipeline`.
        seed, ss_steps: of the objects' runs.
    """

    def __init__(self, pipeline: Any, seed: int | None, ss_steps: int | None) -> None:
        self._pipeline, self._seed, self._ss_steps = pipeline, seed, ss_steps
        self._logged = False
        self._group: Hashable = None
        self._solved: list[Any] = []
        self.voxels: list[int] = []
        """Number of voxels of each object of the current group, in order; empty without a batch."""

    @one_at_a_time()
    def prepare(self, group: Hashable, objects: Iterable[tuple[Any, Any, Any]]) -> None:
        """Sample a group, unless it is the current one.

        Args:
            group: its identity.
            objects: of the group: image [H, W, 3] uint8, mask [H, W] and pointmap [H, W, 3] or None of each; only
                consumed if they are sampled.
        """
        if group == self._group:
            return
        self.forget()
        self._group = group
        why = None
        if residency_of(self._pipeline) is not None:
            return  # objects go through one stage after another, or one by one: see `scene.staged`
        if not hasattr(self._pipeline, "sample_structures"):
            why = "this pipeline samples one at a time"
        elif self._seed is None:
            why = "there is no seed"
        else:
            from fast_sam3d.scene.structures import solve_structures

            begin = time.perf_counter()
            try:
                given = [(with_alpha(image, mask), None, points) for image, mask, points in objects]
                solved = solve_structures(self._pipeline, given, self._seed, self._ss_steps)
            except (InputError, MemoryError, RuntimeError) as error:
                # The run of the object at fault raises the error.
                log.info("some objects are sampled one by one, because the batch failed: %s", error)
                return
            self._solved = list(solved)
            self._pipeline.solved_ahead.extend(solved)
            self.voxels = [each.voxels for each in solved]
            if solved:
                log.debug("sparse structures of %d objects: %.1f s", len(solved), time.perf_counter() - begin)
            else:
                why = "the method may take different steps for each"
        if why and not self._logged:
            self._logged = True
            log.info("the objects are sampled one by one, because %s", why)

    @one_at_a_time()
    def forget(self) -> None:
        """Discard the current batch; not those of other threads."""
        if self._solved:
            others = [each for each in self._pipeline.solved_ahead if not any(each is own for own in self._solved)]
            self._pipeline.solved_ahead[:] = others
        self._group, self._solved, self.voxels = None, [], []
