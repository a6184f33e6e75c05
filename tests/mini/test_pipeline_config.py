"""Pipeline settings: what they refuse, and their way through YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from fast_sam3d.errors import CheckpointError
from fast_sam3d.mini.config import EmbedderConfig
from fast_sam3d.mini.pipeline_config import PipelineConfig, SamplingConfig, from_mapping, to_mapping
from fast_sam3d.mini.slat_config import MeshDecoderConfig


def test_yaml_round_trip(tmp_path: Path) -> None:
    config = PipelineConfig(
        slat_embedder=None,
        slat_decoder_mesh=MeshDecoderConfig(upsample_channels=(8, 4)),
        ss_sampling=SamplingConfig(inference_steps=7, cfg_interval=(1.0, 2.0)),
        layout_mean={**PipelineConfig().layout_mean, "scale": (0.25, -1e-7, 3.0)},
        slat_std=(0.1,) * 8,
        decode_formats=("gaussian",),
    )
    config.save(tmp_path)
    assert PipelineConfig.load(tmp_path) == config
    assert [path.name for path in tmp_path.iterdir()] == ["pipeline.yaml"]


def test_absent_keys_keep_their_defaults() -> None:
    config = from_mapping(PipelineConfig, {"ss_flow": {"num_blocks": 3}})
    assert config.ss_flow.num_blocks == 3
    assert config.ss_flow.model_channels == PipelineConfig().ss_flow.model_channels


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
    ],
)
def test_bad_settings_are_refused(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_mapping(PipelineConfig, change)


@pytest.mark.parametrize("content", [None, "ss_flow: [", "- 1", "ss_flow: {num_blocks: x}", "\x00"])
def test_an_unusable_file_is_one_clear_error(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "pipeline.yaml").write_text(content)
    with pytest.raises(CheckpointError, match=r"pipeline\.yaml.*reinstall"):
        PipelineConfig.load(tmp_path)


def test_mapping_is_plain() -> None:
    mapping = to_mapping(PipelineConfig(ss_embedder=EmbedderConfig(num_blocks=0)))
    assert mapping["ss_embedder"]["num_blocks"] == 0
    assert isinstance(mapping["slat_mean"], list)
