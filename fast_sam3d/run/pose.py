"""Pose refinement for pipelines whose `run` refines none: the published stock configuration has no method for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.refinement.pose import Solid, mask_at, pose_change, refine_pose, updated

if TYPE_CHECKING:
    from fast_sam3d.telemetry import Report

__all__ = ["refinement_text", "with_refined_pose"]

log = logging.getLogger(__name__)

VOXELS_PER_SIDE = 64
"""Of the stock pipeline's voxels (inference_pipeline_pointmap.py, run: `coords / 64 - 0.5`)."""


def with_refined_pose(
    result: Mapping[str, Any], mask: NDArray[Any], report: Report, given: Sequence[Mapping[str, Any]] | None
) -> dict[str, Any]:
    """A result with its pose refined, unless the pipeline has done so itself.

    Args:
        result: of the pipeline's `run`.
        mask: [H, W], the object where it is above 0, at the size of the picture.
        report: of the run; the refinement is its stage "layout".
        given: see `fast_sam3d.adapters.refinement.own_refinement`.

    Returns:
        the result with layout_refinement, a JSON-ready summary, and perhaps another rotation, translation and scale.
    """
    if "layout_refinement" in result:
        return dict(result)
    if result.get("iou") is not None:  # run_post_optimization
        return {**result, "layout_refinement": _own_facts(result, given)}
    by = "fast_sam3d"
    if given is not None:
        by = "fast_sam3d, because the pipeline's own method failed"
        log.warning("the pipeline's own pose refinement failed, so that of fast_sam3d is used")
    facts, pose = _refined(result, np.asarray(mask) > 0, report)
    return {**result, **pose, "layout_refinement": {**facts, "by": by}}


def refinement_text(facts: Mapping[str, Any]) -> str:
    """One line about a refinement, for people.

    Args:
        facts: layout_refinement of a result.
    """
    before, after = (facts.get(f"mask_iou_{when}") for when in ("before", "after"))
    overlap = "" if after is None else f"mask IoU {'' if before is None else f'{before:.3f} -> '}{after:.3f}"
    if not facts["accepted"]:
        return f"pose not refined: {facts['reason']}" + (f" ({overlap})" if overlap else "")
    change = facts["change"]
    moved = "" if change is None else (
        f"rotated by {change['rotation_deg']:.1f} degrees, moved by {change['translation']:.3g}, "
        f"scaled by {change['scale']:.3f}"
    )  # fmt: skip
    return f"pose refined by {facts['by']}: " + ", ".join(part for part in (moved, overlap) if part)


def _refined(
    result: Mapping[str, Any], mask: NDArray[np.bool_], report: Report
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The summary of our refinement, and the new pose; empty where the given one is kept."""
    nothing = {"accepted": False, "mask_iou_before": None, "mask_iou_after": None, "change": None}
    if result.get("pointmap") is None:
        return {**nothing, "reason": "the result has no pointmap"}, {}
    try:
        given = Pose.of(result)
    except ValueError as error:
        return {**nothing, "reason": str(error)}, {}
    with report.stage("layout"):
        points = as_numpy(result["pointmap"])
        outcome = refine_pose(Solid.of(result, VOXELS_PER_SIDE), given, mask_at(mask, *points.shape[:2]), points, True)
        return outcome.facts(given), {} if outcome.pose is None else updated(result, outcome.pose)


def _own_facts(result: Mapping[str, Any], given: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """The summary of the pipeline's own refinement, which reports an overlap of -1 where it keeps the pose."""
    overlap = float(result["iou"])
    change = pose_change(Pose.of(given[-1]), Pose.of(result)) if given else None
    return {
        "by": "the pipeline",
        "accepted": overlap >= 0,
        "mask_iou_before": None,
        "mask_iou_after": overlap if overlap >= 0 else None,
        "change": change if overlap >= 0 else None,
        "reason": "" if overlap >= 0 else "the pipeline's own method kept the pose",
    }
