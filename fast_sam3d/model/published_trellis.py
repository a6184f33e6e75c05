"""The networks of TRELLIS (image-large) at the published sizes, in a pipeline with its names; to count operations.

Sizes: configs/generation/ss_flow_img_dit_L_16l8_fp16.json, slat_flow_img_dit_L_64l8p2_fp16.json and
configs/vae/slat_vae_dec_mesh_swin8_B_64l8_fp16.json of microsoft/TRELLIS. The structured latent's network is that of
SAM 3D Objects; the sparse structure's has one stream, whose tokens here are the voxels of a full grid. Nothing is saved
in them: an unconditional call attends to a context of zeros, and a subdivision convolves eight copies of each voxel.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, ClassVar, Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.geometry.sparse_grid import SparseGrid
from fast_sam3d.model.layers import TimestepEmbedder
from fast_sam3d.model.slat_config import PUBLISHED_MESH, PUBLISHED_SLAT, MeshDecoderConfig, SLatFlowConfig
from fast_sam3d.model.slat_decoder import SLatTrunk, SubdivideBlock
from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.model.sparse_transformer import ModulatedCrossBlock

__all__ = ["CONTEXT", "SAMPLER", "MeshFields", "TrellisSizes", "published_trellis", "two_steps"]

CONTEXT: Final = (1374, 1024)
"""Context tokens of a picture and their width: 37 x 37 patches, the class token and four registers of DINOv2."""

SAMPLER: Final = {"steps": 25, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}
"""Of both stages."""

_STAGES: Final = {
    "ss": ("sparse_structure_sampler", "sparse_structure_flow_model"),
    "slat": ("slat_sampler", "slat_flow_model"),
}


@dataclass(frozen=True)
class TrellisSizes:
    """Sizes of the networks and of what they are given; by default the published ones.

    Args:
        slat: of the structured latent's network. The sparse structure's has its width, blocks, heads and channels.
        mesh: of the mesh decoder.
        resolution: edge of the sparse structure's latent.
        context: (tokens, channels).
    """

    slat: SLatFlowConfig = PUBLISHED_SLAT
    mesh: MeshDecoderConfig = PUBLISHED_MESH
    resolution: int = 16
    context: tuple[int, int] = CONTEXT


class StructureFlow(nn.Module):
    """Velocity of the sparse structure: one token for each cell of a dense grid."""

    def __init__(self, config: SLatFlowConfig, resolution: int) -> None:
        super().__init__()
        width = config.model_channels
        self.resolution, self.in_channels = resolution, config.latent_channels
        self.t_embedder = TimestepEmbedder(width)
        self.input_layer = nn.Linear(config.latent_channels, width)
        self.blocks = nn.ModuleList(
            ModulatedCrossBlock(
                width, config.cond_channels, config.num_heads, config.mlp_ratio, config.share_mod, config.qk_rms_norm,
                config.qk_rms_norm_cross, published=True,
            )
            for _ in range(config.num_blocks)
        )  # fmt: skip
        self.out_layer = nn.Linear(width, config.latent_channels)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """x [B, C, R, R, R], t [B] in 0..1000, cond [B, L, cond_channels] -> [B, C, R, R, R]."""
        cells = torch.ones(x.shape[0], *x.shape[2:]).nonzero().to(torch.int32)
        h = SparseTensor(self.input_layer(x.flatten(2).transpose(1, 2).flatten(0, 1)), SparseGrid(cells))
        emb = self.t_embedder(t)
        for block in self.blocks:
            h = block(h, emb, cond)
        out = self.out_layer(F.layer_norm(h.feats, h.feats.shape[-1:]))
        return out.view(x.shape[0], -1, x.shape[1]).transpose(1, 2).reshape(x.shape)


class LatentFlow(StructuredLatentFlow):
    """Velocity of the structured latent, as a sparse tensor."""

    def forward(self, x: SparseTensor, t: Tensor, cond: Tensor) -> SparseTensor:  # type: ignore[override]
        """x: N voxels of B objects, t [B] in 0..1000, cond [B, L, cond_channels]."""
        return x.replace(super().forward(x.feats[None], t, cond, x.grid)[0])


class MeshFields(SLatTrunk):
    """The fields from which a mesh is extracted, at four times the resolution."""

    affine_norms = False
    mesh_extractor: ClassVar[Any] = SimpleNamespace(built_in_savings=("extraction",))
    """There is none: meshes are not extracted."""
    config: MeshDecoderConfig

    def __init__(self, config: MeshDecoderConfig) -> None:
        super().__init__(config)
        first, second = config.upsample_channels
        self.upsample = nn.ModuleList([SubdivideBlock(config.model_channels, first), SubdivideBlock(first, second)])
        self.out_layer = nn.Linear(second, config.out_channels)

    def decode_fields(self, slat: SparseTensor) -> SparseTensor:
        """N voxels with latent_channels features -> 64 N cells with out_channels."""
        h = self.encode_tokens(slat)
        for block in self.upsample:
            h = block(h)
        return h.replace(self.out_layer(h.feats))


class Answer(dict[str, Any]):
    """A mapping with its keys as attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class FlowEulerGuidanceIntervalSampler:
    """Euler steps from t = 1 (noise) to 0 with guidance in an interval, called as TRELLIS's sampler is."""

    def _inference_model(
        self, model: Any, x_t: Any, t: float, cond: Tensor, neg_cond: Tensor, cfg_strength: float,
        cfg_interval: tuple[float, float],
    ) -> Any:  # fmt: skip
        """The velocity at t: the network's conditional call, in the interval mixed with the unconditional one."""
        time = torch.full((x_t.shape[0],), 1000 * t, device=cond.device)
        conditional = model(x_t, time, cond)
        if not cfg_interval[0] <= t <= cfg_interval[1]:
            return conditional
        return conditional * (1 + cfg_strength) - model(x_t, time, neg_cond) * cfg_strength

    def _get_model_prediction(self, model: Any, x_t: Any, t: float, cond: Tensor, **guidance: Any) -> tuple[Any, ...]:
        velocity = self._inference_model(model, x_t, t, cond, **guidance)
        return (*self._v_to_xstart_eps(x_t, t, velocity), velocity)

    def _v_to_xstart_eps(self, x_t: Any, t: float, v: Any) -> tuple[Any, Any]:
        """The data and the noise that a straight line of this velocity joins."""
        return x_t - v * t, x_t + v * (1 - t)

    def sample_once(self, model: Any, x_t: Any, t: float, t_prev: float, cond: Tensor, **guidance: Any) -> Any:
        """One step, from t to t_prev."""
        data, _, velocity = self._get_model_prediction(model, x_t, t, cond, **guidance)
        return Answer(pred_x_prev=x_t - velocity * (t - t_prev), pred_x_0=data)

    def sample(
        self, model: Any, noise: Any, cond: Tensor, neg_cond: Tensor, steps: int = 50, rescale_t: float = 1.0,
        cfg_strength: float = 3.0, cfg_interval: tuple[float, float] = (0.0, 1.0), verbose: bool = True,
    ) -> Any:  # fmt: skip
        """All steps; the result is in `samples`."""
        shares = [1 - step / steps for step in range(steps + 1)]
        times = [rescale_t * share / (1 + (rescale_t - 1) * share) for share in shares]
        guidance = {"neg_cond": neg_cond, "cfg_strength": cfg_strength, "cfg_interval": cfg_interval}
        for t, t_prev in pairwise(times):
            noise = self.sample_once(model, noise, t, t_prev, cond, **guidance).pred_x_prev
        return Answer(samples=noise)


def published_trellis(sizes: TrellisSizes | None = None) -> SimpleNamespace:
    """A pipeline of networks on the meta device (shapes, no weights) with the published samplers; it has no `run`.

    Args:
        sizes: None: the published ones.
    """
    sizes = sizes or TrellisSizes()
    with torch.device("meta"):
        models: dict[str, nn.Module] = {
            "sparse_structure_flow_model": StructureFlow(sizes.slat, sizes.resolution),
            "slat_flow_model": LatentFlow(sizes.slat),
            "slat_decoder_mesh": MeshFields(sizes.mesh),
        }
    for network in models.values():
        network.eval().requires_grad_(False)
    return SimpleNamespace(
        models=models,
        sparse_structure_sampler=FlowEulerGuidanceIntervalSampler(),
        slat_sampler=FlowEulerGuidanceIntervalSampler(),
        sparse_structure_sampler_params=dict(SAMPLER),
        slat_sampler_params=dict(SAMPLER),
        device=torch.device("meta"),
    )


def two_steps(stage: str, noise: Any, context: tuple[int, int], pipeline: Any) -> None:
    """Two guided steps of a stage.

    Args:
        stage: "ss" or "slat".
        noise: on the meta device, as the network takes it.
        context: (tokens, channels).
        pipeline: of `published_trellis`.
    """
    name, network = _STAGES[stage]
    sampler, cond = getattr(pipeline, name), torch.empty(1, *context, device="meta")
    settings = {**getattr(pipeline, f"{name}_params"), "steps": 2, "rescale_t": 1.0, "verbose": False}
    sampler.sample(pipeline.models[network], noise, cond=cond, neg_cond=torch.zeros_like(cond), **settings)
