"""Refinement of a pose with the mask and the pointmap after the object is decoded.

The network predicts the pose before the shape is known. Refined are rotation, translation and one scale: seven numbers.
The predicted pose is kept bit by bit unless the refined one increases the silhouette's overlap with the mask by a
margin.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fast_sam3d.geometry.arrays import as_numpy, transform_points
from fast_sam3d.geometry.camera import NEAR, Camera
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.refinement.fit import LayoutSettings, Motion, fit
from fast_sam3d.refinement.target import LayoutTarget
from fast_sam3d.render.renderer import nearest_faces
from fast_sam3d.render.splat import draw_dots

__all__ = ["LayoutOutcome", "LayoutSettings", "Solid", "mask_at", "pose_change", "refine_pose", "updated"]


@dataclass(frozen=True, slots=True, eq=False)
class Solid:
    """Surface of an object in its canonical cube, for drawing its silhouette.

    Args:
        points: [N, 3] on its surface.
        faces: [F, 3] between them, or None: then the points are drawn as dots.
        sides: [N] of the dots, canonical units.
    """

    points: NDArray[np.float64]
    faces: NDArray[np.int64] | None = None
    sides: NDArray[np.float64] | None = None

    @classmethod
    def of(cls, result: Mapping[str, Any], resolution: int) -> Solid | None:
        """The mesh of a pipeline's result, else its gaussians, else its voxels; None if all are empty.

        Args:
            resolution: of the voxels.
        """
        for mesh in result.get("mesh") or ():
            if len(mesh.faces):
                return cls(as_numpy(mesh.vertices, np.float64), as_numpy(mesh.faces, np.int64))
        for name in ("gaussian", "gaussian_4"):
            for cloud in result.get(name) or ():
                seen = as_numpy(cloud.get_opacity)[:, 0] > 0.3  # as scenes are drawn
                if seen.any():
                    sides = 2.0 * as_numpy(cloud.get_scaling, np.float64)[seen].mean(axis=1)
                    return cls(as_numpy(cloud.get_xyz, np.float64)[seen], sides=sides)
        if (coords := result.get("coords")) is None or not len(coords):
            return None
        voxels = (as_numpy(coords, np.float64)[:, 1:] + 0.5) / resolution - 0.5
        return cls(voxels, sides=np.full(len(voxels), 1.0 / resolution))

    def silhouette(self, pose: Pose, camera: Camera) -> NDArray[np.bool_]:
        """[H, W] bool, where the object is visible."""
        placed = transform_points(self.points, pose.matrix)
        if self.faces is not None:
            return nearest_faces(placed, self.faces, camera)[0] >= 0
        assert self.sides is not None
        return draw_dots(placed, self.sides * pose.scale.mean(), camera).owner >= 0


@dataclass(frozen=True, slots=True, eq=False)
class LayoutOutcome:
    """Result of a refinement.

    Args:
        pose: the refined one; None if the given one is kept.
        before, after: intersection over union of silhouette and mask at the given and at the fitted pose, 0..1; None if
            not computed.
        reason: why the given pose is kept; empty if it is not.
    """

    pose: Pose | None
    before: float | None = None
    after: float | None = None
    reason: str = ""

    def facts(self, given: Pose) -> dict[str, Any]:
        """JSON-ready summary for reports.

        Args:
            given: the pose that was to be refined.
        """
        return {
            "by": "fast_sam3d",
            "accepted": self.pose is not None,
            "mask_iou_before": self.before,
            "mask_iou_after": self.after,
            "change": None if self.pose is None else pose_change(given, self.pose),
            "reason": self.reason,
        }


def pose_change(given: Pose, refined: Pose) -> dict[str, float]:
    """rotation_deg, 0..180; translation, a distance in units of the pointmap; scale, the factor of the size."""
    turn = Rotation.from_matrix(given.rotation_matrix.T @ refined.rotation_matrix).magnitude()
    return {
        "rotation_deg": float(np.degrees(turn)),
        "translation": float(np.linalg.norm(refined.translation - given.translation)),
        "scale": float((refined.scale / given.scale).mean()),
    }


def refine_pose(
    solid: Solid | None,
    pose: Pose,
    mask: NDArray[np.bool_],
    pointmap: NDArray[np.floating],
    measured: bool,
    settings: LayoutSettings | None = None,
) -> LayoutOutcome:
    """Refine a pose with the mask and the pointmap.

    Args:
        solid: the object; None if nothing was decoded.
        pose: predicted by the network.
        mask: [H, W], the object's visible pixels.
        pointmap: [H, W, 3], camera frame, NaN where unknown; the camera is inferred from it, too.
        measured: whether the points' depth is meaningful; that of a guess from the silhouette is not.
    """
    settings = settings or LayoutSettings()
    extent = 0.0 if solid is None else np.ptp(solid.points, axis=0)
    if solid is None or not np.any(extent):
        return LayoutOutcome(None, reason="there is no shape")
    if not np.isfinite(extent).all():
        return LayoutOutcome(None, reason="the shape is not finite")
    if not mask.any():
        return LayoutOutcome(None, reason="the mask is empty")
    try:
        camera = Camera.from_pointmap(pointmap)
    except ValueError as error:
        return LayoutOutcome(None, reason=f"the camera is unknown: {error}")
    points = solid.points[np.linspace(0, len(solid.points) - 1, min(len(solid.points), settings.points)).astype(int)]
    placed = transform_points(points, pose.matrix)
    if not (placed[:, 2] > NEAR).all():
        return LayoutOutcome(None, reason="the object reaches behind the camera")
    diameter = float(np.linalg.norm(extent * pose.scale))
    known = pointmap if measured else None
    motion = fit(placed, LayoutTarget.around(mask, known, camera, settings.span, diameter), diameter, settings)
    judge = LayoutTarget.around(mask, known, camera, settings.judged_span, diameter)
    refined = _moved(pose, motion)
    before, after = (judge.overlap(solid.silhouette(each, judge.camera)) for each in (pose, refined))
    if after < before + settings.least_gain:
        return LayoutOutcome(None, before, after, "the overlap with the mask would not increase")
    return LayoutOutcome(refined, before, after)


def _moved(pose: Pose, motion: Motion) -> Pose:
    """The pose moved in the camera's frame."""
    rotation = Rotation.from_matrix(pose.rotation_matrix @ motion.turn).as_quat(canonical=True)
    return Pose(rotation[[3, 0, 1, 2]], motion(pose.translation[None])[0], pose.scale * motion.growth)


def updated(result: Mapping[str, Any], pose: Pose) -> dict[str, Any]:
    """rotation, translation and scale of a pose, as tensors of the shapes, types and devices that a result has."""
    return {
        name: torch.from_numpy(getattr(pose, name)[: result[name].numel()]).to(result[name]).reshape(result[name].shape)
        for name in ("rotation", "translation", "scale")
    }


def mask_at(mask: NDArray[np.bool_], height: int, width: int) -> NDArray[np.bool_]:
    """A mask [H, W] at the size of a pointmap that the pipeline has reduced, [height, width], by the nearest pixel."""
    rows, columns = (
        ((np.arange(count) + 0.5) * size / count).astype(int)
        for count, size in zip((height, width), mask.shape, strict=True)
    )
    small: NDArray[np.bool_] = mask[np.ix_(rows, columns)]
    return small
