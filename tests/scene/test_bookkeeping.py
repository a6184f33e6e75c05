"""What a scene keeps account of, without a pipeline: masks, cameras, placed objects, groups and parts."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fast_sam3d.config.compose import load
from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import InputError
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.geometry.surface import Surface
from fast_sam3d.run.notices import overlap_notices
from fast_sam3d.scene import compose, worker
from fast_sam3d.scene.batch import Ahead
from fast_sam3d.scene.files import camera_facts, camera_of
from fast_sam3d.scene.inputs import SceneInput, load_scene, scene_folders
from fast_sam3d.scene.objects import PlacedObject
from fast_sam3d.scene.worker import ObjectTask, ObjectWorker, input_identity
from tests.stand_in import StandIn

AT = {
    "rotation": torch.tensor([[1.0, 0, 0, 0]]), "translation": torch.tensor([[0.0, 0, 2]]), "scale": torch.ones(1, 3)
}  # fmt: skip


def gaussians(count: int) -> SimpleNamespace:
    return SimpleNamespace(
        get_xyz=torch.full((count, 3), float(count)), get_scaling=torch.full((count, 3), 0.1),
        get_rotation=torch.tensor([[1.0, 0, 0, 0]]).expand(count, 4), get_opacity=torch.full((count, 1), 0.9),
        _features_dc=torch.zeros(count, 1, 3), sh_degree=0,
    )  # fmt: skip


def test_notices_of_a_mask_are_logged_with_its_number(object_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    scene = load_scene(object_folder)
    identities = {number: input_identity(scene, number) for number in scene.masks}
    assert "cup, object 2: the mask in 2.png covers the border" in caplog.text  # of the picture around the disc
    assert "object 0" not in caplog.text and "object 11" not in caplog.text
    masks = [identity["mask"] for identity in identities.values()]
    assert masks[0] == masks[2] != masks[1]
    assert all(identity["image"] == scene.digests["image"] for identity in identities.values())


def test_an_object_has_one_remark_on_how_it_covers_its_mask() -> None:
    (alone,), (composed,) = overlap_notices(0.31), overlap_notices(0.2)
    assert compose._notices(["another"], 0.2) == ["another", composed]
    assert compose._notices([alone], 0.2) == [alone]
    assert compose._notices([alone], None) == [alone]
    assert compose._notices([], 0.9) == []


def test_a_pointmap_that_knows_nothing_of_an_object_is_refused(object_folder: Path) -> None:
    points = np.full((40, 48, 3), 2.0, np.float32)
    points[10:31, 12:33] = np.nan  # where the disc is
    np.save(object_folder / "pointmap.npy", points)
    scene = load_scene(object_folder, InputConfig(pointmap_axes="pytorch3d"))
    with pytest.raises(InputError, match="pointmap"):
        scene.object(0)
    assert scene.object(2).pointmap is not None  # around the disc
    assert load_scene(object_folder, InputConfig(pointmap="none")).object(0).pointmap is None


def test_hidden_folders_are_no_scenes(tmp_path: Path, object_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    rooms = tmp_path / "rooms"
    for name in ("b", "a"):
        copied(object_folder, rooms / name)
    assert [path.name for path in scene_folders(rooms)] == ["a", "b"] and not caplog.text
    copied(object_folder, rooms / ".trash")
    assert [path.name for path in scene_folders(rooms)] == ["a", "b"]
    assert "hidden folders" in caplog.text and ": .trash;" in caplog.text


def copied(folder: Path, to: Path) -> None:
    to.mkdir(parents=True)
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())


def test_a_camera_is_read_as_it_was_written() -> None:
    camera = Camera(np.eye(3), np.zeros(3), 500.0, (31.0, 22.0), (40, 60))
    facts = camera_facts(camera)
    assert facts == {"focal_px": 500.0, "principal_px": (31.0, 22.0), "size_px": (60, 40)}
    read = camera_of(facts)
    assert read is not None and (read.focal, read.principal, read.size) == (500.0, (31.0, 22.0), (40, 60))
    assert camera_of(None) is None


@pytest.mark.parametrize(
    ("more", "count"),
    [
        ({"gaussian": [gaussians(3)], "gaussian_4": [gaussians(5)]}, 3),
        ({"gaussian": [gaussians(0)], "gaussian_4": [gaussians(5)]}, 5),
        ({"gaussian_4": [gaussians(5)]}, 5),
        ({"gaussian": [gaussians(0)]}, None),
        ({}, None),
    ],
)
def test_the_first_gaussians_that_exist_are_placed(more: dict[str, Any], count: int | None) -> None:
    item = PlacedObject.of("cup", {**AT, **more})
    assert (None if item.gaussians is None else len(item.gaussians.get_xyz)) == count
    assert len(item.points) == (count or 0)
    assert item != PlacedObject.of("cup", {**AT, **more}) and item in [item]  # objects are compared by identity


@pytest.mark.parametrize(("vertices", "kept"), [(1000, 91), (100, 50), (99, 99), (1, 1)])
def test_points_are_thinned_evenly(vertices: int, kept: int) -> None:
    line = np.zeros((vertices, 3), np.float32)
    line[:, 0] = np.arange(vertices)
    surface = Surface(line, np.zeros((0, 3), np.int64), np.zeros((vertices, 3), np.uint8))
    thinned = PlacedObject("line", Pose.of(AT), surface=surface).thinned(100)
    assert len(thinned) == kept
    steps = np.diff(thinned[:, 0])
    assert kept == 1 or np.allclose(steps, steps[0])


def test_the_reason_against_a_batch_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ahead = Ahead(SimpleNamespace(), 42, None)
    for group in ("first", "first", "second"):
        ahead.prepare(group, iter(()))
    assert caplog.text.count("the objects are sampled one by one, because this pipeline samples one at a time") == 1
    assert ahead.voxels == []


def test_the_parts_of_a_scene_run_here_or_in_as_many_processes_as_asked_for(tmp_path: Path) -> None:
    here = os.getpid()
    assert compose._all_of([os.getpid] * 3, 1, tmp_path) == [here] * 3
    assert here not in compose._all_of([os.getpid] * 3, 2, tmp_path)


def test_a_scene_is_read_once_for_its_objects_and_again_for_other_ones(
    object_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied(object_folder, other := tmp_path / "other")
    read: list[Path] = []
    monkeypatch.setattr(worker, "load_scene", lambda folder, asked: read.append(folder) or load_scene(folder, asked))
    asked = [InputConfig(pointmap="none"), InputConfig()]
    with ObjectWorker(StandIn(), load(), "stand-in") as at_work:
        for folder, given in [*[(object_folder, asked[0])] * 3, (other, asked[0]), (other, asked[1])]:
            at_work.prepare(ObjectTask(folder, given, 0, tmp_path / "out", {}))
    assert read == [object_folder, other, other]


@pytest.mark.parametrize("embedded", [False, True])
def test_pictures_are_reduced_once_for_the_embedded_pipeline_alone(
    embedded: bool, object_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reduced: list[str] = []
    monkeypatch.setattr(SceneInput, "reduced", lambda scene: reduced.append(scene.name) or scene)
    with ObjectWorker(StandIn(), load(), "stand-in", embedded=embedded) as at_work:
        for number in (0, 11):
            at_work.prepare(ObjectTask(object_folder, InputConfig(), number, tmp_path / "out", {}))
    assert reduced == ["cup"] * embedded
