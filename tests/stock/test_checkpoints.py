"""Checkpoint folders of both formats through the stock classes, beside the stock loader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fast_sam3d.checkpoints import trust
from fast_sam3d.checkpoints.load import check_stock_folder, load_pipeline
from tests.checkpoints.test_load import write_weights
from tests.stock.build import STOCK, configs
from tests.stock.stand_ins import importable, on_cpu

DECODERS = ("ss_decoder", "slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4")
RESIZED = {"_target_": "tests.stock.build.resized", "_partial_": True}
PREPROCESSOR = {
    "_target_": "sam3d_objects.data.dataset.tdfy.preprocessor.PreProcessor",
    **{f"{name}_transform": RESIZED for name in ("img", "mask", "pointmap")},
}


def settings() -> dict[str, Any]:
    """pipeline.yaml, as published but for the sizes."""
    return {
        "_target_": "sam3d_objects.pipeline.inference_pipeline_pointmap.InferencePipelinePointMap",
        **{f"{name}_config_path": f"{name}.yaml" for name in configs()},
        **{f"{name}_ckpt_path": f"{name}.ckpt" for name in configs()},
        "depth_model": {"_target_": "tests.stock.build.FixedDepth"},
        "dtype": "float32",
        "ss_preprocessor": PREPROCESSOR,
        "slat_preprocessor": PREPROCESSOR,
        "ss_condition_input_mapping": [],
        "slat_condition_input_mapping": [],
        "pose_decoder_name": "ScaleShiftInvariant",
    }


def weights(pipeline: Any) -> dict[str, dict[str, Tensor]]:
    """The content of each weights file, as published."""
    files = {name: dict(pipeline.models[name].state_dict()) for name in DECODERS}
    for stage in ("ss", "slat"):
        networks = {
            "generator": pipeline.models[f"{stage}_generator"],
            "condition_embedder": pipeline.condition_embedders[f"{stage}_condition_embedder"],
        }
        files[f"{stage}_generator"] = {
            f"_base_models.{name}.{key}": value
            for name, part in networks.items()
            for key, value in part.state_dict().items()
        }
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A checkpoint folder with random weights in .ckpt files."""
    from omegaconf import OmegaConf

    path = tmp_path_factory.mktemp("checkpoints") / "hf"
    path.mkdir()
    with pytest.MonkeyPatch.context() as patch, importable(), on_cpu():
        patch.setattr(trust, "ALLOWED", (*trust.ALLOWED, "tests.stock.build"))
        for name, content in {"pipeline": settings(), **configs()}.items():
            OmegaConf.save(OmegaConf.create(content), path / f"{name}.yaml")
        for name, state in weights(STOCK.build()).items():
            write_weights(path / f"{name}.ckpt", state)
        yield path


def states(pipeline: Any) -> dict[str, Tensor]:
    parts = [*pipeline.models.items(), *pipeline.condition_embedders.items()]
    return {f"{name}/{k}": v for name, part in parts if part is not None for k, v in part.state_dict().items()}


def by_the_stock_loader(folder: Path) -> Any:
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    config = OmegaConf.load(folder / "pipeline.yaml")
    return instantiate(config, workspace_dir=str(folder), device="cpu", rendering_engine="pytorch3d")


def test_both_formats_give_what_the_stock_loader_gives(folder: Path) -> None:
    assert check_stock_folder(folder) is None
    stock = by_the_stock_loader(folder)
    expected = states(stock)
    for ending in ("ckpt", "safetensors"):
        if ending == "safetensors":
            for name, state in weights(stock).items():
                write_weights(folder / f"{name}.safetensors", state)
                (folder / f"{name}.ckpt").unlink()
        pipeline = load_pipeline(folder, device="cpu", runtime="stock")
        assert type(pipeline) is type(stock)
        found = states(pipeline)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], value) for name, value in expected.items())
        for part in [*filter(None, pipeline.models.values()), *pipeline.condition_embedders.values()]:
            assert not part.training and not any(p.requires_grad for p in part.parameters())
