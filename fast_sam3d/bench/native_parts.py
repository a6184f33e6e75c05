"""Time and peak memory of parts of the native runtime next to the stock parts, in alternating runs.

At the published sizes, with the same random weights in float32: mesh extraction on the 256^3 grid, one layer of the
decoders' windowed attention, and the mesh decoder's network. The stock code must be installed. Its network also needs
spconv for the device that is measured.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any, Final

import torch
from torch import nn

from fast_sam3d.bench.exact_parts import DECODER, FINE, RADII, Comparison, cells, compare, stock_parts
from fast_sam3d.bench.operations import shell
from fast_sam3d.errors import FastSam3dError, first_line
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.model.sparse_transformer import WindowAttention
from fast_sam3d.native.mesh_decoder import MeshDecoder, MeshDecoderConfig
from fast_sam3d.native.names import module_tensor
from fast_sam3d.native.surface import SurfaceExtractor

logger = logging.getLogger(__name__)

PARTS: Final = ("extraction", "attention", "network")

ROUNDS: Final = 3


def extraction(radius: float, rounds: int = ROUNDS, device: str = "cpu", resolution: int = 64) -> Comparison:
    """The mesh of a spherical shell's cells."""
    kind, _ = stock_parts()
    stock, own = kind(device=device, res=resolution * FINE, use_color=True), SurfaceExtractor(resolution * FINE)
    coords, feats = (part.to(device) for part in cells(radius, resolution, own.feats_channels))

    def parts(extract: Callable[..., Any]) -> Callable[[Any], Any]:
        def run(given: Any) -> Any:
            mesh = extract(given, training=False)
            return mesh.vertices, mesh.faces, mesh.vertex_attrs

        return run

    def given() -> SimpleNamespace:
        return SimpleNamespace(coords=coords, feats=feats.clone())  # the stock extractor changes them

    label = f"mesh extraction, {len(coords) // FINE**3:,} voxels"
    with torch.no_grad():
        return compare(label, parts(stock), parts(own), given, rounds, device)


def attention(radius: float, rounds: int = ROUNDS, device: str = "cpu", resolution: int = 64) -> Comparison:
    """One layer of windowed attention."""
    _, sparse = stock_parts()
    with torch.random.fork_rng(devices=[]):
        stock = _randomised(sparse.SparseMultiHeadAttention(**DECODER)).to(device)
        own = WindowAttention(DECODER["channels"], DECODER["num_heads"], DECODER["window_size"], 0)
    own.load_state_dict(stock.state_dict())
    own.to(device).requires_grad_(False)
    coords = shell(radius, resolution).to(device)
    x = torch.randn(len(coords), DECODER["channels"], generator=torch.Generator().manual_seed(0)).to(device)
    label = f"windowed attention, {len(coords):,} voxels"
    with torch.no_grad():
        return compare(
            label,
            lambda given: (stock(sparse.SparseTensor(*given)).feats,),
            lambda given: (own(SparseTensor(*given)).feats,),
            lambda: (x, coords),
            rounds,
            device,
            counted=True,
        )


def network(
    radius: float, rounds: int = ROUNDS, device: str = "cpu", config: MeshDecoderConfig | None = None
) -> Comparison:
    """The mesh decoder up to the fields of the cells."""
    config = config or MeshDecoderConfig()
    _, sparse = stock_parts()
    with torch.random.fork_rng(devices=[]):
        stock, own = _mesh_decoders(config)
    stock.to(device), own.to(device)
    coords = shell(radius, config.resolution).to(device)
    x = torch.randn(len(coords), config.latent_channels, generator=torch.Generator().manual_seed(0)).to(device)
    label = f"mesh network, {len(coords):,} voxels"
    try:
        with torch.no_grad():
            return compare(
                label,
                lambda given: (stock(sparse.SparseTensor(*given)).feats,),
                lambda given: (own.decode_cells(SparseTensor(*given)).feats,),
                lambda: (x, coords),
                rounds,
                device,
                counted=device == "cpu",  # torch counts no operations of spconv's own kernels
            )
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        raise FastSam3dError(
            f"the mesh network cannot be measured on {device}: {first_line(error)}; the stock one needs spconv's"
            " kernels for that device, while --part extraction --part attention measures the other parts"
        ) from error


def everything(
    parts: Sequence[str] = PARTS, rounds: int = ROUNDS, device: str = "cpu", network_radius: float = RADII[0]
) -> Iterator[Comparison]:
    """Extraction and attention at about 20,000 voxels, the network at the radius that is given."""
    if "extraction" in parts:
        yield extraction(RADII[-1], rounds, device)
    if "attention" in parts:
        yield attention(RADII[-1], rounds, device)
    if "network" in parts:
        yield network(network_radius, rounds, device)


def _mesh_decoders(config: MeshDecoderConfig) -> tuple[Any, MeshDecoder]:
    """The stock decoder, which returns the fields in place of meshes, and the native one with its weights."""
    from sam3d_objects.model.backbone.tdfy_dit.models.structured_latent_vae.decoder_mesh import SLatMeshDecoder

    stock: Any = SLatMeshDecoder(
        resolution=config.resolution,
        model_channels=config.model_channels,
        latent_channels=config.latent_channels,
        num_blocks=config.num_blocks,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        attn_mode="swin",
        window_size=config.window_size,
        representation_config={"use_color": True},
        device="meta",  # tables of the extractor, which is not run
    )
    stock.to_representation = lambda fields: fields
    with torch.device("meta"):
        own = MeshDecoder(config)
    state = dict(module_tensor(name, value) for name, value in _randomised(stock).state_dict().items())
    own.load_state_dict({name: value.clone() for name, value in state.items()}, assign=True)
    return stock, own.eval().requires_grad_(False)


def _randomised(module: nn.Module) -> Any:
    """Weights from a seed, of a size that keeps the scale of what passes; the stock ones begin with zeros."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.eval().requires_grad_(False).parameters():
        if parameter.dim() > 1:
            values = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(values * parameter[0].numel() ** -0.5)
    return module
