"""A stock pipeline in the published form with small random weights, and its checkpoint folder.

Real embedders (DINOv2's own code must be importable, as that of sam3d_objects), the published preprocessing, guidance
7 with rescaled time, and all decoders. Only the depth model is a fake.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from tests.minis import aim_at_few_voxels, enliven
from tests.stock.native import published
from tests.stock.stand_ins import half_on_cpu, importable

VOXELS = 160

needs_dinov2 = pytest.mark.skipif(importlib.util.find_spec("dinov2") is None, reason="not importable here: dinov2")
"""Marks the tests of this pipeline."""

EMBEDDERS = {"ss_generator": "ss_condition_embedder", "slat_generator": "slat_condition_embedder"}


class FakeDepth:
    """Replaces the depth model: a tilted plane, in MoGe's frame, unknown (infinite) along the top of the picture."""

    def __call__(self, image: Tensor, *rest: Any) -> dict[str, Tensor]:
        _, height, width = image.shape
        y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
        points = torch.stack([x, y, 2 + 0.3 * x + 0.2 * image.mean(0)], dim=-1)
        points[: height // 8] = torch.inf
        return {"pointmaps": points, "intrinsics": torch.eye(3)}


def given_points(height: int = 48, width: int = 64) -> Tensor:
    """A pointmap [H, W, 3] as users give it, unknown (NaN) in a corner."""
    y, x = torch.meshgrid(torch.linspace(1, -1, height), torch.linspace(1, -1, width), indexing="ij")
    points = torch.stack([x, y, 3 + 0.5 * y * x], dim=-1)
    points[: height // 4, : width // 4] = torch.nan
    return points


def random_published(seed: int = 0) -> Any:
    """A pipeline in float32 with no dead branch; its objects have about `VOXELS` voxels."""
    with tempfile.TemporaryDirectory() as name, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_settings(Path(name), half=False)
        pipeline = _stock(Path(name), "float32", weights=False)
        enliven([pipeline.models, *pipeline.condition_embedders.values()])
        with running():
            aim_at_few_voxels(pipeline, VOXELS)
    return pipeline


def from_checkpoint(folder: Path, half: bool = False) -> Any:
    """The stock classes with the weights of a folder, loaded strictly by their own functions.

    Args:
        folder: see `save_checkpoint`.
        half: the published precision, float16; else float32.
    """
    with tempfile.TemporaryDirectory() as name:
        settings = Path(name)
        write_settings(settings, half)
        for file in folder.glob("*.ckpt"):
            (settings / file.name).symlink_to(file.resolve())
        return _stock(settings, "float16" if half else "float32", weights=True)


def save_checkpoint(pipeline: Any, folder: Path) -> Path:
    """Write a pipeline as the published files: pipeline.yaml, a yaml and a .ckpt per network; float32."""
    write_settings(folder, half=True)
    decoder = {
        f"_base_models.decoder.{key}": value for key, value in pipeline.models["ss_decoder"].state_dict().items()
    }
    for name in published.NETWORKS:
        state: dict[str, Any] = dict(pipeline.models[name].state_dict())
        if embedder := EMBEDDERS.get(name):
            parts = {"generator": state, "condition_embedder": pipeline.condition_embedders[embedder].state_dict()}
            weights = {f"_base_models.{part}.{key}": v for part, some in parts.items() for key, v in some.items()}
            state = {"state_dict": {**weights, **(decoder if name == "ss_generator" else {})}}
        torch.save(state, folder / f"{name}.ckpt")
    return folder


@cache
def checkpoint(seed: int = 0) -> Path:
    """A folder with the weights of `random_published(seed)`, shared by the tests of a process."""
    folder = tempfile.TemporaryDirectory(prefix="published")
    _kept.append(folder)
    return save_checkpoint(random_published(seed), Path(folder.name))


_kept: list[Any] = []


def write_settings(folder: Path, half: bool) -> None:
    """pipeline.yaml and the yaml of every network, as `published` has them."""
    from omegaconf import OmegaConf

    for name, settings in {"pipeline": published.pipeline(), **published.networks(half)}.items():
        OmegaConf.save(OmegaConf.create(settings), folder / f"{name}.yaml")


@contextmanager
def running() -> Iterator[None]:
    """A pipeline runs in this block, in either precision; cameras of given pointmaps are not estimated."""
    from sam3d_objects.pipeline import inference_pipeline_pointmap as module

    with (
        half_on_cpu(),
        mock.patch.object(module, "infer_intrinsics_from_pointmap", return_value={"intrinsics": None}),
    ):
        yield


def _stock(folder: Path, dtype: str, weights: bool) -> Any:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    with importable(), mock.patch("torch.hub.load", _backbone):
        from loguru import logger

        logger.disable("sam3d_objects")
        importlib.import_module("torchvision.transforms")  # hydra looks it up as an attribute
        from sam3d_objects.pipeline.inference_pipeline import InferencePipeline

        def build(self: Any, config: Any, ckpt_path: str, *args: Any, **options: Any) -> nn.Module:
            if "decoder_mesh" in config.get("_target_", ""):
                config = {**config, "device": "cpu"}
            return load(self, config, ckpt_path, *args, **options) if weights else instantiate(config)

        load = InferencePipeline.instantiate_and_load_from_pretrained
        config = OmegaConf.load(folder / "pipeline.yaml")
        config.update(workspace_dir=str(folder), dtype=dtype, device="cpu", compile_model=False)
        config.depth_model = {"_target_": f"{__name__}.FakeDepth"}
        with mock.patch.object(InferencePipeline, "instantiate_and_load_from_pretrained", build):
            pipeline = instantiate(config)
    for network in (pipeline.models, *pipeline.condition_embedders.values()):
        network.eval().requires_grad_(False)
    return pipeline


def _backbone(repo_or_dir: str, model: str, source: str, verbose: bool, **sizes: Any) -> nn.Module:
    """Replaces torch.hub.load: the same model as there, of any size and without a download."""
    from dinov2.hub import backbones

    assert (repo_or_dir, source) == ("facebookresearch/dinov2", "github")
    depth, width, heads = (sizes.pop(name) for name in ("depth", "embed_dim", "num_heads"))

    def vit_large(**options: Any) -> nn.Module:
        return vision_transformer.DinoVisionTransformer(
            embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=4, **options
        )

    from dinov2.models import vision_transformer

    with mock.patch.object(vision_transformer, "vit_large", vit_large):
        return getattr(backbones, model)(pretrained=False, **sizes)


def native_from(folder: Path, half: bool = False) -> Any:
    """The native pipeline with the weights of a folder, all loaded; arguments as for `from_checkpoint`."""
    from fast_sam3d.native.networks import file_parts
    from fast_sam3d.native.pipeline import NativePipeline
    from fast_sam3d.native.settings import NativeSettings

    settings, kind = NativeSettings.read(folder), torch.float16 if half else None
    parts = file_parts(folder, settings, "write it again")
    for part in parts.values():
        part.load(torch.device("cpu"), kind)
    return NativePipeline(settings, parts, half=kind, depth_model=FakeDepth())
