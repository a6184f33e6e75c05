"""The stages of a run: results record their inputs, and stale results are refused."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fast_sam3d.errors import ConfigError
from fast_sam3d.mini.train import run as run_module
from fast_sam3d.mini.train.export import check_exported, export
from fast_sam3d.mini.train.loop import load_whole, save_whole
from fast_sam3d.mini.train.origin import PARTS, recipe_digest
from fast_sam3d.mini.train.recipe import Recipe
from fast_sam3d.mini.train.run import LEAVES, TrainingRun, warn_of_other_objects
from fast_sam3d.mini.train.stages import STAGES

CPU = torch.device("cpu")


@pytest.fixture
def run(tmp_path: Path, tiny: Recipe, shard: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., TrainingRun]:
    """Create a run in one folder, with the session's objects as data."""
    monkeypatch.setattr(run_module, "generate", lambda *_: [shard])
    return lambda recipe=tiny, seed=0: TrainingRun(tmp_path, recipe, seed, CPU, 1)


@pytest.fixture(scope="module")
def kept() -> dict[str, Path]:
    """The folder of this module's one training run."""
    return {}


@pytest.fixture
def trained(
    run: Callable[..., TrainingRun], tiny: Recipe, kept: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> TrainingRun:
    """A run with all stages trained and exported."""
    if not kept:
        made = TrainingRun(tmp_path_factory.mktemp("run"), tiny, 0, CPU, 1)
        for stage in STAGES.values():
            stage(made)
        export(made, made.folder / "checkpoint")
        kept["folder"] = made.folder
    shutil.copytree(kept["folder"], run().folder, dirs_exist_ok=True)
    return run()


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.pt")}


def test_rerun_changes_no_file(trained: TrainingRun, run: Callable[..., TrainingRun]) -> None:
    before = stamps(trained.folder)
    again = run()
    for stage in STAGES.values():
        stage(again)
    assert stamps(trained.folder) == before
    check_exported(again, again.folder / "checkpoint")


def test_an_identical_new_result_is_accepted(trained: TrainingRun, run: Callable[..., TrainingRun]) -> None:
    """For a damaged file the advice is to delete it; results built on it remain valid."""
    path = trained.result("ss_vae")
    before = path.read_bytes()
    path.unlink()
    again = run()
    for stage in STAGES.values():
        stage(again)
    assert path.read_bytes() == before


@pytest.mark.parametrize("stage", ["ss_flow", "slat_flow"])
def test_refuses_results_built_on_replaced_inputs(
    trained: TrainingRun, run: Callable[..., TrainingRun], tiny: Recipe, stage: str
) -> None:
    need = {"ss_flow": "ss_vae", "slat_flow": "slat_vae"}[stage]
    trained.result(need).unlink()
    longer = run(replace(tiny, **{need: replace(getattr(tiny, need), steps=6)}))
    STAGES[need](longer)
    result, checkpoint = longer.result(stage), longer.folder / f"{stage}.pt"
    message = f"{result} was trained on another result of {need} than .*: delete {result} and {checkpoint} to train"
    for work in (STAGES[stage], lambda run: export(run, run.folder / "checkpoint")):
        with pytest.raises(ConfigError, match=message):
            work(longer)
    # Without its result, the training's checkpoint is stale, too.
    result.unlink()
    with pytest.raises(ConfigError, match=f"{checkpoint} was trained on another result of {need}"):
        STAGES[stage](longer)
    checkpoint.unlink()
    STAGES[stage](longer)
    assert result.exists()


def test_another_seed_or_recipe_is_refused_where_recipe_json_is_gone(
    trained: TrainingRun, run: Callable[..., TrainingRun], tiny: Recipe
) -> None:
    result = trained.result("ss_vae")
    faster = replace(tiny, ss_vae=replace(tiny.ss_vae, rate=3e-3))
    for other in (run(seed=1), run(faster)):
        with pytest.raises(ConfigError, match=f"{result} was trained with another seed or recipe: give the settings"):
            STAGES["ss_vae"](other)
    STAGES["slat_vae"](run(faster))  # independent of the changed setting
    STAGES["ss_vae"](run(replace(tiny, ss_vae=replace(tiny.ss_vae, steps=9))))


def test_older_files_without_origin_are_accepted(trained: TrainingRun, run: Callable[..., TrainingRun]) -> None:
    for path in trained.folder.glob("*.pt"):
        save_whole({name: value for name, value in load_whole(path).items() if name != "origin"}, path)
    (trained.folder / "exported.json").unlink()
    before = stamps(trained.folder)
    again = run(seed=1)
    for stage in STAGES.values():
        stage(again)
    export(again, again.folder / "checkpoint")
    assert stamps(trained.folder) == before


def test_missing_input_result_is_a_warning(
    trained: TrainingRun, run: Callable[..., TrainingRun], caplog: pytest.LogCaptureFixture
) -> None:
    trained.result("ss_vae").unlink()
    with caplog.at_level(logging.WARNING, "fast_sam3d"):
        assert run().check("ss_flow") is None
    assert "ss_flow: already trained, but ss_vae is missing" in caplog.text


def test_objects_of_another_version_are_reported(shard: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fast_sam3d"):
        warn_of_other_objects(shard)
        assert not caplog.text
        with np.load(shard) as arrays:
            changed = dict(arrays)
        changed["coords"] = changed["coords"].copy()
        changed["coords"][: changed["voxels"][0], 0] //= 2
        np.savez(tmp_path / shard.name, **changed)
        warn_of_other_objects(tmp_path / shard.name)
    assert f"1 of the first 4 objects in {tmp_path} differ from those of this version" in caplog.text


def test_refuses_to_evaluate_weights_of_another_run(
    trained: TrainingRun, run: Callable[..., TrainingRun], tiny: Recipe
) -> None:
    checkpoint = trained.folder / "checkpoint"
    trained.result("slat_flow").unlink()
    STAGES["slat_flow"](run(replace(tiny, slat_flow=replace(tiny.slat_flow, steps=6))))
    with pytest.raises(ConfigError, match="add export to"):
        check_exported(run(), checkpoint)
    export(run(), checkpoint)
    check_exported(run(), checkpoint)
    (checkpoint / "ss_decoder.safetensors").write_bytes(b"of another run")
    with pytest.raises(ConfigError, match="add export to"):
        check_exported(run(), checkpoint)


def test_every_setting_of_the_recipe_belongs_to_a_stage(tiny: Recipe) -> None:
    named = {name for parts in PARTS.values() for name in parts}
    sizes = {f"pipeline.{name}" for name in ("ss_embedder", "ss_flow", "ss_decoder", "slat_flow")}
    sizes |= {f"pipeline.{name}" for name in ("slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4")}
    own = {name for name in vars(tiny) if name != "pipeline"}
    assert named == own | sizes
    assert set(PARTS) == set(LEAVES)


def test_stage_length_is_not_part_of_its_origin(tiny: Recipe) -> None:
    def digest(**change: object) -> str:
        return recipe_digest(replace(tiny, ss_flow=replace(tiny.ss_flow, **change)), 0, "ss_flow")

    assert digest() == digest(steps=99, checkpoint=1)
    assert digest() != digest(rate=0.5)
    assert digest() != recipe_digest(tiny, 1, "ss_flow")
