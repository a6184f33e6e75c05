"""The geometry of sparse voxel tensors: what layers need to know of the voxels, computed at first use and kept."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise, product

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# The 27 taps of a 3x3x3 kernel, row-major in (x, y, z); tap 13 is the centre and tap 26 - k is the mirror of tap k.
OFFSETS = tuple(product((-1, 0, 1), repeat=3))
CENTRE = 13
# The eight children of a voxel, row-major in (x, y, z).
CHILDREN = tuple(product((0, 1), repeat=3))
# Of each child, and for each of OFFSETS: at which of OFFSETS from its parent that neighbour's parent is, and which of
# the CHILDREN there it is.
_SEEN = tuple(
    (OFFSETS.index(tuple(m // 2 for m in moved)), CHILDREN.index(tuple(m % 2 for m in moved)))
    for child in CHILDREN
    for moved in ([c + o for c, o in zip(child, offset, strict=True)] for offset in OFFSETS)
)
# A dense lookup table is quicker than a sorted search while it stays below this many cells (int32: 128 MiB).
MAX_TABLE_CELLS = 1 << 25
# Of one object, that decoders receive; as the stock pipeline limits them.
MAX_VOXELS = 42_000


@dataclass(frozen=True)
class Windows:
    """Voxels sorted so that each attention window is one contiguous run, windows of equal size side by side.

    order: [N] int64, the voxel at each sorted place. inverse: [N] int64, the sorted place of each voxel.
    groups: (number of windows, voxels per window) of each run of equally large windows, in sorted order.
    """

    order: Tensor
    inverse: Tensor
    groups: tuple[tuple[int, int], ...]


class SparseGrid:
    """The voxels of a sparse tensor, and what layers derive from them.

    Args:
        coords: [N, 4] integer, (batch, x, y, z), sorted by batch, no voxel twice, x, y, z >= 0.
        finer, parent_of: the grid that this one was pooled from, and the voxel here of each voxel there.

    Raises:
        ValueError: wrong shape, a negative value, or objects that are not in order of batch.
    """

    def __init__(self, coords: Tensor, finer: SparseGrid | None = None, parent_of: Tensor | None = None) -> None:
        if coords.ndim != 2 or coords.shape[1] != 4:
            raise ValueError(f"coords must be [N, 4] (batch, x, y, z), got {list(coords.shape)}")
        if coords.dtype.is_floating_point:
            raise ValueError(f"coords must be integers, got {coords.dtype}")
        self.coords = coords.to(torch.int32)
        self.finer = finer
        self.parent_of = parent_of
        self._coarser_parent: SparseGrid | None = None
        self._keeps_downsampled = False
        self._downsampled: tuple[SparseGrid, Tensor] | None = None
        self._batch_counts: list[int] | None = None
        self._pairs: dict[torch.device, list[tuple[Tensor, Tensor]]] = {}
        self._neighbours: Tensor | None = None
        self._windows: dict[tuple[int, int], Windows] = {}
        self._moved: dict[tuple[str, torch.device], Tensor] = {}

    def __len__(self) -> int:
        return self.coords.shape[0]

    @property
    def counts(self) -> list[int]:
        """Voxels of each object."""
        if self._batch_counts is None:
            if len(self) == 0:
                self._batch_counts = []
                return self._batch_counts
            batch = self.coords[:, 0].long()
            if bool((self.coords.amin() < 0).item()) or bool((batch[1:] < batch[:-1]).any().item()):
                raise ValueError("coords must be non-negative and sorted by batch")
            self._batch_counts = torch.bincount(batch).tolist()
        return self._batch_counts

    @property
    def batch_size(self) -> int:
        """Number of objects."""
        return len(self.counts)

    @property
    def layout(self) -> list[slice]:
        """The rows of each object."""
        ends = np.cumsum([0, *self.counts]).tolist()
        return [slice(a, b) for a, b in pairwise(ends)]

    def batch_index(self, device: torch.device) -> Tensor:
        """[N] int64 on `device`: the object of each voxel."""
        return self._on("batch", self.coords[:, 0], device).long()

    def _on(self, name: str, value: Tensor, device: torch.device) -> Tensor:
        key = (name, device)
        if key not in self._moved:
            self._moved[key] = value.to(device)
        return self._moved[key]

    def pairs(self, device: torch.device | str) -> list[tuple[Tensor, Tensor]]:
        """Neighbour pairs of a 3x3x3 kernel: for each tap (source rows, target rows), int64 on `device`.

        Tap k reads voxel `target + OFFSETS[k]`. Within a tap no row occurs twice, on either side.
        """
        device = torch.device(device)
        home = self.coords.device
        if home not in self._pairs:
            half = self._subdivided_pairs() if self._coarser_parent is not None else self._search_pairs()
            rows = torch.arange(len(self), device=home)
            self._pairs[home] = [*half, (rows, rows), *((target, source) for source, target in reversed(half))]
        if device not in self._pairs:
            self._pairs[device] = [(s.to(device), t.to(device)) for s, t in self._pairs[home]]
        return self._pairs[device]

    def neighbours(self) -> Tensor:
        """[N, 27] int32: the voxel at each of OFFSETS from each voxel, N where there is none."""
        if self._neighbours is None and self._coarser_parent is not None:
            parents = self._coarser_parent.neighbours()
            taps, children = (torch.tensor(part, device=parents.device) for part in zip(*_SEEN, strict=True))
            # No parent is the row behind the last, and its children are beyond the last as well.
            table = parents[:, taps] * 8 + children.to(torch.int32)
            self._neighbours = table.clamp_(max=len(self)).view(-1, len(OFFSETS))
        if self._neighbours is None:
            table = torch.full((len(self), len(OFFSETS)), len(self), dtype=torch.int32, device=self.coords.device)
            for tap, (source, target) in enumerate(self.pairs(self.coords.device)):
                table[target, tap] = source.to(torch.int32)
            self._neighbours = table
        return self._neighbours

    def _search_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """The pairs of the first 13 taps, by looking each neighbour up; the others are their mirrors."""
        key, strides, cells = _linear_keys(self.coords)
        if cells <= MAX_TABLE_CELLS:
            table = torch.full((cells,), -1, dtype=torch.int32, device=key.device)
            table[key] = torch.arange(len(self), dtype=torch.int32, device=key.device)
        else:
            ordered, rank = key.sort()
        half = []
        for offset in OFFSETS[:CENTRE]:
            wanted = key + sum(o * s for o, s in zip(offset, strides, strict=True))
            if cells <= MAX_TABLE_CELLS:
                found = table[wanted]
                target = (found >= 0).nonzero().flatten()
                source = found[target].long()
            else:
                place = torch.searchsorted(ordered, wanted).clamp_(max=len(self) - 1)
                target = (ordered[place] == wanted).nonzero().flatten()
                source = rank[place[target]]
            half.append((source, target))
        return half

    def _subdivided_pairs(self) -> list[tuple[Tensor, Tensor]]:
        """The pairs of the first 13 taps of a subdivided grid, from its parents' pairs: nothing is looked up."""
        assert self._coarser_parent is not None
        parents = self._coarser_parent.pairs(self.coords.device)
        half = []
        for number in range(CENTRE):
            sources, targets = [], []
            for child in range(8):
                tap, neighbour = _SEEN[child * len(OFFSETS) + number]
                source, target = parents[tap]
                sources.append(source * 8 + neighbour)
                targets.append(target * 8 + child)
            half.append((torch.cat(sources), torch.cat(targets)))
        return half

    def downsampled(self) -> tuple[SparseGrid, Tensor]:
        """The grid of half the resolution, which remembers the way back, and the [N] int64 parent of each voxel."""
        found = self._downsampled or self._downsample()
        self._downsampled = found if self._keeps_downsampled else None
        return found

    @contextmanager
    def reused(self) -> Iterator[SparseGrid]:
        """Within this block the coarser grid is computed once; not for good, because each refers to the other."""
        self._keeps_downsampled = True
        try:
            yield self
        finally:
            self._keeps_downsampled, self._downsampled = False, None

    def _downsample(self) -> tuple[SparseGrid, Tensor]:
        coarse = self.coords.clone()
        coarse[:, 1:] = torch.div(coarse[:, 1:], 2, rounding_mode="floor")
        key, _, _ = _linear_keys(coarse)
        unique, parent_of = key.unique(return_inverse=True)  # sorted, and the batch is the key's leading digit
        coords = torch.empty(unique.shape[0], 4, dtype=coarse.dtype, device=coarse.device)
        coords[parent_of] = coarse  # every child of a parent writes the same value
        return SparseGrid(coords, finer=self, parent_of=parent_of), parent_of

    def subdivided(self) -> SparseGrid:
        """The grid of twice the resolution: rows 8 n .. 8 n + 7 are the CHILDREN of voxel n."""
        child = torch.tensor(CHILDREN, dtype=self.coords.dtype, device=self.coords.device)
        coords = self.coords[:, None, :].repeat(1, 8, 1)
        coords[:, :, 1:] = coords[:, :, 1:] * 2 + child
        fine = SparseGrid(coords.reshape(-1, 4))
        fine._coarser_parent = self
        return fine

    def windows(self, size: int, shift: int) -> Windows:
        """Partition into cubes of `size` voxels whose corners lie at multiples of `size`, minus `shift`."""
        if (size, shift) not in self._windows:
            cube = self.coords.clone()
            cube[:, 1:] = torch.div(cube[:, 1:] + shift, size, rounding_mode="floor")
            key, _, _ = _linear_keys(cube)
            _, window, counts = key.unique(return_inverse=True, return_counts=True)
            # Sorting by (size, window) puts equally large windows side by side, so that one attention call serves
            # them all without padding.
            order = torch.argsort(counts[window] * counts.shape[0] + window, stable=True)
            inverse = torch.empty_like(order)
            inverse[order] = torch.arange(order.shape[0], device=order.device)
            sizes, repeats = counts.unique(return_counts=True)
            groups = tuple(zip(repeats.tolist(), sizes.tolist(), strict=True))
            self._windows[size, shift] = Windows(order, inverse, groups)
        return self._windows[size, shift]


def _linear_keys(coords: Tensor) -> tuple[Tensor, tuple[int, int, int], int]:
    """Row-major index of each voxel with a margin of one cell around, the strides of x, y, z, and the table size."""
    if coords.shape[0] == 0:
        return coords.new_zeros(0, dtype=torch.int64), (9, 3, 1), 27
    batches, *sizes = (coords.amax(0).long() + torch.tensor([1, 3, 3, 3], device=coords.device)).tolist()
    strides = (sizes[1] * sizes[2], sizes[2], 1)
    batch, x, y, z = coords.long().unbind(1)
    key = batch * math.prod(sizes) + (x + 1) * strides[0] + (y + 1) * strides[1] + z + 1
    return key, strides, batches * math.prod(sizes)


def surface_voxels(coords: Tensor, resolution: int, reach: int) -> Tensor:
    """Voxels [N, 4] with an empty one within `reach` along each axis (the border counts as empty), in their order."""
    b, x, y, z = coords.long().unbind(1)
    empty = torch.ones(int(b.max()) + 1, *[resolution] * 3, dtype=torch.bool, device=coords.device)
    empty[b, x, y, z] = False
    near = F.pad(empty, [reach] * 6, value=True)
    for dim in (1, 2, 3):  # not max_pool3d, which older versions of torch lack on MPS
        near = reduce(torch.logical_or, (near.narrow(dim, start, resolution) for start in range(2 * reach + 1)))
    return coords[near[b, x, y, z]]


def limited_voxels(coords: Tensor, most: int = MAX_VOXELS) -> tuple[Tensor, int]:
    """Voxels for the decoders, and the factor by which an object is larger than they say.

    More than `most` are moved towards the middle of their box, which halves it, and equal ones become one; of those
    that are still too many, `most` are drawn with torch's generator. As sam3d_objects/pipeline/inference_utils.py
    (`downsample_sparse_structure`).

    Args:
        coords: [N, 4] int32 (batch, x, y, z).

    Returns:
        [M, 4] int32 and 1; 2 where they were moved.
    """
    if len(coords) <= most:
        return coords, 1
    places = coords[:, 1:].float()
    low, high = places.amin(0), places.amax(0)
    whole = high - low + 1
    half = whole / 2
    first = low + (whole - half) / 2
    last = first + half - 1
    moved = ((places - low) / (high - low) * (half - 1) + first).round().int()
    moved = torch.clamp(moved, first.int(), last.int())
    merged = torch.unique(torch.cat([coords[:, :1], moved], dim=1), dim=0)
    if len(merged) > most:
        merged = merged[torch.randperm(len(merged), device=coords.device)[:most]]
    return merged.int(), 2
