"""Hooks of token aggregation on the stages of a pipeline; `fast_sam3d.telemetry.StageSeam` calls them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fast_sam3d.decode.aggregate import MeshMethod, max_pool, mean_pool, merge, unmerged
from fast_sam3d.decode.spectrum import mixed, picture_ratio, shape_ratio
from fast_sam3d.sampling.exchange import Exchange
from fast_sam3d.telemetry import AggregationRecord


def record_image(scene: Exchange, call: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    """Wraps `preprocess_image`: records the image, its first argument, [H, W, 4] uint8 with the mask as alpha.

    A picture without a mask is not recorded: where the object is in it is not known yet.
    """
    given = args[0] if args else next(iter(kwargs.values()), None)
    pixels = given if isinstance(given, (np.ndarray, torch.Tensor)) else np.array(given)
    scene.picture = pixels if pixels.ndim == 3 and pixels.shape[2] == 4 else None
    return call(*args, **kwargs)


def mesh_without_gaussians(scene: Exchange, call: Callable[..., Any], outputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Wraps the postprocessing, so that a mesh can be decoded without gaussians.

    A stock method may access the gaussians for every mesh, although it needs them only to bake a texture.
    """
    if "mesh" not in outputs or "gaussian" in outputs:
        return call(outputs, *args, **kwargs)
    result = call({**outputs, "gaussian": [None]}, *args, **kwargs)
    return {name: value for name, value in result.items() if name not in ("gaussian", "gs")}


def aggregate_in_decoder(
    method: MeshMethod, scene: Exchange, call: Callable[..., Any], slat: Any, *args: Any, **kwargs: Any
) -> Any:
    """Wraps the mesh decoder: decodes merged voxels, and scales the mesh back to the original cube."""
    if not (hasattr(slat, "coords") and hasattr(slat, "feats")):
        return call(slat, *args, **kwargs)
    resolution = scene.resolution(slat.coords)
    record, bins, index = _route(method, scene, slat.coords, resolution, centre=0.0)
    if record.factor == 1:
        return call(slat, *args, **kwargs)
    pool = max_pool if method.pool == "max" else mean_pool
    merged = type(slat)(pool(slat.feats, index, len(bins)), bins)
    return [_scaled_back(mesh, record.factor) for mesh in call(merged, *args, **kwargs)]


def aggregate_voxels(method: MeshMethod, scene: Exchange, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Wraps `sample_sparse_structure`: merges its voxels and sets `downsample_factor`, which scales the pose."""
    result = call(*args, **kwargs)
    coords = result["coords"]
    resolution = scene.resolution(coords)
    record, bins, _ = _route(method, scene, coords, resolution, centre=resolution / 2)
    if record.factor == 1:
        return result
    return {**result, "coords": bins, "downsample_factor": result.get("downsample_factor", 1) * record.factor}


def _route(method: MeshMethod, scene: Exchange, coords: Any, resolution: int, centre: float) -> tuple[Any, Any, Any]:
    """Choose the factor, merge the voxels, and record it."""
    picture = None
    if scene.picture is not None:
        rgba = torch.as_tensor(scene.picture, device="cpu")
        picture = picture_ratio(rgba[..., :3], rgba[..., 3])
    host = coords.cpu()  # float64, which not every device has, and the same choice on all devices
    ratios = [shape_ratio(host[host[:, 0] == number, 1:], resolution) for number in host[:, 0].unique()]
    known = [ratio for ratio in ratios if ratio is not None]
    shape = sum(known) / len(known) if known else None
    factor = method.factor(mixed(picture, shape, method.weight), len(coords) // max(1, len(ratios)))
    bins, index = (part.to(coords.device) for part in merge(host, factor, centre))
    record = AggregationRecord(factor, picture, shape, len(coords), len(bins))
    scene.records.append(record)
    return record, bins, index


def _scaled_back(mesh: Any, factor: float) -> Any:
    """The mesh with its vertices in the original cube; normals keep their direction."""
    vertices = unmerged(mesh.vertices, factor)
    if dataclasses.is_dataclass(mesh):  # of the embedded model: frozen
        return dataclasses.replace(mesh, vertices=vertices)  # type: ignore[type-var]
    mesh.vertices = vertices
    return mesh
