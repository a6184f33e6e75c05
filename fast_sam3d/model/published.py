"""The networks of SAM 3D Objects at the published sizes, for counting operations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Final

import torch
from torch import nn

from fast_sam3d.model.config import PUBLISHED_SS
from fast_sam3d.model.flow import ClassifierFreeGuidance, FlowMatching, ShortCut
from fast_sam3d.model.slat_config import PUBLISHED_MESH, PUBLISHED_SLAT
from fast_sam3d.model.slat_decoder import MeshDecoder
from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.ss_flow import SparseStructureFlow

__all__ = ["published"]

STEPS: Final = 25


def published() -> SimpleNamespace:
    """A pipeline of the published networks and guidance on the meta device: shapes, and no weights."""
    with torch.device("meta"):
        models: dict[str, nn.Module] = {
            "ss_generator": ShortCut(
                ClassifierFreeGuidance(SparseStructureFlow(PUBLISHED_SS), strength=7.0, interval=(0.0, 500.0)),
                inference_steps=STEPS,
                rescale_t=3.0,
            ),
            "slat_generator": FlowMatching(
                ClassifierFreeGuidance(StructuredLatentFlow(PUBLISHED_SLAT), strength=1.0, interval=(0.0, 500.0)),
                inference_steps=STEPS,
            ),
            "slat_decoder_mesh": MeshDecoder(PUBLISHED_MESH),
        }
    return SimpleNamespace(models=nn.ModuleDict(models).eval())
