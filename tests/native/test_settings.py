"""Settings from yaml files: the published ones give the published values, and what is not implemented is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from fast_sam3d.errors import CheckpointError
from fast_sam3d.native.settings import PUBLISHED, NativeSettings
from fast_sam3d.native.vit import ViTConfig
from tests.stock.native import published


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path)


def write(folder: Path) -> Path:
    for name, settings in {"pipeline": published.pipeline(), **published.networks()}.items():
        OmegaConf.save(OmegaConf.create(settings), folder / f"{name}.yaml")
    return folder


def edit(folder: Path, name: str, key: str, value: Any) -> None:
    """Sets one value; `key` with dots, and list items by their number."""
    path = folder / f"{name}.yaml"
    content = OmegaConf.to_container(OmegaConf.load(path))
    node: Any = content
    *outer, last = key.split(".")
    for part in outer:
        node = node[int(part)] if isinstance(node, list) else node[part]
    node[int(last) if isinstance(node, list) else last] = value
    OmegaConf.save(OmegaConf.create(content), path)


def test_reads_sizes_of_every_network(folder: Path) -> None:
    found = NativeSettings.read(folder)
    assert (found.ss_flow.model_channels, found.ss_flow.num_blocks, found.ss_flow.resolution) == (32, 2, 16)
    assert (found.slat_flow.io_channels, found.slat_flow.resolution, found.slat_flow.share_mod) == (16, 32, False)
    vit = ViTConfig(32, 2, 2, grid=4)
    assert [part.vit for part, _ in found.ss_embedder.parts[:2]] == [vit, vit]
    assert [part.prenorm for part, _ in found.slat_embedder.parts] == [True, True]
    assert found.ss_embedder.parts[2][0].channels == 16
    assert found.ss_embedder.parts[2][1] == (("pointmap", "cropped"), ("rgb_pointmap", "full"))
    assert found.ss_decoder.channels == (16, 8)
    assert (found.slat_decoder_mesh.model_channels, found.slat_decoder_mesh.mlp_ratio) == (256, 2.0)
    assert (found.slat_decoder_gs.num_gaussians, found.slat_decoder_gs_4.num_gaussians) == (4, 2)
    assert found.slat_decoder_gs.rates == (1.0, 1.0, 1.0, 0.1, 1.0)
    assert found.preprocessor.size == published.PIXELS
    assert found.half_torsos == PUBLISHED.half_torsos


def test_pipeline_takes_precedence_over_the_generators_steps_and_guidance(folder: Path) -> None:
    # Traps: the yaml of the generators says 2 and 12 steps, strength 2 and 0; the code's defaults say 3 and 5.
    content = published.pipeline()
    for name in ("ss_inference_steps", "slat_inference_steps"):
        del content[name]
    OmegaConf.save(OmegaConf.create(content), folder / "pipeline.yaml")
    found = NativeSettings.read(folder)
    ss, slat = found.ss_sampling, found.slat_sampling
    assert (ss.inference_steps, ss.cfg_strength, ss.cfg_interval, ss.rescale_t) == (25, 7.0, (0.0, 500.0), 3.0)
    assert (slat.inference_steps, slat.cfg_strength, slat.cfg_interval, slat.rescale_t) == (25, 1.0, (0.0, 500.0), 1.0)


def test_mean_and_deviation_of_the_latent_come_from_the_file(folder: Path) -> None:
    edit(folder, "pipeline", "slat_mean", [float(n) for n in range(8)])
    assert NativeSettings.read(folder).slat_mean == (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0)
    content = published.pipeline()
    del content["slat_std"]
    OmegaConf.save(OmegaConf.create(content), folder / "pipeline.yaml")
    with pytest.raises(CheckpointError, match=r"pipeline\.yaml has no slat_std"):
        NativeSettings.read(folder)


def test_published_sizes_are_the_defaults(folder: Path) -> None:
    """With every size of the test's files replaced by the published one, the defaults of `NativeSettings` result."""
    wide = {"model_channels": 1024, "cond_channels": 1024, "num_blocks": 24, "num_heads": 16}
    for name in ("ss_generator", "slat_generator"):
        for key, value in wide.items():
            edit(folder, name, f"module.generator.backbone.reverse_fn.backbone.{key}", value)
        for number in range(2):
            edit(folder, name, f"module.condition_embedder.backbone.embedder_list.{number}.0.backbone_kwargs", None)
            edit(folder, name, f"module.condition_embedder.backbone.embedder_list.{number}.0.input_size", 518)
    points = "module.condition_embedder.backbone.embedder_list.2.0"
    edit(folder, "ss_generator", f"{points}.embed_dim", 512)
    edit(folder, "ss_generator", f"{points}.input_size", 256)
    latents = "module.generator.backbone.reverse_fn.backbone.latent_mapping"
    for name in ("shape", "6drotation_normalized", "scale", "translation", "translation_scale"):
        for key in ("model_channels", "pos_embedder.model_channels"):
            edit(folder, "ss_generator", f"{latents}.{name}.{key}", 1024)
    backbone = "module.generator.backbone.reverse_fn.backbone"
    edit(folder, "slat_generator", f"{backbone}.io_block_channels", [128])
    edit(folder, "slat_generator", f"{backbone}.resolution", 64)
    edit(folder, "ss_decoder", "channels", [512, 128, 32])
    trunk = {"model_channels": 768, "num_blocks": 12, "num_heads": 12, "mlp_ratio": 4, "resolution": 64}
    for name, gaussians in {"slat_decoder_mesh": None, "slat_decoder_gs": 32, "slat_decoder_gs_4": 4}.items():
        for key, value in trunk.items():
            edit(folder, name, key, value)
        if gaussians is not None:
            edit(folder, name, "representation_config.num_gaussians", gaussians)
    for stage in ("ss", "slat"):
        for kind in ("img", "mask", *(["pointmap"] if stage == "ss" else [])):
            edit(folder, "pipeline", f"{stage}_preprocessor.{kind}_transform.transforms.1.size", 518)
    for key in ("ss_inference_steps", "slat_inference_steps"):
        edit(folder, "pipeline", key, 25)
    assert NativeSettings.read(folder) == PUBLISHED


SS, SLAT = "module.generator.backbone", "module.generator.backbone.reverse_fn.backbone"
REFUSED = [
    ("pipeline", "pose_decoder_name", "default", "ScaleShiftInvariant"),
    ("pipeline", "clip_pointmap_beyond_scale", 3.0, "None"),
    ("pipeline", "ss_condition_input_mapping", ["image"], r"\[\]"),
    ("pipeline", "depth_model._target_", "other.Depth", "depth_models.moge.MoGe"),
    ("pipeline", "ss_preprocessor.pointmap_normalizer.use_scene_scale", False, "True"),
    ("pipeline", "slat_preprocessor.img_mask_joint_transform.0.box_size_factor", 1.6, "1.2"),
    ("pipeline", "ss_preprocessor.img_transform.transforms.1.size", 224, "one size"),
    ("pipeline", "dtype", "float64", "float16"),
    ("pipeline", "decode_formats", ["radiance_field"], "gaussian"),
    ("ss_generator", f"{SS}._target_", "sam3d_objects.x.ShortCut_faster", "model.ShortCut"),
    ("ss_generator", f"{SS}.solver_method", "midpoint", "euler"),
    ("ss_generator", f"{SS}.time_scale", 1.0, "1000.0"),
    ("ss_generator", f"{SS}.reverse_fn.unconditional_handling", "zeros", "add_flag"),
    ("ss_generator", f"{SLAT}.pe_mode", "rope", "ape"),
    ("ss_generator", f"{SLAT}.share_mod", True, "False"),
    ("ss_generator", f"{SLAT}.qk_rms_norm_cross", True, "False"),
    ("ss_generator", f"{SLAT}.patch_size", 2, "1"),
    ("ss_generator", f"{SLAT}.is_shortcut_model", False, "True"),
    ("ss_generator", f"{SLAT}.latent_mapping.shape.pos_embedder.patch_size", 2, "1"),
    ("ss_generator", f"{SLAT}.latent_mapping.scale.in_channels", 1, "3"),
    ("ss_generator", "module.condition_embedder.backbone.compression_projection_multiplier", 2.0, "0"),
    ("ss_generator", "module.condition_embedder.backbone.embedder_list.2.0.remap_output", "exp", "linear"),
    ("ss_generator", "module.condition_embedder.backbone.embedder_list.0.0.repo_or_dir", "a/b", "facebookresearch"),
    ("slat_generator", f"{SLAT}.use_skip_connection", False, "True"),
    ("slat_generator", f"{SLAT}.io_block_channels", [64, 128], "one width"),
    ("ss_decoder", "norm_type", "group", "layer"),
    ("slat_decoder_mesh", "attn_mode", "full", "swin"),
    ("slat_decoder_mesh", "qk_rms_norm", True, "False"),
    ("slat_decoder_mesh", "representation_config.use_color", False, "True"),
    ("slat_decoder_gs", "representation_config.scaling_activation", "exp", "softplus"),
    # Sizes that would be allocated, or counted to.
    ("pipeline", "slat_mean", [1e308] * 8, "at most 1e.06"),
    ("pipeline", "ss_inference_steps", 10**9, "from 1 to 1000"),
    ("pipeline", "ss_preprocessor.img_mask_pointmap_joint_transform.1.box_size_factor", 1e5, "0.1 to 8.0"),
    ("ss_generator", f"{SLAT}.num_blocks", 4096, "from 1 to 128"),
    ("slat_generator", f"{SLAT}.model_channels", 10**12, "from 1 to 4096"),
    ("slat_decoder_mesh", "resolution", 4096, "from 1 to 256"),
    ("ss_decoder", "num_res_blocks", 4096, "from 1 to 32"),
    ("ss_generator", "module.condition_embedder.backbone.embedder_list", [[{}, []]] * 9, "at most 8 encoders"),
    ("ss_generator", "module.condition_embedder.backbone.force_drop_modalities", 5, "list of names"),
    ("ss_generator", "module.condition_embedder.backbone.embedder_list.1.1", [["depth", None]], r"an input \(image"),
]


@pytest.mark.parametrize(("name", "key", "value", "supported"), REFUSED, ids=[f"{n}.{k}" for n, k, *_ in REFUSED])
def test_values_that_are_not_implemented_are_refused_by_name(
    folder: Path, name: str, key: str, value: Any, supported: str
) -> None:
    edit(folder, name, key, value)
    with pytest.raises(CheckpointError, match=supported) as caught:
        NativeSettings.read(folder)
    last = key.rpartition(".")[2]
    assert f"{name}.yaml" in str(caught.value) and last in str(caught.value) and "implements" in str(caught.value)


UNBUILDABLE = [
    ("module.condition_embedder.backbone.embedder_list.0.0.input_size", 30, "not a multiple of"),
    ("module.condition_embedder.backbone.embedder_list.0.0.backbone_kwargs.num_heads", 3, "not a multiple of"),
    ("module.condition_embedder.backbone.embedder_list.2.0.embed_dim", 24, "multiple of 16"),
    ("module.condition_embedder.backbone.projection_net_hidden_dim_multiplier", 1000, "multiplier must be at most 64"),
    ("module.condition_embedder.backbone.embedder_list", [], "needs an encoder"),
    (f"{SLAT}.mlp_ratio", 1000, "mlp_ratio must be at most 64"),
]


@pytest.mark.parametrize(("key", "value", "words"), UNBUILDABLE, ids=[key for key, *_ in UNBUILDABLE])
def test_sizes_that_do_not_fit_each_other_are_refused(folder: Path, key: str, value: Any, words: str) -> None:
    edit(folder, "ss_generator", key, value)
    with pytest.raises(CheckpointError, match=f"cannot be built: .*{words}"):
        NativeSettings.read(folder)


UNKNOWN = [
    ("pipeline", "novelty"),
    ("pipeline", "ss_preprocessor.novelty"),
    ("ss_generator", f"{SS}.novelty"),
    ("ss_generator", f"{SS}.reverse_fn.novelty"),
    ("ss_generator", f"{SLAT}.novelty"),
    ("ss_generator", "module.condition_embedder.backbone.novelty"),
    ("ss_generator", "module.condition_embedder.backbone.embedder_list.0.0.novelty"),
    ("slat_generator", f"{SLAT}.novelty"),
    ("ss_decoder", "novelty"),
    ("slat_decoder_mesh", "novelty"),
    ("slat_decoder_gs", "representation_config.novelty"),
]


@pytest.mark.parametrize(("name", "key"), UNKNOWN, ids=[f"{n}.{k}" for n, k in UNKNOWN])
def test_unknown_keys_are_refused(folder: Path, name: str, key: str) -> None:
    edit(folder, name, key, 1)
    with pytest.raises(CheckpointError, match="novelty = 1, a setting that the native runtime does not know"):
        NativeSettings.read(folder)


def test_keys_of_training_have_no_effect(folder: Path) -> None:
    before = NativeSettings.read(folder)
    edit(folder, "ss_generator", f"{SS}.self_consistency_prob", 0.5)
    edit(folder, "ss_generator", "module.optimizer", {"lr": 1})
    edit(folder, "ss_generator", "tdfy", {"any": "thing"})
    edit(folder, "pipeline", "compile_model", False)
    edit(folder, "pipeline", "layout_post_optimization_method", {"_target_": "any"})
    assert NativeSettings.read(folder) == before


def test_settings_that_do_not_belong_together_are_refused(folder: Path) -> None:
    edit(folder, "slat_decoder_gs", "latent_channels", 4)
    with pytest.raises(CheckpointError, match="do not belong together"):
        NativeSettings.read(folder)


def test_a_pipeline_without_the_small_gaussian_decoder_is_accepted(folder: Path) -> None:
    content = published.pipeline()
    del content["slat_decoder_gs_4_config_path"], content["slat_decoder_gs_4_ckpt_path"]
    OmegaConf.save(OmegaConf.create(content), folder / "pipeline.yaml")
    found = NativeSettings.read(folder)
    assert found.slat_decoder_gs_4 is None and "slat_decoder_gs_4" not in found.weights


def test_interpolations_are_not_resolved(folder: Path) -> None:
    edit(folder, "pipeline", "ss_decoder_ckpt_path", "${oc.env:HOME}/x")
    with pytest.raises(CheckpointError, match="written out"):
        NativeSettings.read(folder)
