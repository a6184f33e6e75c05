"""`python infer_scene.py` in a separate process on a bundled example: killed and resumed."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fast_sam3d import cli
from fast_sam3d.cli import profile_scene
from fast_sam3d.config.packaged import checkout
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.outputs.gaussians import load_gaussians_ply
from fast_sam3d.run.progress import SceneProgress
from tests.scene.test_folder import contents
from tests.stand_in import files, run

ROOT = checkout() or Path()
EXAMPLE = ROOT / "examples" / "scene"
QUICK = (
    "--tag", "mini", "--enable_acceleration", "pipeline.ss_steps=5", "pipeline.slat_steps=4",
    "pipeline.formats=[gaussian]", "output.preview=false",
)  # fmt: skip

pytestmark = pytest.mark.skipif(not EXAMPLE.is_dir(), reason="needs the repository, not only the installed package")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of an undisturbed run, one object after another."""
    folder = tmp_path_factory.mktemp("undisturbed")
    assert cli.main(["scene", "--image_dir", str(EXAMPLE), *QUICK, "--output_dir", str(folder)]) == 0
    return folder


def test_resumes_after_sigkill(elsewhere, capsys, undisturbed):
    command = [sys.executable, str(ROOT / "infer_scene.py"), "--image_dir", str(EXAMPLE), *QUICK]
    process = subprocess.Popen([*command, "--output_dir", "a"], stderr=subprocess.PIPE, text=True, cwd=elsewhere)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("object 1 complete"):
            break
    process.kill()
    process.communicate()
    there = {path.parent.name for path in (elsewhere / "a" / "scene").glob("*/done.json")}
    assert {"0", "1"} <= there and not (elsewhere / "a" / "scene" / "scene.json").exists()
    code, _, err = run(capsys, "scene", "--image_dir", EXAMPLE, *QUICK, "--output_dir", "a")
    assert code == 0, err
    assert f"{len(there)} of 5 objects are complete already" in err
    assert contents(elsewhere / "a") == contents(undisturbed)
    # Each object equals that of `infer`: the same voxels, and the same numbers up to rounding, because
    # the sparse structures of the five were sampled in one batch.
    assert run(capsys, "infer", "--image_path", EXAMPLE, "--mask_index", 3, *QUICK, "--output_dir", "c")[0] == 0
    assert_equal_but_for_rounding(elsewhere / "a/scene/3", elsewhere / "c/scene_3")


@pytest.mark.skipif(sys.platform != "linux", reason="nothing is forked elsewhere")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_parallel_processes_resume_after_a_signal(elsewhere, capsys, undisturbed, end):
    more = ("--workers", "3")
    command = [sys.executable, str(ROOT / "infer_scene.py"), "--image_dir", str(EXAMPLE), *QUICK, *more]
    process = subprocess.Popen([*command, "--output_dir", "a"], stderr=subprocess.PIPE, text=True, cwd=elsewhere)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("object ") and "2 of 5" in line:
            break
    process.send_signal(end)
    _, err = process.communicate()
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143}[end]
    assert "Traceback" not in err
    how = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}.get(end, "")
    assert end == signal.SIGKILL or (how in err and "the same command resumes" in err)
    there = {path.parent.name for path in (elsewhere / "a" / "scene").glob("*/done.json")}
    assert len(there) >= 2
    if end != signal.SIGKILL:
        assert {path.name for path in (elsewhere / "a" / "scene").iterdir()} == there  # nothing unfinished
    if len(there) < 5:
        assert not (elsewhere / "a" / "scene" / "scene.json").exists()
    code, _, err = run(capsys, "scene", "--image_dir", EXAMPLE, *QUICK, *more, "--output_dir", "a")
    assert code == 0, err
    assert contents(elsewhere / "a") == contents(undisturbed)


def assert_equal_but_for_rounding(one: Path, other: Path) -> None:
    first, second = (load_gaussians_ply(folder / "gaussians.ply") for folder in (one, other))
    np.testing.assert_allclose(first.get_xyz, second.get_xyz, atol=1e-5)
    poses = [json.loads((folder / "pose.json").read_text()) for folder in (one, other)]
    for name in ("rotation", "translation", "scale"):
        np.testing.assert_allclose(poses[0][name], poses[1][name], rtol=1e-5, atol=1e-5)


def test_unbatched_objects_equal_those_of_infer_byte_for_byte(elsewhere, capsys):
    alone = [*QUICK, "scene.batch=1"]
    assert run(capsys, "scene", "--image_dir", EXAMPLE, *alone, "--output_dir", "a")[0] == 0
    assert run(capsys, "infer", "--image_path", EXAMPLE, "--mask_index", 3, *QUICK, "--output_dir", "c")[0] == 0
    for name in ("gaussians.ply", "pose.json"):
        assert (elsewhere / "a/scene/3" / name).read_bytes() == (elsewhere / "c/scene_3" / name).read_bytes()


def test_progress_of_a_scene_shows_the_object_and_the_time_left(capsys, caplog):
    caplog.set_level("INFO", "fast_sam3d")
    with SceneProgress(4, ["0", "7"], bar=False) as progress:
        progress.begin()
        progress("ss", 1, 2)
        progress.object_done("0", "complete")
        progress.object_done("7", "failed")
    assert "object 0 complete: 1 of 2" in caplog.text and "object 7 failed: 2 of 2" in caplog.text
    with SceneProgress(4, ["0", "7"], bar=True) as progress:
        progress.begin()
        for step in range(3):
            progress("ss", step, 2)
        assert "object 0, 1 of 2" in capsys.readouterr().err
        progress.object_done("0", "complete")
    err = capsys.readouterr().err
    assert "object 7, 2 of 2" in err and "4/8" in err


def test_profile_scene_alternates_runs(tmp_path):
    order: list[str] = []
    ways = {name: lambda place, name=name: order.append(name) or (place / "x").write_text("") for name in "ab"}
    seconds = profile_scene.measure(ways, 2)
    assert order == ["b", "a", "a", "b", "b", "a"]
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_profile_scene_reports_failures(elsewhere, capsys):
    code, _, err = run(capsys, "profile-scene", "--image_dir", "nowhere", "--rounds", 1)
    assert code == 2
    assert "ended with 2" in err
    with pytest.raises(FastSam3dError):
        profile_scene._silently(lambda arguments: 1, ["infer"])
    assert files(elsewhere) == set()


def test_profile_scene_compares_scene_and_single_runs(elsewhere, capsys, monkeypatch):
    ran: list[list[str]] = []
    monkeypatch.setattr(cli, "main", lambda arguments: ran.append(list(arguments)) or 0)
    import argparse

    parser = argparse.ArgumentParser()
    profile_scene.add_arguments(parser)
    args = parser.parse_args(["--image_dir", str(EXAMPLE), "--rounds", "1", "--no_pictures", "--json", "n.json"])
    assert profile_scene.main(args) == 0
    assert sum(call[0] == "scene" for call in ran) == 2
    assert sum(call[0] == "infer" and "preset=default" in call for call in ran) == 10
    assert all("output.preview=false" in call for call in ran)
    assert json.loads((elsewhere / "n.json").read_text())["objects"] == 5
    assert "the scene is" in capsys.readouterr().out
