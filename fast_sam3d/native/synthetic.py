"""Networks at any size with seeded random weights: to see whether they fit on a device, and how fast they are.

Weights are generated tensor by tensor when a part is loaded, and nothing is written. They are noise, but for a few rows
that read the position code of each cell, so that the result has a plausible size: a ball in the sparse structure, whose
shell of voxels is decoded to a closed surface and to opaque gaussians.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.half import half_weights
from fast_sam3d.model.layers import position_code
from fast_sam3d.native.depth import DepthModel
from fast_sam3d.native.gaussian_decoder import hammersley
from fast_sam3d.native.moge import MoGe, MoGeConfig
from fast_sam3d.native.networks import build_networks, make_parts, share_one_encoder
from fast_sam3d.native.settings import NativeSettings
from fast_sam3d.native.surface import COLOUR, DEFORM
from fast_sam3d.native.vit import MEAN, STD
from fast_sam3d.native.weights import Tensors, WeightsPart

__all__ = ["SyntheticWeights", "synthetic_parts"]

RADIUS: Final = 0.9
"""Of the ball, in units of half the grid: about 15,000 voxels of the grid of 64."""

_STEEP = 8.0
"""Change of the latent's first channel per cell of the structure's grid, in units of its noise."""
_GAINS: Final = (
    (re.compile(r"(to_out(\.\w+)?|(?<!embedder\.)mlp\.2|attn\.proj|fc2|conv2|out_layers\.3)\.weight"), 0.02),
    (re.compile(r"adaLN_modulation\.1\.weight"), 0.1),
    (re.compile(r"latent_mapping\.\w+\.input_layer\.weight"), 0.1),
    (re.compile(r"out_layer(\.2)?\.weight"), 0.3),
)
"""Of the end of a name: standard deviation of a layer's results; 1 for others."""

Edit = Callable[[Tensor], None]


def synthetic_parts(
    settings: NativeSettings, seed: int = 0, radius: float = RADIUS, depth: MoGeConfig | None = None
) -> tuple[dict[str, WeightsPart], DepthModel]:
    """The parts of a pipeline, with one image encoder for all embedders, and its depth model.

    Args:
        settings: sizes.
        seed: of the weights, which are the same on every device.
        radius: see `RADIUS`.
        depth: sizes of the depth model; None: the published ones.
    """
    networks = build_networks(settings)
    with torch.device("meta"):
        model = MoGe(depth or MoGeConfig())
    share_one_encoder(networks)
    edits = _edits(settings, radius, depth or MoGeConfig())

    def weights(name: str, network: nn.Module) -> SyntheticWeights:
        return SyntheticWeights(name, network, seed, edits.get(name, {}))

    parts = make_parts(networks, {name: {None: weights(name, one)} for name, one in networks.items()}, settings)
    halves = frozenset(half_weights(model))
    parts["depth_model"] = WeightsPart("depth_model", model, {None: weights("depth_model", model)}, halves, [])
    return parts, DepthModel(model)


class SyntheticWeights:
    """Source of random weights of a network; see `weights.Source`.

    Args:
        part: its name.
        module: the network.
        seed: of all weights.
        edits: changes some tensors, by name, once they are random.
    """

    def __init__(self, part: str, module: nn.Module, seed: int, edits: Mapping[str, Edit]) -> None:
        self._part, self._seed, self._edits = part, seed, edits
        self._shapes = {name: value.shape for name, value in module.state_dict().items()}

    @contextmanager
    def opened(self) -> Iterator[Tensors]:
        yield _Generated(self._shapes, self._generate)

    def refuse(self, name: str, fault: str) -> CheckpointError:
        return CheckpointError(f"the random weights of {self._part} {fault.format(name)}: report this as a bug")

    def _generate(self, name: str) -> Tensor:
        """float32 on the CPU."""
        shape = self._shapes[name]
        leaf = name.rpartition(".")[2]
        value = torch.zeros(shape)
        if leaf == "gamma":
            value.fill_(0.1 if ".ls" in name else 1.0)
        elif leaf == "weight" and len(shape) == 1:
            value.fill_(1.0)
        elif leaf != "bias":
            gain = next((gain for pattern, gain in _GAINS if pattern.search(name)), 1.0)
            inputs = value[0].numel() if leaf == "weight" else 2500.0
            if len(shape) == 3 and leaf == "weight":  # a sparse convolution, [27, in, out]
                inputs = shape[0] * shape[1]
            limit = gain * (3.0 / inputs) ** 0.5
            # A shared image encoder is the same, whichever part loads it.
            shared = re.sub(r".*\bmodule_list\.\d+\.backbone", "encoder", f"{self._part}/{name}")
            generator = torch.Generator().manual_seed(zlib.crc32(f"{self._seed}/{shared}".encode()))
            value.uniform_(-limit, limit, generator=generator)
        if (edit := self._edits.get(name)) is not None:
            edit(value)
        return value


class _Generated(Mapping[str, Tensor]):
    """Tensors that are generated when they are asked for; `like` only has their shapes."""

    def __init__(self, shapes: Mapping[str, torch.Size], generate: Callable[[str], Tensor]) -> None:
        self._shapes, self._generate = shapes, generate

    def __getitem__(self, name: str) -> Tensor:
        return self._generate(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def like(self, name: str) -> Tensor:
        return torch.empty(self._shapes[name], device="meta")


def _edits(settings: NativeSettings, radius: float, depth: MoGeConfig) -> dict[str, dict[str, Edit]]:
    """What makes the result a ball, by part and name."""
    flow, decoder = settings.ss_flow, settings.ss_decoder
    backbone = "reverse_fn.backbone.latent_mapping.shape"
    cells = torch.cartesian_prod(*[torch.arange(flow.resolution)] * 3)
    code = position_code(cells, flow.model_channels, sin_first=True)
    weights, bias = _ball(cells, F.layer_norm(code, code.shape[1:]), flow.resolution, radius, _STEEP)

    def shape(rows: Tensor) -> None:
        rows[0] = weights

    def structure_input(kernel: Tensor) -> None:
        kernel[:2] = 0
        kernel[0, 0, 1, 1, 1], kernel[1, 0, 1, 1, 1] = 1.0, -1.0

    def structure_output(kernel: Tensor) -> None:
        kernel.mul_(0.1)
        kernel[0, 0, 1, 1, 1], kernel[0, 1, 1, 1, 1] = 1.0, -1.0

    structure: dict[str, Edit] = {"input_layer.weight": structure_input, "out_layer.2.weight": structure_output}
    place = decoder.num_res_blocks
    for _ in decoder.channels[1:]:
        structure[f"blocks.{place}.conv.weight"] = _interpolate
        place += 1 + decoder.num_res_blocks
    edits: dict[str, dict[str, Edit]] = {
        "ss_generator": {
            f"{backbone}.pos_emb": lambda table: _set(table, code),
            f"{backbone}.out_layer.weight": shape,
            f"{backbone}.out_layer.bias": lambda values: _set(values[0], bias),
        },
        "ss_decoder": structure,
        "slat_decoder_mesh": _surface(settings, radius),
        "depth_model": _plane(depth),
    }
    for name in ("slat_decoder_gs", "slat_decoder_gs_4"):
        config = getattr(settings, name)
        if config is not None:
            edits[name] = _opaque(config.num_gaussians, config.voxel_size)
    return edits


def _surface(settings: NativeSettings, radius: float) -> dict[str, Edit]:
    """Distances of the cells to the ball's surface, through the skip connections of the mesh decoder."""
    config = settings.slat_decoder_mesh
    edge = config.resolution
    # The voxels of the shell are 0 to 2 voxels below the surface of the sparse structure.
    inner = radius - 2.2 / edge
    cells = torch.cartesian_prod(*[torch.linspace(0, edge - 1, 16)] * 3)
    weights, bias = _ball(cells, position_code(cells, config.model_channels, sin_first=True), edge, inner, -0.3)

    def first(rows: Tensor) -> None:
        rows[0] = weights

    def second(rows: Tensor) -> None:
        rows[0] = 0
        rows[0, 0] = 1.0

    def fields(rows: Tensor) -> None:
        rows[:DEFORM] *= 0.02
        rows[:DEFORM, 0] = 1.0
        rows[COLOUR:] *= 3.0
        rows[DEFORM:, 0] = 0

    return {
        "upsample.0.skip_connection.weight": first,
        "upsample.0.skip_connection.bias": lambda values: _set(values[0], bias),
        "upsample.1.skip_connection.weight": second,
        "out_layer.weight": fields,
    }


def _opaque(count: int, voxel_size: float) -> dict[str, Edit]:
    """Gaussians that can be seen, around the places of the file's perturbation."""
    places = torch.atanh((hammersley(count).float() * 2 - 1) / voxel_size)
    return {
        "offset_perturbation": lambda values: _set(values, places),
        "out_layer.bias": lambda values: _set(values[-count:], 4.0),
    }


def _plane(config: MoGeConfig) -> dict[str, Edit]:
    """A plane that faces the camera: x and y of a point are its place in the picture, which the head is given."""
    last = f"{2 + config.last_res_blocks}"

    def first(kernel: Tensor) -> None:
        for row, (place, sign) in enumerate(((-2, 1.0), (-2, -1.0), (-1, 1.0), (-1, -1.0))):
            kernel[row] = 0
            kernel[row, place, 1, 1] = sign

    def points(kernel: Tensor) -> None:
        middle = kernel.shape[-1] // 2
        kernel[:2] = 0
        for axis in range(2):
            kernel[axis, 2 * axis, middle, middle], kernel[axis, 2 * axis + 1, middle, middle] = 1.0, -1.0
        kernel[2] *= 0.01

    return {
        "image_mean": lambda values: _set(values.flatten(), torch.tensor(MEAN)),
        "image_std": lambda values: _set(values.flatten(), torch.tensor(STD)),
        "head.output_block.0.0.weight": first,
        f"head.output_block.0.{last}.weight": points,
        f"head.output_block.1.{last}.weight": lambda kernel: _set(kernel, 0.0),
        f"head.output_block.1.{last}.bias": lambda values: _set(values, 2.0),
    }


def _ball(cells: Tensor, code: Tensor, edge: int, radius: float, slope: float) -> tuple[Tensor, Tensor]:
    """Weights [channels] and bias [] that read (R² - r²) / 2R from position codes: `slope` per cell at the surface R.

    It is a sum over the axes of parabolas, which the slow waves of the code approximate.

    Args:
        cells: [M, 3] of a grid. code: [M, channels] theirs.
        edge: of the grid.
        radius: in units of half the grid.
    """
    middle = (edge - 1) / 2
    size = radius * edge / 2
    wanted = slope * (size**2 - (cells.float() - middle).square().sum(1)) / (2 * size)
    count = code.shape[1] // 6
    waves = torch.exp(torch.arange(count) * (-torch.log(torch.tensor(10000.0)) / count))
    chosen = [int((waves * edge / 2 - period).abs().argmin()) for period in (1.0, 0.5)]
    columns = [
        axis * 2 * count + part * count + wave for axis in range(3) for part in (0, 1) for wave in dict.fromkeys(chosen)
    ]
    rows = torch.cat([code[:, columns], torch.ones(len(code), 1)], dim=1).double()
    near = 0.01 + torch.exp(-(wanted / slope / (edge / 16)).square()).double()[:, None]
    ridge = 1e-5 * near.sum() * torch.eye(rows.shape[1], dtype=torch.float64)
    found = torch.linalg.solve(rows.T @ (near * rows) + ridge, rows.T @ (near[:, 0] * wanted.double())).float()
    weights = torch.zeros(code.shape[1])
    weights[columns] = found[:-1]
    return weights, found[-1]


def _interpolate(kernel: Tensor) -> None:
    """Two channels of a convolution to eight children, [8 out, in, 3, 3, 3], interpolate linearly."""
    axis = torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]])
    children = torch.einsum("ai,bj,ck->abcijk", axis, axis, axis).flatten(0, 2)
    for channel in range(2):
        rows = kernel[8 * channel : 8 * channel + 8]
        rows.zero_()
        rows[:, channel] = children


def _set(target: Tensor, value: Tensor | float) -> None:
    target.copy_(torch.as_tensor(value))
