"""The published decoders against slow references; tests/stock/native/test_decoders.py has the stock classes."""

from __future__ import annotations

import logging
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.adapters.sam3d import Sam3d
from fast_sam3d.decode.aggregate import MeshMethod
from fast_sam3d.decode.hooks import aggregate_in_decoder
from fast_sam3d.exact.places import _extraction_places, _subdivision_places
from fast_sam3d.exact.settings import Exact
from fast_sam3d.geometry.sparse_grid import CHILDREN, OFFSETS, SparseGrid
from fast_sam3d.model.half import half_weights, store_in_half
from fast_sam3d.model.sparse import SparseConv3d, SparseTensor
from fast_sam3d.native.allocations import tensor_bytes, traced
from fast_sam3d.native.children import convolve_children, kernels_of
from fast_sam3d.native.gaussian_decoder import GaussianDecoder, GaussianDecoderConfig, hammersley
from fast_sam3d.native.mesh_decoder import CELL_CHANNELS, MeshDecoder, MeshDecoderConfig, UpsampleBlock
from fast_sam3d.native.structure_decoder import StructureDecoder, StructureDecoderConfig
from fast_sam3d.outputs.gaussians import PLY_FIELDS, load_gaussians_ply, save_gaussians_ply
from fast_sam3d.sampling.exchange import Exchange
from tests.minis import enliven
from tests.native.decoder_files import shell

SIZES: dict[str, Any] = {"resolution": 16, "num_blocks": 2, "num_heads": 2, "mlp_ratio": 1.0, "window_size": 4}
MESH = MeshDecoderConfig(**SIZES, model_channels=256)


def random_decoder(kind: type[nn.Module], config: Any, seed: int = 0) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        made = kind(config).eval().requires_grad_(False)
        enliven([made])
    return made


def latent(counts: tuple[int, ...] = (60, 40), seed: int = 0) -> SparseTensor:
    coords = torch.cat([shell(count, number, seed, resolution=16) for number, count in enumerate(counts)])
    return SparseTensor(torch.randn(len(coords), 8, generator=torch.Generator().manual_seed(seed)), coords)


def away(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return float((got - want).abs().max())


# --- slow references, of one object -----------------------------------------------------------------------------------


def slow_norm(x: Tensor, eps: float, axes: tuple[int, ...]) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt()


def slow_code(coords: Tensor, width: int) -> Tensor:
    code = torch.zeros(len(coords), width)
    count = width // 6
    for row, place in enumerate(coords[:, 1:].tolist()):
        for axis, value in enumerate(place):
            for i in range(count):
                angle = value / 10000 ** (i / count)
                code[row, 2 * count * axis + i] = math.sin(angle)
                code[row, 2 * count * axis + count + i] = math.cos(angle)
    return code


def slow_block(block: Any, x: Tensor, coords: Tensor, size: int, shift: int, heads: int) -> Tensor:
    cubes = (coords[:, 1:] + shift) // size
    apart = (cubes[:, None] != cubes[None]).any(2)
    q, k, v = block.attn.to_qkv(slow_norm(x, 1e-6, (1,))).view(len(x), 3, heads, -1).permute(1, 2, 0, 3)
    scores = (q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).masked_fill(apart, -torch.inf)
    x = x + block.attn.to_out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
    hidden = block.mlp.mlp[0](slow_norm(x, 1e-6, (1,)))
    return x + block.mlp.mlp[2](F.gelu(hidden, approximate="tanh"))


def slow_trunk(decoder: Any, slat: SparseTensor) -> Tensor:
    x = decoder.input_layer(slat.feats) + slow_code(slat.coords, decoder.model_channels)
    for number, block in enumerate(decoder.blocks):
        x = slow_block(block, x, slat.coords, 4, 2 * (number % 2), decoder.num_heads)
    return x


def slow_convolution(layer: SparseConv3d, x: Tensor, coords: Tensor) -> Tensor:
    """A dense convolution with zeros where no voxel is, read at the voxels."""
    where = (slice(None), *coords[:, 1:].long().T)
    grid = torch.zeros(x.shape[1], *[int(coords.max()) + 1] * 3)
    grid[where] = x.T
    kernel = layer.weight.permute(2, 1, 0).unflatten(2, (3, 3, 3))
    return F.conv3d(grid[None], kernel, layer.bias, padding=1)[0][where].T


def slow_group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    grouped = slow_norm(x.view(len(x), 32, -1), 1e-5, (0, 2))
    return grouped.flatten(1) * norm.weight + norm.bias


def slow_upsample(block: Any, x: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
    children = torch.tensor([[0, *child] for child in CHILDREN])
    fine = (coords[:, None] * torch.tensor([1, 2, 2, 2]) + children).flatten(0, 1)
    h = F.silu(slow_group_norm(block.act_layers[0], x)).repeat_interleave(8, 0)
    h = slow_convolution(block.out_layers[0], h, fine)
    h = slow_convolution(block.out_layers[3], F.silu(slow_group_norm(block.out_layers[1], h)), fine)
    return h + block.skip_connection(x).repeat_interleave(8, 0), fine


def slow_cells(decoder: Any, slat: SparseTensor) -> tuple[Tensor, Tensor]:
    x, coords = slow_trunk(decoder, slat), slat.coords
    for block in decoder.upsample:
        x, coords = slow_upsample(block, x, coords)
    return decoder.out_layer(x), coords


# --- mesh decoder -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{}, {"chunk": 100}, {"chunk": None}, {"folded": False}], ids=str)
def test_fields_equal_the_slow_network_of_each_object(settings: dict[str, Any]) -> None:
    decoder, slat = random_decoder(MeshDecoder, MESH), latent()
    vars(decoder).update(settings)
    cells = decoder.decode_cells(slat)
    assert cells.feats.shape == (64 * len(slat), CELL_CHANNELS) and cells.feats.dtype == torch.float32
    for number, rows in enumerate(cells.layout):
        want, coords = slow_cells(decoder, slat[number])
        assert torch.equal(cells.coords[rows, 1:].long(), coords[:, 1:])
        assert away(cells.feats[rows], want) <= 5e-6 * float(want.abs().max())


@pytest.mark.parametrize("chunk", [48, 800, 1 << 30])
def test_the_size_of_chunks_does_not_matter(chunk: int) -> None:
    decoder, slat = random_decoder(MeshDecoder, MESH), latent((100,))
    decoder.chunk = None
    whole = decoder.decode_cells(slat).feats
    decoder.chunk = chunk
    assert away(decoder.decode_cells(slat).feats, whole) <= 1e-6 * float(whole.abs().max())


def test_group_norms_of_small_values_have_their_epsilon_and_span_the_object() -> None:
    block = random_decoder(lambda _: UpsampleBlock(64, 32), None)  # type: ignore[arg-type]
    x = latent((50,))
    x = x.replace(torch.randn(50, 64, generator=torch.Generator().manual_seed(3)) * 3e-3)  # variance: 1e-5
    want, _ = slow_upsample(block, x.feats, x.coords)
    got = block(x, chunk=40).feats
    assert away(got, want) <= 1e-5
    for norm in (block.act_layers[0], block.out_layers[1]):
        norm.eps = 1e-6
    assert away(block(x).feats, want) > 0.1


def test_layer_norms_of_small_values_have_their_epsilon() -> None:
    decoder, slat = random_decoder(MeshDecoder, MESH), latent((50,))
    x = torch.randn(50, 256, generator=torch.Generator().manual_seed(3)) * 1e-3
    got = decoder.blocks[1](slat.replace(x)).feats
    assert away(got, slow_block(decoder.blocks[1], x, slat.coords, 4, 2, 2)) <= 3e-6


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("compact", [False, True])
def test_convolutions_of_children_equal_those_of_a_subdivided_grid(copies: bool, compact: bool) -> None:
    torch.manual_seed(0)
    layer, x = SparseConv3d(6, 5), latent((70, 30))
    fine = x.grid.subdivided()
    voxels = torch.randn(100, 6)
    children = voxels.repeat_interleave(8, 0) if copies else torch.randn(800, 6)
    with torch.no_grad():
        want = layer(SparseTensor(children, SparseGrid(fine.coords))).feats - layer.bias
        given, kernels = voxels if copies else children, kernels_of(layer.weight, copies)
        got = [
            convolve_children(given, x.grid.neighbours()[rows], kernels, rows.start, copies, compact)
            for rows in (slice(0, 33), slice(33, 34), slice(34, 100))
        ]
    assert away(torch.cat(got), want) <= 5e-6


def test_missing_neighbours_of_padded_rows_add_nothing_even_where_values_are_not_finite() -> None:
    layer = SparseConv3d(2, 3)
    coords = torch.tensor([[0, 1, 1, 1], [0, 9, 9, 9]], dtype=torch.int32)
    feats = torch.tensor([[1.0, 2.0], [math.inf, math.nan]])
    kernels = kernels_of(layer.weight.detach(), True)
    got = convolve_children(feats, SparseGrid(coords).neighbours(), kernels, 0, True, compact=False)
    assert got[:8].isfinite().all() and got[8:].isnan().all()


def test_the_folded_kernel_is_the_sum_of_the_taps_that_fall_on_a_voxel() -> None:
    weight = torch.randn(27, 2, 3)
    kernels = kernels_of(weight, copies=True)
    assert sum(kernel.numel() for kernel in kernels) == 64 * 2 * 3
    assert sum(kernel.numel() for kernel in kernels_of(weight, copies=False)) == 216 * 2 * 3
    first = [weight[OFFSETS.index(o)] for o in OFFSETS if min(o) >= 0]  # of the first child, within its parent
    assert away(kernels[13][:, :3], torch.stack(first).sum(0)) <= 1e-5


def test_what_is_not_finite_in_half_precision_is_decoded_again_in_float32(caplog: pytest.LogCaptureFixture) -> None:
    decoder, slat = random_decoder(MeshDecoder, MESH), latent((30,))
    decoder.blocks[0].mlp.mlp[2].bias.fill_(5e4)
    decoder.blocks[1].mlp.mlp[2].bias.fill_(5e4)  # the sum is beyond float16
    want = decoder.decode_cells(slat).feats
    assert not decoder.redecoded and want.isfinite().all()
    names = list(half_weights(decoder))
    store_in_half(decoder, torch.float16)
    stored = {name: decoder.get_parameter(name).data_ptr() for name in names}
    with caplog.at_level(logging.WARNING, "fast_sam3d"):
        got = decoder.decode_cells(slat).feats
    assert decoder.redecoded and "decoded again in float32" in caplog.text
    assert away(got, want) < 0.02 * float(want.abs().max())
    assert {name: decoder.get_parameter(name).data_ptr() for name in names} == stored
    assert decoder.torso_dtype is torch.float16
    assert decoder.decode_cells(slat.replace(slat.feats * math.nan)).feats.isnan().any() and not decoder.redecoded


def test_only_multiplied_weights_of_the_torso_may_be_half() -> None:
    decoder = random_decoder(MeshDecoder, MESH)
    names = set(half_weights(decoder))
    rest = set(decoder.state_dict()) - names
    assert {name for name in rest if name.startswith(("blocks", "upsample"))} == {
        f"upsample.{i}.{norm}.{kind}"
        for i in (0, 1)
        for norm in ("act_layers.0", "out_layers.1")
        for kind in ("weight", "bias")
    }
    assert {name for name in rest if not name.startswith("upsample")} == {
        f"{layer}.{kind}" for layer in ("input_layer", "out_layer") for kind in ("weight", "bias")
    }


# --- structure decoder and gaussians ----------------------------------------------------------------------------------


def test_the_structure_decoder_equals_a_slow_network() -> None:
    decoder = random_decoder(StructureDecoder, StructureDecoderConfig(channels=(8, 4), num_res_blocks=1))

    def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
        shape = (-1, 1, 1, 1)
        return slow_norm(x, 1e-5, (1,)) * layer.weight.view(shape) + layer.bias.view(shape)

    def res_block(block: Any, x: Tensor) -> Tensor:
        h = block.conv1(F.silu(norm(block.norm1, x)))
        return x + block.conv2(F.silu(norm(block.norm2, h)))

    x = torch.randn(2, 8, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    got = decoder(x * 1e-2)
    h = decoder.input_layer(x * 1e-2)
    for block in (*decoder.middle_block, decoder.blocks[0]):
        h = res_block(block, h)
    h = decoder.blocks[1].conv(h)
    fine = torch.zeros(2, 4, 6, 8, 10)
    for channel in range(4):
        for number, (a, b, c) in enumerate(CHILDREN):
            fine[:, channel, a::2, b::2, c::2] = h[:, 8 * channel + number]
    h = res_block(decoder.blocks[2], fine)
    want = decoder.out_layer[2](F.silu(norm(decoder.out_layer[0], h)))
    assert got.shape == (2, 1, 6, 8, 10) and away(got, want) <= 1e-5


def gaussian_decoder(**changes: Any) -> Any:
    return random_decoder(
        GaussianDecoder, GaussianDecoderConfig(**SIZES, model_channels=64, num_gaussians=4, **changes)
    )


def test_gaussians_equal_their_formulas() -> None:
    decoder, slat = gaussian_decoder(), latent()
    small = slat.replace(torch.randn(len(slat), 64, generator=torch.Generator().manual_seed(1)) * 3e-3)
    for tokens in (None, small):
        if tokens is not None:  # layer norm's epsilon matters
            decoder.encode_tokens = lambda _: small
        made = decoder(slat)
        for number, rows in enumerate(slat.layout):
            own = slow_trunk(decoder, slat[number]) if tokens is None else small.feats[rows]
            raw = decoder.out_layer(slow_norm(own, 1e-5, (1,)))
            xyz, colour, scaling, rotation, opacity = raw.split([12, 12, 12, 16, 4], 1)
            atanh = torch.atanh((hammersley(4) * 2 - 1) / 1.5)
            offset = torch.tanh(xyz.view(-1, 4, 3) + atanh) * 0.5 * 1.5 / 16
            centre = (slat.coords[rows, None, 1:] + 0.5) / 16 - 0.5
            got = made[number]
            assert away(got.get_xyz, (centre + offset).view(-1, 3)) <= 1e-6
            assert away(got.get_features, colour.reshape(-1, 1, 3)) <= 1e-5
            wide = torch.nn.functional.softplus(scaling.double() + math.log(math.expm1(0.004))).reshape(-1, 3)
            assert away(got.get_scaling.double(), (wide**2 + 0.0009**2).sqrt()) <= 1e-6
            quaternion = rotation.reshape(-1, 4) * 0.1 + torch.tensor([1.0, 0, 0, 0])
            assert away(got.get_rotation, quaternion / quaternion.norm(dim=1, keepdim=True)) <= 1e-6
            assert away(got.get_opacity, torch.sigmoid(opacity.reshape(-1, 1) + math.log(0.1 / 0.9))) <= 1e-6


def test_the_hammersley_set_mirrors_digits() -> None:
    want = torch.tensor([[0, 0, 0], [0.25, 0.5, 1 / 3], [0.5, 0.25, 2 / 3], [0.75, 0.75, 1 / 9]])
    assert torch.equal(hammersley(4), want)


def test_the_ply_file_has_raw_rotations_and_is_read_with_unit_ones(tmp_path: Any) -> None:
    (made,) = gaussian_decoder()(latent((40,)))
    save_gaussians_ply(tmp_path / "a.ply", made)
    body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")[2]
    rows = np.frombuffer(body, "<f4").reshape(-1, len(PLY_FIELDS))
    turned = rows[:, [-4, -3, -1, -2]] * np.float32([1, 1, 1, -1])  # to +z up
    np.testing.assert_array_equal(turned, (made._rotation + made.rots_bias).numpy())
    assert abs(np.linalg.norm(rows[:, -4:], axis=1) - 1).max() > 0.01
    read = load_gaussians_ply(tmp_path / "a.ply")
    for name in ("get_xyz", "get_scaling", "get_rotation", "get_opacity", "_features_dc"):
        np.testing.assert_allclose(getattr(read, name), getattr(made, name).numpy(), atol=2e-6)


# --- published sizes, and the rest of the package ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "config", "tensors", "millions"),
    [
        (StructureDecoder, StructureDecoderConfig(), 74, 73.67),
        (MeshDecoder, MeshDecoderConfig(), 120, 90.93),
        (GaussianDecoder, GaussianDecoderConfig(), 101, 85.37),
        (GaussianDecoder, GaussianDecoderConfig(num_gaussians=4), 101, 85.07),
    ],
    ids=["ss_decoder", "slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4"],
)
def test_published_sizes(kind: Any, config: Any, tensors: int, millions: float) -> None:
    with torch.device("meta"):
        state = kind(config).state_dict()
    assert len(state) == tensors
    assert round(sum(value.numel() for value in state.values()) / 1e6, 2) == millions


@pytest.mark.parametrize(("voxels", "limit"), [(20_000, 1.0), (40_000, 1.9)])
def test_memory_at_published_sizes(voxels: int, limit: float) -> None:
    with torch.device("meta"):
        decoder = store_in_half(MeshDecoder(MeshDecoderConfig()), torch.float16)
    slat = SparseTensor(torch.empty(voxels, 8, device="meta"), shell(voxels, resolution=64))
    weights = [*decoder.parameters(), slat.feats]
    with traced(watch=weights) as found:
        cells = decoder.decode_cells(slat)
    assert len(cells) == 64 * voxels
    assert (found.peak - sum(map(tensor_bytes, weights))) / 2**30 < limit


def calm(decoder: MeshDecoder) -> MeshDecoder:
    """Its distances vary little from cell to cell, around zero."""
    decoder.out_layer.weight.mul_(0.05)
    return decoder


def test_meshes_are_one_per_object_in_their_own_coordinates() -> None:
    decoder, slat = calm(random_decoder(MeshDecoder, MESH)), latent()
    together = decoder(slat)
    for number, rows in enumerate(slat.layout):
        (alone,) = decoder(slat[number])
        assert together[number].success and len(alone.vertices)
        low, high = (part + 0.5 for part in (slat.coords[rows, 1:].amin(0), slat.coords[rows, 1:].amax(0)))
        for mesh in (alone, together[number]):
            places = (mesh.vertices + 0.5) * MESH.resolution
            assert bool((places > low - 1).all()) and bool((places < high + 1).all())
            assert mesh.vertex_attrs.shape == (len(mesh.vertices), 6)


def test_token_aggregation_decodes_merged_voxels_and_scales_the_mesh_back() -> None:
    decoder, slat = calm(random_decoder(MeshDecoder, MESH)), latent((300,))
    scene = Exchange()
    method = MeshMethod(factors=(2.0, 2.0, 2.0), min_voxels=0)
    (merged,) = aggregate_in_decoder(method, scene, decoder, slat)
    (record,) = scene.records
    assert record.factor == 2 and record.kept < record.voxels == 300
    (plain,) = decoder(slat)
    size = plain.vertices.amax(0) - plain.vertices.amin(0)
    assert len(merged.vertices) < len(plain.vertices)
    assert float((merged.vertices.amax(0) - merged.vertices.amin(0) - size).abs().max()) < 3 / MESH.resolution


def test_savings_that_are_built_in_are_not_put_on_again(caplog: pytest.LogCaptureFixture) -> None:
    decoder = random_decoder(MeshDecoder, MESH)
    pipeline = SimpleNamespace(models={"slat_decoder_mesh": decoder})
    with caplog.at_level(logging.INFO, "fast_sam3d"):
        for places in (_subdivision_places, _extraction_places):
            assert list(places(Sam3d(pipeline), Exact())) == []
    assert caplog.records == [] and "attention" in decoder.built_in_savings


@pytest.mark.parametrize("width", [64, 300])
def test_widths_that_groups_do_not_divide_are_refused(width: int) -> None:
    with pytest.raises(ValueError, match="model_channels must be a multiple of 256"):
        MeshDecoderConfig(**{**SIZES, "num_heads": 1}, model_channels=width)
