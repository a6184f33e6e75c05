"""`fast-sam3d bench` from the command line to the files."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fast_sam3d import cli
from fast_sam3d.bench import job as jobs
from fast_sam3d.checkpoints import load as loading
from fast_sam3d.config.packaged import checkout
from tests.stand_in import StandIn

TIMED = ("seconds", "bytes")


def bench(folder: Path, *arguments: object) -> int:
    return cli.main(["bench", "--processes", "1", "--output_dir", str(folder), *map(str, arguments)])


def rows(folder: Path) -> list[dict[str, str]]:
    """A table without its times."""
    with (folder / "rows.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if not k.endswith(TIMED)} for row in csv.DictReader(file)]


def test_bench_on_own_pictures_writes_rows_tables_and_plots(loaded, object_folder, elsewhere, capsys):
    code = bench(elsewhere / "out", "--image_dir", object_folder, "--accelerate", "ss=fast_sam3d", "--seeds", "1,2",
                 "--objects", "2")  # fmt: skip
    out = capsys.readouterr()
    assert code == 0 and "fidelity to the unaccelerated result" in out.out and "has no ground truth" in out.err
    found = rows(elsewhere / "out")
    assert [(r["object"], r["seed"]) for r in found[::3]] == [(".#0", "1"), (".#0", "2"), (".#2", "1"), (".#2", "2")]
    assert [r["method"] for r in found[:3]] == ["off", "other seed", "ss=fast_sam3d"]
    assert [r["operations"] != "nan" for r in found] == [True] * 3 + [False] * 9, "of the first object and seed"
    assert not any(name.startswith("truth") for name in found[0])
    written = {path.name for path in (elsewhere / "out").iterdir() if not path.name.startswith("rows-")}
    assert written == {"rows.csv", "table.md", "summary.json", "pareto.png", "stages.png"}
    summary = json.loads((elsewhere / "out" / "summary.json").read_text())
    assert summary["standings"]["ss=fast_sam3d"]["network_calls"][0] < summary["standings"]["off"]["network_calls"][0]
    assert (elsewhere / "out" / "table.md").read_text() in out.out


def test_poses_are_refined_as_by_infer_unless_switched_off(loaded, object_folder, elsewhere, capsys, monkeypatch):
    asked = []
    whole = StandIn.run

    def run(self, *args, **options):
        asked.append(options["with_layout_postprocess"])
        return whole(self, *args, **options)

    monkeypatch.setattr(StandIn, "run", run)
    given = ["--image_dir", object_folder, "--objects", 1, "--accelerate", "ss=fast_sam3d", "--no_pictures"]
    assert bench(elsewhere / "a", *given) == 0
    assert set(asked) == {True} and "pose refined" in (elsewhere / "a" / "table.md").read_text()
    asked.clear()
    assert bench(elsewhere / "b", *given, "pipeline.layout_postprocess=false") == 0
    assert set(asked) == {False} and "pose not refined" in (elsewhere / "b" / "table.md").read_text()
    assert bench(elsewhere / "c", *given, "ss=off") == 2
    assert "'ss=off' does not hold for every run" in capsys.readouterr().err


def test_held_out_objects_are_compared_with_ground_truth(loaded, elsewhere, capsys):
    assert bench(elsewhere, "--objects", 1, "--accelerate", "ss=fast_sam3d", "--no_pictures") == 0
    assert "Against the ground truth" in capsys.readouterr().out
    assert all(math.isfinite(float(row["truth_rotation_deg"])) for row in rows(elsewhere))
    assert not list(elsewhere.glob("*.png"))


def test_failed_run_is_reported_and_can_be_retried(loaded, object_folder, elsewhere, capsys, monkeypatch):
    whole = StandIn.run

    def fails(self, *args, **options):
        if options["stage1_inference_steps"] == 9:
            raise RuntimeError("planned failure")
        return whole(self, *args, **options)

    given = ["--image_dir", object_folder, "--objects", 1, "--accelerate", "pipeline.ss_steps=9", "--no_pictures"]
    with monkeypatch.context() as patch:
        patch.setattr(StandIn, "run", fails)
        assert bench(elsewhere, *given) == 1
    assert "1 of 3 runs failed" in capsys.readouterr().out
    assert [row["error"] for row in rows(elsewhere)] == ["", "", "RuntimeError: planned failure"]
    assert bench(elsewhere, *given) == 1, "kept as it was"
    assert bench(elsewhere, *given, "--retry_failed") == 0
    assert not any(row["error"] for row in rows(elsewhere))
    assert bench(elsewhere, *given) == 0


def test_refuses_rows_measured_with_other_settings(loaded, object_folder, elsewhere, capsys, monkeypatch):
    given = ["--image_dir", object_folder, "--objects", 1, "--no_pictures"]
    assert bench(elsewhere, *given, "--preset", "default") == 0
    assert {row["method"] for row in rows(elsewhere)} == {"off", "other seed", "preset=default"}
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    monkeypatch.setattr(jobs, "work", None)
    assert bench(elsewhere, *given, "--preset", "fast") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before


def test_rows_are_reused_until_settings_change(loaded, object_folder, elsewhere, monkeypatch):
    measured: list[str] = []
    once = jobs.work
    monkeypatch.setattr(jobs, "work", lambda key: measured.append(key) or once(key))
    given = ["--image_dir", object_folder, "--objects", 1, "--accelerate", "ss=fast_sam3d", "--no_pictures"]
    for arguments, more in (
        (given, 1),
        (given, 0),
        ([*given, "--seeds", "42,43"], 1),  # those of 42 are there
        ([*given, "--samplers", "mild,published"], 1),  # those of the published one are there
        ([*given, "--accelerate", "mesh=fast_sam3d", "--overwrite"], 1),
        ([*given, "--preset", "default", "--overwrite"], 1),
    ):
        measured.clear()
        assert bench(elsewhere, *arguments) == 0
        assert len(measured) == more, arguments


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--suite", "quik"], "did you mean 'quick'"),
        (
            ["--accelerate", "slat=fast_sam3d slat.where.name=nothing"],
            "method 'slat=fast_sam3d slat.where.name=nothing'",
        ),
        (["--objects", "0"], "--objects is 0"),
        (["--seeds", "1,x"], "--seeds is '1,x'"),
        (["--seeds", "-1"], "--seeds is '-1'"),
        (["--processes", "0"], "--processes is 0"),
        (["--samplers", "publishd"], "did you mean 'published'"),
        (["--samplers", ","], "--samplers is ','"),
        (["--preset", "fst"], "did you mean 'fast'"),
        (["--image_dir", "nowhere"], "--image_path nowhere is not a folder"),
    ],
)
def test_invalid_arguments_are_reported_before_any_run(loaded, elsewhere, capsys, monkeypatch, arguments, says):
    monkeypatch.setattr(jobs, "work", None)
    base = ["--accelerate", "ss=fast_sam3d"] if "--suite" not in arguments else []
    assert cli.main(["bench", *base, *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not list(elsewhere.glob("**/*.jsonl"))


def test_samplers_stand_side_by_side_each_with_its_baseline(loaded, object_folder, elsewhere, capsys):
    (elsewhere / "long.yaml").write_text("rescale_t: 0.3")
    given = ["--image_dir", object_folder, "--objects", 1, "--accelerate", "ss=guided_stride", "--no_pictures"]
    assert bench(elsewhere / "out", *given, "--samplers", f"{elsewhere / 'long.yaml'},published") == 0
    out = capsys.readouterr()
    assert "1 object: too few" in out.err and "**Caution:** 1 object" in out.out
    calls = {(r["sampler"], r["method"]): float(r["network_calls"]) for r in rows(elsewhere / "out")}
    assert calls["published", "off"] == 44 + 38 and calls["long", "off"] == 31 + 38
    assert "### Sampler: published" in out.out and "### Samplers side by side" in out.out
    assert "long (rescale_t 0.3), published (rescale_t 3, strength 7)" in out.out
    summary = json.loads((elsewhere / "out" / "summary.json").read_text())
    assert summary["sampler"] == "published" and summary["standings"]["off"]["network_calls"][0] == 82
    assert summary["other_samplers"]["long"]["off"]["network_calls"][0] == 69


def test_other_weights_have_their_own_sampler(loaded, object_folder, elsewhere, capsys, monkeypatch, tmp_path):
    stock = loading.Checkpoint("hf", tmp_path / "weights", "sam3d", "so")
    monkeypatch.setattr(loading, "find_checkpoint", lambda *asked: stock)
    given = ["--image_dir", object_folder, "--objects", 1, "--accelerate", "ss=fast_sam3d", "--no_pictures"]
    assert bench(elsewhere / "out", *given, "--samplers", "own,mild") == 2
    assert "sampler 'mild' is for the embedded model" in capsys.readouterr().err
    assert bench(elsewhere / "out", *given) == 0
    assert {row["sampler"] for row in rows(elsewhere / "out")} == {"own"}


def test_other_weights_require_image_path(elsewhere, capsys, monkeypatch, tmp_path):
    stock = loading.Checkpoint("hf", tmp_path, "sam3d", "so")
    monkeypatch.setattr(loading, "find_checkpoint", lambda *asked: stock)
    assert cli.main(["bench", "--tag", "hf", "--accelerate", "ss=fast_sam3d"]) == 2
    assert "add --image_path DIR" in capsys.readouterr().err


LAUNCH = """
import os, signal, sys
from pathlib import Path
from fast_sam3d import cli
from fast_sam3d.checkpoints import load as loading
from fast_sam3d.bench import job
from fast_sam3d.metrics import comparison
from tests.stand_in import StandIn

folder, last, *arguments = sys.argv[1:]
loading.find_checkpoint = lambda *asked: loading.Checkpoint("mini", Path(folder), "mini", "so")
loading.load_checkpoint = lambda *asked: StandIn()
comparison.PARTS["volume"] = lambda found, truth, protocol: {"volume_iou": 1.0}
whole, done = job.measure, []

def measure(*arguments, **more):
    if len(done) == int(last):
        os.kill(os.getpid(), signal.SIGKILL)
    done.append(None)
    return whole(*arguments, **more)

job.measure = measure
sys.exit(cli.main(["bench", "--no_pictures", "--processes", "1", *arguments]))
"""


def test_resumes_after_sigkill_with_equal_rows(loaded, tmp_path, object_folder):
    environment = {**os.environ, "PYTHONPATH": str(checkout()), "OMP_NUM_THREADS": "1"}

    def launch(folder: str, last: int) -> int:
        given = [tmp_path / "weights", last, "--accelerate", "ss=fast_sam3d", "--image_dir", object_folder,
                 "--output_dir", tmp_path / folder]  # fmt: skip
        command = [sys.executable, "-c", LAUNCH, *map(str, given)]
        return subprocess.run(command, env=environment, capture_output=True).returncode

    assert launch("killed", 2) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "rows.csv").exists()
    (kept,) = (tmp_path / "killed").glob("rows-*.jsonl")
    done = kept.read_text()
    assert done.count("\n") == 2
    with kept.open("a") as file:
        file.write('[".#11 seed 42", [{"obj')  # an incomplete line, as after a kill during the write
    assert launch("killed", 1) == 0, "only one object was left"
    assert kept.read_text().startswith(done), "existing rows were not measured again"
    assert (
        bench(tmp_path / "whole", "--accelerate", "ss=fast_sam3d", "--image_dir", object_folder, "--no_pictures") == 0
    )
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole") and len(rows(tmp_path / "whole")) == 9
