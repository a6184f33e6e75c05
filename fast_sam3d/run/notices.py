"""Notices: what a person has to know before using a result. Logged, and shown in the report and on the preview."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.inputs.load import ObjectInput
from fast_sam3d.run.object import ObjectRun

__all__ = ["KNOWN_OBJECTS", "RANDOM_WEIGHTS", "checkpoint_notices", "log_checkpoint", "notices_of"]

log = logging.getLogger(__name__)

RANDOM_WEIGHTS = "random weights: this result is noise"
KNOWN_OBJECTS = "simple rendered objects of 18 kinds, such as chairs, tables, mugs, bottles and cars"
"""What the embedded model was trained on; see `fast_sam3d.mini.data.families`."""


def checkpoint_notices(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What holds for every result of a checkpoint."""
    if checkpoint.kind == "synthetic":
        return (RANDOM_WEIGHTS,)
    if checkpoint.kind == "mini" and checkpoint.by_default:
        return (f"embedded model, for want of SAM 3D Objects weights: it knows {KNOWN_OBJECTS}, and no photographs",)
    return ()


def log_checkpoint(checkpoint: Checkpoint) -> None:
    """Logs `checkpoint_notices`, once for all runs of a command."""
    for notice in checkpoint_notices(checkpoint):
        log.warning("%s", notice)


def notices_of(given: ObjectInput, run: ObjectRun, about: Sequence[str] = ()) -> tuple[str, ...]:
    """The notices of one result.

    Args:
        about: `checkpoint_notices`.

    Returns:
        Sentences without a full stop, the most general first.
    """
    return (*about, *given.notices)
