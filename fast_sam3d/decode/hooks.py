"""Token aggregation around the parts of a pipeline. See `fast_sam3d.telemetry.StageSeam` for how these are called."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fast_sam3d.decode.aggregate import MeshMethod, max_pool, mean_pool, merge, unmerged
from fast_sam3d.decode.spectrum import mixed, picture_ratio, shape_ratio
from fast_sam3d.sampling.exchange import Exchange
from fast_sam3d.telemetry import AggregationRecord


@dataclass(frozen=True, slots=True)
class KeepPicture:
    """Goes around `preprocess_image`, whose first argument is the picture [H, W, 4] uint8 with the mask as alpha."""

    def __call__(self, scene: Exchange, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        scene.picture = args[0] if args else kwargs.get("image")
        return call(*args, **kwargs)


@dataclass(frozen=True, slots=True)
class MeshAlone:
    """Goes around `postprocess_slat_output`, so that a mesh can be asked for without gaussians.

    The stock one looks the gaussians up for every mesh (sam3d_objects/pipeline/inference_pipeline.py), although it
    needs them for baking a texture only.
    """

    def __call__(self, scene: Exchange, call: Callable[..., Any], outputs: Any, *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        if "mesh" not in outputs or "gaussian" in outputs:
            return call(outputs, *args, **kwargs)
        result = call({**outputs, "gaussian": [None]}, *args, **kwargs)
        return {name: value for name, value in result.items() if name not in ("gaussian", "gs")}


@dataclass(frozen=True, slots=True)
class AggregateInDecoder:
    """Goes around the mesh decoder: merged voxels in, the mesh back in the cube of the voxels."""

    method: MeshMethod

    def __call__(self, scene: Exchange, call: Callable[..., Any], slat: Any, *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        if not (hasattr(slat, "coords") and hasattr(slat, "feats")):
            return call(slat, *args, **kwargs)
        resolution = scene.resolution(slat.coords)
        record, bins, index = _route(self.method, scene, slat.coords, resolution, centre=0.0)
        if record.factor == 1:
            return call(slat, *args, **kwargs)
        pool = max_pool if self.method.pool == "max" else mean_pool
        merged = type(slat)(pool(slat.feats, index, len(bins)), bins)
        return [_scaled_back(mesh, record.factor) for mesh in call(merged, *args, **kwargs)]


@dataclass(frozen=True, slots=True)
class AggregateVoxels:
    """Goes around `sample_sparse_structure`: merged voxels out, and a `downsample_factor` that the pose answers."""

    method: MeshMethod

    def __call__(self, scene: Exchange, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        result = call(*args, **kwargs)
        coords = result["coords"]
        resolution = scene.resolution(coords)
        record, bins, _ = _route(self.method, scene, coords, resolution, centre=resolution / 2)
        if record.factor == 1:
            return result
        return {**result, "coords": bins, "downsample_factor": result.get("downsample_factor", 1) * record.factor}


def _route(method: MeshMethod, scene: Exchange, coords: Any, resolution: int, centre: float) -> tuple[Any, Any, Any]:
    """Decide by how much to merge, merge, and write it down."""
    picture = None
    if scene.picture is not None:
        rgba = torch.as_tensor(scene.picture)
        picture = picture_ratio(rgba[..., :3], rgba[..., 3])
    shape = shape_ratio(coords[:, 1:], resolution) if len(coords) else None
    factor = method.factor(mixed(picture, shape, method.weight), len(coords))
    bins, index = merge(coords, factor, centre)
    record = AggregationRecord(factor, picture, shape, len(coords), len(bins))
    scene.told.append(record)
    return record, bins, index


def _scaled_back(mesh: Any, factor: float) -> Any:
    """The mesh with its vertices in the cube of the voxels; normals keep their direction."""
    vertices = unmerged(mesh.vertices, factor)
    if dataclasses.is_dataclass(mesh):  # the embedded model's, which is frozen
        return dataclasses.replace(mesh, vertices=vertices)  # type: ignore[type-var]
    mesh.vertices = vertices
    return mesh
