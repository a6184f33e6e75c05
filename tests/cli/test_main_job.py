"""`python infer.py` in a separate process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from fast_sam3d import cli
from fast_sam3d.config.packaged import checkout
from fast_sam3d.outputs.gaussians import load_gaussians_ply
from fast_sam3d.outputs.meshes import load_glb
from tests.model.test_pipeline import build
from tests.stand_in import files, run

ROOT = checkout() or Path()
EXAMPLES = sorted(p.parent for p in ROOT.glob("examples/*/image.png"))
RESULTS = {"gaussians.ply", "mesh.glb", "pose.json", "preview.png", "report.json"}

pytestmark = pytest.mark.skipif(not EXAMPLES, reason="needs the repository, not only the installed package")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the embedded kind with minimal width and random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    build().save_pretrained(folder)
    return folder


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "infer.py"), *map(str, arguments)]


def infer(cwd: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, timeout=250)


def test_embedded_model_on_a_bundled_example(elsewhere):
    import trimesh

    done = infer(
        elsewhere, "--image_path", EXAMPLES[0], "--tag", "mini", "--enable_acceleration", "--output_dir", "out"
    )
    assert done.returncode == 0, done.stderr
    folder = elsewhere / "out" / f"{EXAMPLES[0].name}_0"
    assert files(elsewhere / "out") == {folder.name, *(f"{folder.name}/{n}" for n in RESULTS)}
    mesh = trimesh.load(folder / "mesh.glb", force="mesh")
    report = json.loads((folder / "report.json").read_text())
    assert report["pipeline"]["tag"] == "mini"
    assert report["pipeline"]["runtime"] == "embedded"
    assert report["result"]["mesh"]["watertight"] or report["result"]["mesh"]["boundary_loops"] > 0
    assert mesh.volume > 0, "normals point inwards"
    assert len(np.unique(load_glb(folder / "mesh.glb").rgb, axis=0)) > 10
    assert report["network_calls"]["ss"]["steps_evaluated"] == 7
    assert report["network_calls"]["slat"]["steps_evaluated"] == 4
    assert len(load_gaussians_ply(folder / "gaussians.ply").get_xyz) > 1000


def test_same_seed_gives_identical_files(tiny, elsewhere):
    arguments = ["--image_path", str(EXAMPLES[0]), "--tag", str(tiny)]
    done = infer(elsewhere, *arguments, "--output_dir", "a", "--seed", 5)
    assert done.returncode == 0, done.stderr
    for name, seed in (("b", "5"), ("c", "6")):  # b: not only in one process
        assert cli.main(["infer", *arguments, "--output_dir", name, "--seed", seed]) == 0
    files = {name: list((elsewhere / name).rglob("*.*")) for name in "abc"}
    results = {name: {p.name: sha256(p.read_bytes()).hexdigest() for p in files[name]} for name in "abc"}
    for name in RESULTS - {"report.json"}:
        assert results["a"][name] == results["b"][name], name
        assert results["a"][name] != results["c"][name], name


@pytest.fixture
def running(tiny: Path, elsewhere: Path) -> Iterator[subprocess.Popen[str]]:
    """A long run, after it has loaded its pipeline."""
    arguments = ("--image_path", EXAMPLES[0], "--tag", tiny, "pipeline.ss_steps=1000", "pipeline.slat_steps=1000")
    process = subprocess.Popen(command(*arguments), stderr=subprocess.PIPE, text=True, cwd=elsewhere)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("loaded on"):
            break
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_leaves_no_files(running, elsewhere, number, code):
    os.kill(running.pid, number)
    _, err = running.communicate(timeout=30)
    assert running.returncode == code
    assert "Traceback" not in err
    assert files(elsewhere) == set()


@pytest.mark.parametrize("damage", ["cut", "missing", "settings"])
def test_damaged_weights(tiny, elsewhere, capsys, damage):
    broken = elsewhere / "checkpoints" / "broken"
    shutil.copytree(tiny, broken)
    path = sorted(broken.glob("*.safetensors"))[0]
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "missing":
        path.unlink()
    else:
        (broken / "pipeline.yaml").write_text("ss_flow: {model_chanels: 24}\n")
    before = files(elsewhere)
    code, _, err = run(capsys, "infer", "--image_path", EXAMPLES[0], "--tag", "broken")
    assert code == 2
    last = err.splitlines()[-1]
    assert last.startswith("fast-sam3d: ")
    assert ("pipeline.yaml" if damage == "settings" else path.name) in last
    assert files(elsewhere) == before
