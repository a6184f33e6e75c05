"""`--model trellis`: what infer and bench write, and what is refused before anything is written."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import fast_sam3d
from fast_sam3d.bench import job as bench_job
from fast_sam3d.errors import InputError
from fast_sam3d.outputs.meshes import load_glb
from tests import trellis_package
from tests.minis import rgba
from tests.stand_in import files, run
from tests.trellis_like import random_image

STEPS = ("pipeline.ss_steps=4", "pipeline.slat_steps=4")
ON_CPU = ("--model", "trellis", "--device", "cpu")


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> trellis_package.Loaded:
    """The package, whose pipeline is the stand-in."""
    return trellis_package.install(monkeypatch, tmp_path)


@pytest.fixture
def cup(tmp_path: Path) -> Path:
    """A picture that is cut out."""
    path = tmp_path / "cup.png"
    Image.fromarray(rgba()).save(path)
    return path


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return trellis_package.weights(tmp_path / "weights")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_infer_writes_a_cut_out_without_a_pose_and_resumes(loaded, cup, weights, here, capsys):
    asked = ("infer", "--image_path", cup, "--tag", weights, *ON_CPU, *STEPS)
    code, _, err = run(capsys, *asked)
    assert code == 0, err
    folder = here / "outputs" / "cup_alpha"
    names = {"gaussians.ply", "mesh.glb", "preview.png", "report.json"}
    assert files(folder) == names
    report = json.loads((folder / "report.json").read_text())
    assert report["pipeline"]["model"] == report["pipeline"]["runtime"] == "trellis"
    assert [notice for notice in report["notices"] if "no pose.json" in notice]
    assert not report["pose_refined"]
    assert loaded.paths == [str(weights)]
    assert "complete" in run(capsys, *asked)[1]
    assert len(loaded.paths) == 1
    # The pipeline's own result, turned from z up to y up.
    steps = {"steps": 4}
    own = loaded.pipelines[0].run(Image.open(cup), 1, 42, steps, steps, formats=("mesh",))["mesh"][0]
    written, used = load_glb(folder / "mesh.glb"), np.unique(own.faces.numpy())  # turned back
    torch.testing.assert_close(torch.as_tensor(np.array(written.vertices)).float(), own.vertices[used])


def test_soft_edges_of_a_cut_out_reach_the_pipeline(loaded, cup, weights, capsys, monkeypatch):
    pixels = rgba()
    pixels[20, 20, 3] = 100
    Image.fromarray(pixels).save(cup)
    seen: list[Any] = []
    make = trellis_package.random_image

    def watched() -> Any:
        made = make()
        own = made.preprocess_image
        made.preprocess_image = lambda picture: seen.append(np.asarray(picture)) or own(picture)
        return made

    monkeypatch.setattr(trellis_package, "random_image", watched)
    assert run(capsys, "infer", "--image_path", cup, "--tag", weights, *ON_CPU, *STEPS, "--formats", "ply",
               "output.preview=false")[0] == 0  # fmt: skip
    np.testing.assert_array_equal(seen[0], pixels)


def test_a_mask_file_and_methods_work_as_for_sam3d(loaded, cup, weights, here, capsys):
    Image.fromarray(rgba()[..., :3]).save(cup)
    mask = cup.with_name("0.png")
    Image.fromarray(rgba()[..., 3]).save(mask)
    given = ("--image_path", cup, "--mask_path", mask, "--tag", weights, *ON_CPU, *STEPS)
    assert run(capsys, "infer", *given, "ss=taylorseer", "slat=taylorseer", "exact=all", "output.preview=false")[0] == 0
    report = json.loads((here / "outputs" / "cup_0" / "report.json").read_text())
    assert report["network_calls"]["ss"]["saved"] > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--tag", "mini"), "no TRELLIS checkpoint 'mini'"),
        (("--dtype", "float16"), "precision of its checkpoint"),
        (("--pointmap", "points.npz"), "takes no pointmap"),
        (("--formats", "gaussian_4"), "no gaussian_4"),
        (("--memory", "8GB"), "no memory plans"),
        (("--runtime", "native"), "its own package"),
    ],
)
def test_flags_that_do_not_fit_are_refused(loaded, cup, here, capsys, flags, said):
    code, _, err = run(capsys, "infer", "--image_path", cup, *ON_CPU, *flags)
    assert (code, files(here)) == (2, set())
    assert said in err


def test_a_scene_is_refused(loaded, cup, here, capsys):
    with pytest.raises(InputError, match="pose"):
        next(fast_sam3d.run_scene(random_image(), rgba()[..., :3], [rgba()[..., 3]]))
    code, _, err = run(capsys, "scene", "--image_path", cup.parent, "--model", "trellis")
    assert (code, files(here)) == (2, set())
    assert "pose" in err


def test_a_picture_without_a_mask_is_refused_or_cut_out_by_rembg(loaded, cup, weights, here, capsys, monkeypatch):
    Image.fromarray(rgba()[..., :3]).save(cup)
    asked = ("infer", "--image_path", cup, "--tag", weights, *ON_CPU, *STEPS)
    code, _, err = run(capsys, *asked)
    assert (code, files(here)) == (2, set())
    assert "--rembg" in err
    monkeypatch.setitem(sys.modules, "rembg", None)
    code, _, err = run(capsys, *asked, "--rembg")
    assert (code, files(here)) == (2, set())
    assert "pip install" in err

    class Rembg:
        @staticmethod
        def remove(picture: Any, only_mask: bool) -> Any:
            return rgba()[..., 3]

    monkeypatch.setitem(sys.modules, "rembg", Rembg)
    assert run(capsys, *asked, "--rembg", "--formats", "ply", "output.preview=false")[0] == 0
    assert "mask.png" in files(here / "outputs" / "cup_rembg")


def test_a_machine_without_a_gpu_is_refused(loaded, cup, weights, here, capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run(capsys, "infer", "--image_path", cup, "--tag", weights, "--model", "trellis")
    assert (code, files(here), loaded.paths) == (2, set(), [])
    assert "needs an NVIDIA GPU" in err


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("class SomethingElse: pass", "another one"),
        ("import spconv_of_nobody\nclass TrellisImageTo3DPipeline: pass", "spconv_of_nobody"),
        ("raise OSError('libcudart.so: no such file')\nclass TrellisImageTo3DPipeline: pass", "libcudart"),
    ],
)
def test_a_package_that_does_not_work_is_refused(cup, weights, here, tmp_path, capsys, monkeypatch, code, said):
    trellis_package.install(monkeypatch, tmp_path, code)
    status, _, err = run(capsys, "infer", "--image_path", cup, "--tag", weights, *ON_CPU)
    assert (status, files(here)) == (2, set())
    assert said in err


def test_weights_for_texts_and_incomplete_ones_are_refused(loaded, cup, here, tmp_path, capsys):
    texts = trellis_package.weights(tmp_path / "texts", "TrellisTextTo3DPipeline")
    lacking = trellis_package.weights(tmp_path / "lacking")
    (lacking / "ckpts" / "gs.safetensors").unlink()
    outside = trellis_package.weights(tmp_path / "outside")
    settings = json.loads((outside / "pipeline.json").read_text())
    settings["args"]["models"]["slat_decoder_gs"] = "../lacking/ckpts/gs"
    (outside / "pipeline.json").write_text(json.dumps(settings))
    for place, said in ((texts, "TrellisTextTo3DPipeline"), (lacking, "gs.safetensors"), (outside, "outside")):
        code, _, err = run(capsys, "infer", "--image_path", cup, "--tag", place, *ON_CPU)
        assert (code, files(here), loaded.paths) == (2, set(), [])
        assert said in err


def test_what_loading_raises_is_one_sentence(loaded, cup, here, capsys, monkeypatch):
    def fails() -> Any:
        raise KeyError("image_cond_model")

    monkeypatch.setattr(trellis_package, "random_image", fails)
    code, _, err = run(capsys, "infer", "--image_path", cup, "--tag", "owner/text-large", *ON_CPU)
    assert (code, files(here), loaded.paths) == (2, set(), ["owner/text-large"])
    assert "for images" in err


def test_bench_compares_methods_on_cut_out_pictures(loaded, cup, weights, here, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(bench_job, "operations", lambda *given: 1.0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    cup.rename(folder / "cup.png")
    asked = ("bench", "--image_path", folder, "--tag", weights, *ON_CPU, "--seeds", "1", "--no_pictures",
             "pipeline.formats=[gaussian]")  # fmt: skip
    code, out, err = run(capsys, *asked, "--preset", "default", "--accelerate", "ss=taylorseer")
    assert code == 0, err
    assert "voxel_iou" in out
    assert "rotation_deg" not in out
    calls = {
        row["method"]: row["network_calls"] for row in csv.DictReader((here / "outputs/bench/own/rows.csv").open())
    }
    assert float(calls["preset=default"]) == 26
    assert float(calls["ss=taylorseer"]) < float(calls["off"])


def test_tune_measures_a_schedule_that_the_presets_take(loaded, cup, weights, here, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    shutil.copy(cup, folder)
    model, steps = ("--tag", weights, *ON_CPU), ("pipeline.ss_steps=8", "pipeline.slat_steps=8")
    fitted = ("--objects", "2", "--held_out", "1", "--minutes", "0.5", "--calls", "5,3", "--no_picture")
    code, out, err = run(capsys, "tune", "--image_path", folder, *model, *steps, *fitted)
    assert code == 0, err
    assert "rotation" not in out
    asked = ("infer", "--image_path", cup, *model, "--preset", "default", "--formats", "ply", "output.preview=false")
    assert run(capsys, *asked, *steps)[0] == 0
    report = json.loads((here / "outputs" / "cup_alpha" / "report.json").read_text())
    assert report["schedule"].startswith(str(tmp_path / "cache"))
    assert [report["network_calls"][stage]["made"] for stage in ("ss", "slat")] == [5, 3]
    assert [*report["methods"]["ss"]["predict"]] == ["shape"]
    # The file works by itself, and only with the sampler that it was measured on.
    own = (here / "outputs" / "tune" / "tuned.yaml").read_text()
    assert "layout" not in own
    code, out, err = run(capsys, *asked, "--overwrite")
    assert "was measured on this model with ss 8 steps, and the pipeline has 25" in err


def test_doctor_says_what_is_wrong_with_the_weights(loaded, tmp_path, here, capsys):
    texts = trellis_package.weights(tmp_path / "texts", "TrellisTextTo3DPipeline")
    for tag, said in ((texts, "is of 'TrellisTextTo3DPipeline'"), ("nosuch", "no TRELLIS checkpoint 'nosuch'")):
        code, out, _ = run(capsys, "doctor", "--model", "trellis", "--tag", tag)
        (line,) = [line for line in out.splitlines() if line.split()[:2] == ["--", "weights"]]
        assert code == 1 and said in line


def test_config_prints_the_models_own_preset(here, capsys):
    code, out, _ = run(capsys, "config", "--model", "trellis", "--preset", "default")
    assert code == 0 and "layout" not in yaml.safe_load(out)["ss"]["predict"]
    (here / "own.yaml").write_text(out)
    pipeline = trellis_package.random_image()
    with fast_sam3d.accelerated(pipeline, here / "own.yaml") as own:
        written = own.methods
    with fast_sam3d.accelerated(pipeline, "default") as handle:
        assert written == handle.methods
