"""`fast-sam3d infer`: written files, refused requests, and interruptions."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image

from fast_sam3d import cli, texture
from fast_sam3d.adapters import adapt
from fast_sam3d.checkpoints import load as loading
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cli import infer, object_input
from fast_sam3d.config.compose import Loading, load
from fast_sam3d.errors import ExportError
from fast_sam3d.model.inputs import limit_size, match_size
from fast_sam3d.outputs import load_gaussians_ply, locks, meshes, seals
from tests.fakes import same_vars, snapshot
from tests.stand_in import StandIn, files, run

RESULTS = {"gaussians.ply", "mesh.glb", "pose.json", "preview.png", "report.json"}


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """The pipeline that replaces every loaded checkpoint."""
    made = StandIn()
    (tmp_path / "weights").mkdir()
    found = Checkpoint("mini", tmp_path / "weights", "mini", "the test says so")
    monkeypatch.setattr(object_input, "find_checkpoint", lambda *asked: found)

    def load(checkpoint: Checkpoint, *asked_for: str | None) -> StandIn:
        made.loaded = True
        made.asked_for = asked_for
        return made

    monkeypatch.setattr(loading, "load_checkpoint", load)
    return made


# ----------------------------------------------------------------------------------------------------------- infer


def test_infer_writes_every_result(pipeline, object_folder, elsewhere, capsys, picture, disc):
    code, out, _ = run(capsys, "infer", "--image_path", object_folder)
    assert code == 0
    folder = elsewhere / "outputs" / "cup_0"
    assert files(elsewhere) == {"outputs", "outputs/cup_0", *(f"outputs/cup_0/{n}" for n in RESULTS)}
    assert f"results in {Path('outputs/cup_0')}" in out
    np.testing.assert_array_equal(pipeline.arguments["image"], np.dstack([picture, disc * np.uint8(255)]))
    assert pipeline.arguments["mask"] is None
    assert pipeline.arguments["seed"] == 42
    assert pipeline.arguments["pointmap"] is None
    assert Image.open(folder / "preview.png").width > 256
    assert len(load_gaussians_ply(folder / "gaussians.ply").get_xyz) == 4
    assert json.loads((folder / "pose.json").read_text())["translation"] == [0, 0, 2]
    assert (folder.stat().st_mode & 0o777) == (object_folder.stat().st_mode & 0o777)


def test_results_of_random_weights_say_that_they_are_noise(pipeline, object_folder, elsewhere, capsys, monkeypatch):
    found = Checkpoint("synthetic", Path("synthetic"), "synthetic", "so", "native")
    monkeypatch.setattr(object_input, "find_checkpoint", lambda *asked: found)
    assert run(capsys, "infer", "--image_path", object_folder, "--tag", "synthetic")[0] == 0
    report = json.loads((elsewhere / "outputs" / "cup_0" / "report.json").read_text())
    assert report["notices"] == ["random weights: this result is noise"]


def test_pipeline_is_loaded_with_the_configured_settings(pipeline, object_folder, elsewhere, capsys):
    wanted = ("pipeline.dtype=float16", "pipeline.depth_model=weights/model.pt")
    given = ("--device", "cpu", "--memory", "12GB")
    assert run(capsys, "infer", "--image_path", object_folder, *given, *wanted)[0] == 0
    assert pipeline.asked_for == Loading("cpu", "float16", "weights/model.pt", "12GB")
    assert pipeline.arguments["with_layout_postprocess"] is True
    given = ["infer", "--image_path", object_folder, "--overwrite", "--dtype", "bfloat16"]
    assert run(capsys, *given, "pipeline.layout_postprocess=false")[0] == 0
    assert pipeline.asked_for == Loading(dtype="bfloat16")
    assert pipeline.arguments["with_layout_postprocess"] is False


def test_the_glb_opens_with_colours(pipeline, object_folder, elsewhere, capsys):
    import trimesh

    run(capsys, "infer", "--image_path", object_folder)
    mesh = trimesh.load(elsewhere / "outputs/cup_0/mesh.glb", force="mesh")
    assert mesh.is_watertight
    assert mesh.volume > 0
    assert len(np.unique(meshes.load_glb(elsewhere / "outputs/cup_0/mesh.glb").rgb)) > 4


def test_the_report_has_seeds_steps_methods_and_costs(pipeline, object_folder, elsewhere, capsys):
    code, out, _ = run(
        capsys, "infer", "--image_path", object_folder, "--enable_acceleration", "--seed", 7, "pipeline.slat_steps=4"
    )
    assert code == 0
    report = json.loads((elsewhere / "outputs/cup_0/report.json").read_text())
    assert report["seed"] == 7
    assert report["steps"] == {"ss": 25, "slat": 4}
    assert report["methods"]["ss"]["when"]["name"] == "path"
    calls, nodes = report["network_calls"], load(["ss=path"]).modules["ss"]["when"]["nodes"]
    assert (calls["ss"]["steps_evaluated"], calls["ss"]["steps"]) == (len(nodes), 25)
    assert calls["ss"]["saved"] > 0
    assert 1 < calls["slat"]["steps_evaluated"] <= calls["slat"]["steps"] == 4
    assert report["peak_memory_bytes"]["host"] > 1e7
    assert report["seconds"]["ss"] > 0
    assert report["result"]["mesh"]["watertight"] is True
    assert report["result"]["gaussians"] == 4
    assert "sparse structure" in out
    assert f"{len(nodes)}/25" in out


def test_nothing_is_installed_without_acceleration(pipeline, object_folder, elsewhere, capsys):
    before = snapshot(pipeline)
    run(capsys, "infer", "--image_path", object_folder)
    after = snapshot(pipeline)
    after[""] = {
        k: v for k, v in after[""].items() if k not in ("arguments", "loaded", "asked_for")
    }  # the stand-in's own
    for name in ("ss", "slat"):
        for state in (before, after):
            state[f"models.{name}_generator"].pop("inference_steps")
    assert same_vars(before, after)
    report = json.loads((elsewhere / "outputs/cup_0/report.json").read_text())
    assert report["methods"] == {}
    assert report["network_calls"]["ss"]["saved"] == 0


def test_flags_reach_the_run(pipeline, object_folder, elsewhere, capsys):
    code, *_ = run(
        capsys, "infer", f"--image-dir={object_folder}", "--mask_index", 11, "--output-dir", "my results",
        "--enable_ss_cache", "--ss_cache_stride", 4, "--ss_warmup", 3, "--ss_order", 2, "--ss_momentum_beta", 0.7,
        "pipeline.formats=[mesh]", "output.preview=false",
    )  # fmt: skip
    assert code == 0
    folder = elsewhere / "my results" / "cup_11"
    assert files(folder) == {"mesh.glb", "pose.json", "report.json"}
    method = json.loads((folder / "report.json").read_text())["methods"]["ss"]
    assert method["when"] == {"name": "stride", "stride": 4, "warmup": 3}
    assert method["predict"]["shape"]["order"] == 2
    assert method["predict"]["translation"]["beta"] == 0.7


def test_an_override_of_a_module_takes_precedence_over_enable_acceleration(pipeline, object_folder, elsewhere, capsys):
    code, *_ = run(capsys, "infer", "--image_path", object_folder, "ss=off", "--enable_acceleration")
    assert code == 0
    assert "ss" not in json.loads((elsewhere / "outputs/cup_0/report.json").read_text())["methods"]


def test_carving_flags_reach_the_run(pipeline, object_folder, elsewhere, capsys):
    code, *_ = run(
        capsys, "infer", "--image_path", object_folder, "--enable_slat_carving",
        "--slat_thresh", 0.5, "--slat_warmup", 4, "--slat_carving_ratio", 0.2,
    )  # fmt: skip
    assert code == 0
    methods = json.loads((elsewhere / "outputs/cup_0/report.json").read_text())["methods"]
    assert set(methods) == {"slat"}
    assert methods["slat"]["when"] == {"name": "budget", "threshold": 0.5, "warmup": 4, "momentum": 0.7}
    assert (methods["slat"]["where"]["keep"], methods["slat"]["where"]["warmup"]) == (0.2, 4)


def test_flag_of_the_papers_method_selects_that_method(pipeline, object_folder, elsewhere, capsys, caplog):
    code, *_ = run(
        capsys, "infer", "--image_path", object_folder, "--enable_acceleration", "--ss_momentum_beta", 0.7,
        "--slat_carving_ratio", 0.2, "--slat_warmup", 4, "--mesh_spectral_threshold_low", 0.4,
    )  # fmt: skip
    assert code == 0
    methods = json.loads((elsewhere / "outputs/cup_0/report.json").read_text())["methods"]
    assert methods["ss"]["predict"]["scale"]["beta"] == 0.7
    assert methods["ss"]["when"] == {"name": "stride", "stride": 3, "warmup": 2}
    assert (methods["slat"]["where"]["keep"], methods["slat"]["when"]["warmup"]) == (0.2, 4)
    assert methods["mesh"]["threshold_low"] == 0.4


def test_the_method_of_a_preset_is_kept_when_its_module_is_enabled_too(pipeline, object_folder, elsewhere, capsys):
    given = ["infer", "--image_path", object_folder, "--enable_acceleration"]
    assert run(capsys, *given, "--enable_ss_cache", "--enable_mesh_aggregation")[0] == 0
    methods = json.loads((elsewhere / "outputs/cup_0/report.json").read_text())["methods"]
    assert methods["ss"]["when"]["name"] == "path"  # the default preset's
    assert methods["mesh"]["where"] == "decoder"  # which the default preset leaves off


def test_valid_keys_in_messages_are_not_rewritten_as_flags(object_folder, elsewhere, capsys):
    _, _, err = run(capsys, "infer", "--image_path", object_folder, "foo=1")
    assert "input.image_path" in err and "--image_path" not in err


def test_flag_does_not_replace_a_method_named_by_an_override(pipeline, object_folder, elsewhere, capsys):
    given = ["infer", "--image_path", object_folder, "--enable_acceleration", "--slat_carving_ratio", 0.2]
    code, _, err = run(capsys, *given, "slat=off")
    assert code == 2 and "slat=off" in err


def test_pointmap_is_passed_as_a_tensor(pipeline, object_folder, elsewhere, capsys):
    y, x = np.mgrid[1:-1:40j, 1:-1:48j]
    np.save(object_folder / "pointmap.npy", np.stack([x, y, np.ones_like(x)], -1).astype(np.float32))
    run(capsys, "infer", "--image_path", object_folder)
    assert pipeline.arguments["pointmap"].shape == (40, 48, 3)
    run(capsys, "infer", "--image_path", object_folder, "--no-pointmap", "--overwrite")
    assert pipeline.arguments["pointmap"] is None


def test_large_picture_is_reduced_before_the_run(pipeline, tmp_path, elsewhere, capsys):
    rng = np.random.default_rng(0)
    image, mask = rng.integers(0, 256, (30, 4200, 3)).astype(np.uint8), np.zeros((30, 4200), np.uint8)
    mask[5:25, 100:2000] = 255
    depth = rng.uniform(1, 2, (30, 4200))
    y, x = np.mgrid[0.007:-0.007:30j, 1:-1:4200j]
    points = np.stack([x * depth, y * depth, depth], -1).astype(np.float32)
    Image.fromarray(image).save(tmp_path / "wide.png")
    Image.fromarray(mask).save(tmp_path / "0.png")
    np.save(tmp_path / "pointmap.npy", points)
    assert run(capsys, "infer", "--image_path", tmp_path / "wide.png")[0] == 0
    small = limit_size(np.dstack([image, mask]))
    np.testing.assert_array_equal(pipeline.arguments["image"], small)
    np.testing.assert_array_equal(pipeline.arguments["pointmap"], match_size(points, *small.shape[:2]))
    report = json.loads((elsewhere / "outputs/wide_0/report.json").read_text())
    assert report["input"]["size"] == [4200, 30]
    mask[:] = 255
    mask[0, 0] = 0
    Image.fromarray(mask).save(tmp_path / "0.png")
    assert run(capsys, "infer", "--image_path", tmp_path / "wide.png", "--overwrite")[0] == 0
    assert pipeline.arguments["image"].shape == (30, 4200, 4)  # reduced, it would be covered whole


def test_overwrite_replaces_all_older_files(pipeline, object_folder, elsewhere, capsys):
    run(capsys, "infer", "--image_path", object_folder)
    code, *_ = run(capsys, "infer", "--image_path", object_folder, "pipeline.formats=[gaussian]", "--overwrite")
    assert code == 0
    assert files(elsewhere / "outputs") == {"cup_0", *(f"cup_0/{n}" for n in RESULTS - {"mesh.glb"})}


def test_results_of_the_same_input_and_settings_are_kept(pipeline, object_folder, elsewhere, capsys):
    run(capsys, "infer", "--image_path", object_folder)
    before = {p: p.read_bytes() for p in elsewhere.rglob("*.*") if p.is_file()}
    pipeline.loaded = False
    code, out, _ = run(capsys, "infer", "--image_path", object_folder, "--device", "cpu")
    assert code == 0 and "outputs/cup_0 are complete" in out and "--overwrite" in out
    assert not pipeline.loaded
    (elsewhere / "outputs/cup_0/mesh.glb").write_bytes(b"cut short")
    assert run(capsys, "infer", "--image_path", object_folder)[0] == 0
    assert pipeline.loaded
    assert {p for p in before if p.name != "report.json" and p.read_bytes() != before[p]} <= {
        elsewhere / "outputs/cup_0" / name for name in ("gaussians.ply", "mesh.glb", "preview.png")
    }, "arrays that the stand-in draws for each run"


@pytest.mark.parametrize("name", ["gaussians.ply", "mesh.glb", "report.json"])
def test_results_that_were_damaged_later_are_created_anew(pipeline, object_folder, elsewhere, capsys, name):
    run(capsys, "infer", "--image_path", object_folder, "output.preview=false")
    folder = elsewhere / "outputs" / "cup_0"
    path, before = folder / name, (folder / "pose.json").read_bytes()
    path.write_bytes(path.read_bytes().replace(b'"preset": "off"', b'"preset": "0ff"').replace(bytes(2), b"ab", 1))
    size = path.stat().st_size
    code, out, err = run(capsys, "infer", "--image_path", object_folder, "output.preview=false")
    assert code == 0 and f"{name} has been changed since it was written" in err and "results in" in out
    assert path.stat().st_size == size or name == "report.json"
    assert (folder / "pose.json").read_bytes() == before
    code, out, _ = run(capsys, "infer", "--image_path", object_folder, "output.preview=false")
    assert code == 0 and "are complete" in out


def test_formats_say_what_is_decoded_and_written(pipeline, object_folder, elsewhere, capsys):
    pytest.importorskip("gaussforge")
    given = ("infer", "--image_path", object_folder, "--formats")
    code, out, _ = run(capsys, *given, "spz,ply,glb-splat")
    assert code == 0 and "gaussians.spz" in out
    assert pipeline.arguments["decode_formats"] == ["gaussian"]
    names = {"gaussians.spz", "gaussians.ply", "gaussians.glb", "pose.json", "preview.png", "report.json"}
    assert files(elsewhere / "outputs/cup_0") == names
    pipeline.loaded = False
    code, out, _ = run(capsys, *given, "gaussian,glb-splat,spz")  # the same in another order
    assert code == 0 and "are complete" in out and not pipeline.loaded
    code, _, err = run(capsys, *given, "spz")
    assert code == 2 and "files was" in err and "--overwrite" in err and not pipeline.loaded
    assert run(capsys, *given, "obj", "--overwrite")[0] == 0
    assert files(elsewhere / "outputs/cup_0") == {"mesh.obj", "pose.json", "preview.png", "report.json"}


def test_a_mesh_that_cannot_be_reduced_is_written_whole_with_a_notice(
    pipeline, object_folder, elsewhere, capsys, monkeypatch
):
    pytest.importorskip("fast_simplification")

    def fails(*arguments: object) -> None:
        raise ExportError("the mesh cannot be reduced to 4 faces without opening it")

    monkeypatch.setattr(texture, "decimated", fails)
    code, _, err = run(capsys, "infer", "--image_path", object_folder, "--faces", 4)
    assert code == 0 and "without opening it; the mesh is written with all faces" in err
    assert len(trimesh.load(elsewhere / "outputs/cup_0/mesh.glb", force="mesh").faces) == 12
    report = json.loads((elsewhere / "outputs/cup_0/report.json").read_text())
    assert any("without opening it" in notice for notice in report["notices"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--formats", "spx"], ["--formats: output.formats holds 'spx'"]),
        (["--formats", ","], ["--formats is ','"]),
        (["--formats", "spz", "pipeline.formats=[mesh]"], ["--formats", "needs gaussian"]),
        (["--formats", "ply", "--texture", "512"], ["--texture", "needs a mesh"]),
        (["--faces", "2"], ["--faces: output.faces is 2"]),
        (["--faces", "many"], ["--faces", "many"]),
    ],
)
def test_files_that_cannot_be_written_are_refused_before_loading(
    pipeline, object_folder, elsewhere, capsys, arguments, words
):
    code, _, err = run(capsys, "infer", "--image_path", object_folder, *arguments)
    assert code == 2 and all(word in err for word in words), err
    assert not pipeline.loaded and not list(elsewhere.iterdir())


@pytest.mark.parametrize("change", ["settings", "mask", "picture", "unknown", "no JSON"])
def test_other_results_are_refused_before_loading(pipeline, object_folder, elsewhere, capsys, picture, change):
    run(capsys, "infer", "--image_path", object_folder)
    given, words = (
        ["infer", "--image_path", object_folder],
        [f"results of another input, {object_folder / 'image.png'}"],
    )
    if change == "settings":
        given, words = [*given, "--seed", 7], ["seed was 42 and is 7"]
    elif change == "mask":
        (object_folder / "2.png").replace(object_folder / "0.png")
    elif change == "picture":
        Image.fromarray(picture[::-1]).save(object_folder / "image.png")
    else:
        (elsewhere / "outputs/cup_0/report.json").write_text("{}" if change == "unknown" else '{"identity": {')
        words = ["no report.json says what they were made from"]
    before = {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()}
    pipeline.loaded = False
    code, _, err = run(capsys, *given)
    assert code == 2 and "--overwrite" in err and all(word in err for word in words), err
    assert not pipeline.loaded
    assert {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()} == before
    assert run(capsys, *given, "--overwrite")[0] == 0
    assert pipeline.loaded


def test_a_second_run_into_the_folder_is_refused_while_the_first_runs(
    pipeline, object_folder, elsewhere, capsys, monkeypatch
):
    whole, seen = StandIn.run, []

    def during(self, *args, **options):
        if not seen:
            seen.append(None)
            seen[0] = run(capsys, "infer", "--image_path", object_folder, "--seed", 7, "--overwrite")
            seen.append(run(capsys, "infer", "--image_path", object_folder, "--mask_index", 2))
        return whole(self, *args, **options)

    monkeypatch.setattr(locks, "RUN_TRIES", 2)
    monkeypatch.setattr(StandIn, "run", during)
    assert run(capsys, "infer", "--image_path", object_folder)[0] == 0
    (refused, _, err), (other, *_) = seen
    assert refused == 2 and "another run is writing into outputs/cup_0: wait for its end" in err
    assert other == 0, "one into another folder"
    assert json.loads((elsewhere / "outputs/cup_0/report.json").read_text())["seed"] == 42
    assert {path.name for path in (elsewhere / "outputs").iterdir()} == {"cup_0", "cup_2"}, "no lock is left"


def test_results_are_named_after_the_folder_even_if_the_picture_is_a_link(pipeline, object_folder, elsewhere, capsys):
    blobs = object_folder.parent / "blobs"
    blobs.mkdir()
    for name in ("cat", "dog"):
        shutil.copytree(object_folder, object_folder.parent / name)
        (object_folder.parent / name / "image.png").replace(blobs / name)
        (object_folder.parent / name / "image.png").symlink_to(blobs / name)
        assert run(capsys, "infer", "--image_path", object_folder.parent / name)[0] == 0
    assert {p.name for p in (elsewhere / "outputs").iterdir()} == {"cat_0", "dog_0"}


@pytest.mark.parametrize(
    ("flags", "preset", "on"),
    [
        (["--enable_acceleration"], "default", {"ss", "slat", "exact"}),
        (["--preset", "fast_sam3d"], "fast_sam3d", {"ss", "slat", "mesh", "exact"}),
        (["--preset", "default", "--enable_acceleration", "ss=off"], "default", {"slat", "exact"}),
        ([], "off", set()),
        (["--enable_ss_cache"], "off", {"ss"}),
    ],
)
def test_the_preset_is_in_the_log_and_the_report(pipeline, object_folder, elsewhere, capsys, flags, preset, on):
    code, _, err = run(capsys, "infer", "--image_path", object_folder, *flags)
    assert code == 0
    report = json.loads((elsewhere / "outputs/cup_0/report.json").read_text())
    assert report["preset"] == preset and set(report["methods"]) == on
    assert all(f"{module}=" in err for module in on)
    assert ("acceleration: preset" in err) != (preset == "off" and bool(on))  # no preset was named


def test_the_time_of_the_results_is_a_row_of_the_report(pipeline, object_folder, elsewhere, capsys):
    code, out, _ = run(capsys, "infer", "--image_path", object_folder)
    report = json.loads((elsewhere / "outputs/cup_0/report.json").read_text())
    assert code == 0 and report["seconds"]["results"] > 0
    assert report["total_seconds"] == pytest.approx(sum(report["seconds"].values()))
    row = next(line for line in out.splitlines() if line.strip(" │").startswith("writing results "))
    assert f"{report['seconds']['results']:.2f}" in row


def test_flags_of_other_releases_are_aliases(pipeline, object_folder, elsewhere, capsys):
    code, _, err = run(
        capsys, "infer", "--image_path", object_folder, "--enable_ss_faster", "--ss_faster_stride", 4,
        "--enable_slat_token", "--slat_token_ratio", 0.7, "--slat_carving_ratio", 0.3,
    )  # fmt: skip
    assert code == 0
    assert "--ss_faster_stride is ss.when.stride=4" in err and "--enable_slat_token is slat=fast_sam3d" in err
    methods = json.loads((elsewhere / "outputs/cup_0/report.json").read_text())["methods"]
    assert methods["ss"]["when"]["stride"] == 4
    assert methods["slat"]["where"]["keep"] == 0.3, "its ratio is the share skipped"


def test_a_mesh_without_faces_is_left_out_with_a_warning(pipeline, object_folder, elsewhere, capsys, monkeypatch):
    plain_run = StandIn.run

    def without_faces(self, *arguments, **options):
        result = plain_run(self, *arguments, **options)
        result["mesh"][0].faces = result["mesh"][0].faces[:0]
        return result

    monkeypatch.setattr(StandIn, "run", without_faces)
    code, _, err = run(capsys, "infer", "--image_path", object_folder)
    assert code == 0
    assert "no mesh.glb is written" in err
    assert files(elsewhere / "outputs/cup_0") == RESULTS - {"mesh.glb"}


def test_paths_that_are_not_utf8(pipeline, object_folder, elsewhere, capsys, monkeypatch):
    # pytest-xdist cannot send a log with such a path to the process that reports.
    monkeypatch.setattr(logging.getLogger("fast_sam3d"), "propagate", False)
    source = object_folder.rename(object_folder.with_name(os.fsdecode(b"c\xffp")))
    code, out, _ = run(capsys, "infer", "--image_path", source, "--output_dir", os.fsdecode(b"r\xff"))
    assert code == 0
    assert "results in r\\udcff/c_p_0" in out
    report = json.loads((elsewhere / os.fsdecode(b"r\xff") / "c_p_0" / "report.json").read_text(encoding="utf-8"))
    assert report["input"]["image"] == str(source / "image.png")


def test_a_picture_with_the_longest_name(pipeline, object_folder, elsewhere, capsys):
    path = (object_folder / "image.png").rename(object_folder / ("x" * 251 + ".png"))
    assert run(capsys, "infer", "--image_path", path)[0] == 0
    (folder,) = (elsewhere / "outputs").iterdir()
    assert files(folder) == RESULTS
    assert folder.name.endswith("_0")


# ------------------------------------------------------------------------------------- mistakes: exit code 2, no file


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--image_path"]),
        (["--image_path", "nowhere"], ["no image at nowhere"]),
        (["--image_path", "{cup}", "--mask_index", "1"], ["0, 2, 11"]),
        (["--image_path", "{cup}", "--mask_index", "x"], ["--mask_index", "'x'", "whole number"]),
        (["--image_path", "{cup}", "--mask_index", "1", "--mask_path", "a"], ["both name a mask"]),
        (["--image_path"], ["--image_path", "expected one argument"]),
        (["--image_path", "{cup}", "--see", "3"], ["no flag --see", "'--seed'"]),
        (["--image_path", "{cup}", "--enable_aceleration"], ["'--enable_acceleration'"]),
        (["--image_path", "{cup}", "sed=3"], ["'seed'"]),
        (["--image_path", "{cup}", "stray"], ["'stray'", "key=value"]),
        (["--image_path", "{cup}", "ss=fast"], ["no option 'fast'"]),
        (["--image_path", "{cup}", "--preset", "fst"], ["preset has no option 'fst'", "'fast'"]),
        (
            ["--image_path", "{cup}", "--preset", "fast", "--enable_acceleration"],
            ["--preset is fast"],
        ),
        (["--image_path", "{cup}", "--preset", "fast", "preset=default"], ["exclude each other"]),
        (["--image_path", "{cup}", "--dtype", "float8"], ["--dtype", "float16"]),
        (["--image_path", "{cup}", "--slat_token_ratio", "1"], ["--slat_token_ratio", "below 1"]),
        (
            ["--image_path", "{cup}", "--enable_ss_cache", "--ss_cache_stride", "3", "--ss_faster_stride", "4"],
            ["--ss_cache_stride and --ss_faster_stride", "to 3 and to 4"],
        ),
        (
            [
                "--image_path",
                "{cup}",
                "--enable_slat_token",
                "--slat_carving_ratio",
                "0.9",
                "--slat_token_ratio",
                "0.9",
            ],
            ["--slat_carving_ratio and --slat_token_ratio", "to 0.9 and to 0.1"],
        ),
        (["--image_path", "{cup}", "--image_dir", "elsewhere"], ["--image_path and --image_dir", "give one"]),
        (["--image_path", "{cup}", "--ss_cache_stride", "3"], ["--ss_cache_stride", "--enable_acceleration"]),
        (["--image_path", "{cup}", "--enable_acceleration", "--ss_cache_stride", "0"], ["ss.when.stride", "0"]),
        (["--image_path", "{cup}", "--enable_acceleration", "--ss_momentum_beta", "7"], ["beta", "7"]),
        (["--image_path", "{cup}", "--enable_acceleration", "ss.when.name=strid"], ["'strid'", "stride"]),
        (["--image_path", "{cup}", "--slat_thresh", "1.5"], ["--slat_thresh", "--enable_acceleration"]),
        (["--image_path", "{cup}", "--enable_slat_carving", "--slat_carving_ratio", "0"], ["slat.where.keep", "0"]),
        (["--image_path", "{cup}", "--enable_mesh_aggregation", "--mesh_spectral_threshold_low", "0.9"], ["swap them"]),
        (["--image_path", "{cup}", "--pointmap", "a.npz", "--no_pointmap"], ["not allowed with"]),
        (["--image_path", "{cup}", "--pointmap", "a.npz"], ["no pointmap at a.npz"]),
        (["--image_path", "{cup}", "--output_dir", "{cup}/image.png"], ["is a file"]),
        (["--image_path", "{cup}", "--output_dir", "{cup}/image.png/deeper"], ["is a file"]),
        (["--image_path", "{cup}", "--output_dir", "/proc/none"], ["cannot be written"]),
        (["--image_path", "{cup}", "--output_dir", "n" * 300], ["too long", "--output_dir"]),
        (["--image_path", "{cup}", "--device="], ["--device: pipeline.device is ''"]),
        (["--image_path", "{cup}", "--seed=-3"], ["--seed: seed is -3"]),
        (["--image_path", "{cup}", "--mask_index=-3"], ["--mask_index: input.mask_index is -3"]),
        (["--image_path", "{cup}", "--output_dir", "~nobody-of-that-name/a"], ["--output_dir: output.dir is"]),
        (["--image_path", "{cup}", "pipeline.device=[]"], ["pipeline.device is []"]),
        (["--image_path", "{cup}", "ss@x=off"], ["package"]),
    ],
)
def test_errors_are_one_sentence_and_write_nothing(pipeline, object_folder, elsewhere, capsys, arguments, words):
    if "/proc/none" in arguments and not Path("/proc").is_dir():
        pytest.skip("there is no /proc here")
    before = files(object_folder)
    code, out, err = run(capsys, "infer", *[a.replace("{cup}", str(object_folder)) for a in arguments])
    assert (code, out) == (2, "")
    sentences = [line for line in err.splitlines() if line.startswith("fast-sam3d: ")]
    assert len(sentences) == 1
    assert "Traceback" not in err
    for word in words:
        assert word in sentences[0]
    assert files(elsewhere) == set()
    assert files(object_folder) == before
    assert not pipeline.loaded


def test_results_never_replace_a_folder_with_other_files(pipeline, object_folder, elsewhere, capsys):
    before = files(object_folder)
    (object_folder.parent / "cup_0").mkdir()
    (object_folder.parent / "cup_0" / "notes.txt").write_text("mine")
    code, _, err = run(capsys, "infer", "--image_path", object_folder, "--output_dir", object_folder.parent)
    assert code == 2
    assert "notes.txt" in err
    assert (object_folder.parent / "cup_0" / "notes.txt").read_text() == "mine"
    assert files(object_folder) == before


@pytest.mark.parametrize("device", ["meta", "xpu", "cuda:99", "gpu"])
def test_unavailable_devices(object_folder, elsewhere, capsys, device):
    code, out, err = run(capsys, "infer", "--image_path", object_folder, "--tag", "mini", "--device", device)
    assert (code, out) == (2, "")
    assert "pipeline.device" not in err
    assert files(elsewhere) == set()


def test_missing_weights(object_folder, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(loading, "checkpoint_roots", lambda: [])
    code, _, err = run(capsys, "infer", "--image_path", object_folder, "--tag", "hf")
    assert code == 2
    assert "request access" in err
    assert files(elsewhere) == set()


# ------------------------------------------------------------------------------- interruptions leave nothing behind


def interrupt(*arguments: object, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(("place", "name"), [(StandIn, "run"), (meshes, "save_glb"), (seals, "save_json")])
@pytest.mark.parametrize("earlier", [False, True])
def test_ctrl_c_leaves_no_partial_file_and_keeps_the_older_result(
    pipeline, object_folder, elsewhere, capsys, monkeypatch, place, name, earlier
):
    if earlier:
        run(capsys, "infer", "--image_path", object_folder)
    content = {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()}
    before = files(elsewhere)
    monkeypatch.setattr(place, name, interrupt)
    code, _, err = run(capsys, "infer", "--image_path", object_folder, "--seed", 5, "--overwrite")
    assert code == 130
    assert "interrupted" in err
    assert files(elsewhere) == before
    assert {p: p.read_bytes() for p in elsewhere.rglob("*") if p.is_file()} == content


def test_interrupt_after_the_results_are_written_is_reported(pipeline, object_folder, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(infer, "_print_summary", interrupt)
    code, _, err = run(capsys, "infer", "--image_path", object_folder)
    assert code == 130
    assert "interrupted; the results in outputs/cup_0 are complete" in err
    assert files(elsewhere / "outputs/cup_0") == RESULTS


def test_sigterm_leaves_no_partial_file(pipeline, object_folder, elsewhere, capsys, monkeypatch):
    monkeypatch.setattr(meshes, "save_glb", lambda *a, **o: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(5))
    before = signal.getsignal(signal.SIGTERM)
    code, _, err = run(capsys, "infer", "--image_path", object_folder)
    assert code == 143 and err.endswith("fast-sam3d: terminated; no unfinished file was left\n")
    assert files(elsewhere) == set()
    assert signal.getsignal(signal.SIGTERM) == before


def test_full_disk_is_reported_in_one_sentence(pipeline, object_folder, elsewhere, capsys, monkeypatch):
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(meshes, "save_glb", full)
    code, _, err = run(capsys, "infer", "--image_path", object_folder)
    assert code == 2
    assert "No space left on device): free some space" in err
    assert files(elsewhere) == set()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: not enough memory: you tried")])
def test_out_of_memory_error_suggests_remedies(pipeline, object_folder, elsewhere, capsys, monkeypatch, error):
    def run_out(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(StandIn, "run", run_out)
    code, _, err = run(capsys, "infer", "--image_path", object_folder)
    assert code == 1
    assert "out of memory, also with fewer formats" in err and "pipeline.formats=[gaussian]" in err
    assert files(elsewhere) == set()


def test_out_of_memory_decodes_fewer_formats_and_reports_it(pipeline, object_folder, elsewhere, capsys, monkeypatch):
    asked = []

    def run_out(self: StandIn, *arguments: object, **options: object) -> object:
        asked.append(options["decode_formats"])
        if "mesh" in asked[-1]:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")
        return original(self, *arguments, **options)

    original = StandIn.run
    monkeypatch.setattr(StandIn, "run", run_out)
    code, out, err = run(capsys, "infer", "--image_path", object_folder, "--enable_acceleration")
    assert code == 0 and asked == [["mesh", "gaussian"], ["mesh", "gaussian"], ["gaussian"]]
    assert "out of memory in 2 attempts: only gaussian fitted" in out and "trying again" in err
    folder = elsewhere / "outputs" / "cup_0"
    assert {path.name for path in folder.iterdir()} == RESULTS - {"mesh.glb"}
    report = json.loads((folder / "report.json").read_text())
    assert report["formats"] == ["gaussian"]
    assert [line.split(":")[0] for line in report["out_of_memory"]] == ["mesh, gaussian", "mesh, gaussian again, alone"]
    assert adapt(pipeline).seams() == []
    assert "are complete" in run(capsys, "infer", "--image_path", object_folder, "--enable_acceleration")[1]


def test_unexpected_errors_are_raised(pipeline, object_folder, elsewhere, capsys, monkeypatch):
    def fail(*arguments: object, **options: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(meshes, "save_glb", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        cli.main(["infer", "--image_path", str(object_folder)])
    assert files(elsewhere) == set()
