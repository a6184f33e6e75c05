"""Stand-ins for packages that `trellis` imports and that may be missing, as in tests/stock/stand_ins.py.

`importable` puts them in place while the package is imported and a pipeline is built, `on_cpu` while one runs.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import sys
import types
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from itertools import accumulate, pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.stock import pictures, sparse_convolution, stand_ins
from tests.trellis_like.samplers import Answer

EMPTY = {
    "easydict", "kaolin", "open3d", "plyfile", "rembg", "spconv", "torchvision", "transformers", "utils3d", "xformers"
}  # fmt: skip
ENVIRONMENT = {"ATTN_BACKEND": "sdpa", "SPARSE_ATTN_BACKEND": "xformers", "SPARSE_BACKEND": "spconv"}


@cache
def home() -> Path | None:
    """The folder of the package, if FlexiCubes is in it."""
    spec = importlib.util.find_spec("trellis")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(place) / "representations" / "mesh" / "flexicubes" / "flexicubes.py").is_file():
            return Path(place)
    return None


class Normalize:
    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = (torch.tensor(value)[:, None, None] for value in (mean, std))

    def __call__(self, image: Tensor) -> Tensor:
        return (image - self.mean) / self.std


class BlockDiagonalMask:
    """Each sequence of queries attends to the keys of its own."""

    def __init__(self, queries: list[int], keys: list[int]) -> None:
        self.queries, self.keys = queries, keys

    @classmethod
    def from_seqlens(cls, q_seqlen: list[int], kv_seqlen: list[int] | None = None) -> BlockDiagonalMask:
        return cls(q_seqlen, q_seqlen if kv_seqlen is None else kv_seqlen)


def memory_efficient_attention(q: Tensor, k: Tensor, v: Tensor, attn_bias: BlockDiagonalMask | None = None) -> Tensor:
    """[B, N, H, C], [B, M, H, C], [B, M, H, C'] -> [B, N, H, C']; B is 1 with a mask."""
    if attn_bias is None:
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)
    rows, columns = (pairwise(accumulate(lengths, initial=0)) for lengths in (attn_bias.queries, attn_bias.keys))
    parts = [
        memory_efficient_attention(q[:, a:b], k[:, c:d], v[:, c:d])
        for (a, b), (c, d) in zip(rows, columns, strict=True)
    ]
    return torch.cat(parts, dim=1)


class VoxelGrid:
    """The voxels that hold vertices of a mesh; open3d's are those that its surface crosses."""

    def __init__(self, places: Any) -> None:
        self.places = places

    @classmethod
    def create_from_triangle_mesh_within_bounds(
        cls, mesh: Any, voxel_size: float, min_bound: Any, max_bound: Any
    ) -> VoxelGrid:
        places = (np.asarray(mesh.vertices) - np.asarray(min_bound)) / voxel_size
        return cls(np.unique(places.astype(int), axis=0))

    def get_voxels(self) -> list[Any]:
        return [SimpleNamespace(grid_index=place) for place in self.places]


WRITTEN: dict[str, dict[str, Any]] = {
    "easydict": {"EasyDict": Answer},
    "kaolin.utils.testing": stand_ins.WRITTEN["kaolin.utils.testing"],
    "open3d": {
        "geometry": SimpleNamespace(VoxelGrid=VoxelGrid, TriangleMesh=object),
        "utility": SimpleNamespace(Vector3dVector=np.asarray),
    },
    "spconv.pytorch": stand_ins.WRITTEN["spconv.pytorch"],
    "torchvision.transforms": {"Compose": pictures.Compose, "Normalize": Normalize},
    "xformers.ops": {
        "memory_efficient_attention": memory_efficient_attention,
        "fmha": SimpleNamespace(BlockDiagonalMask=BlockDiagonalMask),
    },
}


@contextmanager
def importable() -> Iterator[None]:
    """`trellis` can be imported and its pipelines built in this block, without what its `__init__` imports."""
    folder = home()
    assert folder is not None
    if sparse_convolution.REAL:
        importlib.import_module("spconv.pytorch")
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, ENVIRONMENT))
        stack.enter_context(stand_ins.found(stand_ins.Finder(EMPTY, WRITTEN)))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))  # modules print which backend they use
        if "trellis" not in sys.modules:
            sys.modules["trellis"] = package = types.ModuleType("trellis")
            package.__path__, package.__spec__ = [str(folder)], importlib.util.spec_from_loader("trellis", None)
        yield


@contextmanager
def on_cpu() -> Iterator[None]:
    """A pipeline runs in this block: the package creates gaussians on the GPU, not on the pipeline's device."""
    with importable():
        from trellis.models.structured_latent_vae import decoder_gs
        from trellis.representations import Gaussian

    with (
        sparse_convolution.on_cpu(),
        mock.patch.object(Tensor, "cuda", lambda self, *args, **kwargs: self),
        mock.patch.object(decoder_gs, "Gaussian", partial(Gaussian, device="cpu")),
        mock.patch("tqdm.std.tqdm.display"),
    ):
        yield
