"""State shared by the stages of one run, and the layers around the stages that record it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.errors import nothing_found
from fast_sam3d.sampling.tokens import Tokens


@dataclass
class Exchange:
    """State of the object that a pipeline works on, shared by its stages. One per installation, cleared at every run.

    Args:
        occupancy: [B, R, R, R] logits of the sparse structure.
        scale: cells of that grid along each side of a voxel of the structured latent.
        picture: [H, W, 4] uint8, the mask in the last channel.
        records: for the reports, since the last `take`.
        solve: `fast_sam3d.sampling.guide.SolveState` of the solve whose network runs now.
        decoder: the seam on the decoder of sparse structures, for a method that decodes in mid-solve.
        passes: `fast_sam3d.exact.passes.Passes` of this installation, which outlive an object; never copied.
    """

    occupancy: Tensor | None = None
    scale: float = 1.0
    picture: Any = None
    records: list[Any] = field(default_factory=list)
    solve: Any = None
    decoder: Any = None
    passes: Any = None

    def clear(self) -> None:
        """Forget the last object."""
        self.occupancy, self.scale, self.picture = None, 1.0, None
        self.records.clear()

    def take(self) -> list[Any]:
        """The records, which are then removed."""
        records, self.records = self.records, []
        return records

    def resolution(self, coords: Tensor) -> int:
        """Resolution of the voxel grid: that of the logits, else the least power of two that holds the voxels."""
        if self.occupancy is not None:
            return int(self.occupancy.shape[-1])
        return 1 << int(coords[:, 1:].max()).bit_length()

    def tokens(self, coords: Tensor) -> Tokens:
        """Voxels [N, 4] on the host as tokens; without the logits where these belong to another object."""
        known = Tokens(coords, self.occupancy, self.scale)
        if self.occupancy is None or not len(coords):
            return Tokens(coords)
        inside = all(i < n for i, n in zip(known.places.amax(0).tolist(), self.occupancy.shape, strict=True))
        return known if inside else Tokens(coords)

    def __getstate__(self) -> dict[str, Any]:
        return {"occupancy": None, "scale": 1.0, "picture": None, "records": [], "decoder": self.decoder}


@dataclass(frozen=True, slots=True)
class Chain:
    """Several methods around the same part, the first one innermost."""

    methods: tuple[Callable[..., Any], ...]

    def __call__(self, scene: Exchange, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """See the class."""
        for method in self.methods:
            call = partial(method, scene, call)
        return call(*args, **kwargs)


def begin_run(scene: Exchange, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Acts around a pipeline's `run`: a new object."""
    scene.clear()
    try:
        return call(*args, **kwargs)
    finally:
        scene.clear()  # no state outlives the run


def require_voxels(scene: Exchange, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Acts around the sampling of a structured latent on voxels [N, 4]; refuses an empty set with a clear error."""
    given = (value for value in (*args, *kwargs.values()) if getattr(value, "ndim", 0) == 2 and value.shape[1] == 4)
    coords = next(given, None)
    if coords is not None and not len(coords):
        raise nothing_found(scene.occupancy is None or bool(torch.isfinite(scene.occupancy).all()))
    return call(*args, **kwargs)


def keep_occupancy(scene: Exchange, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Acts around the sparse-structure decoder, which returns logits [B, 1, R, R, R]."""
    logits = call(*args, **kwargs)
    if isinstance(logits, Tensor) and logits.dim() == 5:
        scene.occupancy = logits[:, 0].detach()
    return logits


def keep_scale(scene: Exchange, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Acts around `sample_sparse_structure`, which may return by how much it merged voxels."""
    result = call(*args, **kwargs)
    scene.scale = float(result.get("downsample_factor", 1.0)) if isinstance(result, Mapping) else 1.0
    return result
