"""The pipeline's networks by their names in the stock pipeline, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from torch import nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.config_file import REPAIR, ModelConfig
from fast_sam3d.model.embedder import ConditionEmbedder
from fast_sam3d.model.flow import ClassifierFreeGuidance, FlowMatching, ShortCut
from fast_sam3d.model.outlines import Outlines
from fast_sam3d.model.slat_decoder import GaussianDecoder, MeshDecoder
from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.ss_flow import SparseStructureFlow
from fast_sam3d.model.ss_vae import SSDecoder
from fast_sam3d.model.weight_files import check_fit, map_tensors
from fast_sam3d.model.weights import HASHES_NAME, load_hashes, load_weights, save_hashes, save_weights

__all__ = ["build_networks", "check_networks", "load_networks", "save_networks", "weight_parts"]

Embedders = Mapping[str, nn.Module]

MOST_WEIGHTS: Final = 1 << 28
"""Numbers in all networks of an embedded model together: 1 GiB in float32. The bundled one has 12 million."""


def build_networks(config: ModelConfig) -> tuple[nn.ModuleDict, dict[str, nn.Module]]:
    """Untrained samplers and decoders, and the two condition embedders (the same module twice if shared)."""
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


def weight_parts(models: nn.ModuleDict, embedders: Embedders) -> dict[str, nn.Module]:
    """The modules of `build_networks` by the name of their weights file; of a sampler, its network."""
    parts: dict[str, nn.Module] = {}
    for name, module in [*models.items(), *embedders.items()]:
        if any(module is part for part in parts.values()):
            continue
        parts[name] = module.guidance.backbone if isinstance(module, FlowMatching) else module
    return parts


def check_networks(config: ModelConfig, folder: Path) -> None:
    """Compare the networks that a configuration describes with the headers of a folder's files. Allocates nothing.

    Raises:
        CheckpointError: a file is missing, damaged or of another network, or the networks are too large.
    """
    with Outlines():
        parts = weight_parts(*build_networks(config))
    for name, module in parts.items():
        path = folder / f"{name}.safetensors"
        check_fit(module, map_tensors(path, REPAIR), path, REPAIR)
    size = sum(value.numel() for module in parts.values() for value in module.state_dict().values())
    if size > MOST_WEIGHTS:
        raise CheckpointError(f"the networks in {folder} have {size:,} weights, more than {MOST_WEIGHTS:,}: {REPAIR}")


def load_networks(models: nn.ModuleDict, embedders: Embedders, folder: Path) -> None:
    """Read one `.safetensors` file per network; if `sha256.json` exists, every file must match its checksum.

    Raises:
        CheckpointError: a file is missing, damaged or of another network.
    """
    hashes = load_hashes(folder)
    for name, module in weight_parts(models, embedders).items():
        file = f"{name}.safetensors"
        if hashes and file not in hashes:
            raise CheckpointError(f"{folder / HASHES_NAME} does not list {file}: {REPAIR}")
        load_weights(module, folder / file, hashes.get(file))


def save_networks(models: nn.ModuleDict, embedders: Embedders, folder: Path) -> None:
    """Write what `load_networks` reads, in float16, with checksums."""
    parts = {f"{name}.safetensors": module for name, module in weight_parts(models, embedders).items()}
    save_hashes(folder, {file: save_weights(module, folder / file) for file, module in parts.items()})
