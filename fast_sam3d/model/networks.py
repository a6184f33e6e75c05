"""The networks of the embedded pipeline, by the names that the stock pipeline gives them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from fast_sam3d.model.embedder import ConditionEmbedder
from fast_sam3d.model.flow import ClassifierFreeGuidance, FlowMatching, ShortCut
from fast_sam3d.model.pipeline_config import PipelineConfig
from fast_sam3d.model.slat_decoder import GaussianDecoder, MeshDecoder
from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.ss_flow import SparseStructureFlow
from fast_sam3d.model.ss_vae import SSDecoder


def build_networks(config: PipelineConfig) -> tuple[nn.ModuleDict, dict[str, nn.Module]]:
    """Untrained samplers and decoders, and the two condition embedders (one and the same if the config shares it)."""
    models: dict[str, nn.Module] = {
        "ss_generator": ShortCut(ClassifierFreeGuidance(SparseStructureFlow(config.ss_flow))),
        "ss_decoder": SSDecoder(config.ss_decoder),
        "slat_generator": FlowMatching(ClassifierFreeGuidance(StructuredLatentFlow(config.slat_flow))),
        "slat_decoder_mesh": MeshDecoder(config.slat_decoder_mesh),
        "slat_decoder_gs": GaussianDecoder(config.slat_decoder_gs),
    }
    if config.slat_decoder_gs_4 is not None:
        models["slat_decoder_gs_4"] = GaussianDecoder(config.slat_decoder_gs_4)
    first = ConditionEmbedder(config.ss_embedder)
    second = first if config.slat_embedder is None else ConditionEmbedder(config.slat_embedder)
    return nn.ModuleDict(models), {"ss_condition_embedder": first, "slat_condition_embedder": second}


def weight_parts(models: nn.ModuleDict, embedders: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """What `build_networks` gave, by the name of each part's weights file; of a sampler, its network."""
    parts: dict[str, nn.Module] = {}
    for name, module in [*models.items(), *embedders.items()]:
        if any(module is part for part in parts.values()):
            continue
        parts[name] = module.guidance.backbone if isinstance(module, FlowMatching) else module
    return parts
