"""The published embedders against formulas written out slowly."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fast_sam3d.errors import FastSam3dError
from fast_sam3d.native.embedder import (
    PUBLISHED_SLAT,
    PUBLISHED_SS,
    ConditionFuser,
    EmbedderSettings,
    EncoderSettings,
    ImageEncoder,
    share_equal,
)
from fast_sam3d.native.points import PointPatchEmbed, PointSettings
from fast_sam3d.native.vit import VisionTransformer, ViTConfig
from tests.native.embedder_reference import (
    picture_tokens,
    point_tokens,
    positions,
    projected,
    vision_transformer,
)

WIDTH, HEADS, PATCH, GRID = 32, 2, 7, 3
SIZE = PATCH * GRID
VIT = ViTConfig(WIDTH, 2, HEADS, 2.0, PATCH, GRID)
POINTS = PointSettings(channels=16, size=8, patch=4)
GROUPS = (("image", "cropped"), ("rgb_image", "full")), (("mask", "cropped"), ("rgb_image_mask", "full"))
POINT_GROUPS = (("pointmap", "cropped"), ("rgb_pointmap", "full"))


def settings(prenorm: bool = False, **changes: object) -> EmbedderSettings:
    encoder = EncoderSettings(VIT, SIZE, prenorm=prenorm)
    points = () if prenorm else ((POINTS, POINT_GROUPS),)
    return EmbedderSettings((*((encoder, group) for group in GROUPS), *points), **changes)  # type: ignore[arg-type]


def off(got: Tensor, want: Tensor) -> float:
    """Largest difference, of the largest value."""
    assert got.shape == want.shape
    return float((got.double() - want.double()).detach().abs().max() / want.detach().abs().max())


def random(make: Callable[[], nn.Module], seed: int = 0, scale: float = 0.3) -> nn.Module:
    """A module whose every parameter is random, so that no branch is dead."""
    torch.manual_seed(seed)
    module = make().eval().requires_grad_(False)
    for parameter in module.parameters():
        parameter.copy_(torch.randn_like(parameter) * scale)
    return module


@pytest.fixture
def inputs() -> dict[str, Tensor]:
    """Those of one object; zero is a known point, NaN and infinity are not."""
    torch.manual_seed(7)
    found = {name: torch.rand(1, 3, SIZE, SIZE) for name in ("image", "rgb_image")}
    found |= {name: torch.rand(1, 1, SIZE, SIZE) for name in ("mask", "rgb_image_mask")}
    found |= {name: torch.randn(1, 3, 13, 13) for name in ("pointmap", "rgb_pointmap")}
    for name in ("pointmap", "rgb_pointmap"):
        found[name][..., :5] = 0
        found[name][..., 6:8] = torch.nan
        found[name][:, 1, 9] = torch.inf
    return found


def test_every_token_of_the_transformer() -> None:
    vit = random(lambda: VisionTransformer(VIT))
    assert isinstance(vit, VisionTransformer)
    image = torch.randn(2, 3, SIZE, SIZE)
    tokens = vit(image)
    assert tokens.shape == (2, 1 + 4 + GRID**2, WIDTH)
    for got, one in zip(tokens, image, strict=True):
        assert off(got, vision_transformer(one, vit.state_dict(), HEADS, PATCH)[-1]) < 1e-5


def test_norms_of_the_transformer_have_an_epsilon_of_1e_minus_6() -> None:
    """Tokens are so small that another epsilon shows."""
    vit = random(lambda: VisionTransformer(VIT))
    for name, parameter in vit.named_parameters():
        if not name.startswith(("blocks", "norm")):
            parameter.mul_(1e-4)
        elif name.endswith("ls1.gamma"):
            parameter.mul_(1e-3)
    image = torch.randn(1, 3, SIZE, SIZE)
    want = vision_transformer(image[0], vit.state_dict(), HEADS, PATCH)[-1]
    assert off(vit(image)[0], want) < 1e-4
    for module in vit.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-5
    assert off(vit(image)[0], want) > 1e-2


def test_norms_around_the_transformer_have_an_epsilon_of_1e_minus_5() -> None:
    """Those of the structured latent's tokens and of the projections, again with small tokens."""
    encoder = random(lambda: ImageEncoder(EncoderSettings(VIT, SIZE, prenorm=True)), scale=1e-3)
    image = torch.rand(1, 3, SIZE, SIZE)
    weights = {name.removeprefix("backbone."): value for name, value in encoder.state_dict().items()}
    assert off(encoder(image)[0], picture_tokens(image[0], weights, HEADS, PATCH, 4, prenorm=True)) < 1e-4
    fuser = random(lambda: ConditionFuser(settings()))
    tokens = 1e-3 * torch.randn(5, 16)
    assert off(fuser.projection_nets[2](tokens), projected(tokens.double(), fuser.state_dict(), 2)) < 1e-4


@pytest.mark.parametrize("by_scale", [False, True])
def test_positions_of_another_grid(by_scale: bool) -> None:
    """With registers to the size with antialiasing, without by the factor (n + 0.1) / grid."""
    vit = VisionTransformer(ViTConfig(WIDTH, 0, HEADS, 2.0, PATCH, 5, by_scale=by_scale))
    code = vit.pos_embed[0].double()
    for rows, columns in ((8, 8), (7, 9)):
        got = vit.positions(rows, columns)[0].double()
        assert off(got, positions(code, rows, columns, by_scale)) < 1e-5
        assert off(got, positions(code, rows, columns, not by_scale)) > 1e-2
    assert vit.positions(5, 5) is vit.pos_embed


@pytest.mark.parametrize("blocks", [2, (0, 2)])
def test_features_of_some_blocks(blocks: int | tuple[int, ...]) -> None:
    """As the depth network takes them: normed patches, of a network without registers, of an oblong picture."""
    config = ViTConfig(WIDTH, 3, HEADS, 2.0, PATCH, GRID, registers=0, by_scale=True)
    vit = random(lambda: VisionTransformer(config))
    assert isinstance(vit, VisionTransformer)
    image = torch.randn(1, 3, 4 * PATCH, 5 * PATCH)
    every = vision_transformer(image[0], vit.state_dict(), HEADS, PATCH, by_scale=True)
    want = [every[number] for number in ((1, 2) if blocks == 2 else (0, 2))]
    found = vit.features(image, blocks)
    assert len(found) == 2
    for got, tokens in zip(found, want, strict=True):
        assert off(got[0], vit.norm(tokens.float())[1:]) < 1e-5


def test_sizes_by_name() -> None:
    assert ViTConfig.named("dinov2_vitl14_reg") == ViTConfig()
    assert ViTConfig.named("dinov2_vits14") == ViTConfig(384, 12, 6, registers=0, by_scale=True)
    with pytest.raises(FastSam3dError, match="'dinov3' is not implemented: give one of dinov2_vits14"):
        ViTConfig.named("dinov3")


def test_unknown_points_are_a_learned_token_and_zeros_are_points(inputs: dict[str, Tensor]) -> None:
    embed = random(lambda: PointPatchEmbed(POINTS, chunk=3))
    want = point_tokens(inputs["pointmap"][0], embed.state_dict(), POINTS.size, POINTS.patch)
    got = embed(inputs["pointmap"])
    assert got.shape == (1, 4, 16)
    assert off(got[0], want) < 1e-5
    zeros = inputs["pointmap"].nan_to_num(0, 0, 0)
    assert off(embed(zeros), got) > 1e-2


def test_class_token_alone_through_the_block_of_points_changes_nothing(inputs: dict[str, Tensor]) -> None:
    embed = random(lambda: PointPatchEmbed(POINTS))
    few = embed(inputs["pointmap"])
    embed.class_token_only = False
    assert off(embed(inputs["pointmap"]), few) < 1e-6


@pytest.mark.parametrize("prenorm", [False, True], ids=["ss", "slat"])
def test_context_in_the_published_order(prenorm: bool, inputs: dict[str, Tensor]) -> None:
    """Without registers for the sparse structure, with them for the structured latent."""
    fuser = random(lambda: ConditionFuser(settings(prenorm)))
    weights = fuser.state_dict()
    want = []
    for number, (_, names) in enumerate(settings(prenorm).parts):
        own = {
            key[len(prefix) :]: w for key, w in weights.items() if key.startswith(prefix := f"module_list.{number}.")
        }
        for group, (name, _) in enumerate(names):
            if number < 2:
                backbone = {key.removeprefix("backbone."): value for key, value in own.items()}
                tokens = picture_tokens(inputs[name][0], backbone, HEADS, PATCH, 4, prenorm)
                assert len(tokens) == 1 + 4 * prenorm + GRID**2
            else:
                tokens = point_tokens(inputs[name][0], own, POINTS.size, POINTS.patch)
            want.append(projected(tokens, weights, number) + weights["idx_emb"][group])
    got = fuser(**inputs, unused=torch.zeros(1))
    assert off(got[0], torch.cat(want)) < 1e-5
    assert fuser.idx_emb.shape == (3, WIDTH)


def test_dropped_inputs_are_zeros(inputs: dict[str, Tensor]) -> None:
    whole, part = (random(lambda d=drop: ConditionFuser(settings(drop=d))) for drop in ((), ("rgb_pointmap", "image")))
    full, dropped, patches = whole(**inputs), part(**inputs), 1 + GRID**2
    assert dropped[:, :patches].eq(0).all()
    assert dropped[:, -4:].eq(0).all()
    assert torch.equal(dropped[:, patches:-4], full[:, patches:-4])


def test_a_missing_input_is_named(inputs: dict[str, Tensor]) -> None:
    del inputs["rgb_pointmap"]
    with pytest.raises(FastSam3dError, match="needs the input 'rgb_pointmap'"):
        random(lambda: ConditionFuser(settings()))(**inputs)


def test_other_sizes_of_pictures_are_resized(inputs: dict[str, Tensor]) -> None:
    encoder = random(lambda: ImageEncoder(EncoderSettings(VIT, SIZE)))
    large = torch.rand(1, 3, 2 * SIZE, 2 * SIZE)
    small = torch.nn.functional.interpolate(large, (SIZE, SIZE), mode="bilinear")
    assert torch.equal(encoder(large), encoder(small))


def test_equal_networks_become_one(inputs: dict[str, Tensor]) -> None:
    """Four copies of an image encoder, one of which differs in one number."""
    ss, slat = (random(lambda p=p: ConditionFuser(settings(p))) for p in (False, True))
    assert isinstance(ss, ConditionFuser)
    assert isinstance(slat, ConditionFuser)
    encoders = [*ss.image_encoders(), *slat.image_encoders()]
    for encoder in encoders[1:]:
        encoder.backbone.load_state_dict(encoders[0].backbone.state_dict())
    encoders[2].backbone.mask_token[0, 3] += 1
    before = ss(**inputs), slat(**inputs)
    assert share_equal(encoders) == 2
    assert encoders[0].backbone is encoders[1].backbone is encoders[3].backbone is not encoders[2].backbone
    assert all(map(torch.equal, (ss(**inputs), slat(**inputs)), before))
    assert share_equal(encoders) == 2
    assert len(ss.state_dict()) == len(random(lambda: ConditionFuser(settings())).state_dict())


def test_networks_without_weights_are_shared_by_those_of_their_files() -> None:
    with torch.device("meta"):
        encoders = [ImageEncoder(EncoderSettings(VIT, SIZE)) for _ in range(3)]
    assert share_equal(encoders) == 3, "nothing is known of weights that are not there"
    files = [{"norm.weight": torch.tensor([value])} for value in (1.0, torch.nan, torch.nan)]
    assert share_equal(encoders, files) == 2
    assert encoders[1].backbone is encoders[2].backbone


def test_published_sizes() -> None:
    """Tensors, parameters and tokens of both embedders, on the meta device."""
    with torch.device("meta"):
        ss, slat = ConditionFuser(PUBLISHED_SS), ConditionFuser(PUBLISHED_SLAT)
        inputs = {name: torch.empty(1, 3, 518, 518) for part in (GROUPS[0], POINT_GROUPS) for name, _ in part}
        inputs |= {name: torch.empty(1, 1, 518, 518) for name, _ in GROUPS[1]}
    sizes = [sum(p.numel() for p in fuser.parameters()) for fuser in (ss, slat)]
    assert [len(fuser.state_dict()) for fuser in (ss, slat)] == [722, 699]
    assert [round(size / 1e6, 2) for size in sizes] == [634.49, 626.05]
    assert ss.state_dict()["projection_nets.2.1.w1.weight"].shape == (2816, 512)
    assert ss(**inputs).shape == (1, 7528, 1024)
    assert slat(**inputs).shape == (1, 5496, 1024)
