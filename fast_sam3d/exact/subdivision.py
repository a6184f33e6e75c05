"""The convolution after a subdivision, on coarse voxels.

A subdividing block of the mesh decoder copies each voxel's features to its eight children and convolves those with 27
taps. Neighbours of a child with the same parent are equal, so a child sees only eight different voxels. Hence the
kernel is summed over the taps that fall on one voxel, once for each of the eight children, and each child takes eight
products instead of 27, of features at the coarse voxels. Equal up to rounding, because the order of the sum differs.

The stock block (models/structured_latent_vae/decoder_mesh.py,
`SparseSubdivideBlock3d`) also convolves the copies with one tap in its skip connection; here each voxel is
processed once. Forward hooks on a block's first convolution are not called.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from itertools import product
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from fast_sam3d.errors import is_out_of_memory
from fast_sam3d.geometry.sparse_grid import CHILDREN, OFFSETS, SparseGrid
from fast_sam3d.patch import Seam

logger = logging.getLogger(__name__)

BLOCK: Final = ("act_layers", "sub", "out_layers", "skip_connection")
"""Attributes of a stock block."""

TRIAL_VOXELS: Final = 256
TRIAL_TOLERANCE: Final = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 4e-3}
"""Largest difference in a trial, relative to the largest value."""

CHUNK: Final = {"cpu": 1 << 20}
OTHER_CHUNK: Final = 1 << 25
"""Features gathered at a time by device type: on a CPU they fit a core's cache."""


def _seen(child: tuple[int, ...]) -> list[int]:
    """Indices in OFFSETS, around its parent, of the voxels that a child sees, row-major."""
    return [
        OFFSETS.index(tuple(c - 1 + step for c, step in zip(child, steps, strict=True)))
        for steps in product((0, 1), repeat=3)
    ]


SEEN: Final = tuple(_seen(child) for child in CHILDREN)


def folded(weight: Tensor) -> Tensor:
    """A kernel on children, as eight kernels on coarse voxels.

    Args:
        weight: [27, in, out], taps as in OFFSETS.

    Returns:
        [8, 8, in, out], at least float32: (child, seen voxel, in, out).
    """
    wide = weight.to(torch.promote_types(weight.dtype, torch.float32))
    kernel = wide.view(3, 3, 3, *weight.shape[1:])
    for axis in (0, 2, 4):  # a tap's axis becomes two: child, place
        before, own, behind = kernel.unbind(axis)
        lower = torch.stack([before, own + behind], dim=axis)
        upper = torch.stack([before + own, behind], dim=axis)
        kernel = torch.stack([lower, upper], dim=axis)
    return kernel.permute(0, 2, 4, 1, 3, 5, 6, 7).reshape(8, 8, *weight.shape[1:])


def convolve(feats: Tensor, neighbours: Tensor, weight: Tensor) -> Tensor:
    """A submanifold 3x3x3 convolution of the children of voxels, which have their parents' features.

    Args:
        feats: [N, in].
        neighbours: [N, 27] row of the voxel at each of OFFSETS, N where there is none.
        weight: [27, in, out].

    Returns:
        [8 N, out]: rows 8 n .. 8 n + 7 are the CHILDREN of voxel n.
    """
    kernels = folded(weight).to(feats.dtype).flatten(1, 2)
    padded = F.pad(feats, (0, 0, 0, 1))
    seen = torch.tensor(SEEN, device=feats.device)
    step = max(CHUNK.get(feats.device.type, OTHER_CHUNK) // (8 * feats.shape[1]), 1)
    parts = []
    for rows in neighbours.split(step):
        children = [
            padded.index_select(0, rows[:, places].reshape(-1)).view(len(rows), len(kernel)) @ kernel
            for places, kernel in zip(seen, kernels, strict=True)
        ]
        parts.append(torch.stack(children, dim=1))
    return torch.cat(parts).flatten(0, 1)


class WideningSeam(Seam):
    """Replaces `SubdivideBlock.widen` of the embedded model."""

    def __init__(self, block: Any) -> None:
        super().__init__(block, "widen")

    def __call__(self, x: Any, grid: SparseGrid) -> Any:
        convolution = self.owner().conv1
        feats = x.feats.to(convolution.compute_dtype(x.feats))
        out = convolve(feats, x.grid.neighbours().to(feats.device), convolution.weight)
        return type(x)(out + convolution.bias.to(out.dtype), grid)


class SubdivisionSeam(Seam):
    """Replaces the `forward` of a stock block."""

    def __init__(self, block: Any) -> None:
        super().__init__(block, "forward")
        self.works: dict[Hashable, bool] = {}
        """Whether the trial agreed, by device and dtype."""

    def __call__(self, x: Any) -> Any:
        kind = _kind(x.feats)
        if kind not in self.works and (agreed := self._try(x)) is not None:
            self.works[kind] = agreed
        return subdivide(self.owner(), x) if self.works.get(kind) else self.original()(x)

    @torch.no_grad()
    def _try(self, x: Any) -> bool | None:
        """Compare both ways on some of the voxels; None if these are not conclusive."""
        if not len(x.feats):
            return None
        try:
            few = type(x)(feats=x.feats[:TRIAL_VOXELS], coords=x.coords[:TRIAL_VOXELS])
            want = self.original()(few).feats
            if not bool(want.isfinite().all()):
                return None  # a property of this object, not of the block
            got = subdivide(self.owner(), few).feats
            if got.dtype != want.dtype or got.shape != want.shape:
                raise ValueError(f"{list(got.shape)} of {got.dtype} for {list(want.shape)} of {want.dtype}")
            away = float((got - want).abs().max() / want.abs().max().clamp(min=1e-12))
            if not away <= TRIAL_TOLERANCE.get(want.dtype, 0.0):
                raise ValueError(f"values differ by {away:.2g} of the largest")
        except Exception as error:  # of any kind: the block is not the known one
            if is_out_of_memory(error):
                raise
            logger.warning(
                "mesh: exact.subdivision stays off in a block, because a trial on %d voxels fails: %s: %s",
                min(len(x.feats), TRIAL_VOXELS), type(error).__name__, error,
            )  # fmt: skip
            return False
        return True


def _kind(feats: torch.Tensor) -> Hashable:
    """Key of the trials: device, dtype and autocast."""
    device = feats.device.type
    autocast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return feats.device, feats.dtype, autocast


def can_widen(block: Any) -> bool:
    """Whether a module is a block of the embedded model, `fast_sam3d.model.slat_decoder.SubdivideBlock`."""
    return callable(getattr(block, "widen", None)) and hasattr(block, "conv1")


def fits(block: Any) -> bool:
    """Whether a module has the structure of a stock block."""
    if not all(hasattr(block, name) for name in BLOCK) or "SparseSubdivide" not in type(block.sub).__name__:
        return False
    return hasattr(block.out_layers, "__getitem__") and hasattr(block.out_layers[0], "conv")


def subdivide(block: Any, x: Any) -> Any:
    """The `forward` of a stock block on sparse voxels: [N, in] -> [8 N, out]."""
    first, *others = block.out_layers
    h = block.act_layers(x)
    feats = convolve(h.feats, SparseGrid(h.coords).neighbours(), taps(first.conv)) + first.conv.bias.to(h.feats.dtype)
    skip = getattr(block.skip_connection, "conv", None)
    if skip is not None:
        x = x.replace(x.feats @ taps(skip)[0].to(x.feats.dtype) + skip.bias.to(x.feats.dtype))
    copies = block.sub(x)
    out = copies.replace(feats)
    for layer in others:
        out = layer(out)
    return out + copies


def taps(convolution: Any) -> Tensor:
    """The weight of a spconv 2 convolution, [taps, in, out].

    Files and modules hold [out, k, k, k, in]. With one tap, spconv multiplies by the same memory seen as [in, out], not
    by the transpose (traveller59/spconv#450; spconv/pytorch/conv.py, `conv1x1`).

    Raises:
        ValueError: the weight has another shape.
    """
    weight, inner, outer = convolution.weight, convolution.in_channels, convolution.out_channels
    if weight.ndim != 5 or (weight.shape[-1], weight.shape[0]) != (inner, outer):
        raise ValueError(f"a convolution of {inner} to {outer} channels has weights {list(weight.shape)}")
    if weight.shape[1:4].numel() == 1:
        return weight.reshape(1, inner, outer)
    return weight.flatten(1, 3).permute(1, 2, 0)
