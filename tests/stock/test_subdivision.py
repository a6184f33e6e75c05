"""The stock block of the mesh decoder with kernels summed beforehand, against itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fast_sam3d.exact.subdivision import SubdivisionSeam, fits
from fast_sam3d.patch import Layer, Patch
from tests.stock.stand_ins import importable, on_cpu


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
