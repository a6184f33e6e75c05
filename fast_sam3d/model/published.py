"""The networks of SAM 3D Objects at the published sizes, with random weights or without any."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final

import torch
from torch import nn

from fast_sam3d.model.config import PUBLISHED_SS, PUBLISHED_SS_CONTEXT, SSFlowConfig
from fast_sam3d.model.flow import ClassifierFreeGuidance, FlowMatching, ShortCut
from fast_sam3d.model.slat_config import (
    PUBLISHED_GAUSSIANS,
    PUBLISHED_MESH,
    PUBLISHED_SLAT,
    PUBLISHED_SLAT_CONTEXT,
    GaussianDecoderConfig,
    MeshDecoderConfig,
    SLatFlowConfig,
)
from fast_sam3d.model.slat_decoder import GaussianDecoder, MeshDecoder
from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.ss_flow import SparseStructureFlow

__all__ = ["FILES", "STEPS", "Sizes", "published"]

STEPS: Final = 25
"""Steps of both samplers."""

FILES: Final = {
    "ss": "ss_generator",
    "slat": "slat_generator",
    "mesh": "slat_decoder_mesh",
    "gaussian": "slat_decoder_gs",
}
"""Names of the networks in a pipeline, by stage."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the four networks and of what they are given; by default the published ones.

    Args:
        ss_context, slat_context: (tokens, channels) of the samplers' contexts.
    """

    ss: SSFlowConfig = PUBLISHED_SS
    slat: SLatFlowConfig = PUBLISHED_SLAT
    mesh: MeshDecoderConfig = PUBLISHED_MESH
    gaussian: GaussianDecoderConfig = PUBLISHED_GAUSSIANS
    ss_context: tuple[int, int] = PUBLISHED_SS_CONTEXT
    slat_context: tuple[int, int] = PUBLISHED_SLAT_CONTEXT


def published(
    sizes: Sizes | None = None,
    real: Collection[str] = (),
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> SimpleNamespace:
    """A pipeline of untrained networks with the published guidance; it has no `run`.

    Args:
        sizes: None: the published ones.
        real: stages whose networks are created on `device`. The others are on the meta device: shapes, no weights.
        dtype: in which the samplers are meant to run under autocast; the weights are float32.
    """
    sizes = sizes or Sizes()

    def network(stage: str) -> nn.Module:
        if stage == "ss":
            guidance = ClassifierFreeGuidance(SparseStructureFlow(sizes.ss), strength=7.0, interval=(0.0, 500.0))
            return ShortCut(guidance, inference_steps=STEPS, rescale_t=3.0)
        if stage == "slat":
            guidance = ClassifierFreeGuidance(StructuredLatentFlow(sizes.slat), strength=1.0, interval=(0.0, 500.0))
            return FlowMatching(guidance, inference_steps=STEPS)
        return MeshDecoder(sizes.mesh) if stage == "mesh" else GaussianDecoder(sizes.gaussian)

    models: dict[str, nn.Module] = {}
    for stage, name in FILES.items():
        with torch.device(device if stage in real else "meta"):
            models[name] = network(stage)
    networks = nn.ModuleDict(models).eval().requires_grad_(False)
    return SimpleNamespace(models=networks, device=device, dtype=dtype, shape_model_dtype=dtype)
