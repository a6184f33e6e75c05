"""Reconstruct every masked object of a picture and place them in one scene.

    for item in fast_sam3d.run_scene(pipeline, image, masks, seed=42, pointmap=pointmap):
        print(item.name, item.error or item.result["translation"])

`compose_scene` places the results. Nothing is written to disk here; see `fast_sam3d.scene.folder`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError
from fast_sam3d.geometry.arrays import first, transform_points
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.geometry.poses import Pose, merge_gaussians, place_gaussians
from fast_sam3d.geometry.surface import Surface, TexturedMesh
from fast_sam3d.run.memory import SMALLER
from fast_sam3d.run.object import Known, RunSettings, checked_picture, run_object_fitting
from fast_sam3d.scene.batch import Ahead, groups_of
from fast_sam3d.scene.staged import in_groups

if TYPE_CHECKING:
    from fast_sam3d.telemetry import Progress, Report

__all__ = ["PlacedObject", "Scene", "SceneObject", "Surface", "compose_scene", "run_scene"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class SceneObject:
    """The outcome of one mask.

    Args:
        name: of the mask.
        result: of the pipeline's `run`; None if it failed.
        report: of the run; None if it failed. A batch that the object was part of counts with an even share.
        formats: that were decoded; fewer than requested when out of memory.
        out_of_memory: attempts that did not fit.
        error: why there is no result.
    """

    name: str
    result: Mapping[str, Any] | None = None
    report: Report | None = None
    formats: tuple[str, ...] = ()
    out_of_memory: tuple[str, ...] = ()
    error: Exception | None = None


@dataclass(frozen=True, slots=True, eq=False)
class PlacedObject:
    """An object of a scene, in its own coordinates, with its pose.

    Args:
        gaussians: canonical, or None.
        surface: canonical, or None.
    """

    name: str
    pose: Pose
    gaussians: GaussianCloud | None = None
    surface: Surface | TexturedMesh | None = None

    @classmethod
    def of(cls, name: str, result: Mapping[str, Any]) -> PlacedObject:
        """From a pipeline's result; "gaussian" takes precedence over "gaussian_4"."""
        sorts = [first(result.get(key)) for key in ("gaussian", "gaussian_4")]
        gaussians = next((each for each in sorts if each is not None and len(each.get_xyz)), None)
        from fast_sam3d.outputs.meshes import mesh_to_surface

        mesh = first(result.get("mesh"))
        return cls(
            name,
            Pose.of(result),
            None if gaussians is None else GaussianCloud.of(gaussians),
            None if mesh is None or not len(mesh.faces) else mesh_to_surface(mesh),
        )

    @property
    def points(self) -> NDArray[np.float64]:
        """[N, 3] vertices of the surface, or centres of the gaussians, in the camera's frame."""
        return transform_points(self._canonical, self.pose.matrix)

    def thinned(self, count: int) -> NDArray[np.float64]:
        """About `count` of the points, evenly sampled."""
        own = self._canonical
        return transform_points(own[:: 1 + len(own) // count], self.pose.matrix)

    @property
    def _canonical(self) -> NDArray[np.float32]:
        if self.surface is not None:
            return self.surface.vertices
        return np.empty((0, 3), np.float32) if self.gaussians is None else self.gaussians.get_xyz


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """Placed objects in the frame of the picture's camera; for the convention see `fast_sam3d.geometry.poses`."""

    objects: tuple[PlacedObject, ...]

    @property
    def poses(self) -> dict[str, Pose]:
        """By name."""
        return {item.name: item.pose for item in self.objects}

    @property
    def gaussians(self) -> GaussianCloud | None:
        """All gaussians in the camera's frame, object after object; None if there are none."""
        placed = [place_gaussians(item.gaussians, item.pose) for item in self.objects if item.gaussians is not None]
        return merge_gaussians(placed) if placed else None

    @property
    def meshes(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.integer]]]:
        """Vertices [V, 3] in the camera's frame and faces [F, 3], by name; objects without a mesh are left out."""
        return {item.name: (item.points, item.surface.faces) for item in self.objects if item.surface is not None}


def run_scene(
    pipeline: Any,
    image: Any,
    masks: Mapping[str, Any] | Sequence[Any],
    *,
    seed: int | None = 42,
    pointmap: Any = None,
    ss_steps: int | None = None,
    slat_steps: int | None = None,
    formats: Sequence[str] | None = None,
    smaller: Sequence[Sequence[str]] = SMALLER,
    batch: int = 8,
    layout: bool = True,
    progress: Progress | None = None,
) -> Iterator[SceneObject]:
    """Reconstruct the objects of a picture lazily, one per iteration.

    Accelerate the pipeline before, so that it caches what the objects of one picture share (`exact.images`). An
    unusable mask or a failed object yields an item with its error, and the others follow.

    Args:
        pipeline: a SAM 3D pipeline, accelerated or not, or an object that holds one in `_pipeline`.
        image: [H, W, 3] uint8.
        masks: each [H, W], the object where it is not zero; a sequence is named "0", "1" ...
        seed: every object's noise is drawn as if it ran alone with this seed; None uses the global random generator.
        pointmap: [H, W, 3] float32, PyTorch3D camera frame, NaN where unknown; None asks the depth model.
        ss_steps, slat_steps, formats: None takes the pipeline's own.
        smaller: formats to decode instead when out of memory, in order.
        batch: objects whose sparse structures are sampled together where the pipeline supports it; they equal single
            ones to about 1e-6; and objects that go through one stage after another where the memory plan lets weights
            leave the device, which equal single ones. 1: one object after another.
        layout: refine each pose against mask and pointmap once the object is decoded.
        progress: receives every step and stage, as in `fast_sam3d.report.observe`.

    Raises:
        InputError: a picture that is not [H, W, 3] uint8, no masks, a batch below 1, or a model without poses; before
            the first result.
    """
    from fast_sam3d.adapters import adapt

    pixels = checked_picture(image)
    named = dict(masks) if isinstance(masks, Mapping) else {str(i): mask for i, mask in enumerate(masks)}
    if not named:
        raise InputError("there are no masks: give one for each object")
    adapter = adapt(pipeline)
    if not adapter.posed:
        raise InputError("a scene needs the pose of each object, and this model has none: call run_object for each")
    pipe = adapter.pipeline
    asked = tuple(formats or getattr(pipe, "decode_formats", None) or ("mesh", "gaussian"))
    if batch < 1:
        raise InputError(f"batch is {batch}: give at least 1")

    def usable(name: str) -> NDArray[np.bool_]:
        mask = named[name]
        covered: NDArray[np.bool_] = np.asarray(mask.cpu() if hasattr(mask, "cpu") else mask) > 0
        if covered.shape != pixels.shape[:2]:
            raise InputError(
                f"mask {name} is {list(covered.shape)} and the picture {list(pixels.shape[:2])} (height, width): "
                "give the mask at the picture's size"
            )
        if not covered.any() or covered.all():
            raise InputError(f"mask {name} is {'full' if covered.any() else 'empty'}: mark the object in it")
        return covered

    def one(name: str, known: Known | None) -> SceneObject:
        covered = usable(name)
        if name in groups:
            ahead.prepare(groups[name], ((pixels, usable(member), pointmap) for member in groups[name]))

        failures: list[str] = []
        done, decoded = run_object_fitting(
            pipe, pixels, covered, pointmap,
            settings=RunSettings(seed, ss_steps, slat_steps, asked, layout),
            progress=progress, smaller=smaller, failures=failures, known=known, use=lambda run: run,
        )  # fmt: skip
        return SceneObject(name, done.result, done.report, decoded, tuple(failures))

    def fits(name: str) -> bool:
        try:
            usable(name)
        except Exception:
            return False  # its error is raised in its turn
        return True

    groups = groups_of([name for name in named if fits(name)], batch)
    ahead = Ahead(pipe, seed, ss_steps)

    def or_error(name: str, known: Known | None) -> SceneObject:
        try:
            return one(name, known)
        except Exception as error:
            log.warning("object %s failed: %s", name, error)
            return SceneObject(name, error=error)

    def each() -> Iterator[SceneObject]:
        try:
            # Without a seed, objects draw from the global generator one after another.
            yield from in_groups(pipe, list(named), 1 if seed is None else batch, or_error)
        finally:
            ahead.forget()

    return each()


def compose_scene(results: Iterable[SceneObject | PlacedObject]) -> Scene:
    """Place objects in one scene.

    Args:
        results: of `run_scene`; failed ones are skipped.

    Raises:
        InputError: nothing to place.
    """
    placed = []
    for item in results:
        if isinstance(item, PlacedObject):
            placed.append(item)
        elif item.result is not None:
            placed.append(PlacedObject.of(item.name, item.result))
    if not placed:
        raise InputError("there is no object to compose a scene of: every mask failed")
    return Scene(tuple(placed))
