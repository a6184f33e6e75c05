"""Training samples: shape and views of each seed, stored in shards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fast_sam3d.mini.data import views
from fast_sam3d.mini.data.families import FAMILIES, Sampled, sample_object
from fast_sam3d.model.depth import ASSUMED_FOCAL, ASSUMED_SIZE_M, silhouette_points
from fast_sam3d.model.pose import normalise_pointmap
from fast_sam3d.model.preprocess import crop_box, crop_grid, describe

RESOLUTION = 32  # occupancy grid
FINE = 4  # distance samples per voxel side
BAND = 0.55  # voxels; a voxel is active if |distance at its centre| is below
CROP = 64  # pixels
NO_DEPTH_SHARE = 0.2  # share of views with the silhouette's pointmap instead of the true one


def grid_centres(resolution: int) -> np.ndarray:
    """Cell centres [resolution^3, 3] of the canonical cube, row-major x, y, z."""
    line = (np.arange(resolution, dtype=np.float32) + 0.5) / resolution - 0.5
    return np.stack(np.meshgrid(line, line, line, indexing="ij"), -1).reshape(-1, 3)


_CENTRES = grid_centres(RESOLUTION)
_INSIDE = grid_centres(FINE) / RESOLUTION


@dataclass(frozen=True)
class Shape:
    """coords [N, 3] uint8 of active voxels; sdf [N, 64] int8 (127 = one voxel side); rgb [N, 3] uint8."""

    coords: np.ndarray
    sdf: np.ndarray
    rgb: np.ndarray


def voxelise(sampled: Sampled) -> Shape:
    """Active voxels of an object and their contents."""
    active = np.abs(sampled.solid.distance(_CENTRES)) < BAND / RESOLUTION
    centres = _CENTRES[active]
    fine = (centres[:, None] + _INSIDE[None]).reshape(-1, 3)
    sdf = np.clip(sampled.solid.distance(fine) * RESOLUTION, -1, 1).reshape(len(centres), -1)
    coords = np.argwhere(active.reshape((RESOLUTION,) * 3))
    rgb = sampled.solid.colour(centres)
    return Shape(coords.astype(np.uint8), np.round(sdf * 127).astype(np.int8), np.round(rgb * 255).astype(np.uint8))


@dataclass(frozen=True)
class View:
    """One crop. image [64, 64, 3] uint8; mask [64, 64] bool; pointmap [64, 64, 3] float16, normalised; descriptor [8];
    pose [17] float32: R (9), t (3), size, scene_scale, scene_shift (3)."""

    image: np.ndarray
    mask: np.ndarray
    pointmap: np.ndarray
    descriptor: np.ndarray
    pose: np.ndarray


def make_view(rng: np.random.Generator, sampled: Sampled, surface: np.ndarray, *, occlude: float = 0.4) -> View:
    """Render an object from a random camera.

    Args:
        surface: [P, 3] points on or near its surface, for the crop.
        occlude: share of views with an occluder.
    """
    while True:
        camera = views.sample_camera(rng, sampled.symmetry)
        outline = camera.project(surface)
        occluder = views.sample_occluder(rng, outline) if rng.random() < occlude else None
        if occluder is not None:
            outline = outline[~occluder.covers(outline)]
        centre, side = crop_box(outline)
        uv = crop_grid(centre, side, CROP)
        picture = views.render(sampled, camera, views.Backdrop.sample(rng), occluder, uv)
        if picture.mask.sum() >= 24:
            break
    mask = picture.mask.reshape(CROP, CROP)
    known = bool(rng.random() >= NO_DEPTH_SHARE)
    if known:
        points = picture.points.reshape(CROP, CROP, 3)
    else:
        x, y = (-uv / ASSUMED_FOCAL).reshape(CROP, CROP, 2).transpose(2, 0, 1)
        points = silhouette_points(mask, x, y)
    pointmap, scale, shift = normalise_pointmap(torch.from_numpy(points), torch.from_numpy(mask))
    if not known:
        camera = seen_at_assumed_size(camera)
    focal = camera.focal if known else 0.0
    descriptor = describe(centre * 2, side, float(mask.mean()), focal, known, float(scale), float(shift[2]))
    pose = np.concatenate([camera.R.ravel(), camera.t, [camera.size, float(scale)], shift.numpy()]).astype(np.float32)
    image = np.round(picture.rgb * 255).astype(np.uint8).reshape(CROP, CROP, 3)
    return View(image, mask, pointmap.numpy().astype(np.float16), descriptor, pose)


def seen_at_assumed_size(camera: views.ViewCamera) -> views.ViewCamera:
    """Camera and pose that give the same picture, up to perspective, at the size and focal length of `SilhouetteDepth`.

    A picture without depth determines neither size nor focal length. Their true values would be training targets with
    noise of many standard deviations, which drowns everything that can be learned.
    """
    focal, size = ASSUMED_FOCAL, ASSUMED_SIZE_M
    depth = camera.t[2] * (focal / camera.focal) * (size / camera.size)
    slope = camera.t[:2] / camera.t[2] * (camera.focal / focal)
    t = np.array([*(slope * depth), depth], np.float32)
    return replace(camera, t=t, size=size, focal=focal)


def make_sample(seed: int, n_views: int) -> tuple[int, int, Shape, list[View]]:
    """Family index, symmetry, shape and views of a seed."""
    sampled = sample_object(seed)
    shape = voxelise(sampled)
    rng = np.random.default_rng([20260212, seed])
    centres = (shape.coords.astype(np.float32) + 0.5) / RESOLUTION - 0.5
    surface = centres - sampled.solid.normal(centres) * sampled.solid.distance(centres)[:, None]
    pictures = [make_view(rng, sampled, surface) for _ in range(n_views)]
    return list(FAMILIES).index(sampled.family), sampled.symmetry, shape, pictures


def write_shard(folder: Path, seeds: range, n_views: int) -> Path:
    """Write the samples of some seeds as one `.npz`, atomically; an existing shard is kept."""
    path = folder / f"shard-{seeds.start:07d}-{seeds.stop:07d}-{n_views}.npz"
    if path.exists():
        return path
    rows = [make_sample(seed, n_views) for seed in seeds]
    shots = [view for *_, pictures in rows for view in pictures]
    arrays: dict[str, Any] = {
        "family": np.array([r[0] for r in rows], np.uint8),
        "symmetry": np.array([r[1] for r in rows], np.uint8),
        "voxels": np.array([len(r[2].coords) for r in rows], np.int64),
        "coords": np.concatenate([r[2].coords for r in rows]),
        "sdf": np.concatenate([r[2].sdf for r in rows]),
        "rgb": np.concatenate([r[2].rgb for r in rows]),
        **{k: np.stack([getattr(s, k) for s in shots]) for k in ("image", "mask", "pointmap", "descriptor", "pose")},
    }
    aside = path.with_suffix(".tmp")
    with aside.open("wb") as file:
        np.savez(file, **arrays)
    aside.replace(path)
    return path
