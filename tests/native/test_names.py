"""Names and layouts of the published files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from fast_sam3d.model.sparse import SparseConv3d, SparseTensor
from fast_sam3d.native.names import module_tensor, of_network, weights_file
from fast_sam3d.native.networks import build_networks
from fast_sam3d.native.settings import PUBLISHED
from tests.native.file_layout import file_tensor
from tests.native.published_keys import published_keys


def spconv(feats: Tensor, coords: Tensor, saved: Tensor) -> Tensor:
    """What spconv 2.3.8 computes with a saved kernel [out, k, k, k, in], written out voxel by voxel."""
    out_channels, edge, _, _, in_channels = saved.shape
    if edge == 1:  # the memory, multiplied as [in, out]
        return feats @ saved.contiguous().reshape(in_channels, out_channels)
    rows = {tuple(place): n for n, place in enumerate(coords[:, 1:].tolist())}
    out = torch.zeros(len(feats), out_channels)
    for place, n in rows.items():
        for tap in torch.cartesian_prod(*[torch.arange(edge)] * 3).tolist():
            neighbour = tuple(p + t - edge // 2 for p, t in zip(place, tap, strict=True))
            if neighbour in rows:
                out[n] += saved[:, tap[0], tap[1], tap[2], :] @ feats[rows[neighbour]]
    return out


@pytest.fixture
def voxels() -> SparseTensor:
    torch.manual_seed(0)
    places = torch.unique(torch.randint(0, 4, (30, 3)), dim=0)
    coords = torch.cat([torch.zeros(len(places), 1, dtype=torch.int64), places], dim=1)
    return SparseTensor(torch.randn(len(places), 6), coords)


def test_kernels_of_27_taps_compute_what_spconv_does(voxels: SparseTensor) -> None:
    saved = torch.randn(5, 3, 3, 3, 6)
    name, weight = module_tensor("reverse_fn.backbone.input_blocks.0.conv1.conv.weight", saved)
    assert name == "reverse_fn.backbone.input_blocks.0.conv1.weight"
    layer = SparseConv3d(6, 5)
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(5)})
    torch.testing.assert_close(layer(voxels).feats, spconv(voxels.feats, voxels.coords, saved), rtol=1e-5, atol=1e-5)


def test_kernels_of_one_tap_are_read_as_spconv_multiplies_them(voxels: SparseTensor) -> None:
    saved = torch.randn(4, 1, 1, 1, 6)
    name, weight = module_tensor("upsample.0.skip_connection.conv.weight", saved)
    assert (name, tuple(weight.shape)) == ("upsample.0.skip_connection.weight", (4, 6))
    torch.testing.assert_close(voxels.feats @ weight.T, spconv(voxels.feats, voxels.coords, saved))
    natural = voxels.feats @ saved.reshape(4, 6).T
    assert (natural - voxels.feats @ weight.T).abs().max() > 1


@pytest.mark.parametrize("shape", [(5, 3, 3, 3, 6), (4, 1, 1, 1, 6)])
def test_layouts_are_inverted(shape: tuple[int, ...]) -> None:
    name, saved = "upsample.1.out_layers.3.conv.weight", torch.randn(shape)
    back = file_tensor(*module_tensor(name, saved))
    assert back[0] == name and torch.equal(back[1], saved)


def test_dense_convolutions_keep_name_and_layout() -> None:
    saved = torch.randn(16, 4, 3, 3, 3)
    name, weight = module_tensor("blocks.2.conv.weight", saved)
    assert name == "blocks.2.conv.weight" and weight is saved


def test_networks_have_the_published_names_and_shapes() -> None:
    networks, published = build_networks(PUBLISHED), published_keys()
    assert networks.keys() == published.keys()
    for name, network in networks.items():
        own = dict(file_tensor(key, value) for key, value in network.state_dict().items())
        assert {key: tuple(value.shape) for key, value in own.items()} == {
            k: s for k, (s, _) in published[name].items()
        }


def test_names_of_converted_files() -> None:
    tensors = {"_base_models.generator.a": 1, "_base_models.condition_embedder.b": 2}
    assert of_network(tensors, "generator") == {"a": 1}
    assert of_network({"a": 1}, "generator") == {"a": 1}


def test_a_converted_file_takes_precedence(tmp_path: Path) -> None:
    named = tmp_path / "a.ckpt"
    assert weights_file(named) == named
    (tmp_path / "a.safetensors").touch()
    named.touch()
    assert weights_file(named) == tmp_path / "a.safetensors"
