"""`fast-sam3d scene` on a stand-in pipeline: written files, resuming, and failures."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from fast_sam3d.checkpoints import load as loading
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cli import scene as command
from fast_sam3d.geometry.poses import GLB_FROM_CAMERA, Pose
from fast_sam3d.outputs.gaussians import load_gaussians_ply
from fast_sam3d.scene import pictures
from tests.stand_in import StandIn, files, run

OBJECT = {"done.json", "gaussians.ply", "mesh.glb", "pose.json", "preview.png", "report.json"}
SCENE = {"scene.ply", "scene.glb", "scene.json", "preview.png", "turntable.webp", "turntable.gif", "summary.json"}
QUICK = ("pipeline.ss_steps=2", "pipeline.slat_steps=2", "output.preview=false")
PICTURES = {"preview.png", "turntable.webp", "turntable.gif"}


class Posed(StandIn):
    """The object's place depends on its mask; red corners fail, blue ones run out of memory."""

    runs = 0

    def run(self, image=None, *args, **options):
        Posed.runs += 1
        mask = image[..., 3] > 0
        if mask[0, 0]:
            raise RuntimeError("the model found no object in this picture")
        if mask[0, -1] and "mesh" in options["decode_formats"]:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        result = super().run(image, *args, **options)
        v, u = np.argwhere(mask).mean(axis=0)
        turn = torch.tensor([[0.9, 0.1, -0.2, 0.3]])
        return {
            **result,
            "rotation": turn / turn.norm(),
            "translation": torch.tensor([[1 - u / 20, 1 - v / 20, 4.0]]),
            "scale": torch.full((1, 3), 0.8),
        }


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> type[Posed]:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "part.safetensors").write_bytes(b"1234")
    found = Checkpoint("mini", weights, "mini", "the test says so")
    monkeypatch.setattr(command, "find_checkpoint", lambda *asked: found)
    monkeypatch.setattr(loading, "load_checkpoint", lambda *arguments: Posed())
    Posed.runs = 0
    return Posed


@pytest.fixture
def kitchen(tmp_path: Path, picture: np.ndarray, disc: np.ndarray) -> Path:
    """A folder "kitchen" with masks 0 (grey), 2 (RGBA), 11 (two values), and a pointmap."""
    folder = tmp_path / "kitchen"
    folder.mkdir()
    Image.fromarray(picture).save(folder / "image.png")
    save(folder / "0.png", disc)
    moved = np.roll(disc, 6, axis=1)
    Image.fromarray(np.dstack([picture, moved * np.uint8(255)])).save(folder / "2.png")
    Image.fromarray(np.roll(disc, -5, axis=1).astype(np.uint8)).save(folder / "11.png")
    v, u = np.mgrid[:40, :48] + 0.5
    points = np.stack([(24 - u) / 50, (20 - v) / 50, np.ones_like(u)], axis=-1) * 4
    np.savez_compressed(folder / "pointmap.npz", pointmap=points.astype(np.float32))
    return folder


def save(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file but the reports, which contain times."""
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != "report.json"
    }


def scene(capsys, folder: Path, *arguments: object) -> tuple[int, str, str]:
    workers = () if {"--workers", "--engine"} & set(map(str, arguments)) else ("--workers", 1)  # which see `Posed.runs`
    return run(capsys, "scene", "--image_dir", folder, *QUICK, *workers, *arguments)


def test_flags_of_other_releases_are_aliases(pipeline, kitchen, elsewhere, capsys):
    aliases = "--enable_ss_faster", "--ss_faster_stride", 4, "--enable_slat_token", "--slat_token_ratio", 0.7
    code, _, err = scene(capsys, kitchen, *aliases, "--mask_index", 2, "pipeline.formats=[mesh]")
    assert code == 0 and "--mask_index 2 is ignored" in err and "--slat_token_ratio is slat.where.keep=0.3" in err
    methods = json.loads((elsewhere / "outputs/kitchen/11/report.json").read_text())["methods"]
    assert methods["ss"]["when"]["stride"] == 4 and methods["slat"]["where"]["keep"] == 0.3
    assert scene(capsys, kitchen, *aliases, "--ss_cache_stride", 3)[0] == 2


# ---------------------------------------------------------------------------------------------------- what is written


def test_scene_writes_every_file(pipeline, kitchen, elsewhere, capsys):
    code, out, err = scene(capsys, kitchen, "--enable_acceleration", "output.preview=true")
    assert code == 0, err
    folder = elsewhere / "outputs" / "kitchen"
    assert files(folder) == {"0", "2", "11", *SCENE, *(f"{n}/{name}" for n in (0, 2, 11) for name in OBJECT)}
    assert "kitchen: 3 of 3 objects" in out and "results in outputs/kitchen" in out
    assert "object 0 complete: 1 of 3" in err and "left" in err
    summary = json.loads((folder / "summary.json").read_text())
    assert [item["mask"] for item in summary["objects"]] == ["0.png", "2.png", "11.png"]
    assert (summary["complete"], summary["failed"], summary["duplicate"]) == (3, 0, 0)
    assert all(0 < item["mask_iou"] < 1 for item in summary["objects"])
    assert summary["mean_mask_iou"] == pytest.approx(np.mean([item["mask_iou"] for item in summary["objects"]]))
    badly = [any("covers the mask badly" in note for note in item["notices"]) for item in summary["objects"]]
    assert all(noted for noted, item in zip(badly, summary["objects"], strict=True) if item["mask_iou"] < 0.5)
    placed = json.loads((folder / "scene.json").read_text())["objects"]
    assert [item["notices"] for item in placed] == [item["notices"] for item in summary["objects"]]
    assert any(badly) == ("covers the mask badly" in " ".join(out.split()))
    report = json.loads((folder / "2" / "report.json").read_text())
    assert report["seconds"]["results"] > 0 and "composed 3 objects in" in err
    assert report["total_seconds"] == pytest.approx(sum(report["seconds"].values()))
    assert report["seconds"]["ss"] > 0 and report["methods"]["ss"]["when"]["name"] == "path"
    with Image.open(folder / "turntable.gif") as picture:
        assert picture.n_frames == 24 and picture.info["loop"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
def test_parallel_processes_write_the_same_files_as_one(pipeline, kitchen, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(pictures, "turntable", functools.partial(pictures.turntable, frames=2))
    for place, workers in (("a", 1), ("b", 3)):
        code, out, err = scene(capsys, kitchen, "output.preview=true", "--output_dir", place, "--workers", workers)
        assert code == 0, err
        assert "kitchen: 3 of 3 objects" in out and "3 of 3" in err
    assert pipeline.runs == 3  # none of the second three in this process
    assert contents(elsewhere / "a") == contents(elsewhere / "b")
    assert files(elsewhere / "b" / "kitchen") > SCENE


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
def test_an_object_whose_process_is_killed_decodes_fewer_formats(pipeline, kitchen, elsewhere, capsys, monkeypatch):
    plain, here = Posed.run, os.getpid()

    def killed_with_mesh(self, image=None, *args, **options):
        if image[17, 13, 3] and not image[17, 29, 3] and "mesh" in options["decode_formats"] and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(self, image, *args, **options)

    monkeypatch.setattr(Posed, "run", killed_with_mesh)
    code, out, err = scene(capsys, kitchen, "--workers", 2)
    assert code == 0, err
    done = {n: json.loads((elsewhere / f"outputs/kitchen/{n}/done.json").read_text()) for n in (0, 2, 11)}
    assert [done[n]["formats"] for n in (0, 2, 11)] == [["mesh", "gaussian"], ["mesh", "gaussian"], ["gaussian"]]
    assert done[11]["out_of_memory"] == ["everything, alone: its process ended with signal 9"]
    report = json.loads((elsewhere / "outputs/kitchen/11/report.json").read_text())
    assert report["out_of_memory"] == done[11]["out_of_memory"]
    assert "only gaussian fitted" in out and "object 11: its process ended with signal 9" in err


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
def test_errors_of_other_processes_are_reported(pipeline, kitchen, elsewhere, capsys):
    for name, corner in (("11.png", (0, 0)), ("2.png", (0, -1))):
        mask = np.array(Image.open(kitchen / name))
        mask = (mask[..., 3] if mask.ndim == 3 else mask) > 0
        mask[corner] = True
        save(kitchen / name, mask)
    code, out, err = scene(capsys, kitchen, "--workers", 2)
    assert code == 1
    assert "object 11 failed: RuntimeError: the model found no object in this picture" in err
    assert "only gaussian fitted" in out
    assert scene(capsys, kitchen, "--workers", "0")[0] == 2


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
def test_process_death_during_composition(pipeline, kitchen, elsewhere, capsys, monkeypatch):
    from fast_sam3d.scene import files as scene_files

    here, save_glb = os.getpid(), scene_files.save_scene_glb

    def die_elsewhere(path, made):
        if os.getpid() != here:
            path.with_name(f".{path.name}.0123abcd.tmp").write_text("unfinished")
            os.kill(os.getpid(), signal.SIGKILL)
        return save_glb(path, made)

    assert scene(capsys, kitchen, "--output_dir", "a", "--workers", 2)[0] == 0
    monkeypatch.setattr(scene_files, "save_scene_glb", die_elsewhere)
    code, _, err = scene(capsys, kitchen, "--output_dir", "b", "--workers", 2)
    assert code == 0 and "ended with signal 9" in err
    assert contents(elsewhere / "a") == contents(elsewhere / "b")


def test_composed_files_put_objects_where_their_poses_say(pipeline, kitchen, elsewhere, capsys):
    assert scene(capsys, kitchen)[0] == 0
    folder = elsewhere / "outputs" / "kitchen"
    said = json.loads((folder / "scene.json").read_text())
    merged, built = load_gaussians_ply(folder / "scene.ply"), trimesh.load(folder / "scene.glb", process=False)
    assert set(built.graph.nodes_geometry) == {"object_0", "object_2", "object_11"}
    for item in said["objects"]:
        pose = json.loads((folder / item["folder"] / "pose.json").read_text())
        matrix = np.array(pose["object_to_camera"])
        np.testing.assert_allclose(item["object_to_camera"], matrix, atol=1e-9)
        np.testing.assert_allclose(Pose.of(item).matrix, matrix, atol=1e-9)
        np.testing.assert_allclose(item["object_to_camera_opencv"], np.diag([-1, -1, 1, 1]) @ matrix, atol=1e-9)
        own = load_gaussians_ply(folder / item["folder"] / "gaussians.ply")
        rows = slice(item["gaussians"]["first"], item["gaussians"]["first"] + item["gaussians"]["count"])
        np.testing.assert_allclose(merged.get_xyz[rows], own.get_xyz @ matrix[:3, :3].T + matrix[:3, 3], atol=1e-4)
        np.testing.assert_allclose(merged.get_scaling[rows], own.get_scaling * 0.8, rtol=1e-5)
        (mesh,) = trimesh.load(folder / item["folder"] / "mesh.glb", process=False).geometry.values()
        transform, name = built.graph[item["glb_node"]]
        node = built.geometry[name]
        own_colours, colours = (each.visual.vertex_attributes["color"] for each in (mesh, node))
        np.testing.assert_array_equal(colours, own_colours)
        world = node.vertices @ transform[:3, :3].T + transform[:3, 3]
        z_up = np.stack([mesh.vertices[:, 0], -mesh.vertices[:, 2], mesh.vertices[:, 1]], axis=1)
        expected = (z_up @ matrix[:3, :3].T + matrix[:3, 3]) @ GLB_FROM_CAMERA[:3, :3].T
        np.testing.assert_allclose(world, expected, atol=1e-4)
        np.testing.assert_allclose(transform, item["object_to_glb"], atol=1e-6)
    assert said["camera"]["focal_px"] == pytest.approx(50, rel=1e-3)


def test_formats_of_a_scene(pipeline, kitchen, elsewhere, capsys):
    """Objects keep the .ply from which the scene is composed in a hidden folder."""
    pytest.importorskip("gaussforge")
    folder = elsewhere / "outputs" / "kitchen"
    assert scene(capsys, kitchen, "--formats", "spz,glb-splat")[0] == 0
    known = {"done.json", "pose.json", "report.json", ".parts", "gaussians.spz", "gaussians.glb"}
    assert {p.name for p in (folder / "0").iterdir()} == known
    assert [p.name for p in (folder / "0" / ".parts").iterdir()] == ["gaussians.ply"]
    composed = {"scene.spz", "scene_gaussians.glb", "scene.json", "summary.json"}
    assert {p.name for p in folder.iterdir() if p.is_file()} == composed
    before, runs = contents(folder), Posed.runs
    (folder / "scene.spz").unlink()
    assert scene(capsys, kitchen, "--formats", "glb-splat,spz")[0] == 0
    assert contents(folder) == before and Posed.runs == runs
    code, _, err = scene(capsys, kitchen, "--formats", "sog")
    assert code == 2 and "files was" in err
    assert scene(capsys, kitchen, "--overwrite")[0] == 0
    assert {p.name for p in (folder / "0").iterdir()} == OBJECT - {"preview.png"}
    assert not [p for p in folder.iterdir() if p.suffix == ".spz" or p.name.endswith("gaussians.glb")]


@pytest.mark.parametrize(
    ("formats", "own", "composed"),
    [
        ("glb-splat,mesh", {"gaussians.glb", "mesh.glb"}, {"scene_gaussians.glb", "scene.glb"}),
        ("gaussian,stl", {"gaussians.ply", "mesh.stl"}, {"scene.ply", "scene.glb"}),
        ("obj", {"mesh.obj"}, {"scene.glb"}),
    ],
)
def test_a_scene_writes_only_what_is_asked_for(pipeline, kitchen, elsewhere, capsys, formats, own, composed):
    folder = elsewhere / "outputs" / "kitchen"
    assert scene(capsys, kitchen, "--formats", formats)[0] == 0
    found = {p.name for p in (folder / "0").iterdir() if p.is_file()}
    assert found == {"done.json", "pose.json", "report.json"} | own
    assert {p.name for p in folder.iterdir() if p.is_file()} == composed | {"scene.json", "summary.json"}
    runs, before = Posed.runs, contents(folder)
    for name in composed:
        (folder / name).unlink()
    assert scene(capsys, kitchen, "--formats", formats)[0] == 0
    assert Posed.runs == runs and contents(folder) == before


def test_gaussians_only_without_pictures(pipeline, kitchen, elsewhere, capsys):
    code, *_ = scene(capsys, kitchen, "pipeline.formats=[gaussian]")
    assert code == 0
    folder = elsewhere / "outputs" / "kitchen"
    assert {p.name for p in folder.iterdir() if p.is_file()} == {"scene.ply", "scene.json", "summary.json"}
    assert json.loads((folder / "summary.json").read_text())["mean_mask_iou"] > 0


def test_meshes_only_without_pointmap(pipeline, kitchen, elsewhere, capsys):
    wanted = ("--no_pointmap", "output.preview=true", "scene.turntable=false")
    code, *_ = scene(capsys, kitchen, "pipeline.formats=[mesh]", *wanted)
    assert code == 0
    folder = elsewhere / "outputs" / "kitchen"
    assert {p.name for p in folder.iterdir() if p.is_file()} == SCENE - {"scene.ply", "turntable.webp", "turntable.gif"}
    assert json.loads((folder / "summary.json").read_text())["mean_mask_iou"] is None


# ------------------------------------------------------------------------------------------------------- what is kept


def test_a_rerun_keeps_complete_objects(pipeline, kitchen, elsewhere, capsys):
    scene(capsys, kitchen)
    before = contents(elsewhere)
    times = {p: p.stat().st_mtime_ns for p in elsewhere.rglob("*.*") if p.name != "summary.json" and p.is_file()}
    runs = pipeline.runs
    code, out, err = scene(capsys, kitchen)
    assert (code, pipeline.runs) == (0, runs)
    assert "3 of 3 objects are complete already" in err and "kept" in out and "loaded" not in err
    assert contents(elsewhere) == before
    assert {p: p.stat().st_mtime_ns for p in times} == times


def test_changed_inputs_are_run_again(pipeline, kitchen, elsewhere, capsys, disc):
    scene(capsys, kitchen)
    before = contents(elsewhere)
    runs = pipeline.runs
    save(kitchen / "2.png", np.roll(disc, 2, axis=1))
    (elsewhere / "outputs/kitchen/11/mesh.glb").write_bytes(b"cut")
    code, _, err = scene(capsys, kitchen)
    assert (code, pipeline.runs) == (0, runs + 2)
    assert "object 2: its mask or pointmap has changed" in err
    after = contents(elsewhere)
    assert {name.split("/")[2] for name in after if after[name] != before[name]} == {"2", *SCENE - PICTURES}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)


def replace(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


@pytest.mark.parametrize(
    ("name", "change", "again"),
    [
        ("2/gaussians.ply", flip, 1),
        ("2/mesh.glb", flip, 1),
        ("2/report.json", lambda path: replace(path, '"seed": 42', '"seed": 43'), 1),
        ("2/done.json", lambda path: replace(path, '"camera": null', '"camera": {}'), 1),
        ("2/done.json", lambda path: path.write_text("[" * 100_000), 1),
        ("2/done.json", lambda path: path.write_text('{"identity":' * 100_000), 1),
        ("2/done.json", lambda path: path.write_bytes(b"\xff"), 1),
        ("scene.ply", flip, 0),
        ("scene.json", lambda path: replace(path, "0.8", "0.9"), 0),
        ("scene.json", lambda path: path.write_text("[" * 100_000), 0),
    ],
)
def test_what_was_damaged_later_is_created_anew(pipeline, kitchen, elsewhere, capsys, name, change, again):
    scene(capsys, kitchen)
    before, runs, path = contents(elsewhere), pipeline.runs, elsewhere / "outputs/kitchen" / name
    shown = path.name
    change(path)
    code, _, err = scene(capsys, kitchen)
    assert code == 0 and pipeline.runs == runs + again
    assert f"{shown} has been changed since it was written" in err
    assert contents(elsewhere) == before


@pytest.mark.parametrize(("workers", "instead"), [(1, None), (1, "file"), (2, None)])
def test_output_that_is_taken_away_ends_with_a_sentence(
    pipeline, kitchen, elsewhere, capsys, monkeypatch, workers, instead
):
    plain, place = Posed.run, elsewhere / "outputs" / "kitchen"
    if workers > 1 and sys.platform != "linux":
        pytest.skip("nothing is forked elsewhere")

    def taken(self, *args, **options):
        if (place / "0").exists() or (place / "2").exists():  # the first has been written
            shutil.rmtree(place, ignore_errors=True)  # two processes do it
            if instead:
                place.write_text("mine")
        return plain(self, *args, **options)

    monkeypatch.setattr(Posed, "run", taken)
    code, _, err = scene(capsys, kitchen, "--workers", workers)
    assert code == 2 and "Traceback" not in err
    assert "run the command again" in err.splitlines()[-1]
    monkeypatch.setattr(Posed, "run", plain)
    if instead:
        assert place.read_text() == "mine"
        place.unlink()
    assert all((path / "done.json").is_file() for path in place.glob("*"))
    assert scene(capsys, kitchen)[0] == 0
    after = contents(elsewhere)
    shutil.rmtree(place)
    assert scene(capsys, kitchen)[0] == 0
    assert contents(elsewhere) == after


def test_results_of_another_picture_are_refused(pipeline, kitchen, elsewhere, capsys, picture):
    scene(capsys, kitchen)
    before, runs = contents(elsewhere), pipeline.runs
    Image.fromarray(picture[::-1]).save(kitchen / "image.png")
    code, _, err = scene(capsys, kitchen)
    assert (code, pipeline.runs) == (2, runs) and "another picture" in err and "--overwrite" in err
    assert contents(elsewhere) == before
    assert scene(capsys, kitchen, "--overwrite")[0] == 0
    assert pipeline.runs == runs + 3


def test_the_same_mask_in_another_encoding_is_the_same(pipeline, kitchen, elsewhere, capsys, disc, picture):
    scene(capsys, kitchen)
    runs = pipeline.runs
    Image.fromarray(np.dstack([picture, disc * np.uint8(255)])).save(kitchen / "0.png")
    assert scene(capsys, kitchen)[0] == 0
    assert pipeline.runs == runs


def test_other_settings_are_refused_or_overwritten(pipeline, kitchen, elsewhere, capsys):
    scene(capsys, kitchen)
    before = contents(elsewhere)
    code, _, err = scene(capsys, kitchen, "--seed", 7)
    assert code == 2
    assert "made with other settings (seed was 42 and is 7): add --overwrite" in err
    assert contents(elsewhere) == before
    assert scene(capsys, kitchen, "--seed", 7, "--overwrite")[0] == 0
    after = contents(elsewhere)
    assert after["outputs/kitchen/0/gaussians.ply"] != before["outputs/kitchen/0/gaussians.ply"]
    runs = pipeline.runs
    assert scene(capsys, kitchen, "--seed", 7)[0] == 0
    assert pipeline.runs == runs


def test_an_interrupted_overwrite_resumes_without_the_flag(pipeline, kitchen, elsewhere, capsys, monkeypatch):
    scene(capsys, kitchen)
    plain = Posed.run

    def stopped(self, *args, **options):
        if Posed.runs == 4:
            raise KeyboardInterrupt
        return plain(self, *args, **options)

    monkeypatch.setattr(Posed, "run", stopped)
    code, _, err = scene(capsys, kitchen, "--seed", 7, "--overwrite")
    assert code == 130
    assert "the same command resumes" in err
    monkeypatch.setattr(Posed, "run", plain)
    assert scene(capsys, kitchen, "--seed", 7)[0] == 0
    assert pipeline.runs == 3 + 1 + 2


def test_concurrent_runs_are_refused(pipeline, kitchen, elsewhere, capsys):
    from fast_sam3d.scene.folder import scene_lock

    with scene_lock(elsewhere / "outputs" / "kitchen"):
        code, _, err = scene(capsys, kitchen)
    assert code == 2
    assert "another run is writing" in err
    assert files(elsewhere) == {"outputs"} or files(elsewhere) == set()


def killed(folder: Path, at: int) -> None:
    """A run that dies at its `at`-th change of a name on disk, as by kill -9: nothing is cleaned up."""
    seen = [0]

    def dying(change):
        def wrapped(*args, **options):
            seen[0] += 1
            if seen[0] == at:
                os._exit(9)
            return change(*args, **options)

        return wrapped

    os.replace, os.unlink = dying(os.replace), dying(os.unlink)
    Path.rename = dying(Path.rename)  # type: ignore[method-assign]
    shutil.rmtree = dying(shutil.rmtree)  # type: ignore[assignment]
    from fast_sam3d import cli

    with open(os.devnull, "w") as sink, contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        code = cli.main(["scene", "--image_dir", str(folder), *QUICK])
    os._exit(code)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_resumes_after_sigkill_at_any_point(pipeline, kitchen, elsewhere, capsys, monkeypatch):
    monkeypatch.chdir(elsewhere)
    assert scene(capsys, kitchen)[0] == 0
    undisturbed = contents(elsewhere)
    context = multiprocessing.get_context("fork")
    codes = []
    shutil.rmtree(elsewhere / "outputs")
    for at in (1, 4, 6, 7, 9, 13, 15, 9, 3, 2):
        child = context.Process(target=killed, args=(kitchen, at))
        child.start()
        child.join(60)
        codes.append(child.exitcode)
        if child.exitcode == 0:
            assert contents(elsewhere) == undisturbed
            shutil.rmtree(elsewhere / "outputs")
    assert codes.count(9) >= 8
    assert scene(capsys, kitchen)[0] == 0
    assert contents(elsewhere) == undisturbed
    assert not [name for name in files(elsewhere) if "/." in name]


# ------------------------------------------------------------------------------------------------------ what goes wrong


def test_one_broken_mask_among_many(pipeline, kitchen, elsewhere, capsys, disc):
    (kitchen / "3.png").write_bytes((kitchen / "0.png").read_bytes()[:60])
    save(kitchen / "4.png", disc[:-2])
    save(kitchen / "5.png", np.zeros_like(disc))
    nothing = disc.copy()
    nothing[0, 0] = True
    save(kitchen / "6.png", nothing)
    code, out, err = scene(capsys, kitchen)
    assert code == 1
    folder = elsewhere / "outputs" / "kitchen"
    summary = json.loads((folder / "summary.json").read_text())
    found = {item["number"]: (item["status"], item["message"]) for item in summary["objects"]}
    assert [found[n][0] for n in (0, 2, 11)] == ["complete"] * 3
    for number, words in ((3, "damaged"), (4, "save the mask at"), (5, "is empty"), (6, "found no object")):
        assert found[number][0] == "failed"
        assert words in found[number][1]
        assert f"object {number} failed" in err
        assert not (folder / str(number)).exists()
    assert len(json.loads((folder / "scene.json").read_text())["objects"]) == 3
    assert "3 of 7 objects" in out


def test_scene_without_objects(pipeline, kitchen, elsewhere, capsys, disc):
    disc = disc.copy()
    disc[0, 0] = True
    for name in ("0", "2", "11"):
        save(kitchen / f"{name}.png", np.roll(disc, int(name) % 5, axis=1) | disc)
    code, *_ = scene(capsys, kitchen)
    assert code == 1
    folder = elsewhere / "outputs" / "kitchen"
    assert files(folder) == {"summary.json"}
    assert json.loads((folder / "summary.json").read_text())["complete"] == 0


def test_equal_masks_and_equal_numbers(pipeline, kitchen, elsewhere, capsys, disc):
    save(kitchen / "7.png", disc)
    save(kitchen / "02.png", disc)
    code, _, err = scene(capsys, kitchen)
    assert code == 0
    assert "02.png is left out: 2.png has the same number" in err
    assert "7.png has the same pixels as 0.png" in err
    summary = json.loads((elsewhere / "outputs/kitchen/summary.json").read_text())
    assert summary["passed_over"] == ["02.png"]
    assert {item["number"]: item["status"] for item in summary["objects"]}[7] == "duplicate"
    assert pipeline.runs == 3


def test_out_of_memory_decodes_fewer_formats_and_reports_it(pipeline, kitchen, elsewhere, capsys, disc):
    large = disc.copy()
    large[0, -1] = True
    save(kitchen / "2.png", large)
    code, out, _ = scene(capsys, kitchen)
    assert code == 0
    folder = elsewhere / "outputs" / "kitchen"
    assert files(folder / "2") == OBJECT - {"mesh.glb", "preview.png"}
    report = json.loads((folder / "2" / "report.json").read_text())
    assert report["formats"] == ["gaussian"]
    assert [line.split(":")[0] for line in report["out_of_memory"]] == ["mesh, gaussian", "mesh, gaussian again, alone"]
    assert "only gaussian fitted" in out
    assert pipeline.runs == 5
    trimesh_scene = trimesh.load(folder / "scene.glb")
    assert set(trimesh_scene.graph.nodes_geometry) == {"object_0", "object_11"}
    assert scene(capsys, kitchen)[0] == 0
    assert pipeline.runs == 5


def test_configured_fallback_formats(pipeline, kitchen, elsewhere, capsys, disc):
    large = disc.copy()
    large[0, -1] = True
    save(kitchen / "2.png", large)
    code, _, err = scene(capsys, kitchen, "scene.smaller=[]")
    assert code == 1
    assert "out of memory, also with fewer formats" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--image_path"]),
        (["--image_dir", "nowhere"], ["nowhere is no folder"]),
        (["--image_dir", "{empty}"], ["holds no image.png"]),
        (["--image_dir", "{bare}"], ["holds no mask"]),
        (["--image_dir", "{kitchen}", "input.mask_index=2"], ["takes every mask"]),
        (["--image_dir", "{kitchen}", "--output_dir", "{kitchen}/.."], ["where the picture is"]),
        (["--image_dir", "{kitchen}", "--output_dir", "{kitchen}/image.png"], ["is a file"]),
        (["--image_dir", "{kitchen}", "scene.smaller=[gaussian]"], ["list of lists"]),
        (["--image_dir", "{kitchen}", "scene.smaller=[[voxels]]"], ["'voxels'"]),
        (["--image_dir", "{kitchen}", "--pointmap", "a.npz"], ["no pointmap at a.npz"]),
    ],
)
def test_errors_are_reported_in_one_sentence(pipeline, kitchen, elsewhere, capsys, arguments, words):
    bare, empty = kitchen.parent / "bare", kitchen.parent / "empty"
    bare.mkdir(), empty.mkdir()
    shutil.copy(kitchen / "image.png", bare)
    before = files(kitchen)
    places = {"{kitchen}": kitchen, "{bare}": bare, "{empty}": empty}
    filled = [next((a.replace(k, str(v)) for k, v in places.items() if k in a), a) for a in arguments]
    code, out, err = run(capsys, "scene", *filled)
    assert (code, out) == (2, "")
    (sentence,) = [line for line in err.splitlines() if line.startswith("fast-sam3d: ")]
    for word in words:
        assert word in sentence
    assert files(elsewhere) == set()
    assert files(kitchen) == before
    assert pipeline.runs == 0


def test_results_never_replace_a_folder_with_other_files(pipeline, kitchen, elsewhere, capsys):
    place = elsewhere / "outputs" / "kitchen" / "2"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    code, _, err = scene(capsys, kitchen)
    assert code == 2
    assert "notes.txt" in err
    assert files(elsewhere) == {"outputs", "outputs/kitchen", "outputs/kitchen/2", "outputs/kitchen/2/notes.txt"}


def test_a_full_disk_stops_the_scene(pipeline, kitchen, elsewhere, capsys, monkeypatch):
    from fast_sam3d.outputs import meshes

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(meshes, "save_glb", full)
    code, _, err = scene(capsys, kitchen)
    assert code == 2
    assert "free some space" in err
    assert pipeline.runs == 1
    assert files(elsewhere) == set()


# --------------------------------------------------------------------------------------------------------- many scenes


@pytest.fixture
def rooms(kitchen: Path) -> Path:
    folder = kitchen.parent / "rooms"
    for name in ("a", "b", "c"):
        shutil.copytree(kitchen, folder / name)
    (folder / "notes").mkdir()
    for path in (folder / "b").glob("[0-9]*.png"):
        path.unlink()
    (folder / "c" / "0.png").write_bytes(b"no picture")
    return folder


def test_a_folder_of_scenes_continues_after_failures(pipeline, rooms, elsewhere, capsys):
    code, out, err = scene(capsys, rooms)
    assert code == 1
    folder = elsewhere / "outputs"
    assert {p.name for p in folder.iterdir()} == {"a", "c", "summary.json"}
    summary = json.loads((folder / "summary.json").read_text())
    assert [(row["folder"], row["status"]) for row in summary["scenes"]] == [
        ("a", "complete"),
        ("b", "failed"),
        ("c", "failed"),
    ]
    assert "holds no mask" in summary["scenes"][1]["message"]
    assert (summary["scenes"][2]["complete"], summary["scenes"][2]["failed"]) == (2, 1)
    assert "3 scenes" in out and "scene 2 of 3" in err
    assert err.count("loaded on") == 1


def test_one_pointmap_for_many_scenes_is_refused(pipeline, rooms, elsewhere, capsys):
    code, _, err = scene(capsys, rooms, "--pointmap", rooms / "a" / "pointmap.npz")
    assert code == 2
    assert "one file for 3 scenes" in err
