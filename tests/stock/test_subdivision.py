"""The stock block of the mesh decoder with kernels summed beforehand, against itself."""

from __future__ import annotations

import importlib
import logging
import os
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import fast_sam3d
from fast_sam3d.exact.subdivision import SubdivisionSeam, fits
from fast_sam3d.patch import Layer, Patch, seam_at
from tests.contract import alone
from tests.stock import sparse_convolution
from tests.stock.build import STOCK
from tests.stock.stand_ins import importable, on_cpu

needs_spconv = pytest.mark.skipif(
    not sparse_convolution.REAL or os.environ.get("OMP_NUM_THREADS") != "1",
    reason="needs spconv, and OMP_NUM_THREADS=1 because its CPU kernel races",
)


def block(channels: int, out_channels: int) -> Any:
    with importable():
        from sam3d_objects.model.backbone.tdfy_dit.models.structured_latent_vae.decoder_mesh import (
            SparseSubdivideBlock3d,
        )

        made = SparseSubdivideBlock3d(channels, 8, out_channels, num_groups=4)
    for part in made.parameters():  # the last convolution is initialised to zero, which would hide differences
        torch.nn.init.normal_(part, std=0.2)
    return made.eval()


def voxels(counts: list[int], channels: int) -> Any:
    with importable():
        from sam3d_objects.model.backbone.tdfy_dit.modules.sparse import SparseTensor

        places = [torch.randperm(512)[:count].sort().values for count in counts]
        coords = torch.cat(
            [torch.stack([torch.full_like(p, i), p // 64, p // 8 % 8, p % 8], 1) for i, p in enumerate(places)]
        )
        return SparseTensor(feats=torch.randn(len(coords), channels), coords=coords.int())


@pytest.mark.parametrize("out_channels", [8, 16], ids=["narrower", "skip connection without weights"])
@pytest.mark.parametrize("counts", [[1], [200], [300, 400]], ids=str)
def test_equal_up_to_rounding(counts: list[int], out_channels: int) -> None:
    torch.manual_seed(0)
    stock, given = block(16, out_channels), voxels(counts, 16)
    assert fits(stock)
    with torch.no_grad(), on_cpu():
        expected = stock(given)
        patch = Patch()
        patch.add(stock, "forward", Layer(object(), True), lambda: SubdivisionSeam(stock))
        got = stock(given)
        assert list(stock.forward.works.values()) == [True]
        patch.remove()
        assert torch.equal(stock(given).feats, expected.feats)
    assert not torch.equal(got.feats, expected.feats) or counts == [1]
    assert torch.equal(got.coords, expected.coords)
    assert got.shape == expected.shape and got.layout == expected.layout
    torch.testing.assert_close(got.feats, expected.feats, atol=1e-4, rtol=1e-4)


def test_second_subdivision_uses_the_firsts_children() -> None:
    torch.manual_seed(1)
    blocks, given = (block(16, 8), block(8, 4)), voxels([90], 16)
    with torch.no_grad(), on_cpu():
        expected = blocks[1](blocks[0](given))
        got = SubdivisionSeam(blocks[1])(SubdivisionSeam(blocks[0])(given))
    torch.testing.assert_close(got.feats, expected.feats, atol=1e-4, rtol=1e-4)


@needs_spconv
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("channels", [(4, 6), (5, 5), (6, 4)], ids=str)
def test_the_stand_in_and_the_replaced_kernel_equal_spconvs_own_layer(size: int, channels: tuple[int, int]) -> None:
    spconv = importlib.import_module("spconv.pytorch")
    torch.manual_seed(0)
    own = spconv.SubMConv3d(*channels, size, indice_key="any").train()  # it asserts on a bias otherwise
    torch.nn.init.normal_(own.bias)
    ours = sparse_convolution.SubMConv3d(*channels, size)
    ours.load_state_dict(own.state_dict())
    places = torch.nonzero(torch.rand(2, 5, 6, 7) < 0.4).int().contiguous()
    given = torch.randn(len(places), channels[0]), places, [5, 6, 7], 2
    with torch.no_grad():
        expected = own(spconv.SparseConvTensor(*given)).features
        stand_in = ours(sparse_convolution.SparseConvTensor(*given)).features
        with on_cpu():
            replaced = own.eval()(spconv.SparseConvTensor(*given)).features
    torch.testing.assert_close(stand_in, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(replaced, expected, atol=1e-6, rtol=1e-6)


@needs_spconv
@pytest.mark.parametrize("out_channels", [8, 16])
def test_equals_spconvs_own_layers(out_channels: int) -> None:
    torch.manual_seed(2)
    stock, given = block(16, out_channels).train(), voxels([200], 16)
    with torch.no_grad():
        expected = stock(given).feats  # no part of spconv is replaced
        seam = SubdivisionSeam(stock)
        got = seam(given).feats
    assert list(seam.works.values()) == [True]
    torch.testing.assert_close(got, expected, atol=2e-6 * float(expected.abs().max()), rtol=0)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return STOCK.build()


def test_a_whole_mesh_is_decoded_with_fewer_operations_and_no_warning(
    pipeline: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> tuple[dict[str, torch.Tensor], int]:
        decoder = pipeline.models["slat_decoder_mesh"]
        counter = FlopCounterMode(display=False)
        enter = decoder.register_forward_pre_hook(lambda *_: counter.__enter__() and None)
        leave = decoder.register_forward_hook(lambda *_: counter.__exit__(None, None, None))
        try:
            return STOCK.run(pipeline, formats=("mesh", "gaussian")), counter.get_total_flops()
        finally:
            enter.remove()
            leave.remove()

    expected, all_operations = run()
    with (
        caplog.at_level(logging.WARNING, "fast_sam3d"),
        fast_sam3d.accelerated(pipeline, alone("subdivision")) as handle,
    ):
        run()  # with the trials of both blocks
        got, operations = run()
        blocks = pipeline.models["slat_decoder_mesh"].upsample
        seams: list[Any] = [seam_at(part, "forward") for part in blocks]
    assert [list(seam.works.values()) for seam in seams] == [[True], [True]]
    assert [record for record in caplog.records if record.name.startswith("fast_sam3d")] == []
    assert handle.methods.keys() == {"exact"}
    assert torch.equal(got["mesh.faces"], expected["mesh.faces"])
    torch.testing.assert_close(got["mesh.vertices"], expected["mesh.vertices"], atol=1e-5, rtol=0)
    assert not torch.equal(got["mesh.vertices"], expected["mesh.vertices"])
    assert operations < 0.7 * all_operations
