"""Operation counts at the published model sizes, with and without exact savings.

Models are on the meta device, where nothing is computed; torch counts 2 operations per multiply-add. Two guided steps
of a solve are counted with the savings installed, the second of which stands for all later ones. The extraction of the
mesh is not counted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Final

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fast_sam3d.adapters import adapt
from fast_sam3d.api import accelerated
from fast_sam3d.exact.settings import Exact
from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model import published_trellis as trellis
from fast_sam3d.model.config import PUBLISHED_SS, PUBLISHED_SS_CONTEXT
from fast_sam3d.model.published import published
from fast_sam3d.model.slat_config import PUBLISHED_SLAT, PUBLISHED_SLAT_CONTEXT
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.patch import seam_at

RADII: Final = (14.96, 20.65, 29.6)
"""Radii of spherical shells in voxels: about 5,000, 10,000 and 20,000 voxels."""
THICKNESS: Final = 0.92
"""Half of the shells' thickness in voxels: about 4.35 voxels per packed token, as in real objects."""

OFF: Final = Exact(**{field.name: False for field in dataclasses.fields(Exact)})


@dataclass(frozen=True)
class Solve:
    """One stage of one object.

    Args:
        stage: "ss", "slat" or "mesh".
        label: of the column, with the numbers of voxels and packed tokens.
        run: takes the pipeline and makes two guided steps, or decodes the fields of a mesh.
    """

    stage: str
    label: str
    run: Callable[[Any], Any]


def solves(radii: Sequence[float] = RADII) -> Iterator[Solve]:
    """SAM 3D Objects: the structure, the structured latent on a shell of each radius, and the mesh of the last one."""
    x = {name: torch.empty(1, *shape, device="meta") for name, shape in PUBLISHED_SS.leaf_shapes.items()}
    condition = torch.empty(1, *PUBLISHED_SS_CONTEXT, device="meta")
    yield Solve("ss", "SS", partial(_solved, "ss", x, (condition,), {"d": torch.empty(1, device="meta")}))
    condition = torch.empty(1, *PUBLISHED_SLAT_CONTEXT, device="meta")
    for label, latent in latents(radii, PUBLISHED_SLAT.resolution, PUBLISHED_SLAT.latent_channels):
        yield Solve("slat", label, partial(_solved, "slat", latent.feats[None], (condition, latent.coords), {}))
    if radii:
        yield Solve("mesh", f"mesh {len(latent):,}", partial(_decoded, latent))


def trellis_solves(radii: Sequence[float] = RADII, sizes: trellis.TrellisSizes | None = None) -> Iterator[Solve]:
    """TRELLIS: the same; sizes: None: the published ones."""
    sizes = sizes or trellis.TrellisSizes()
    channels = sizes.slat.latent_channels
    x = torch.empty(1, channels, *[sizes.resolution] * 3, device="meta")
    yield Solve("ss", "SS", partial(trellis.two_steps, "ss", x, sizes.context))
    for label, latent in latents(radii, sizes.slat.resolution, channels):
        yield Solve("slat", label, partial(trellis.two_steps, "slat", latent, sizes.context))
    if radii:
        yield Solve("mesh", f"mesh {len(latent):,}", partial(_decoded, latent))


PUBLISHED: Final[dict[str, tuple[Callable[[], Any], Callable[[], Iterator[Solve]]]]] = {
    "sam3d": (published, solves),
    "trellis": (trellis.published_trellis, trellis_solves),
}
"""What makes the pipeline and the columns of each model."""


def latents(radii: Sequence[float], resolution: int, channels: int) -> Iterator[tuple[str, SparseTensor]]:
    """(label, noise) of the structured latent on a shell of each radius."""
    for radius in radii:
        coords = shell(radius, resolution)
        tokens = len(SparseGrid(coords).downsampled()[0])
        label = f"SLaT {len(coords):,} / {tokens:,}"
        yield label, SparseTensor(torch.empty(len(coords), channels, device="meta"), coords)


def shell(radius: float, resolution: int) -> Tensor:
    """[N, 4] int32 voxels (0, x, y, z) of a spherical shell at the centre of the grid."""
    axes = torch.meshgrid(*[torch.arange(resolution)] * 3, indexing="ij")
    voxels = torch.stack(axes, dim=-1).reshape(-1, 3)
    away = (voxels - (resolution - 1) / 2).norm(dim=1) - radius
    voxels = voxels[away.abs() < THICKNESS]
    return torch.cat([torch.zeros(len(voxels), 1), voxels], dim=1).to(torch.int32)


def operations(pipeline: Any, solve: Solve, exact: Exact = OFF) -> int:
    """Operations of one solve or mesh with these savings."""
    adapter = adapt(pipeline)
    savings = accelerated(pipeline, {"exact": exact.settings()})
    with torch.no_grad(), savings, FlopCounterMode(display=False) as counter:
        if solve.stage == "mesh":
            solve.run(pipeline)
            return int(counter.get_total_flops())
        after = [0]
        hook = adapter.network(solve.stage).register_forward_hook(lambda *_: after.append(counter.get_total_flops()))
        try:
            solve.run(pipeline)
        finally:
            hook.remove()
    first, first_empty, later, later_empty = (b - a for a, b in pairwise(after))
    conditional, unconditional = adapter.network_calls(solve.stage)
    return first + (conditional - 1) * later + first_empty + (unconditional - 1) * later_empty


def _solved(stage: str, x: Any, conditions: tuple[Any, ...], keywords: dict[str, Any], pipeline: Any) -> None:
    """Two steps of the solver with one conditional and one unconditional call each, as in guidance."""
    adapter = adapt(pipeline)
    network, time = adapter.network(stage), torch.empty(1, device="meta")

    def guided(x: Any, t: float, *args: Any) -> Any:
        network(x, time, *args, **keywords)
        return network(x, time, *args, **keywords, cfg=True)

    for _ in adapter.solver(stage).solve_iter(guided, x, [0.0, 0.5, 1.0], *conditions):
        pass


def _decoded(latent: SparseTensor, pipeline: Any) -> None:
    adapt(pipeline).mesh_decoder().decode_fields(latent)


def reaches(pipeline: Any, stage: str, exact: Exact) -> bool:
    """Whether these savings apply to a stage's network."""
    adapter = adapt(pipeline)
    network, method = (adapter.mesh_decoder(), "widen") if stage == "mesh" else (adapter.network(stage), "forward")
    with accelerated(pipeline, {"exact": exact.settings()}):
        return any(seam_at(part, method) for part in network.modules())


def table(
    pipeline: Any, columns: Sequence[Solve], progress: Callable[[str], None] = lambda row: None
) -> dict[str, list[int]]:
    """Operations by saving: "off", each saving alone, and "all"; one number per column.

    Args:
        pipeline: see `published`.
        columns: see `solves`.
        progress: called with each row's name before it is counted.
    """
    rows = {"off": OFF}
    rows |= {field.name: dataclasses.replace(OFF, **{field.name: True}) for field in dataclasses.fields(Exact)}
    rows["all"] = Exact()
    counts: dict[str, list[int]] = {}
    for name, exact in rows.items():
        progress(name)
        counts[name] = [
            operations(pipeline, solve, exact)
            if name == "off" or reaches(pipeline, solve.stage, exact)
            else counts["off"][i]
            for i, solve in enumerate(columns)
        ]
    return counts
