"""Held-out objects of the embedded model's families, with their pictures and ground truth."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from fast_sam3d.bench.runs import Given
from fast_sam3d.metrics import Reconstruction
from fast_sam3d.mini.data.families import Sampled
from fast_sam3d.mini.data.pictures import Photo, photograph
from fast_sam3d.mini.data.samples import FINE, RESOLUTION, Shape, grid_centres
from fast_sam3d.mini.data.shards import HELD_OUT_SEED

FIRST_SEED = HELD_OUT_SEED + 100_000
"""Seeds from here on: not even the autoencoders' validation uses them."""


@dataclass(frozen=True)
class Mesh:
    """vertices [V, 3] in the canonical cube, faces [F, 3]."""

    vertices: np.ndarray
    faces: np.ndarray


@dataclass(frozen=True)
class Subject:
    """A held-out object: its picture and its ground truth."""

    seed: int
    photo: Photo
    shape: Shape
    mesh: Mesh

    @classmethod
    def of(cls, seed: int) -> Subject:
        photo, shape = photograph(seed)
        return cls(seed, photo, shape, true_mesh(photo.placed[0].sampled))

    @property
    def family(self) -> str:
        """Of `fast_sam3d.mini.data.families.FAMILIES`."""
        return self.photo.placed[0].sampled.family

    @property
    def given(self) -> Given:
        """What the pipeline gets: the picture, the mask, the true pointmap."""
        return Given(self.photo.rgb, self.photo.mask(), self.photo.points)

    @cached_property
    def truth(self) -> Reconstruction:
        """The object before its camera."""
        placed = self.photo.placed[0]
        camera = placed.camera
        return Reconstruction(
            mesh=self.mesh,
            voxels=self.shape.coords,
            rotation=camera.R,
            translation=camera.t,
            scale=np.full(3, camera.size),
            symmetry=placed.sampled.symmetry,
        )


def true_mesh(sampled: Sampled) -> Mesh:
    """Marching cubes of the true distance on a 128^3 grid; far from the surface a coarse grid gives the sign."""
    from skimage import measure

    coarse = sampled.solid.distance(grid_centres(RESOLUTION)).reshape((RESOLUTION,) * 3)
    fine = coarse.repeat(FINE, 0).repeat(FINE, 1).repeat(FINE, 2)
    near = np.abs(fine) < 2 / RESOLUTION
    fine[near] = sampled.solid.distance(grid_centres(RESOLUTION * FINE)[near.ravel()])
    vertices, faces, _, _ = measure.marching_cubes(np.pad(fine, 1, constant_values=1.0), 0.0)
    return Mesh((vertices - 0.5) / (RESOLUTION * FINE) - 0.5, faces)
