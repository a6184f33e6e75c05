"""A few generated objects, and a recipe that trains all stages in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from fast_sam3d.mini.data.samples import write_shard
from fast_sam3d.mini.data.shards import Objects, read
from fast_sam3d.mini.train.loop import TrainingSchedule
from fast_sam3d.mini.train.recipe import Recipe
from fast_sam3d.model.config import EmbedderConfig, SSDecoderConfig, SSEncoderConfig, SSFlowConfig
from fast_sam3d.model.config_file import ModelConfig, SamplingConfig
from fast_sam3d.model.slat_config import GaussianDecoderConfig, MeshDecoderConfig, SLatEncoderConfig, SLatFlowConfig
from tests.model.conftest import scatter, shell  # noqa: F401  (fixtures)

OBJECTS, VIEWS = 4, 2
ARRAYS = ("coords", "sdf", "rgb", "image", "mask", "pointmap", "descriptor", "pose")
WIDTH, HEADS = 24, 2


@pytest.fixture(scope="session")
def shard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with four objects, two views each. Not to be written to."""
    return write_shard(tmp_path_factory.mktemp("data"), range(OBJECTS), VIEWS)


@pytest.fixture(scope="session")
def objects(shard: Path) -> Objects:
    """The contents of `shard`."""
    return read([shard], ARRAYS)


@pytest.fixture
def tiny() -> Recipe:
    """The smallest possible recipe."""
    schedule = TrainingSchedule(steps=4, batch=2, warmup=1, checkpoint=2)
    trunk = {"model_channels": 16, "num_heads": HEADS, "num_blocks": 1}
    return Recipe(
        objects=OBJECTS,
        views=VIEWS,
        ss_vae_objects=OBJECTS,
        slat_vae_objects=OBJECTS,
        slat_objects=OBJECTS,
        ss_vae=schedule,
        slat_vae=schedule,
        ss_flow=schedule,
        slat_flow=schedule,
        ss_encoder=SSEncoderConfig(model_channels=16, num_res_blocks=1),
        slat_encoder=SLatEncoderConfig(model_channels=16, num_blocks=1),
        pipeline=ModelConfig(
            ss_embedder=EmbedderConfig(model_channels=WIDTH, num_heads=HEADS, num_blocks=1),
            ss_flow=SSFlowConfig(model_channels=WIDTH, num_heads=HEADS, num_blocks=1, cond_channels=WIDTH),
            ss_decoder=SSDecoderConfig(model_channels=16, num_res_blocks=1, refine_channels=4),
            slat_embedder=None,
            slat_flow=SLatFlowConfig(
                model_channels=WIDTH, num_heads=HEADS, num_blocks=1, cond_channels=WIDTH, io_channels=8
            ),
            slat_decoder_mesh=MeshDecoderConfig(upsample_channels=(8, 8), **trunk),
            slat_decoder_gs=GaussianDecoderConfig(num_gaussians=1, **trunk),
            slat_decoder_gs_4=GaussianDecoderConfig(num_gaussians=4, **trunk),
            ss_sampling=SamplingConfig(inference_steps=2),
            slat_sampling=SamplingConfig(inference_steps=2),
        ),
    )
