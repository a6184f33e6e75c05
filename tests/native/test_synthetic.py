"""Random weights whose results have a plausible size."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fast_sam3d.checkpoints import native as natives
from fast_sam3d.checkpoints.load import find_checkpoint, load_pipeline
from fast_sam3d.errors import CheckpointError
from fast_sam3d.native import plans
from fast_sam3d.native.networks import build_networks
from fast_sam3d.native.settings import PUBLISHED
from fast_sam3d.native.synthetic import SyntheticWeights, synthetic_parts
from tests.native.small_moge import TINY as DEPTH
from tests.native.tiny import SETTINGS

CPU = torch.device("cpu")
# Wide enough for the position code, whose waves carry the ball.
WIDE = replace(
    SETTINGS,
    ss_flow=replace(SETTINGS.ss_flow, model_channels=96),
    slat_decoder_mesh=replace(SETTINGS.slat_decoder_mesh, model_channels=256),
    ss_decoder=replace(SETTINGS.ss_decoder, channels=(32, 16)),
)


@pytest.fixture
def much_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "free_bytes", lambda device: 64 << 30)


def picture() -> tuple[Any, Any]:
    image = np.random.default_rng(0).integers(0, 255, (40, 48, 3), dtype=np.uint8)
    mask = np.zeros((40, 48), bool)
    mask[8:30, 10:40] = True
    return image, mask


def test_a_run_yields_a_surface_and_visible_gaussians(much_memory: None) -> None:
    pipeline = natives.load_synthetic(CPU, torch.float32, "auto", WIDE, depth=DEPTH, radius=0.5)
    result = pipeline.run(*picture(), seed=0, decode_formats=["mesh", "gaussian", "gaussian_4"])
    coords = result["coords"][:, 1:].float()
    middle = (pipeline.resolution - 1) / 2
    radius = (coords - middle).norm(dim=1) / (pipeline.resolution / 2)
    assert 50 < len(coords) < 600 and 0.25 < radius.mean() < 0.6
    mesh = result["mesh"][0]
    assert mesh.success and len(mesh.faces) > len(coords)
    reach = mesh.vertices.norm(dim=1) * 2
    assert 0.2 < reach.mean() < 0.6 and reach.std() < 0.2
    for name in ("gaussian", "gaussian_4"):
        gaussians = result[name][0]
        assert gaussians.get_xyz.isfinite().all() and gaussians.get_opacity.mean() > 0.5
        assert 0.001 < gaussians.get_scaling.mean() < 0.1
    for name in ("rotation", "translation", "scale", "pointmap"):
        assert result[name].isfinite().all()


def test_the_depth_model_sees_a_plane() -> None:
    parts, depth = synthetic_parts(SETTINGS, depth=DEPTH)
    parts["depth_model"].load(CPU, None)
    with torch.no_grad():
        points = depth(torch.rand(3, 40, 48))["pointmaps"]
    assert points.isfinite().all() and points[..., 2].std() < 0.2 * points[..., 2].mean()
    assert (points[:, 1:, 0] > points[:, :-1, 0]).all()


def test_the_same_seed_gives_the_same_weights_in_any_order() -> None:
    first, second, other = (synthetic_parts(SETTINGS, seed, depth=DEPTH)[0] for seed in (0, 0, 1))
    for parts in (first, second, other):
        for name in sorted(parts, reverse=parts is second):
            parts[name].load(CPU, None)
    for name in first:
        a, b, c = (parts[name].module.state_dict() for parts in (first, second, other))
        assert all(torch.equal(a[key], b[key]) for key in a)
        assert not all(torch.equal(a[key], c[key]) for key in a)


def test_all_embedders_share_one_image_encoder() -> None:
    parts, _ = synthetic_parts(SETTINGS, depth=DEPTH)
    encoders = [e for name in parts if "embedder" in name for e in parts[name].module.image_encoders()]
    assert len(encoders) == 4 and len({id(encoder.backbone) for encoder in encoders}) == 1


def test_the_published_sizes_are_generated_when_they_are_read() -> None:
    network = build_networks(PUBLISHED)["slat_decoder_gs"]
    source = SyntheticWeights("slat_decoder_gs", network, 0, {})
    with source.opened() as tensors:
        assert tensors["blocks.0.mlp.mlp.0.weight"].shape == (3072, 768)
        assert 0.8 < float(tensors["input_layer.weight"].std()) * 8**0.5 < 1.2


def test_the_tag_builds_the_published_sizes_and_says_that_results_are_noise(
    much_memory: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "fast_sam3d")
    found = find_checkpoint("synthetic", device="cpu")
    assert (found.kind, found.runtime) == ("synthetic", "native")
    pipeline = load_pipeline("synthetic", device="cpu", memory="8GB")
    assert pipeline.settings == PUBLISHED and pipeline.residency.plan.name == "8GB"
    assert "the result is noise" in caplog.text
    with pytest.raises(CheckpointError, match="no synthetic weights"):
        load_pipeline("synthetic", device="cpu", runtime="stock")
    with pytest.raises(CheckpointError, match="neither a depth model nor a copy"):
        load_pipeline("synthetic", device="cpu", half_cache=True)
