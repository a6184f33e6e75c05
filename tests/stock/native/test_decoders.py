"""The published decoders against the stock classes, with the same random weights."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fast_sam3d.model.half import store_in_half
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.native.gaussian_decoder import GaussianDecoder, GaussianDecoderConfig
from fast_sam3d.native.mesh_decoder import MeshDecoder, MeshDecoderConfig
from fast_sam3d.native.structure_decoder import StructureDecoder, StructureDecoderConfig
from fast_sam3d.outputs.gaussians import PLY_FIELDS, load_gaussians_ply, save_gaussians_ply
from tests.minis import enliven
from tests.native.decoder_files import renamed, shell
from tests.stock.native import published
from tests.stock.stand_ins import half_on_cpu, importable

SIZES = {"resolution": published.GRID, "num_blocks": 2, "num_heads": 4, "mlp_ratio": 2.0}
CONFIGS: dict[str, Any] = {
    "slat_decoder_mesh": MeshDecoderConfig(**SIZES, model_channels=256),
    "slat_decoder_gs": GaussianDecoderConfig(**SIZES, model_channels=published.WIDTH, num_gaussians=4),
    "slat_decoder_gs_4": GaussianDecoderConfig(**SIZES, model_channels=published.WIDTH, num_gaussians=2),
    "ss_decoder": StructureDecoderConfig(channels=(16, 8)),
}
GAUSSIANS = ("slat_decoder_gs", "slat_decoder_gs_4")


@cache
def pair(name: str, seed: int = 0, half: bool = False) -> tuple[Any, Any]:
    """A stock decoder and ours, with the same weights of a small random file."""
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = published.networks(half)[name]
    if name == "slat_decoder_mesh":
        config["device"] = "cpu"
    with importable(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        stock = instantiate(OmegaConf.create(config)).eval().requires_grad_(False)
        if half:
            stock.convert_to_fp32()
        enliven([stock])
        if name == "slat_decoder_mesh":
            stock.out_layer.weight.mul_(0.3)  # values of about 2, as the published ones
        state = stock.state_dict()
    kind: type[nn.Module] = {"ss": StructureDecoder}.get(name[:2], GaussianDecoder if "gs" in name else MeshDecoder)
    with torch.device("meta"):
        ours: Any = kind(CONFIGS[name])
    ours.load_state_dict({key: value.clone() for key, value in renamed(state).items()}, assign=True)
    if half:
        stock.convert_to_fp16()
        store_in_half(ours, torch.float16)
        assert {key: value.dtype for key, value in ours.state_dict().items()} == {
            key: value.dtype for key, value in renamed(stock.state_dict()).items()
        }
    return stock, ours.eval()


def latent(counts: tuple[int, ...] = (150, 90), seed: int = 0) -> SparseTensor:
    coords = torch.cat([shell(count, number, seed) for number, count in enumerate(counts)])
    return SparseTensor(torch.randn(len(coords), 8, generator=torch.Generator().manual_seed(seed)), coords)


def of_stock(slat: SparseTensor) -> Any:
    with importable():
        from sam3d_objects.model.backbone.tdfy_dit.modules.sparse import SparseTensor as Stock

    return Stock(feats=slat.feats, coords=slat.coords)


def stock_cells(stock: Any, slat: SparseTensor) -> Any:
    """What the stock mesh decoder hands to its extractor."""
    found = []
    stock.to_representation = found.append
    try:
        with torch.no_grad(), half_on_cpu():
            stock(of_stock(slat))
    finally:
        del stock.to_representation
    return found[0]


def away(got: Tensor, want: Tensor) -> float:
    return float((got.float() - want.float()).abs().max())


def test_the_structure_decoder_is_equal() -> None:
    stock, ours = pair("ss_decoder")
    grid = torch.randn(2, 8, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        want, got = stock(grid), ours(grid)
    assert away(got, want) <= 1e-6 and want.abs().max() > 1


def test_the_structure_decoder_is_equal_under_autocast() -> None:
    stock, ours = pair("ss_decoder")
    grid = torch.randn(1, 8, 8, 8, 8, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), half_on_cpu(), torch.autocast("cuda", torch.bfloat16):
        want, got = stock(grid), ours(grid)
    assert got.dtype == want.dtype and torch.equal(got, want)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("settings", [{"chunk": 1 << 16}, {"chunk": None}, {"chunk": 1000}, {"folded": False}], ids=str)
def test_the_fields_of_the_mesh_decoder_are_equal(settings: dict[str, Any], seed: int) -> None:
    stock, ours = pair("slat_decoder_mesh", seed)
    slat = latent(seed=seed)
    want = stock_cells(stock, slat)
    with mock.patch.multiple(ours, **settings):
        got = ours.decode_cells(slat)
    assert torch.equal(got.coords, want.coords) and got.layout == want.layout
    assert got.feats.dtype == torch.float32
    assert away(got.feats, want.feats) <= 5e-6 and want.feats.abs().max() > 1


@pytest.mark.parametrize("seed", [0, 1])
def test_meshes_are_equal(seed: int) -> None:
    stock, ours = pair("slat_decoder_mesh", seed)
    slat = latent((120, 40), seed)
    with torch.no_grad(), half_on_cpu():
        want, got = stock(of_stock(slat)), ours(slat)
    assert len(got) == len(want) == 2
    for one, other in zip(want, got, strict=True):
        assert one.success and other.success and one.res == other.res
        assert torch.equal(other.faces, one.faces)
        assert away(other.vertices, one.vertices) <= 5e-5
        assert away(other.vertex_attrs, one.vertex_attrs) <= 5e-5


def test_in_half_precision_the_fields_are_no_further_away_than_stocks_own() -> None:
    slat = latent()
    exact = stock_cells(pair("slat_decoder_mesh")[0], slat).feats
    stock, ours = pair("slat_decoder_mesh", half=True)
    want, got = stock_cells(stock, slat).feats, ours.decode_cells(slat).feats
    assert not ours.redecoded
    assert 1e-4 < away(want, exact) < 1e-2
    assert away(got, exact) < 1.5 * away(want, exact)


@pytest.mark.parametrize("name", GAUSSIANS)
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_gaussians_are_equal(name: str, half: bool) -> None:
    slat = latent()
    found = []
    for precise in (False, half):
        stock, ours = pair(name, half=precise)
        with torch.no_grad(), half_on_cpu():
            found.append((stock(of_stock(slat)), ours(slat)))
    (exact, _), (want, got) = found
    assert len(want) == len(got) == 2
    for one, other, precise in zip(want, got, exact, strict=True):
        assert (one.sh_degree, one.active_sh_degree) == (other.sh_degree, other.active_sh_degree)
        for attribute in ("get_xyz", "get_scaling", "get_rotation", "get_opacity", "get_features", "aabb"):
            expected, values = getattr(one, attribute), getattr(other, attribute)
            assert values.shape == expected.shape and values.dtype == expected.dtype, attribute
            limit = 1e-5 if not half else 1.5 * away(expected, getattr(precise, attribute)) + 1e-6
            assert away(values, expected) <= 1e-5 or half, attribute
            assert away(values, getattr(precise, attribute)) <= limit or not half, attribute
        for attribute in ("_xyz", "_features_dc", "_scaling", "_rotation", "_opacity"):
            assert getattr(other, attribute).shape == getattr(one, attribute).shape
        for attribute in ("scale_bias", "opacity_bias", "rots_bias"):
            assert torch.equal(getattr(other, attribute), getattr(one, attribute)), attribute
        assert other.mininum_kernel_size == one.mininum_kernel_size
        assert other._features_rest is one._features_rest is None


def stock_rows(gaussians: Any) -> np.ndarray:
    """The rows that the stock class writes, with the package that writes the file replaced."""
    from sam3d_objects.model.backbone.tdfy_dit.representations.gaussian import gaussian_model

    rows = []
    with mock.patch.object(gaussian_model.PlyElement, "describe", lambda data, name: rows.append(data), create=True):
        gaussians.save_ply("unused")
    assert rows[0].dtype.names == PLY_FIELDS
    return np.stack([rows[0][name] for name in PLY_FIELDS], axis=1)


def test_the_ply_file_has_the_rows_of_the_stock_class(tmp_path: Path) -> None:
    slat = latent((150,))
    stock, ours = pair("slat_decoder_gs")
    with torch.no_grad(), half_on_cpu():
        (want,), (got,) = stock(of_stock(slat)), ours(slat)
    save_gaussians_ply(tmp_path / "ours.ply", got)
    body = (tmp_path / "ours.ply").read_bytes().partition(b"end_header\n")[2]
    rows = np.frombuffer(body, "<f4").reshape(-1, len(PLY_FIELDS))
    # To +z up.
    rows = rows[:, [0, 2, 1, *range(3, 11), 12, 11, 13, 14, 16, 15]]
    rows[:, [2, 16]] *= -1
    expected = stock_rows(want)
    lengths = np.linalg.norm(expected[:, -4:], axis=1)
    assert abs(lengths - 1).max() > 0.01
    np.testing.assert_allclose(rows, expected, atol=2e-5, rtol=1e-5)
    turned = load_gaussians_ply(tmp_path / "ours.ply").get_rotation
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-5)
