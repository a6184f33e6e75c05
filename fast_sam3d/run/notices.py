"""Notices: what a person has to know before using a result. Logged, and shown in the report and on the preview."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.inputs.load import ObjectInput
from fast_sam3d.run.familiar import MOST_DISTANT, Crop, oddities, surface_distance
from fast_sam3d.run.object import ObjectRun

__all__ = ["KNOWN_OBJECTS", "RANDOM_WEIGHTS", "checkpoint_notices", "log_checkpoint", "notices_of", "overlap_notices"]

log = logging.getLogger(__name__)

RANDOM_WEIGHTS = "random weights: this result is noise"
KNOWN_OBJECTS = "simple rendered objects of 18 kinds, such as chairs, tables, mugs, bottles and cars"
"""What the embedded model was trained on; see `fast_sam3d.mini.data.families`."""
NO_POSE = "TRELLIS gives no pose, so there is no pose.json: the files hold the object in a cube from -0.5 to 0.5, +y up"
LEAST_OVERLAP = 0.5
"""Mask IoU of the posed object; of the held-out objects 1 % with a pointmap and 6 % without one have less."""


def checkpoint_notices(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What holds for every result of a checkpoint."""
    if checkpoint.kind == "synthetic":
        return (RANDOM_WEIGHTS,)
    if checkpoint.kind == "trellis":
        return (NO_POSE,)
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
    found = _result_notices(given, run, any(KNOWN_OBJECTS in notice for notice in about))
    for notice in found:
        log.warning("%s: %s", given.name, notice)
    return (*about, *given.notices, *found)


def overlap_notices(overlap: float | None) -> list[str]:
    """The remark on an object whose silhouette covers its mask badly; `overlap` is their IoU, None if unknown."""
    if overlap is None or overlap >= LEAST_OVERLAP:
        return []
    return [f"its silhouette covers the mask badly (IoU {overlap:.2f}), so its shape or pose is doubtful"]


def _result_notices(given: ObjectInput, run: ObjectRun, named: bool) -> list[str]:
    """`named`: what the embedded model knows is in another notice."""
    facts = run.result.get("layout_refinement") or {}
    overlap = facts.get("mask_iou_after")
    found = overlap_notices(facts.get("mask_iou_before") if overlap is None else overlap)
    if run.runtime != "embedded":
        return found
    reasons = oddities(Crop.of(given.image, given.mask), guessed=given.pointmap is None)
    distance = None if given.pointmap is None else surface_distance(run.result, given.pointmap, given.mask)
    if distance is not None and distance > MOST_DISTANT:
        reasons.append(f"its surface is off the pointmap by {distance:.0%} of its size")
    if not reasons:
        return found
    known = "" if named else f", because it knows only {KNOWN_OBJECTS}"
    doubt = f"out of distribution for the embedded model ({'; '.join(reasons)}): the shape is probably wrong{known}"
    return [doubt, *found]
