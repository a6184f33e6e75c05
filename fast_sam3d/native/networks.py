"""The networks of a pipeline and their weights: from a checkpoint folder, as parts that are loaded and released."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Final

import torch
from torch import nn

from fast_sam3d.model.half import half_weights
from fast_sam3d.native import generators
from fast_sam3d.native.embedder import ConditionFuser, ImageEncoder, share_equal
from fast_sam3d.native.gaussian_decoder import GaussianDecoder
from fast_sam3d.native.mesh_decoder import MeshDecoder
from fast_sam3d.native.names import NETWORKS, weights_file
from fast_sam3d.native.settings import NativeSettings
from fast_sam3d.native.structure_decoder import StructureDecoder
from fast_sam3d.native.weights import FileWeights, Source, WeightsPart

__all__ = [
    "EMBEDDERS", "bare_pipeline", "build_networks", "file_parts", "file_sources", "image_encoders", "make_parts",
    "share_encoders", "share_one_encoder",
]  # fmt: skip

EMBEDDERS: Final = ("ss_condition_embedder", "slat_condition_embedder")


def build_networks(
    settings: NativeSettings, real: Collection[str] = (), device: torch.device | str = "meta"
) -> dict[str, nn.Module]:
    """The networks of a checkpoint by their names in the pipeline, without weights.

    Args:
        real: names of networks that are created on `device` with initial weights. The others are on the meta device.
    """
    builders: dict[str, Callable[[], nn.Module]] = {
        "ss_generator": lambda: generators.structure_generator(settings.ss_flow, settings.ss_sampling),
        "ss_condition_embedder": lambda: ConditionFuser(settings.ss_embedder),
        "slat_generator": lambda: generators.latent_generator(settings.slat_flow, settings.slat_sampling),
        "slat_condition_embedder": lambda: ConditionFuser(settings.slat_embedder),
        "ss_decoder": lambda: StructureDecoder(settings.ss_decoder),
        "slat_decoder_mesh": lambda: MeshDecoder(settings.slat_decoder_mesh),
        "slat_decoder_gs": lambda: GaussianDecoder(settings.slat_decoder_gs),
    }
    if (four := settings.slat_decoder_gs_4) is not None:
        builders["slat_decoder_gs_4"] = lambda: GaussianDecoder(four)
    networks = {}
    for name, builder in builders.items():
        with torch.device(device if name in real else "meta"):
            networks[name] = builder()
    return networks


def bare_pipeline(networks: Mapping[str, nn.Module], dtype: torch.dtype) -> SimpleNamespace:
    """A pipeline of these networks that can be accelerated and measured, without a `run`.

    Args:
        networks: by name; see `build_networks`.
        dtype: in which the samplers and the embedders are meant to run under autocast.
    """
    embedders = {name: network for name, network in networks.items() if name in EMBEDDERS}
    models = nn.ModuleDict({name: network for name, network in networks.items() if name not in EMBEDDERS})
    for network in networks.values():
        network.eval().requires_grad_(False)
    return SimpleNamespace(models=models, condition_embedders=embedders, dtype=dtype, shape_model_dtype=dtype)


def share_one_encoder(networks: Mapping[str, nn.Module]) -> None:
    """Make all image encoders one network, whatever their weights are."""
    encoders = [found for network in networks.values() for _, found in image_encoders(network)]
    for encoder in encoders:
        encoder.backbone = encoders[0].backbone


def make_parts(
    networks: Mapping[str, nn.Module],
    sources: Mapping[str, Mapping[torch.dtype | None, Source]],
    settings: NativeSettings,
) -> dict[str, WeightsPart]:
    """Networks with the sources of their weights (see `WeightsPart`), and which of them half precision stores.

    Those are what the networks say (`model.half`), but for decoders whose torso the settings leave in float32. The
    structure decoder, which is small, says nothing and stays in float32.
    """
    together: list[WeightsPart] = []
    for name, network in networks.items():
        float32 = name.startswith("slat_decoder") and name not in settings.half_torsos
        halves = frozenset() if float32 else frozenset(half_weights(network))
        WeightsPart(name, network, sources[name], halves, together)
    return {part.name: part for part in together}


def file_sources(folder: Path, settings: NativeSettings, restore: str) -> dict[str, FileWeights]:
    """Where the weights of each network are; `restore`: what to do about a bad file, for error messages."""
    names = {name: place for name, place in NETWORKS.items() if place[0] in settings.weights}
    return {
        name: FileWeights(weights_file(folder / settings.weights[file]), network, restore)
        for name, (file, network) in names.items()
    }


def file_parts(folder: Path, settings: NativeSettings, restore: str) -> dict[str, WeightsPart]:
    """The parts of a checkpoint folder, with weights still in their files; names, shapes and types are checked.

    Image encoders with equal weights become one network.

    Args:
        folder: of pipeline.yaml.
        settings: of the folder.
        restore: what to do about a bad file, for error messages.

    Raises:
        CheckpointError: a file is missing or damaged, a tensor is missing, surplus or misshapen.
    """
    networks, files = build_networks(settings), file_sources(folder, settings, restore)
    parts = make_parts(networks, {name: {None: source} for name, source in files.items()}, settings)
    for part in parts.values():
        part.check()
    share_encoders(networks, files)
    return parts


def share_encoders(networks: Mapping[str, nn.Module], sources: Mapping[str, FileWeights]) -> int:
    """Make image encoders with equal weights one network, before anything is loaded. Returns how many are left."""
    encoders: list[ImageEncoder] = []
    weights = []
    with ExitStack() as stack:
        for name in EMBEDDERS:
            tensors = stack.enter_context(sources[name].opened())
            for place, encoder in image_encoders(networks[name]):
                start = f"{place}.backbone."
                encoders.append(encoder)
                weights.append(
                    {key.removeprefix(start): value for key, value in tensors.items() if key.startswith(start)}
                )
        return share_equal(encoders, weights)


def image_encoders(embedder: nn.Module) -> Iterator[tuple[str, ImageEncoder]]:
    """The image encoders of an embedder, with their places."""
    yield from ((name, module) for name, module in embedder.named_modules() if isinstance(module, ImageEncoder))
