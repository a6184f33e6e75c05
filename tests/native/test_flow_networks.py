"""The published sampling networks against slow formulas; half precision, and devices with fewer operators."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fast_sam3d.model import layers
from fast_sam3d.model.config import PUBLISHED_SS, SSFlowConfig
from fast_sam3d.model.config_file import SamplingConfig, from_mapping, to_mapping
from fast_sam3d.model.half import half_weights, store_in_half
from fast_sam3d.model.slat_config import PUBLISHED_SLAT
from fast_sam3d.model.solver import tree_leaves
from fast_sam3d.native.generators import latent_generator, structure_generator
from tests.native import flow_reference as reference
from tests.native.flows import BLOCKS, HEADS, SS, WIDTH, alive, assert_equal, given, sampled


@pytest.mark.parametrize("scale", [1.0, 0.02])
@pytest.mark.parametrize("d", [0.0, 40.0])
def test_structure_network_follows_the_formulas(d: float, scale: float) -> None:
    """Sine before cosine in voxels' places and after it in time; d at 0 too; epsilons 1e-6 and 1e-5."""
    generator, weights = alive("ss", 1, scale)
    x, cond, _ = given("ss", 2)
    network = generator.guidance.backbone
    t, single = 417.0, {name: value[0] for name, value in x.items()}
    for cfg in (False, True):
        expected = reference.structure_velocity(weights, single, t, d, cond[0] * (not cfg), HEADS, BLOCKS)
        with torch.no_grad():
            found = network(x, torch.tensor([t]), cond, d=torch.tensor([d]), cfg=cfg)
        assert_equal({name: v[0].double() for name, v in found.items()}, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("scale", [1.0, 0.02])
def test_latent_network_follows_the_formulas(scale: float) -> None:
    """Pooled features are divided by their number and one; kernels are [out, k, k, k, in] in files."""
    generator, weights = alive("slat", 1, scale)
    x, cond, (coords,) = given("slat", 2)
    for cfg in (False, True):
        expected = reference.latent_velocity(
            weights, x[0], 417.0, cond[0] * (not cfg), torch.from_numpy(coords[:, 1:]), HEADS, BLOCKS
        )
        with torch.no_grad():
            found = generator.guidance.backbone(x, torch.tensor(417.0), cond, coords, cfg=cfg)
        torch.testing.assert_close(found[0].double(), expected, rtol=0, atol=2e-5)


def test_the_shape_leafs_place_code_is_read_from_the_file() -> None:
    generator, _ = alive("ss", 0)
    buffer = generator.guidance.backbone.state_dict()["latent_mapping.shape.pos_emb"]
    cells = [(x, y, z) for x in range(3) for y in range(3) for z in range(3)]
    expected = torch.tensor([reference.place_code(cell, WIDTH) for cell in cells])
    torch.testing.assert_close(buffer, expected)


def test_names_and_sizes_are_the_published_ones() -> None:
    """And half precision stores what the published pipeline does."""
    with torch.device("meta"):
        structure = structure_generator(PUBLISHED_SS, SamplingConfig()).guidance.backbone
        latent = latent_generator(PUBLISHED_SLAT, SamplingConfig()).guidance.backbone
    assert len(structure.state_dict()) == 945
    assert len(latent.state_dict()) == 526
    assert sum(value.numel() for value in structure.state_dict().values()) == pytest.approx(964.16e6, abs=5e3)
    assert sum(value.numel() for value in latent.state_dict().values()) == pytest.approx(600.43e6, abs=5e3)
    for network in (structure, latent):
        kept = {id(value) for value in network.state_dict(keep_vars=True).values()}
        assert {id(value) for value in (*network.parameters(), *network.buffers())} == kept
        assert {part.eps for part in network.modules() if isinstance(part, nn.LayerNorm)} == {1e-6}
    store_in_half(latent, torch.float16)
    # Measured on the stock network: 1.121 GiB, of which norms and the layers at both ends are float32.
    size = sum(value.numel() * value.element_size() for value in latent.state_dict().values())
    assert size / 2**30 == pytest.approx(1.121, abs=5e-4)
    float32 = {name for name, value in latent.state_dict().items() if value.dtype is torch.float32}
    ends = ("t_embedder.", "input_layer.", "out_layer.")
    assert all(name.startswith(ends) or "norm" in name for name in float32)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_structure_weights_in_half_change_nothing_under_autocast(half: torch.dtype) -> None:
    generator, _ = alive("ss", 3)
    _, cond, rest = given("ss", 4)
    small = copy.deepcopy(generator)
    store_in_half(small.guidance.backbone, half)
    assert len(list(half_weights(small.guidance.backbone))) > 50
    with torch.autocast("cpu", half):
        assert_equal(sampled(small, cond, rest), sampled(generator, cond, rest))


@pytest.mark.parametrize("autocast", [False, True])
def test_half_torso_of_the_latent_network_stays_close_to_float32(autocast: bool) -> None:
    generator, _ = alive("slat", 3)
    x, cond, rest = given("slat", 4)
    small = copy.deepcopy(generator.guidance.backbone)
    store_in_half(small, torch.bfloat16)
    with torch.no_grad():
        expected = generator.guidance.backbone(x, torch.tensor(417.0), cond, *rest)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            found = small(x, torch.tensor(417.0), cond, *rest)
    assert found.dtype is torch.float32
    assert 0 < (found - expected).abs().max() < 0.05 * expected.abs().max()


def test_queries_are_split_where_scores_would_be_materialised(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = (torch.randn(2, 3, length, 8) for length in (50, 40, 40))
    whole = layers.attend(q, k, v)
    monkeypatch.setattr(layers, "SPLIT_DEVICES", ("cpu",))
    monkeypatch.setattr(layers, "SCORE_BYTES", 7 * 2 * 3 * 40 * 4)
    sizes = []
    fused = torch.nn.functional.scaled_dot_product_attention
    monkeypatch.setattr(
        torch.nn.functional, "scaled_dot_product_attention",
        lambda q, k, v: sizes.append(q.shape[-2]) or fused(q, k, v),
    )  # fmt: skip
    torch.testing.assert_close(layers.attend(q, k, v), whole)
    assert sizes == [7] * 7 + [1]
    monkeypatch.setattr(layers, "SCORE_BYTES", 1)
    torch.testing.assert_close(layers.attend(q, k, v), whole)
    assert sizes[8:] == [1] * 50


@pytest.mark.parametrize("stage", ["ss", "slat"])
def test_calls_of_a_solve_read_no_value_and_need_no_float64(stage: str) -> None:
    """A value, or a shape that depends on values, makes the host wait for the device; MPS has no float64."""
    generator, _ = alive(stage, 0)
    network, (x, cond, rest) = generator.guidance.backbone, given(stage, 0)
    more = {"d": torch.zeros(1)} if stage == "ss" else {}
    with torch.no_grad(), Operations() as seen, network.keeping(cond, *rest):
        network(x, torch.tensor([300.0]), cond, *rest, **more)
        seen.read.clear()
        network(x, torch.tensor([200.0]), cond, *rest, **more)
        network(x, torch.tensor([200.0]), cond, *rest, **more, cfg=True)
    assert not seen.read
    assert torch.float64 not in seen.dtypes


class Operations(TorchDispatchMode):
    """The types of all results, and the operations that gave the host a value, or a shape that depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: set[torch.dtype] = set()
        self.read: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        self.dtypes |= {value.dtype for value in tree_leaves(out) if isinstance(value, Tensor)}
        name = function._schema.name.split("::")[1]
        if name in ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "bincount", "masked_select"):
            self.read.append(name)
        return out


@pytest.mark.parametrize("change", [{"patch_size": 3}, {"share_mod": True}, {"convention": "other"}])
def test_settings_that_no_published_network_has_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"SSFlowConfig.{next(iter(change))}"):
        dataclasses.replace(SS, **change)


def test_embedded_checkpoints_say_nothing_about_the_convention() -> None:
    assert "convention" not in to_mapping(SS)
    assert from_mapping(SSFlowConfig, to_mapping(SSFlowConfig()), complete=True) == SSFlowConfig()
