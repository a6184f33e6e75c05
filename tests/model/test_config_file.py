"""Pipeline settings: invalid values, and the YAML round trip."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fast_sam3d.errors import CheckpointError
from fast_sam3d.model.config import EmbedderConfig
from fast_sam3d.model.config_file import ModelConfig, SamplingConfig, from_mapping, to_mapping
from fast_sam3d.model.slat_config import MeshDecoderConfig


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = ModelConfig(
        slat_embedder=None,
        slat_decoder_mesh=MeshDecoderConfig(upsample_channels=(8, 4)),
        ss_sampling=SamplingConfig(inference_steps=7, cfg_interval=(1.0, 2.0)),
        layout_mean={**ModelConfig().layout_mean, "scale": (0.25, -1e-7, 3.0)},
        slat_std=(0.1,) * 8,
        decode_formats=("gaussian",),
    )
    config.save(tmp_path)
    assert ModelConfig.load(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_missing_keys_keep_their_defaults() -> None:
    config = from_mapping(ModelConfig, {"ss_flow": {"num_blocks": 3}})
    assert config.ss_flow.num_blocks == 3
    assert config.ss_flow.model_channels == ModelConfig().ss_flow.model_channels


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ss_flw": {}}, "ss_flow"),
        ({"ss_flow": {"num_blcks": 3}}, "num_blocks"),
        ({"ss_flow": 3}, "mapping"),
        ({"ss_flow": {"cond_channels": 96}}, "cond_channels"),
        ({"ss_flow": {"resolution": 16}}, "latent grid"),
        ({"slat_flow": {"resolution": 64}}, "resolution"),
        ({"slat_decoder_mesh": {"latent_channels": 4}}, "latent_channels"),
        ({"slat_std": [0.0] * 8}, "positive"),
        ({"slat_mean": [0.0] * 7}, "latent_channels|length"),
        ({"layout_mean": {"scale": [0.0]}}, "layout_mean"),
        ({"decode_formats": ["mehs"]}, "mesh"),
        ({"ss_sampling": {"inference_steps": 0}}, "inference_steps"),
        ({"ss_sampling": {"cfg_interval": [500, 0]}}, "cfg_interval"),
        ({"ss_sampling": {"rescale_t": 0}}, "rescale_t"),
        ({"ss_sampling": {"cfg_strength": -1}}, "cfg_strength"),
        ({"ss_sampling": {"cfg_strength": float("nan")}}, "ss_sampling.cfg_strength.*finite"),
        ({"ss_sampling": {"cfg_strength": 10**400}}, "ss_sampling.cfg_strength.*finite"),
        ({"ss_sampling": {"cfg_interval": [0]}}, "cfg_interval.*list of 2"),
        ({"ss_sampling": {"inference_steps": 2.5}}, "inference_steps.*whole"),
        ({"ss_flow": {"share_mod": 1}}, "ss_flow.share_mod.*true or false"),
        ({"ss_flow": {"num_blocks": True}}, "ss_flow.num_blocks.*whole"),
        ({"ss_flow": {"model_channels": 192000}}, "ss_flow.model_channels.*4096"),
        ({"layout_mean": 3}, "layout_mean.*mapping"),
        ({"slat_mean": [None] * 8}, "slat_mean.0..*number"),
        ({"decode_formats": "mesh"}, "decode_formats.*list"),
        ({"decode_formats": ["gaussian_4"], "slat_decoder_gs_4": None}, "gaussian_4"),
        ({"downsample_ss_dist": -1}, "downsample_ss_dist"),
    ],
)
def test_invalid_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(ModelConfig, change)


def test_nan_guidance_strength_is_refused() -> None:
    with pytest.raises(ValueError, match="cfg_strength"):
        SamplingConfig(cfg_strength=float("nan"))


def names(tree: dict[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        yield (*prefix, key)
        if isinstance(value, dict):
            yield from names(value, (*prefix, key))


@pytest.mark.parametrize("name", list(names(to_mapping(ModelConfig()))), ids=".".join)
def test_missing_setting_is_named(tmp_path: Path, name: tuple[str, ...]) -> None:
    tree = copy.deepcopy(to_mapping(ModelConfig()))
    *parents, last = name
    node = tree
    for parent in parents:
        node = node[parent]
    del node[last]
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(CheckpointError, match=rf"pipeline\.yaml.*{last}"):
        ModelConfig.load(tmp_path)


def test_truncated_file_is_refused(tmp_path: Path) -> None:
    content = ModelConfig().save(tmp_path).read_bytes()
    for end in range(0, len(content) - 2, 37):
        (tmp_path / "pipeline.yaml").write_bytes(content[:end])
        with pytest.raises(CheckpointError):
            ModelConfig.load(tmp_path)


def test_interrupted_save_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ModelConfig().save(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content",
    [None, "ss_flow: [", "- 1", "ss_flow: {num_blocks: x}", "\x00", "a: !!timestamp x", "[" * 5000, "a: &a [*a]"],
)
def test_unreadable_yaml_is_a_checkpoint_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "pipeline.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"pipeline\.yaml.*reinstall"):
        ModelConfig.load(tmp_path)


def test_mapping_has_plain_types_only() -> None:
    mapping = to_mapping(ModelConfig(ss_embedder=EmbedderConfig(num_blocks=0)))
    assert mapping["ss_embedder"]["num_blocks"] == 0
    assert isinstance(mapping["slat_mean"], list)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ss_flow": {"num_blocks": 4096}}, "num_blocks must be at most 128"),
        ({"ss_embedder": {"num_blocks": 1024}}, "num_blocks must be at most 128"),
        ({"ss_embedder": {"image_size": 4096}}, "image_size must be at most 1024"),
        ({"ss_embedder": {"image_size": 1024}}, "128..2 tokens"),
        ({"ss_flow": {"mlp_ratio": 1e4}}, "mlp_ratio must be at most 64"),
        ({"ss_decoder": {"num_res_blocks": 4096}}, "num_res_blocks must be at most 32"),
        ({"ss_decoder": {"resolution": 4096}}, "resolution must be at most 256"),
        ({"ss_flow": {"resolution": 64}, "ss_decoder": {"resolution": 256}}, "32..3 tokens"),
        ({"slat_flow": {"num_io_blocks": 4096}}, "num_io_blocks must be at most 16"),
        ({"slat_decoder_mesh": {"window_size": 4096}}, "window_size must be at most 256"),
        ({"slat_decoder_mesh": {"upsample_channels": [5000, 5000]}}, "upsample_channels"),
        ({"slat_decoder_gs": {"reach": 1e308}}, "slat_decoder_gs.reach is 1e.308"),
        ({"downsample_ss_dist": 4096}, "downsample_ss_dist must be 0 or more, at most 8"),
        ({"slat_mean": [1e308] * 8}, r"slat_mean\[0\] is 1e.308"),
        ({"ss_sampling": {"inference_steps": 4096}}, "inference_steps .*1000"),
    ],
)
def test_sizes_over_a_limit_are_refused_by_name(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(ModelConfig, change)
