"""The whole embedded pipeline at tiny sizes with random weights: surface, determinism, formats, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fast_sam3d.errors import CheckpointError, FastSam3dError, InputError
from fast_sam3d.geometry.sparse_grid import surface_voxels
from fast_sam3d.model.config import EmbedderConfig, SSDecoderConfig, SSFlowConfig
from fast_sam3d.model.config_file import ModelConfig, SamplingConfig
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.model.slat_config import GaussianDecoderConfig, MeshDecoderConfig, SLatFlowConfig

TRUNK = {"resolution": 16, "model_channels": 16, "num_blocks": 1, "num_heads": 2}
EMBEDDER = EmbedderConfig(image_size=32, model_channels=24, num_blocks=1, num_heads=2)
CONFIG = ModelConfig(
    ss_embedder=EMBEDDER,
    ss_flow=SSFlowConfig(model_channels=24, num_blocks=1, num_heads=2, cond_channels=24, resolution=4),
    ss_decoder=SSDecoderConfig(resolution=16, model_channels=16, num_res_blocks=1, refine_channels=8),
    slat_embedder=EMBEDDER,
    slat_flow=SLatFlowConfig(
        resolution=16, model_channels=24, num_blocks=1, num_heads=2, cond_channels=24, io_channels=8, num_io_blocks=1
    ),
    slat_decoder_mesh=MeshDecoderConfig(**TRUNK, upsample_channels=(8, 8)),
    slat_decoder_gs=GaussianDecoderConfig(**TRUNK, num_gaussians=8),
    slat_decoder_gs_4=GaussianDecoderConfig(**TRUNK, num_gaussians=4),
    ss_sampling=SamplingConfig(inference_steps=4),
    slat_sampling=SamplingConfig(inference_steps=3, cfg_strength=1.0, rescale_t=1.0),
    slat_std=(0.5,) * 8,
    slat_mean=(0.25,) * 8,
)


def build(config: ModelConfig = CONFIG) -> Pipeline:
    """Pipeline with no dead branch: zero-initialised weights are random."""
    pipeline = Pipeline(config)
    generator = torch.Generator().manual_seed(1)
    for network in (pipeline.models, *pipeline.condition_embedders.values()):
        for parameter in network.parameters():
            if not parameter.any():
                parameter.normal_(std=0.3, generator=generator)
    return pipeline


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return build()


@pytest.fixture(scope="module")
def picture() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    mask = np.zeros((48, 64), bool)
    mask[10:40, 15:45] = True
    return rng.integers(0, 256, (48, 64, 3)).astype(np.uint8), mask


def points(distance: float = 3.0) -> np.ndarray:
    """A pointmap [48, 64, 3] of a slanted plane, focal length 1, part of it unknown."""
    v, u = np.mgrid[:48, :64] + 0.5
    z = distance + u / 64
    result = np.dstack([-(u - 32) / 64 * z, -(v - 24) / 64 * z, z]).astype(np.float32)
    result[:5] = np.nan
    return result


def test_result_has_the_stock_keys(pipeline: Pipeline, picture) -> None:
    result = pipeline.run(*picture, seed=0, decode_formats=["mesh", "gaussian", "gaussian_4"])
    count = len(result["coords"])
    assert count > 0
    assert result["coords"].dtype == torch.int32
    assert result["coords"].shape == (count, 4)
    assert result["coords"].max() < 16
    shapes = {name: tuple(result[name].shape) for name in ("rotation", "translation", "scale", "shape")}
    assert shapes == {"rotation": (1, 4), "translation": (1, 3), "scale": (1, 3), "shape": (1, 64, 8)}
    assert {"6drotation_normalized", "translation_scale", "coords_original", "downsample_factor"} <= set(result)
    assert result["pointmap"].shape == result["pointmap_colors"].shape == (48, 64, 3)
    assert result["gs"] is result["gaussian"][0]
    assert result["gs"].get_xyz.shape == (count * 8, 3)
    assert result["gs_4"].get_xyz.shape == (count * 4, 3)
    mesh, glb = result["mesh"][0], result["glb"]
    assert mesh.success
    # The glb is +y up: (x, y, z) -> (x, z, -y).
    low, high = mesh.vertices.amin(0).numpy(), mesh.vertices.amax(0).numpy()
    np.testing.assert_allclose(glb.bounds[0], [low[0], low[2], -high[1]], atol=1e-5)
    np.testing.assert_allclose(glb.bounds[1], [high[0], high[2], -low[1]], atol=1e-5)


def test_same_seed_gives_identical_results(pipeline: Pipeline, picture) -> None:
    first, again, other = (pipeline.run(*picture, seed=s, decode_formats=["gaussian"]) for s in (3, 3, 4))
    for name in ("shape", "rotation", "translation", "scale", "coords"):
        assert torch.equal(first[name], again[name])
    assert torch.equal(first["gs"].get_xyz, again["gs"].get_xyz)
    assert torch.equal(first["gs"]._features_dc, again["gs"]._features_dc)
    assert not torch.equal(first["shape"], other["shape"])


def test_only_the_initial_noise_is_random(pipeline: Pipeline, picture) -> None:
    """Without a seed the default generator is used; a run draws exactly two noises from it."""
    torch.manual_seed(9)
    result = pipeline.run(*picture, decode_formats=["gaussian"])
    after = torch.rand(3)
    torch.manual_seed(9)
    for name, (tokens, channels) in sorted(CONFIG.ss_flow.leaf_shapes.items()):
        torch.randn(1, tokens, channels)
        assert name in result
    torch.randn(1, len(result["coords"]), 8)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize("formats", [[], ["mesh"], ["gaussian"], ["gaussian_4"], ["gaussian_4", "mesh"]])
def test_any_subset_of_formats(pipeline: Pipeline, picture, formats: list[str]) -> None:
    result = pipeline.run(*picture, seed=0, decode_formats=formats)
    assert {name for name in ("mesh", "gaussian", "gaussian_4") if name in result} == set(formats)
    assert (result["glb"] is not None) == ("mesh" in formats)
    assert ("gs" in result, "gs_4" in result) == ("gaussian" in formats, "gaussian_4" in formats)


def test_network_calls_and_steps(pipeline: Pipeline, picture) -> None:
    """4 steps of rescale 3: t = 0, 1/10, 1/4, 1/2, all guided. 3 uniform steps: 0, 1/3 guided, 2/3 not."""
    calls = {"ss": [], "slat": []}
    hooks = [
        pipeline.models[f"{stage}_generator"].reverse_fn.backbone.register_forward_hook(
            lambda _m, args, kwargs, _out, stage=stage: calls[stage].append((args, kwargs)), with_kwargs=True
        )
        for stage in calls
    ]
    try:
        result = pipeline.run(*picture, seed=0, decode_formats=[])
        assert (len(calls["ss"]), len(calls["slat"])) == (8, 5)
        args, kwargs = calls["ss"][1]
        assert kwargs.keys() == {"d", "cfg"}
        assert args[1].shape == (1,)
        (x, t, cond, coords), kwargs = calls["slat"][0]
        assert x.shape == (1, len(result["coords"]), 8)
        assert t.shape == ()
        assert cond.shape == (1, 17, 24)
        assert isinstance(coords, np.ndarray)
        assert coords.dtype == np.int32
        for stored in calls.values():
            stored.clear()
        pipeline.run(*picture, seed=0, decode_formats=[], stage1_inference_steps=2, stage2_inference_steps=1)
        assert (len(calls["ss"]), len(calls["slat"])) == (4, 2)
        calls["ss"].clear()
        pipeline.run(*picture, seed=0, stage1_only=True, use_stage1_distillation=True)
        assert [float(kwargs["d"]) for _, kwargs in calls["ss"]] == [250.0] * 4
        calls["ss"].clear()
        pipeline.run(*picture, seed=0, stage1_only=True)
        assert [float(kwargs["d"]) for _, kwargs in calls["ss"]] == [0.0] * 8
    finally:
        for hook in hooks:
            hook.remove()


def test_stage_one_only(pipeline: Pipeline, picture) -> None:
    result = pipeline.run(*picture, seed=0, stage1_only=True)
    torch.testing.assert_close(result["voxel"], (result["coords"][:, 1:] + 0.5) / 16 - 0.5)
    assert "mesh" not in result
    assert "rotation" in result


def test_slat_is_scaled_for_the_decoders(pipeline: Pipeline, picture) -> None:
    rgba = pipeline.merge_image_and_mask(*picture)
    inputs = pipeline.preprocess_image(rgba, pipeline.slat_preprocessor)
    coords = torch.tensor([[0, 1, 2, 3], [0, 4, 4, 4]], dtype=torch.int32)
    torch.manual_seed(0)
    slat = pipeline.sample_slat(inputs, coords)
    generator = pipeline.models["slat_generator"]
    args, _ = pipeline.get_condition_input(
        pipeline.condition_embedders["slat_condition_embedder"], inputs, pipeline.slat_condition_input_mapping
    )
    torch.manual_seed(0)
    with torch.no_grad():
        raw = generator((1, 2, 8), "cpu", *args, coords.numpy())[0]
    torch.testing.assert_close(slat.feats, raw * 0.5 + 0.25)
    assert torch.equal(slat.coords, coords)


def test_pose_scales_with_the_pointmap(pipeline: Pipeline, picture) -> None:
    """Twice as far and twice as large looks the same but for the descriptor's scale: the pose decoder must follow."""
    near = pipeline.compute_pointmap(pipeline.merge_image_and_mask(*picture), points())
    assert not near["guessed"]
    assert float(near["intrinsics"][0, 0]) == pytest.approx(1.0, rel=1e-4)
    assert float(near["intrinsics"][1, 1]) == pytest.approx(64 / 48, rel=1e-4)
    leaves = {name: torch.zeros(1, *shape) for name, shape in CONFIG.ss_flow.leaf_shapes.items()}
    leaves["6drotation_normalized"] = torch.tensor([[[1.0, 0, 0, 0, 1, 0]]])
    pose = pipeline.pose_decoder(leaves, scene_scale=torch.tensor([2.0]), scene_shift=torch.tensor([[1.0, 2, 3]]))
    torch.testing.assert_close(pose["scale"], torch.full((1, 3), 2.0))
    torch.testing.assert_close(pose["translation"], torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(pose["rotation"], torch.tensor([[1.0, 0.0, 0.0, 0.0]]))
    with_points = pipeline.run(*picture, seed=0, stage1_only=True, pointmap=points())
    guessed = pipeline.run(*picture, seed=0, stage1_only=True)
    assert not torch.equal(with_points["shape"], guessed["shape"])
    assert guessed["pointmap"][0, 0].isnan().all()


def test_custom_depth_model_replaces_the_silhouette_guess(picture) -> None:
    pipeline = build()
    pipeline.depth_model = lambda image, mask: {"pointmaps": torch.from_numpy(points())}
    given = pipeline.run(*picture, seed=0, stage1_only=True, pointmap=points())
    estimated = pipeline.run(*picture, seed=0, stage1_only=True)
    assert torch.equal(given["shape"], estimated["shape"])


def test_huge_pictures_run_in_bounded_memory(pipeline: Pipeline) -> None:
    rgb = np.zeros((40, 5000, 3), np.uint8)
    mask = np.zeros((40, 5000), bool)
    mask[10:30, 100:2000] = True
    result = pipeline.run(rgb, mask, seed=0, stage1_only=True)
    assert result["pointmap"].shape == (13, 1666, 3)


def test_save_and_load(tmp_path: Path, pipeline: Pipeline, picture) -> None:
    pipeline.save_pretrained(tmp_path)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first, second = Pipeline.from_pretrained(tmp_path), Pipeline.from_pretrained(tmp_path)
    assert torch.equal(torch.random.get_rng_state(), before), "loading draws no random numbers"
    assert first.config == CONFIG
    a, b = (p.run(*picture, seed=0, stage1_only=True) for p in (first, second))
    assert torch.equal(a["shape"], b["shape"])
    names = {path.name for path in tmp_path.glob("*.safetensors")}
    assert names == {f"{name}.safetensors" for name in pipeline.models} | {
        "ss_condition_embedder.safetensors",
        "slat_condition_embedder.safetensors",
    }
    (tmp_path / "ss_decoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ss_decoder\.safetensors"):
        Pipeline.from_pretrained(tmp_path)


def test_weights_that_changed_on_disk_are_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / "slat_decoder_gs.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(CheckpointError, match=r"slat_decoder_gs\.safetensors are damaged"):
        Pipeline.from_pretrained(tmp_path)
    (tmp_path / "sha256.json").write_text('{"other.safetensors": "' + "0" * 64 + '"}')
    with pytest.raises(CheckpointError, match="does not list"):
        Pipeline.from_pretrained(tmp_path)
    (tmp_path / "sha256.json").unlink()
    Pipeline.from_pretrained(tmp_path)  # a folder from before there were checksums


def test_invalid_network_sizes_are_refused(tmp_path: Path, pipeline: Pipeline) -> None:
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / "pipeline.yaml"
    path.write_text(path.read_text().replace("window_size: 8", "window_size: 8.5"))
    with pytest.raises(CheckpointError, match=r"pipeline\.yaml.*window_size"):
        Pipeline.from_pretrained(tmp_path)


def test_formats_given_as_a_string_are_refused(pipeline: Pipeline, picture) -> None:
    with pytest.raises(ValueError, match=r"'mesh'.*give a list"):
        pipeline.run(*picture, decode_formats="mesh")


def test_shared_embedder_is_stored_once(tmp_path: Path) -> None:
    config = ModelConfig(**{**vars(CONFIG), "slat_embedder": None, "slat_decoder_gs_4": None})
    pipeline = build(config)
    assert len({id(e) for e in pipeline.condition_embedders.values()}) == 1
    pipeline.save_pretrained(tmp_path)
    assert not (tmp_path / "slat_condition_embedder.safetensors").exists()
    loaded = Pipeline.from_pretrained(tmp_path)
    assert len({id(e) for e in loaded.condition_embedders.values()}) == 1
    with pytest.raises(ValueError, match="gaussian_4"):
        loaded.decode_slat(None, ["gaussian_4"])


def test_invalid_arguments_are_refused_before_sampling(pipeline: Pipeline, picture) -> None:
    image, mask = picture
    cases = [
        ({"decode_formats": ["radiance_field"]}, ValueError, "gaussian"),
        ({"stage1_inference_steps": 0}, ValueError, "at least 1"),
        ({"estimate_plane": True}, ValueError, "plane"),
        ({"mask": None}, InputError, "mask"),
        ({"pointmap": np.full((48, 64, 3), np.nan)}, InputError, "no finite point"),
    ]
    for change, kind, message in cases:
        with pytest.raises(kind, match=message):
            pipeline.run(**{"image": image, "mask": mask, "seed": 0, **change})
    assert pipeline.models["ss_generator"].inference_steps == 4


def test_no_occupied_voxel_is_an_error(picture) -> None:
    pipeline = build()
    pipeline.models["ss_decoder"].forward = lambda latent: torch.full((1, 1, 16, 16, 16), -1.0)
    with pytest.raises(FastSam3dError, match="found no object"):
        pipeline.run(*picture, seed=0)
    assert pipeline.models["ss_generator"].inference_steps == 4


def test_half_precision_is_close_to_float32(picture) -> None:
    exact = build()
    half = Pipeline(CONFIG, dtype=torch.bfloat16)
    half.models.load_state_dict(exact.models.state_dict())
    for name, embedder in exact.condition_embedders.items():
        half.condition_embedders[name].load_state_dict(embedder.state_dict())
    a, b = (p.run(*picture, seed=0, decode_formats=["gaussian"]) for p in (exact, half))
    assert F.cosine_similarity(a["shape"].flatten(), b["shape"].float().flatten(), dim=0) > 0.98
    assert b["gs"].get_xyz.isfinite().all()


def test_interior_voxels_are_dropped() -> None:
    cube = torch.nonzero(torch.ones(1, 5, 5, 5)).int()
    cube[:, 1:] += 2
    kept = surface_voxels(cube, 16, 1)
    assert len(kept) == 125 - 27
    assert len(surface_voxels(cube, 16, 2)) == 124
    whole = torch.nonzero(torch.ones(1, 4, 4, 4)).int()
    assert len(surface_voxels(whole, 4, 1)) == 64 - 8, "the border counts as empty"
