"""MoGe v1 against a slow reference, and its settings."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.native.moge import Head, MoGe, MoGeConfig
from fast_sam3d.native.vit import ViTConfig
from tests.native.small_moge import SMALL, TINY, picture, see_a_scene


def network(config: MoGeConfig = TINY, depth: float = 0.5) -> MoGe:
    torch.manual_seed(0)
    built = MoGe(config).eval().requires_grad_(False)
    see_a_scene(built, depth)
    return built


def place(rows: int, columns: int, size: tuple[int, int]) -> Tensor:
    """[2, rows, columns]: of each pixel of a map that covers a picture, in units of half the picture's diagonal."""
    out, half = torch.empty(2, rows, columns), (size[0] ** 2 + size[1] ** 2) ** 0.5 / 2
    for row in range(rows):
        for column in range(columns):
            out[0, row, column] = ((column + 0.5) / columns - 0.5) * size[1] / half
            out[1, row, column] = ((row + 0.5) / rows - 0.5) * size[0] / half
    return out


def reference(state: dict[str, Tensor], maps: Tensor, size: tuple[int, int], groups: int) -> list[Tensor]:
    """What a head with one residual block per doubling makes of its projected input [C, rows, columns]."""

    def conv(x: Tensor, name: str) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        pad = weight.shape[-1] // 2
        windows = F.pad(x[None], (pad,) * 4, mode="replicate")[0].unfold(1, 2 * pad + 1, 1).unfold(2, 2 * pad + 1, 1)
        return torch.einsum("ihwyx,oiyx->ohw", windows, weight) + bias[:, None, None]

    def norm(x: Tensor, name: str, groups: int) -> Tensor:
        parts = x.reshape(groups, -1)
        parts = (parts - parts.mean(1, keepdim=True)) / (parts.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return parts.view_as(x) * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    x, level = maps, 0
    while f"upsample_blocks.{level}.0.0.weight" in state:
        start = f"upsample_blocks.{level}"
        x = torch.cat([x, place(*x.shape[1:], size)])
        weight = state[f"{start}.0.0.weight"]  # [in, out, 2, 2]
        doubled = torch.einsum("ihw,ioyx->ohywx", x, weight).flatten(3, 4).flatten(1, 2)
        x = conv(doubled + state[f"{start}.0.0.bias"][:, None, None], f"{start}.0.1")
        inner = conv(norm(x, f"{start}.1.layers.0", 1).relu(), f"{start}.1.layers.2")
        x = x + conv(norm(inner, f"{start}.1.layers.3", groups).relu(), f"{start}.1.layers.5")
        level += 1
    x = F.interpolate(x[None], size, mode="bilinear")[0]
    x = torch.cat([x, place(*size, size)])
    return [conv(conv(x, f"output_block.{out}.0").relu(), f"output_block.{out}.2") for out in (0, 1)]


def test_head_equals_the_reference() -> None:
    head = network().head
    features = [torch.randn(1, 2 * 3, TINY.encoder.channels) for _ in head.projects]
    found = head(features, (2, 3), (30, 44))
    maps = sum(
        torch.einsum("nc,oc->on", feature[0], project.weight[:, :, 0, 0]) + project.bias[:, None]
        for feature, project in zip(features, head.projects, strict=True)
    ).view(-1, 2, 3)
    for one, expected in zip(found, reference(dict(head.state_dict()), maps, (30, 44), groups=2), strict=True):
        torch.testing.assert_close(one[0], expected, rtol=1e-4, atol=1e-4)


def test_whole_network_equals_its_parts() -> None:
    """Resized to about the number of patches, normalised, then to whole patches; read by the head at the first size."""
    model, image = network(), picture(50, 80)
    points, mask = model(image[None], 24)
    factor = (24 * 14**2 / (50 * 80)) ** 0.5
    size = int(50 * factor), int(80 * factor)
    seen = F.interpolate(image[None], size, mode="bicubic", antialias=True)
    seen = (seen - model.image_mean) / model.image_std
    fitted = F.interpolate(seen, (size[0] // 14 * 14, size[1] // 14 * 14), mode="bilinear", antialias=True)
    maps = model.head(model.backbone.features(fitted, 2), (size[0] // 14, size[1] // 14), size)
    raw, expected = (F.interpolate(one, (50, 80), mode="bilinear")[0] for one in maps)
    z = raw[2].exp()
    torch.testing.assert_close(points[0], torch.stack([raw[0] * z, raw[1] * z, z], -1))
    torch.testing.assert_close(mask[0], expected[0])


def test_points_project_to_their_pixels() -> None:
    model = network()
    model.head.output_block[1][-1].bias.fill_(0.6)
    found = model.infer(picture(60, 90))
    mask = found["mask"]
    assert mask.dtype is torch.bool and 0.5 < mask.float().mean() < 1
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "points": (60, 90, 3), "intrinsics": (3, 3), "depth": (60, 90), "mask": (60, 90),
    }  # fmt: skip
    assert torch.equal(found["points"].isfinite().all(-1), mask) and torch.equal(found["depth"].isfinite(), mask)
    assert torch.equal(found["points"][..., 2], found["depth"])
    points = found["points"][mask]
    seen = (points @ found["intrinsics"].T)[:, :2] / points[:, 2:]
    rows, columns = mask.nonzero().T
    pixels = torch.stack([(columns + 0.5) / 90, (rows + 0.5) / 60], -1)
    assert (seen - pixels).norm(dim=-1).mean() < 0.05


def test_mean_and_spread_of_colours_are_those_of_the_file() -> None:
    model, image = network(), picture(50, 80)
    other = network()
    other.load_state_dict(
        {**model.state_dict(), "image_mean": torch.zeros(1, 3, 1, 1), "image_std": torch.ones(1, 3, 1, 1)}
    )
    points, _ = model(image[None], 24)
    assert not torch.equal(other(image[None], 24)[0], points)
    shifted = (image[None] - model.image_mean) / model.image_std
    torch.testing.assert_close(other(shifted, 24)[0], points, rtol=1e-3, atol=1e-3)
    assert {"image_mean", "image_std"} < model.state_dict().keys()


def test_resolution_level_is_a_number_of_patches(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = network(replace(TINY, num_tokens_range=(12, 30))), []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda image, tokens: asked.append(tokens) or forward(image, tokens))
    for level in (0, 5, 9):
        model.infer(picture(30, 40), resolution_level=level)
    assert asked == [12, 22, 30]


def test_half_weights_are_multiplied_in_half_and_the_results_are_float32() -> None:
    model, image = network(), picture(50, 80)
    expected = model.infer(image, half=True)
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.half()
    found = model.infer(image)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
    assert {found[name].dtype for name in ("points", "depth", "intrinsics")} == {torch.float32}
    # On a CPU, weights in float32 are multiplied in float32.
    assert not torch.equal(network().infer(image)["points"], found["points"])


def test_an_outer_autocast_has_no_effect() -> None:
    model, image = network(), picture(50, 80)
    expected = model.infer(image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.infer(image)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def test_remaps() -> None:
    image = picture(50, 80)[None]
    raw, _ = network(replace(TINY, remap_output="linear"))(image, 24)
    xy, z = raw[..., :2], raw[..., 2:]
    for remap, expected in {
        "exp": torch.cat([xy * z.exp(), z.exp()], -1),
        "sinh": raw.sinh(),
        "sinh_exp": torch.cat([xy.sinh(), z.exp()], -1),
    }.items():
        torch.testing.assert_close(network(replace(TINY, remap_output=remap))(image, 24)[0], expected)


def test_defaults_are_the_published_settings() -> None:
    published = {
        "encoder": "dinov2_vitl14", "remap_output": "exp", "output_mask": True, "split_head": True,
        "intermediate_layers": 4, "dim_upsample": [256, 128, 64], "dim_times_res_block_hidden": 2, "num_res_blocks": 2,
        "trained_area_range": [250000, 500000], "last_conv_channels": 32, "last_conv_size": 1,
    }  # fmt: skip
    assert MoGeConfig.read(published, "the file") == MoGeConfig()
    with torch.device("meta"):
        built = MoGe()
    assert sum(value.numel() for value in built.state_dict().values()) == pytest.approx(314e6, rel=0.01)
    assert {name for name, _ in built.named_buffers()} == {"image_mean", "image_std"}


def test_values_that_a_file_leaves_out_are_those_of_the_first_version() -> None:
    config = MoGeConfig.read({}, "the file")
    assert config.encoder == ViTConfig.named("dinov2_vitb14")
    assert (config.dim_upsample, config.remap_output, config.num_tokens_range) == (
        (256, 128, 128),
        "linear",
        (1200, 2500),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"encoder": "dinov2_vitg14"}, "model_config.encoder.*dinov2_vitg14.*not implemented"),
        ({"remap_output": True}, "model_config.remap_output = True, which is not implemented"),
        ({"remap_output": []}, "model_config.remap_output"),
        ({"res_block_norm": "batch_norm"}, "model_config.res_block_norm = 'batch_norm'"),
        ({"split_head": False}, "model_config.split_head, of which only True"),
        ({"output_mask": False}, "model_config.output_mask, of which only True"),
        ({"scale_head": 3}, "model_config.scale_head, which is not implemented"),
        ({"dim_upsample": 64}, "model_config.dim_upsample = 64"),
        ({"dim_proj": 0.5}, "model_config.dim_proj = 0.5"),
        ({"trained_area_range": [3]}, "model_config.num_tokens_range"),
        ({"intermediate_layers": [1, "2"]}, "model_config.intermediate_layers"),
        ({"neck": {}}, "MoGe of version 2 or later: give one of version 1"),
        ({"encoder": {"backbone": "dinov2_vitl14"}}, "MoGe of version 2 or later"),
    ],
)
def test_values_that_are_not_implemented_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=f"the file .*{message}"):
        MoGeConfig.read({**SMALL, **change}, "the file")


def test_head_of_several_blocks_by_number() -> None:
    head = Head(replace(TINY, intermediate_layers=(0, 2, 3)))
    assert len(head.projects) == 3
