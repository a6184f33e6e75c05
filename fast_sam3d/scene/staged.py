"""Objects that go through one stage after another, so that the weights of a stage are read once for all of them.

For pipelines whose memory plan lets weights leave the device between the stages. Each object's run is stopped before
the next part is needed, and repeated from there (`fast_sam3d.native.replay`), so that it ends with the same result as
if it had run alone. The last stages, from the decoders to the result files, are object by object: what is finished is
written before the next object is decoded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from fast_sam3d.adapters.memory import residency_of
from fast_sam3d.run.object import Known, known_of

log = logging.getLogger(__name__)

__all__ = ["in_groups", "in_stages", "runs_in_stages"]

T = TypeVar("T")
R = TypeVar("R")


def runs_in_stages(pipeline: Any) -> bool:
    """Whether several objects of a pipeline are to go through one stage after another."""
    residency = residency_of(pipeline)
    return residency is not None and bool(residency.plan.releases)


def in_groups(pipeline: Any, items: Sequence[T], size: int, run: Callable[[T, Known | None], R]) -> Iterator[R]:
    """`in_stages` for at most `size` items at a time, of which results between the stages are kept.

    Where the pipeline's weights stay on the device, and for single items, one item after another.
    """
    for start in range(0, len(items), size):
        group = items[start : start + size]
        if len(group) > 1 and runs_in_stages(pipeline):
            yield from in_stages(pipeline, group, run)
        else:
            yield from (run(item, None) for item in group)


def in_stages(pipeline: Any, items: Sequence[T], run: Callable[[T, Known | None], R]) -> Iterator[R]:
    """Run items in stages; their results come in the order of the items.

    Args:
        pipeline: with a memory plan.
        run: runs an item with what is known of it; errors of one item are part of its result, not raised.
    """
    from fast_sam3d.native.replay import ORDER, Suspended

    log.info("%d objects go through one stage after another, so that weights are read once per stage", len(items))
    known = [known_of(pipeline) for _ in items]
    ended: dict[int, R] = {}
    waiting = dict.fromkeys(range(len(items)), ORDER[0])
    for number, part in enumerate(ORDER):
        for index in [index for index, wanted in waiting.items() if wanted == part]:
            there = known[index]
            assert there is not None
            there.replay.until = ORDER[: number + 1]
            try:
                ended[index] = run(items[index], there)
                del waiting[index]
            except Suspended as stop:
                waiting[index] = stop.part
    for index, item in enumerate(items):
        there = known[index]
        known[index] = None  # its results leave the memory with it
        if index not in ended and there is not None:
            there.replay.until = None
            there.forget_aggregations()
            yield run(item, there)
        else:
            yield ended.pop(index)
