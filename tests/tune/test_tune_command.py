"""`fast-sam3d tune` on a small model: files, use by presets, interruptions, and what it refuses."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.bench.objects import BenchObject
from fast_sam3d.bench.record import Record
from fast_sam3d.bench.runs import Given
from fast_sam3d.config.measured import cache_folder
from fast_sam3d.errors import ConfigError, FastSam3dError
from fast_sam3d.tune import cases as cases_module
from fast_sam3d.tune import check, job
from fast_sam3d.tune.cases import Cases
from fast_sam3d.tune.job import Calibration, Request
from fast_sam3d.tune.stored import Stored
from tests.fakes import equal
from tests.minis import picture, random_mini
from tests.native.tiny import random_native
from tests.stand_in import replace_checkpoints, run


class Discs:
    """The picture of `minis` with other colours for each object."""

    truth = False

    def __init__(self, *names: str) -> None:
        self._names = names

    def names(self) -> tuple[str, ...]:
        return self._names

    def load(self, name: str) -> BenchObject:
        image, mask = picture()
        return BenchObject(name, Given(np.roll(image, sum(map(ord, name)), axis=2), mask))

    def identity(self) -> object:
        return list(self._names)


CASES = Cases((("a", 1), ("b", 1)), (("c", 1),), (Discs("a", "b", "c"),))


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The pipeline that replaces every loaded checkpoint, and objects for it."""
    made = random_mini()
    replace_checkpoints(monkeypatch, tmp_path, made)
    monkeypatch.setattr(cases_module, "cases_of", lambda *asked: CASES)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return made


REQUEST = Request(5.0)
STEPS = ("pipeline.ss_steps=5", "pipeline.slat_steps=4", "--minutes", "5")


def tune(capsys: pytest.CaptureFixture[str], out: Path, *more: object) -> tuple[int, str, str]:
    return run(capsys, "tune", "--output_dir", out, *STEPS, *more)


def test_writes_schedules_that_fit_and_presets_take_them(capsys: Any, tmp_path: Path, pipeline: Any) -> None:
    out = tmp_path / "out"
    code, said, errors = tune(capsys, out)
    assert code == 0, said + errors
    assert "fewer steps" in said and "schedule, default" in said and "one run takes" in errors
    assert {path.name for path in out.iterdir()} >= {"tuned.yaml", "tuned_fast.yaml", "evidence.json", "tuning.png"}
    evidence = json.loads((out / "evidence.json").read_text())
    assert evidence["calibration"] == [["a", 1], ["b", 1]] and evidence["check"] == [["c", 1]]
    level = evidence["levels"][evidence["default"]]
    rows = {(row["kind"], row["level"]): row for row in evidence["check_summary"]}
    assert rows["path", evidence["default"]]["calls"][0] == level["ss"]["calls"] + level["slat"]["calls"]
    assert rows["path", evidence["default"]]["calls"][0] < rows["baseline", -1]["calls"][0]

    text = (out / "tuned.yaml").read_text()
    assert "&" not in text and set(yaml.safe_load(text)) == {"ss", "slat", "exact", "calibrated"}
    with pytest.raises(ConfigError, match="measured with ss 5 steps, and the pipeline has 8"):
        fast_sam3d.accelerate(pipeline, out / "tuned.yaml")
    pipeline.models["ss_generator"].inference_steps, pipeline.models["slat_generator"].inference_steps = 5, 4
    handle = fast_sam3d.accelerate(pipeline, out / "tuned.yaml")
    assert list(handle.methods["ss"]["when"]["nodes"]) == level["ss"]["nodes"]
    with_preset = fast_sam3d.accelerate(pipeline)
    assert Path(with_preset.report.schedule or "").parent == cache_folder()
    assert with_preset.methods == handle.methods
    measured = yaml.safe_load(text)["calibrated"]["levels"]
    assert [sum(len(each[stage]["when"]["nodes"]) for stage in ("ss", "slat")) for each in measured] == sorted(
        sum(len(each[stage]["nodes"]) for stage in ("ss", "slat")) for each in evidence["levels"]
    )
    least = fast_sam3d.accelerate(pipeline, overrides=["quality=0"])
    assert list(least.methods["ss"]["when"]["nodes"]) == measured[0]["ss"]["when"]["nodes"]
    pipeline.models["ss_generator"].rescale_t = 2.0
    fast_sam3d.restore(pipeline)
    with pytest.raises(ConfigError, match="measured with ss rescale_t 3, and the pipeline has 2: .* use preset=defa"):
        fast_sam3d.accelerate(pipeline, out / "tuned.yaml")
    assert fast_sam3d.accelerate(pipeline).report.schedule is None


def test_resumes_after_an_interruption(
    capsys: Any, tmp_path: Path, pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, search, collect = check.measure, job.search, job.collect
    searched: list[int] = []

    def interrupted(*args: Any, **settings: Any) -> Any:
        raise KeyboardInterrupt

    def counted(*args: Any, **settings: Any) -> Any:
        searched.append(1)
        return search(*args, **settings)

    monkeypatch.setattr(job, "search", counted)
    monkeypatch.setattr(check, "measure", interrupted)
    code, _, errors = tune(capsys, tmp_path, "--no_picture", "--no_cache")
    assert code == 130 and "the same command resumes" in errors and not (tmp_path / "tuned.yaml").exists()
    assert len(list(tmp_path.glob("*.solves/*.pt"))) == 1
    monkeypatch.setattr(check, "measure", measure)
    ran: list[str] = []
    monkeypatch.setattr(job, "collect", lambda p, item, seed: ran.append(item.name) or collect(p, item, seed))
    assert tune(capsys, tmp_path, "--no_picture", "--no_cache")[0] == 0
    assert len(searched) == 2 and ran == ["a", "a"], "a stage is searched once, and an object run once but for timing"
    assert not list(tmp_path.glob("*.solves"))
    assert not cache_folder().exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--calls", "1"), "--calls 1 is below the shortest path, 4 network calls"),
        (("--calls", "1,5"), "1 for the sparse structure, below its shortest path of 2"),
        (("--calls", "5,99"), "99 for the structured latent, and the baseline makes"),
        (("--calls", "x"), "give the network calls of one object"),
        (("--quality", "1.5"), "give a voxel IoU up to 1"),
        (("--quality", "0.9", "--calls", "9"), "not allowed with"),
        (("pipeline.formats=[mesh]",), "does not hold for every run here"),
        (("--minutes", "0.0001"), "do not suffice for the shortest calibration with a check: give --minutes"),
    ],
)  # fmt: skip
def test_refuses(capsys: Any, tmp_path: Path, pipeline: Any, arguments: tuple[str, ...], says: str) -> None:
    code, _, errors = tune(capsys, tmp_path / "out", *arguments)
    assert code == 2 and says in errors and not (tmp_path / "out" / "tuned.yaml").exists()


def calibration(pipeline: Any, folder: Path, request: Request = REQUEST, cases: Cases = CASES) -> Calibration:
    for name, steps in (("ss_generator", 5), ("slat_generator", 4)):
        pipeline.models[name].inference_steps = steps
    return Calibration(pipeline, cases, request, Record(folder, {}))


def test_runs_that_differ_are_refused_with_the_figure(tmp_path: Path) -> None:
    pipeline = random_mini()
    chance = torch.Generator().manual_seed(0)
    pipeline.models["ss_generator"].reverse_fn.register_forward_hook(
        lambda module, args, v: {k: leaf + torch.randn(leaf.shape, generator=chance) for k, leaf in v.items()}
    )
    with pytest.raises(FastSam3dError, match=r"two runs of object a with seed 1 differ by 0\.\d+ of the latent"):
        calibration(pipeline, tmp_path).run()


def test_objects_that_disagree_are_refused_with_the_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = SimpleNamespace(seen=0.01, unseen=0.2, ratio=20.0)
    monkeypatch.setattr(job, "agreement", lambda *given: far)
    with pytest.raises(FastSam3dError, match=r"20\.0 times the error on others \(0\.2 against 0\.01\)"):
        calibration(random_mini(), tmp_path).run()


@pytest.mark.parametrize("bad", ["a", "b"])
def test_an_object_with_nan_is_left_out_and_named(bad: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pipeline, noisy = random_mini(), []

    def broken(module: Any, args: Any, v: Any) -> Any:
        return {name: leaf * torch.nan for name, leaf in v.items()} if noisy else v

    class Third(Discs):
        def load(self, name: str) -> BenchObject:
            noisy[:] = [bad] if name == bad else []
            return super().load(name)

    pipeline.models["ss_generator"].reverse_fn.register_forward_hook(broken)
    cases = Cases((("a", 1), ("b", 1), ("d", 1)), (("c", 1),), (Third("a", "b", "c", "d"),))
    with caplog.at_level(logging.WARNING, "fast_sam3d"):
        found = calibration(pipeline, tmp_path, cases=cases).run()
    assert found.facts["calibration"] == [[name, 1] for name in "abd" if name != bad]
    assert any(f"object {bad} is left out" in line and "not finite" in line for line in caplog.messages)
    only = Cases(cases.calibration[:2], cases.check, cases.sources)
    with pytest.raises(FastSam3dError, match="only 1 of 2 objects can be used"):
        calibration(pipeline, tmp_path, cases=only).run()


def test_quality_takes_the_fewest_calls_that_reach_it(tmp_path: Path) -> None:
    pipeline = random_mini()
    least = calibration(pipeline, tmp_path, Request(5.0, quality=0.01)).run()
    assert least.levels[least.chosen].calls == min(level.calls for level in least.levels)


def test_the_native_runtime(tmp_path: Path) -> None:
    pipeline = random_native()
    found = calibration(pipeline, tmp_path, Request(10.0, calls=(4, 3))).run()
    level = found.levels[found.chosen]
    assert level.paths["ss"].calls <= 4 and level.paths["slat"].calls <= 3
    ours = next(row for row in check.summary(found.rows) if row["kind"] == check.PATH and row["level"] == found.chosen)
    assert ours["failed"] == 0 and ours["ss_calls"][0] == level.paths["ss"].calls
    with fast_sam3d.accelerated(pipeline, level.methods(live=True)):
        assert adapt(pipeline).runtime == "native"


@pytest.mark.parametrize("build", [random_mini, random_native])
def test_stored_solves_have_the_velocities_of_the_original(build: Any, tmp_path: Path) -> None:
    pipeline, stored = build(), Stored(tmp_path / "x")
    a, b = (job.collect(pipeline, CASES.load(case), 1) for case in CASES.calibration)
    stored.save(CASES.calibration[1], b)
    found = stored.load(CASES.calibration[1], a)
    assert found is not None and stored.load(("z", 1), a) is None
    for stage, solve in found.items():
        assert equal(solve.states[-1], b[stage].states[-1])
        assert equal(solve.velocity(solve.states[1], 1), b[stage].velocity(b[stage].states[1], 1))
    (path,) = stored.folder.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for changed in (content, b"no"):
        path.write_bytes(changed)
        assert stored.load(CASES.calibration[1], a) is None
