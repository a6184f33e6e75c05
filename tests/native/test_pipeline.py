"""Runs of the native pipeline at tiny sizes: inputs, results, errors."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from PIL import Image

from fast_sam3d.adapters import adapt
from fast_sam3d.errors import FastSam3dError, InputError
from fast_sam3d.native.pipeline import NativePipeline
from tests.beds import differing, tensors
from tests.minis import picture, rgba
from tests.native.tiny import NATIVE, SETTINGS, SIDE, FakeDepth, random_parts


@pytest.fixture(scope="module")
def shared() -> NativePipeline:
    return NATIVE.build()


@pytest.fixture
def pipeline(shared: NativePipeline) -> Iterator[NativePipeline]:
    steps = shared.ss_inference_steps
    yield shared
    assert shared.generator("ss").inference_steps == steps


def plane(height: int = 48, width: int = 64) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(1, -1, height), torch.linspace(1, -1, width), indexing="ij")
    return torch.stack([x, y, 3 + 0.5 * x], dim=-1)


def test_results_have_the_stock_keys(pipeline: NativePipeline) -> None:
    formats = ["mesh", "gaussian", "gaussian_4"]
    result = pipeline.run(rgba(), seed=0, decode_formats=formats)
    leaves = {"shape", "6drotation_normalized", "scale", "translation", "translation_scale"}
    facts = {"coords", "coords_original", "downsample_factor", "rotation", "pointmap", "pointmap_colors"}
    assert result.keys() == leaves | facts | {"mesh", "gaussian", "gaussian_4", "glb", "gs", "gs_4"}
    assert result["gs"] is result["gaussian"][0] and result["gs_4"] is result["gaussian_4"][0]
    assert len(result["glb"].faces) == len(result["mesh"][0].faces) > 0
    assert result["pointmap"].shape == result["pointmap_colors"].shape == (48, 64, 3)


def test_stage1_only_gives_the_lower_corners_of_voxels(pipeline: NativePipeline) -> None:
    result = pipeline.run(rgba(), seed=0, stage1_only=True)
    assert "gaussian" not in result
    assert torch.equal(result["voxel"], result["coords"][:, 1:] / SIDE - 0.5)


def test_a_mask_may_be_separate_and_of_any_kind(pipeline: NativePipeline) -> None:
    image, mask = picture()
    expected = NATIVE.run(pipeline)
    for given in (mask, mask.astype(np.uint8), mask.astype(np.uint8) * 255, Image.fromarray(mask)):
        assert differing(tensors(pipeline.run(image, given, seed=0, decode_formats=["gaussian"])), expected) == set()


def test_soft_borders_of_a_mask_are_kept(pipeline: NativePipeline) -> None:
    soft = rgba()
    soft[20:24, 28:32, 3] = 130
    merged = pipeline.merge_image_and_mask(Image.fromarray(soft))
    assert np.array_equal(merged, soft)
    assert np.array_equal(pipeline.merge_image_and_mask(soft[..., :3], soft[..., 3]), soft)


def test_voxels_that_are_surrounded_by_others_are_dropped(pipeline: NativePipeline) -> None:
    with mock.patch.object(
        pipeline.models["ss_decoder"].out_layer[-1], "bias", torch.nn.Parameter(torch.ones(1) * 1e4)
    ):
        result = pipeline.run(rgba(), seed=0, stage1_only=True)
    assert len(result["coords_original"]) == SIDE**3
    assert len(result["coords"]) == SIDE**3 - (SIDE - 2) ** 3


def test_merged_voxels_make_the_object_larger(pipeline: NativePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = NATIVE.run(pipeline)
    monkeypatch.setattr("fast_sam3d.model.common.limited_voxels", lambda coords: (coords, 2))
    result = NATIVE.run(pipeline)
    assert differing(result, expected) == {"scale", "downsample_factor"}
    assert torch.equal(result["scale"], 2 * expected["scale"])


def test_a_pointmap_takes_the_place_of_the_depth_model(pipeline: NativePipeline) -> None:
    with mock.patch.object(pipeline, "depth_model", None):
        result = pipeline.run(rgba(), seed=0, stage1_only=True, pointmap=plane(24, 32))
        assert result["pointmap"].shape == (48, 64, 3)
        with pytest.raises(InputError, match="no depth model: give a pointmap"):
            pipeline.run(rgba(), seed=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image": np.zeros((48, 64, 3), np.uint8)}, "there is no mask"),
        ({"image": np.zeros((48, 64, 4), np.uint8)}, "the mask is empty"),
        ({"image": np.zeros((48, 64, 4))}, "of uint8"),
        ({"mask": np.ones((4, 4), bool)}, "give the mask at the picture's size"),
        ({"pointmap": np.zeros((48, 64))}, r"give \[height, width, 3\]"),
        ({"pointmap": np.zeros((64, 48, 3))}, "make it from that picture"),
        ({"decode_formats": ["voxels"]}, "voxels"),
        ({"stage1_inference_steps": 0}, "at least 1"),
        ({"estimate_plane": True}, "estimates no planes"),
    ],
)
def test_what_cannot_be_used_is_refused(pipeline: NativePipeline, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipeline.run(**{"image": rgba(), "seed": 0, **change})


@pytest.mark.parametrize(
    ("place", "message"),
    [("ss_decoder", "not finite"), ("slat_generator", "latent is not finite"), ("slat_decoder_gs", "gaussian is not")],
)
def test_numbers_that_are_not_finite_are_no_result(pipeline: NativePipeline, place: str, message: str) -> None:
    def spoil(module: Any, args: Any, output: Any) -> Any:
        if place == "slat_decoder_gs":
            output[0]._xyz[0] = torch.nan
            return output
        return output * torch.nan

    hook = pipeline.models[place].register_forward_hook(spoil)
    try:
        with pytest.raises(FastSam3dError, match=message):
            NATIVE.run(pipeline)
    finally:
        hook.remove()


def test_distillation_gives_the_step_size_and_no_guidance(pipeline: NativePipeline) -> None:
    seen: list[tuple[float, bool]] = []
    network = pipeline.generator("ss").guidance.backbone
    hook = network.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((float(kwargs["d"]), "cfg" in kwargs)), with_kwargs=True
    )
    try:
        pipeline.run(rgba(), seed=0, stage1_only=True, stage1_inference_steps=4, use_stage1_distillation=True)
        assert seen == [(250.0, False)] * 4
        seen.clear()
        pipeline.run(rgba(), seed=0, stage1_only=True, stage1_inference_steps=2)
        assert seen == [(0.0, False), (0.0, True)] * 2  # t = 0 and 0.25
    finally:
        hook.remove()


def test_the_structured_latent_is_scaled_and_solved_as_the_settings_say(pipeline: NativePipeline) -> None:
    solved: list[torch.Tensor] = []
    calls: list[bool] = []
    generator = pipeline.generator("slat")
    hooks = [
        generator.register_forward_hook(lambda module, args, out: solved.append(out[0])),
        pipeline.models["slat_decoder_gs"].register_forward_pre_hook(lambda module, args: solved.append(args[0].feats)),
        generator.guidance.backbone.register_forward_pre_hook(
            lambda module, args, kwargs: calls.append("cfg" in kwargs), with_kwargs=True
        ),
    ]
    pipeline.run(rgba(), seed=0, decode_formats=["gaussian"])
    for hook in hooks:
        hook.remove()
    latent, decoded = solved
    assert torch.equal(decoded, latent * torch.tensor(SETTINGS.slat_std) + torch.tensor(SETTINGS.slat_mean))
    assert (calls.count(False), calls.count(True)) == (8, 5)  # guided at t = 0 to 0.5
    assert generator.guidance.strength == SETTINGS.slat_sampling.cfg_strength == 1.0


def test_meshes_that_are_not_processed_are_announced(
    pipeline: NativePipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "fast_sam3d"):
        pipeline.run(rgba(), seed=0, decode_formats=["mesh"], with_mesh_postprocess=False)
    assert "nor bakes textures: glb has vertex colours" in caplog.text


def test_the_refined_pose_is_a_result(pipeline: NativePipeline) -> None:
    result = pipeline.run(rgba(), seed=0, decode_formats=["gaussian"], with_layout_postprocess=True)
    assert result["layout_refinement"]["by"] == "fast_sam3d"


def test_weights_are_loaded_stage_by_stage() -> None:
    """Each block names its networks, and nothing else is used in it."""
    parts = random_parts()
    pipeline = NativePipeline(SETTINGS, parts, depth_model=FakeDepth())
    pipeline.models["ss_decoder"].out_layer[-1].bias.fill_(1e4)
    for part in parts.values():
        part.file = {key: value.clone() for key, value in part.module.state_dict().items()}
        part.release()
    order: list[str] = []

    class Loading:
        def __init__(self, *names: str, stage: str = "") -> None:
            self.parts = [parts[name] for name in names if name in parts]
            order.append(stage)

        def __enter__(self) -> None:
            for part in self.parts:
                part.load(torch.device("cpu"), None)

        def __exit__(self, *error: object) -> None:
            for part in self.parts:
                part.release()

    with mock.patch.object(pipeline, "using", Loading):
        pipeline.run(rgba(), seed=0, decode_formats=["gaussian", "mesh"])
    assert order == [
        "depth_model", "ss_condition_embedder", "ss_generator", "ss_decoder", "slat_condition_embedder",
        "slat_generator", "decoders", "slat_decoder_mesh", "slat_decoder_gs",
    ]  # fmt: skip


def test_weights_of_a_replaced_depth_model_are_not_loaded(pipeline: NativePipeline) -> None:
    with mock.patch.object(pipeline, "using", wraps=pipeline.using) as used:
        pipeline.compute_pointmap(rgba())
        assert used.call_args.args == ("depth_model",)
        with mock.patch.object(pipeline, "depth_model", FakeDepth()):
            pipeline.compute_pointmap(rgba())
        assert used.call_args.args == ("",)


def test_the_adapter_finds_every_part(pipeline: NativePipeline) -> None:
    adapter = adapt(pipeline)
    assert adapter.formats == {"mesh", "gaussian", "gaussian_4"}
    assert adapter.network_calls("ss") == (8, 7) and adapter.network_calls("slat") == (8, 5)
    assert len(list(adapter.encoders())) == 5
    assert len(list(adapter.cross_attentions("ss"))) == 4 and len(list(adapter.cross_attentions("slat"))) == 2
    assert [name for name, _, compiled in adapter.sparse_networks() if not compiled] == [
        "slat", "mesh decoder", "gaussian decoder", "gaussian_4 decoder",
    ]  # fmt: skip
