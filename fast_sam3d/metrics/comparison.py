"""All measures of one object at once, against the ground truth and against the unaccelerated baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy, first
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.poses import object_to_camera, quaternion_matrix
from fast_sam3d.metrics.appearance import psnr, render_views, ssim
from fast_sam3d.metrics.boxes import FRAMES, Frame, layout_box_iou, oriented_box_iou, unit_box
from fast_sam3d.metrics.latent import latent_error
from fast_sam3d.metrics.neighbours import Backend
from fast_sam3d.metrics.occupancy import RESOLUTION, cells, volume_iou, voxel_iou
from fast_sam3d.metrics.pose import Symmetry, add_s, posed_diameter, rotation_error_deg, scale_error, translation_error
from fast_sam3d.metrics.surface import F1_THRESHOLDS, SURFACE_POINTS, compare_meshes, sample_surface

TRUTH, BASELINE = "truth", "plain"
"""Prefix of a score's name: what it was measured against, the ground truth or the unaccelerated result."""

PERFECT: Mapping[str, float] = {
    **dict.fromkeys(("volume_iou", "voxel_iou", "box_iou", "oriented_box_iou", "ssim"), 1.0),
    **dict.fromkeys(("rotation_deg", "translation_error", "scale_error", "latent_error"), 0.0),
}
"""Scores of equal objects. Not chamfer, F1 and ADD-S: they also depend on the points sampled on each surface."""


@dataclass(frozen=True)
class Protocol:
    """How objects are compared.

    Args:
        parts: of `PARTS`: what to measure, where both sides have it.
        points: sampled on each surface. seed: of the sampling.
        frame, taus, icp: see `compare_meshes`; ICP is off by default, because a wrong position is an error too.
        resolution, filled: see `volume_iou`.
        backend: of nearest neighbours, ICP and boxes, see `fast_sam3d.metrics.neighbours`.

    Raises:
        ValueError: a setting is out of range, or an unknown name.
    """

    parts: tuple[str, ...] = ("surface", "volume", "voxels", "pose", "layout", "appearance", "latent")
    points: int = SURFACE_POINTS
    seed: int = 0
    frame: Frame = "unit_cube"
    taus: tuple[float, ...] = F1_THRESHOLDS
    icp: bool = False
    resolution: int = RESOLUTION
    filled: bool = True
    backend: Backend = "scipy"

    def __post_init__(self) -> None:
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown:
            raise ValueError(f"unknown part {unknown[0]!r} of a comparison: use some of {', '.join(PARTS)}")
        if self.points < 1 or self.resolution < 1 or any(not tau > 0 for tau in self.taus):
            raise ValueError("points and resolution must be at least 1, and each tau positive")
        if self.frame not in FRAMES:
            raise ValueError(f"unknown frame {self.frame!r}: use one of {', '.join(FRAMES)}")


@dataclass(frozen=True)
class Reconstruction:
    """One object, a result or the ground truth. Fields that are None are not compared.

    Args:
        mesh: vertices [V, 3] canonical, faces [F, 3]; without faces: the decoder found no surface.
        voxels: [N, C] int, canonical, as `voxel_iou` takes them.
        rotation: [3, 3] for row vectors, p_camera = (p_object * scale) @ rotation + translation.
        translation: [3]. scale: [3], camera units per canonical unit.
        symmetry: see `rotation_error_deg`; only the ground truth's is used.
        gaussians: see `fast_sam3d.geometry.gaussians.GaussianCloud`.
        latent: see `latent_error`.
        failed: the run failed: worst scores, for the measures that have one.
    """

    mesh: Any = None
    voxels: Any = None
    rotation: np.ndarray | None = None
    translation: np.ndarray | None = None
    scale: np.ndarray | None = None
    symmetry: Symmetry = 1
    gaussians: Any = None
    latent: Any = None
    failed: bool = False

    @classmethod
    def of(cls, result: Mapping[str, Any] | None) -> Reconstruction:
        """From the result of a pipeline's `run`; None is a failed run."""
        if result is None:
            return cls(failed=True)
        mesh = first(result.get("mesh"))
        if mesh is not None and not (getattr(mesh, "success", True) and len(mesh.faces)):
            mesh = NO_MESH
        pose: dict[str, Any] = {}
        if all(name in result for name in ("rotation", "translation", "scale")):
            pose["rotation"] = quaternion_matrix(as_numpy(result["rotation"]).reshape(-1, 4)[0])
            pose["translation"] = as_numpy(result["translation"], np.float64).reshape(-1, 3)[0]
            pose["scale"] = np.broadcast_to(as_numpy(result["scale"], np.float64).reshape(-1), (3,))
        gaussians = first(result.get("gaussian"))
        if gaussians is None:
            gaussians = first(result.get("gaussian_4"))
        return cls(mesh, result.get("coords"), gaussians=gaussians, latent=result.get("shape"), **pose)

    def on_host(self) -> Reconstruction:
        """A copy as numpy arrays, which holds no device memory.

        Raises:
            ValueError: `GaussianCloud.of` rejects the gaussians.
        """
        mesh = self.mesh
        if mesh is not None and mesh is not NO_MESH:
            colours = getattr(mesh, "vertex_attrs", None)
            mesh = SimpleNamespace(
                vertices=as_numpy(mesh.vertices),
                faces=as_numpy(mesh.faces, np.int64),
                vertex_attrs=None if colours is None else as_numpy(colours),
            )
        return replace(
            self,
            mesh=mesh,
            voxels=None if self.voxels is None else as_numpy(self.voxels, np.int64),
            gaussians=None if self.gaussians is None else GaussianCloud.of(self.gaussians),
            latent=None if self.latent is None else as_numpy(self.latent),
        )

    @cached_property
    def matrix(self) -> np.ndarray | None:
        """[4, 4] object to camera for column vectors; None without a pose."""
        if self.rotation is None or self.translation is None or self.scale is None:
            return None
        return object_to_camera(self.rotation, self.translation, self.scale)

    @cached_property
    def own_cells(self) -> np.ndarray:
        """[K, 3] occupied cells of the mesh in its own cube, filled, at `RESOLUTION`; cached."""
        return cells(self.mesh, unit_box(self.mesh.vertices)(self.mesh.vertices), RESOLUTION, True)

    @cached_property
    def pictures(self) -> np.ndarray:
        """[V, H, W, 3] renderings of the gaussians from the fixed views; cached."""
        return render_views(self.gaussians)


NO_MESH = SimpleNamespace(vertices=np.zeros((0, 3)), faces=np.zeros((0, 3), np.int64))
"""The result of a decoder that found no surface."""


def compare(found: Reconstruction, truth: Reconstruction, protocol: Protocol | None = None) -> dict[str, float]:
    """Every measure of what both sides have.

    Args:
        found: the result. A failed one gets the worst value of each measure that has one.
        truth: the reference: the ground truth, or another result.

    Returns:
        scores by name. surface: chamfer, chamfer_squared, f1@<tau>. volume: volume_iou (vIoU). voxels: voxel_iou. pose:
        rotation_deg, translation_error (in diameters of the reference), scale_error. layout: box_iou (3D-IoU),
        oriented_box_iou, add_s. appearance: psnr, ssim. latent: latent_error. Empty if the reference failed.
    """
    protocol = protocol or Protocol()
    scores: dict[str, float] = {}
    if not truth.failed:
        for part in protocol.parts:
            scores |= PARTS[part](found, truth, protocol)
    return {name: float(value) for name, value in scores.items()}


def quality_and_fidelity(
    found: Reconstruction,
    truth: Reconstruction | None = None,
    baseline: Reconstruction | None = None,
    protocol: Protocol | None = None,
) -> dict[str, float]:
    """The scores of `compare` against each reference that is given, with its prefix.

    Args:
        found: the result.
        truth: the ground truth, for "truth_<measure>": quality.
        baseline: the unaccelerated result of the same seed, for "plain_<measure>": fidelity.
    """
    return {
        f"{prefix}_{name}": value
        for prefix, reference in ((TRUTH, truth), (BASELINE, baseline))
        if reference is not None
        for name, value in compare(found, reference, protocol).items()
    }


def _surface(found: Reconstruction, truth: Reconstruction, protocol: Protocol) -> dict[str, float]:
    if not _has_mesh(truth) or (found.mesh is None and not found.failed):
        return {}
    return compare_meshes(
        found.mesh, truth.mesh, protocol.points, protocol.seed,
        taus=protocol.taus, frame=protocol.frame, icp=protocol.icp, backend=protocol.backend,
    )  # fmt: skip


def _volume(found: Reconstruction, truth: Reconstruction, protocol: Protocol) -> dict[str, float]:
    if not _has_mesh(truth) or (found.mesh is None and not found.failed):
        return {}
    usual = (protocol.resolution, protocol.filled) == (RESOLUTION, True)
    known = truth.own_cells if usual else None
    return {"volume_iou": volume_iou(found.mesh, truth.mesh, protocol.resolution, protocol.filled, known)}


def _voxels(found: Reconstruction, truth: Reconstruction, protocol: Protocol) -> dict[str, float]:
    if truth.voxels is None or (found.voxels is None and not found.failed):
        return {}
    if found.failed:
        return {"voxel_iou": 0.0}
    # The ground truth is one object; the coordinates of a result start with the batch index.
    first, second = (as_numpy(item, np.int64)[:, -3:] for item in (found.voxels, truth.voxels))
    return {"voxel_iou": voxel_iou(first, second)}


def _pose(found: Reconstruction, truth: Reconstruction, protocol: Protocol) -> dict[str, float]:
    if truth.rotation is None or (found.rotation is None and not found.failed):
        return {}
    if found.failed:
        return {"rotation_deg": 180.0}
    errors = {"rotation_deg": rotation_error_deg(found.rotation, truth.rotation, truth.symmetry)}
    if truth.matrix is not None and found.matrix is not None:
        errors["scale_error"] = scale_error(found.scale, truth.scale)
        if _has_mesh(truth):
            diameter = posed_diameter(truth.mesh.vertices, truth.matrix)
            errors["translation_error"] = translation_error(found.translation, truth.translation, diameter)
    return errors


def _layout(found: Reconstruction, truth: Reconstruction, protocol: Protocol) -> dict[str, float]:
    if truth.matrix is None or not _has_mesh(truth):
        return {}
    if found.failed or found.mesh is NO_MESH:
        return {"box_iou": 0.0, "oriented_box_iou": 0.0}
    if found.mesh is None or found.matrix is None:
        return {}
    posed = found.mesh.vertices, found.matrix, truth.mesh.vertices, truth.matrix
    boxes: Backend = "scipy" if protocol.backend == "kaolin" else protocol.backend
    sampled = [
        sample_surface(item.mesh, protocol.points, 2 * protocol.seed + 1 - place)
        for place, item in enumerate((found, truth))
    ]
    return {
        "box_iou": layout_box_iou(*posed),
        "oriented_box_iou": oriented_box_iou(*posed, backend=boxes),
        "add_s": add_s(sampled[0], found.matrix, sampled[1], truth.matrix, protocol.backend),
    }


def _appearance(found: Reconstruction, truth: Reconstruction, protocol: Protocol) -> dict[str, float]:
    if truth.gaussians is None or found.gaussians is None:
        return {}
    return {"psnr": psnr(found.pictures, truth.pictures), "ssim": ssim(found.pictures, truth.pictures)}


def _latent(found: Reconstruction, truth: Reconstruction, protocol: Protocol) -> dict[str, float]:
    if truth.latent is None or found.latent is None:
        return {}
    return {"latent_error": latent_error(found.latent, truth.latent)}


Part = Callable[[Reconstruction, Reconstruction, Protocol], dict[str, float]]
PARTS: Mapping[str, Part] = {
    "surface": _surface,
    "volume": _volume,
    "voxels": _voxels,
    "pose": _pose,
    "layout": _layout,
    "appearance": _appearance,
    "latent": _latent,
}


def _has_mesh(thing: Reconstruction) -> bool:
    return thing.mesh is not None and len(thing.mesh.faces) > 0
