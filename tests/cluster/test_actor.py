"""The worker, called in this process."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fast_sam3d.checkpoints import load as loading
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cluster import actor as module
from fast_sam3d.cluster.actor import Reply, SceneActor
from fast_sam3d.config.compose import Config, load
from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import OutputError
from fast_sam3d.scene.folder import LOCK
from fast_sam3d.scene.worker import ObjectTask, config_identity
from tests.stand_in import StandIn


@pytest.fixture(autouse=True)
def untouched(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Restore folder, threads and logging of this process, which a worker changes."""
    monkeypatch.setattr(loading, "load_checkpoint", lambda *arguments: StandIn())
    monkeypatch.setattr(module, "SHARED_SECONDS", 0.0)
    logger, folder, threads = logging.getLogger("fast_sam3d"), Path.cwd(), torch.get_num_threads()
    handlers, level = list(logger.handlers), logger.level
    yield
    logger.handlers[:], logger.level = handlers, level
    logger.setLevel(level)
    os.chdir(folder)
    torch.set_num_threads(threads)


@pytest.fixture
def config() -> Config:
    return load(["pipeline.ss_steps=2", "pipeline.slat_steps=2", "output.preview=false"], {"input.image_path": "room"})


@pytest.fixture
def weights(tmp_path: Path) -> Checkpoint:
    folder = tmp_path / "checkpoints" / "own"
    folder.mkdir(parents=True)
    (folder / "part.safetensors").write_bytes(b"1234")
    return Checkpoint("own", folder, "sam3d", "the test says so")


@pytest.fixture
def room(elsewhere: Path, picture: np.ndarray, disc: np.ndarray) -> Path:
    folder = elsewhere / "room"
    folder.mkdir()
    Image.fromarray(picture).save(folder / "image.png")
    Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "0.png")
    Image.fromarray(disc.astype(np.uint8) * 255).save(folder / "00.png")
    (elsewhere / "out").mkdir()
    (elsewhere / "out" / LOCK).touch()
    return folder


def actor(config: Config, weights: Checkpoint, cwd: Path) -> SceneActor:
    return SceneActor(config, weights, config_identity(config, weights), 1, str(cwd))


TASK = ObjectTask(Path("room"), InputConfig(), 0, Path("out/0"), {"input": {}})


def test_actor_works_in_the_folder_of_the_command(config, weights, room, elsewhere, monkeypatch):
    worker = actor(config, weights, elsewhere)
    monkeypatch.chdir("/")
    assert worker.load() == Reply()
    assert torch.get_num_threads() == 1
    made = worker.process(TASK)
    assert made.value.status == "complete", made
    assert (elsewhere / "out" / "0" / "done.json").is_file()
    assert made.warnings == ()  # the driver warns of 00.png


def test_warnings_are_reported_once(config, weights, room, elsewhere):
    worker = actor(config, weights, elsewhere)
    worker.load()
    logging.getLogger("fast_sam3d.outputs.meshes").warning("the mesh has %d holes", 3)
    assert worker.process(TASK).warnings == ("the mesh has 3 holes",)
    assert worker.process(TASK).warnings == ()


def test_a_folder_that_is_not_shared(config, weights, room, elsewhere):
    worker = actor(config, weights, elsewhere)
    worker.load()
    (elsewhere / "out" / LOCK).unlink()
    made = worker.process(TASK)
    assert made.value is None and "that all machines share" in made.unfit
    assert not (elsewhere / "out" / "0").exists()


def test_a_full_disk_is_an_error_of_the_scene(config, weights, room, elsewhere, monkeypatch):
    def full(*arguments: Any) -> None:
        raise OutputError("the disk is full")

    worker = actor(config, weights, elsewhere)
    worker.load()
    monkeypatch.setattr(module.ObjectWorker, "process", full)
    assert worker.process(TASK).error == "the disk is full"


def test_a_folder_that_does_not_exist(config, weights, elsewhere):
    assert (
        "give --image_path and --output_dir as absolute paths"
        in actor(config, weights, elsewhere / "gone").load().unfit
    )
    absolute = load([], {"input.image_path": str(elsewhere), "output.dir": str(elsewhere)})
    assert actor(absolute, weights, elsewhere / "gone").load() == Reply()


def test_different_weights_are_refused(config, weights, elsewhere):
    worker = actor(config, weights, elsewhere)
    (weights.folder / "part.safetensors").write_bytes(b"12345")
    assert (
        f"the weights in {weights.folder} differ from those of the machine that runs the command" in worker.load().unfit
    )


def test_weights_of_the_same_tag_in_another_folder(config, weights, elsewhere):
    here = elsewhere / "checkpoints" / "own"
    here.mkdir(parents=True)
    (here / "pipeline.yaml").write_text("_target_: sam3d_objects.pipeline.x.Y\n")
    (weights.folder / "pipeline.yaml").write_text("_target_: sam3d_objects.pipeline.x.Y\n")
    (here / "part.safetensors").write_bytes(b"1234")
    worker = actor(config, weights, elsewhere)
    weights.folder.rename(weights.folder.with_name("away"))
    assert worker.load() == Reply()


def test_a_loading_error_is_one_line(config, weights, elsewhere, monkeypatch):
    def broken(*arguments: Any) -> None:
        raise RuntimeError("no kernel\nimage is available")

    monkeypatch.setattr(loading, "load_checkpoint", broken)
    unfit = "it cannot load the pipeline: RuntimeError: no kernel image is available"
    assert actor(config, weights, elsewhere).load() == Reply(unfit=unfit)


def test_a_scene_that_cannot_be_composed(config, weights, room, elsewhere):
    worker = actor(config, weights, elsewhere)
    worker.load()
    assert "gone" in worker.compose(Path("gone"), "auto", Path("out"), {}, {}).error
