"""The measurement on a GPU, run whole on a CPU with tiny networks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.api import accelerated
from fast_sam3d.bench.gpu import machine, measure, table
from fast_sam3d.bench.gpu.measure import OutOfTime, Settings, limited
from fast_sam3d.bench.gpu.networks import FULL, OBJECT, SMALL, STRUCTURE, build, native_networks
from fast_sam3d.bench.gpu.plan import HELD, Cell, Pace, cells, variants, voxels
from fast_sam3d.model.published import FILES
from fast_sam3d.native.plans import PLANS
from fast_sam3d.native.vit import VisionTransformer
from tests.stand_in import run

CPU = torch.device("cpu")
NAMES = ["off", "exact", "default", "fast", "guided_stride", "fast_sam3d", "2 + 2 steps", HELD]
FIRST = Cell("published", None)


@pytest.fixture(autouse=True)
def no_stock(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/stock/test_gpu.py measures the stock classes."""
    monkeypatch.setattr(measure, "importable", lambda: False)


def settings(**changes: Any) -> Settings:
    return Settings(SMALL, CPU, **{"minutes": 60.0, "rounds": 2, "tests": False, **changes})


def only(monkeypatch: pytest.MonkeyPatch, *chosen: Cell) -> None:
    """These cells, nothing before and nothing after them."""
    monkeypatch.setattr(measure, "cells", lambda scale, stock: list(chosen))
    for step in ("probe", "plans"):
        monkeypatch.setattr(measure.Run, step, lambda self, precision: None)


def test_the_whole_command_on_a_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    path = tmp_path / "new" / "card.json"
    code, out, _ = run(capsys, "measure-gpu", "--small", "--minutes", "60", "--output", path)
    found = json.loads(path.read_text())
    assert code == 0 and found["ended"] == "complete" and found["skipped"] == []
    first, second = (voxels(radius, SMALL) for radius in SMALL.radii)
    assert [(c["precision"], c["voxels"], c["compiled"]) for c in found["cells"]] == [
        ("published", None, False), ("published", first, False), ("published", second, False),
        ("bfloat16", None, False), ("bfloat16", first, False), ("bfloat16", second, False), ("published", None, True),
    ]  # fmt: skip
    for cell in found["cells"]:
        assert [row["name"] for row in cell["variants"]] == [
            name for name in NAMES if name not in ("exact", HELD) or not cell["compiled"]
        ]
        for row in cell["variants"]:
            stages = [*STRUCTURE] if cell["voxels"] is None else [*OBJECT]
            assert list(row["seconds"]) == list(row["peak_bytes"]) == stages and "error" not in row
            assert all(len(values) == 1 and values[0] > 0 for values in row["seconds"].values())
            assert row["finite"] and row["fallbacks"] == 0
    calls = {row["name"]: row["calls"]["ss"] for row in found["cells"][0]["variants"]}
    assert calls["off"] == calls["exact"] == 8 and calls["2 + 2 steps"] == 4  # guided at all four steps, at both
    assert [plan["plan"] for plan in found["plans"]] == [*PLANS] and found["plans"][0]["voxels"] > 0
    loads = [sum(stage["loads"] for stage in plan["stages"].values()) for plan in found["plans"]]
    # Of an object that is not the first: everything; depth and both embedders; nothing.
    assert loads == [9, 3, 0, 0, 0]
    assert found["machine"]["torch"] == torch.__version__ and found["tests"] is None
    assert found["parameters"].keys() == {*STRUCTURE, *OBJECT}

    assert "off" in out and "Tests marked gpu" not in out
    found["tests"] = {"passed": 3, "failed": 0, "skipped": 1, "failures": []}
    path.write_text(json.dumps(found))
    code, shown, _ = run(capsys, "measure-gpu", "--show", path)
    assert "Tests marked gpu: 3 passed, 0 failed, 1 skipped." in shown
    assert code == 0 and shown.count("\n| published | ") == 16 and shown.count("\n| published, compiled |  | ") == 6
    code, shown, _ = run(capsys, "measure-gpu", "--show", path, "--short")
    assert code == 0 and [line.split("|")[3].strip() for line in shown.splitlines()[2:10]] == NAMES
    code, _, err = run(capsys, "measure-gpu", "--small", "--output", path)
    assert code == 2 and "exists: add --overwrite" in err


def test_full_size_networks_have_the_published_parameters() -> None:
    pipeline = native_networks(FULL.settings, (), torch.device("meta"), torch.float16)
    networks = {stage: pipeline.models[name] for stage, name in FILES.items()} | pipeline.condition_embedders
    counts = {name: sum(t.numel() for t in network.state_dict().values()) / 1e6 for name, network in networks.items()}
    assert {name: round(count, 2) for name, count in counts.items()} == {
        "ss": 964.16, "slat": 600.43, "mesh": 90.93, "gaussian": 85.37, "ss_condition_embedder": 634.49,
        "slat_condition_embedder": 626.05,
    }  # fmt: skip


def test_exact_savings_encode_each_picture_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And every call has another picture."""
    bed, passes = build(SMALL, None, CPU, "published"), list[int]()
    forward = VisionTransformer.forward
    monkeypatch.setattr(VisionTransformer, "forward", lambda self, x: (passes.append(1), forward(self, x))[1])
    bed.stages["condition"]()
    assert len(passes) == 8
    with accelerated(bed.pipeline, variants(SMALL)[1].config):
        for _ in range(2):
            passes.clear()
            bed.stages["condition"]()
            assert len(passes) == 4


def test_fewer_steps_make_no_more_network_calls_than_the_default_preset() -> None:
    made: dict[str, list[float]] = {}
    fewer = "{} + {} steps".format(*FULL.fewer)
    for radius, stage in ((None, "ss"), (SMALL.radii[0], "slat")):
        bed = build(SMALL, radius, CPU, "published")
        adapter = adapt(bed.pipeline)
        for way in variants(FULL):
            if way.name in ("default", fewer):
                measure.set_steps(adapter, stage, way.steps if stage == "ss" else way.slat_steps or way.steps)
                with accelerated(bed.pipeline, way.config) as handle:
                    bed.stages[stage]()
                made.setdefault(way.name, []).append(handle.report.network_calls)
    for default, calls in zip(made["default"], made[fewer], strict=True):
        assert default - 2 <= calls <= default, "give `FULL` the steps whose calls are the next below"


def test_the_mesh_is_that_of_a_shell() -> None:
    """Its outer surface, and its inner one: beyond the cells all is outside."""
    (mesh,) = build(SMALL, 4.0, CPU, "published").stages["mesh"]()
    assert mesh.success and 40 < len(mesh.faces) / voxels(4.0, SMALL) < 50
    away = mesh.vertices.norm(dim=1) * SMALL.resolution
    assert away.max() < 4.2 and ((away - 4).abs() < 0.2).float().mean() > 0.5


def test_rows_are_compared_with_the_stock_classes_without_acceleration() -> None:
    """By the stages that both have: the stock embedders may be missing."""

    def cell(stock: bool, size: int | None, **seconds: float) -> dict[str, Any]:
        row = {"name": "off", "seconds": {k: [v] for k, v in seconds.items()}, "peak_bytes": {}, "calls": {}}
        return {"precision": "published", "stock": stock, "compiled": False, "voxels": size, "variants": [row]}

    results = {"cells": [
        cell(False, None, condition=5.0, ss=1.0), cell(False, 80, slat=1.0, mesh=1.0, gaussian=1.0),
        cell(True, None, ss=2.0), cell(True, 80, slat=4.0, mesh=3.0, gaussian=1.0),
        cell(False, 56, slat=1.0, mesh=1.0, gaussian=1.0),
    ]}  # fmt: skip
    column = table.HEADER.index("to stock")
    assert [(row[0], row[1], row[column]) for row in table.rows(results)] == [
        ("published", "80", "2.50×"), ("stock, published", "80", "1.00×"), ("published", "56", ""),
    ]  # fmt: skip


def test_the_most_important_cells_come_first_and_what_does_not_fit_is_left_out() -> None:
    order = cells(FULL, stock=True)
    assert order[:4] == [
        Cell("published", None), Cell("published", FULL.radii[0]), Cell("published", None, stock=True),
        Cell("published", FULL.radii[0], stock=True),
    ]  # fmt: skip
    assert order[-1].compiled and len(set(order)) == len(order) == 13
    pace = Pace({"condition": 0.1, "ss": 1.0, "slat": 0.5, "mesh": 0.1, "gaussian": 0.1}, build=2.0)
    one = pace.a_round(FIRST, FULL)
    assert pace.rounds(FIRST, FULL, 5, 100.0) == 5
    assert pace.rounds(FIRST, FULL, 5, 2.0 + 3.5 * one) == 2  # a warm-up, two rounds, and half a one
    assert pace.rounds(FIRST, FULL, 5, 2.0 + 1.5 * one) == 0
    assert pace.seconds(FIRST, FULL, 2) == pytest.approx(2.0 + 3 * one)
    larger, smaller = (pace.a_round(Cell("published", radius), FULL) for radius in FULL.radii[1:])
    assert larger > 3 * smaller


def test_cells_that_need_more_time_than_is_left_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, FIRST, Cell("published", None, compiled=True))
    monkeypatch.setattr(Pace, "rounds", lambda self, cell, scale, wanted, left: 0 if cell.compiled else wanted)
    found = measure.measure(settings(), tmp_path / "a.json")
    assert [cell["compiled"] for cell in found["cells"]] == [False]
    assert "needs about" in found["skipped"][0]["reason"] and "s are left" in found["skipped"][0]["reason"]


def test_an_error_in_one_variant_leaves_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, FIRST)
    one = measure.Run.one

    def failing(self: Any, cell: Any, bed: Any, way: Any, row: Any, warm: bool) -> None:
        if way.name == "fast":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        one(self, cell, bed, way, row, warm)

    monkeypatch.setattr(measure.Run, "one", failing)
    found = measure.measure(settings(), tmp_path / "a.json")
    rows = {row["name"]: row for row in found["cells"][0]["variants"]}
    assert "out of memory" in rows["fast"]["error"] and rows["fast"]["seconds"] == {}
    assert all(len(row["seconds"]["ss"]) == 2 for name, row in rows.items() if name != "fast")
    assert any("fast: OutOfMemoryError" in line for line in table.notes(found))
    assert {row[2]: row[7] for row in table.rows(found)}["fast"] == ""


def test_an_interrupt_leaves_a_file_with_the_rounds_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, FIRST, Cell("bfloat16", None))
    round_, calls = measure.Run.round, []

    def interrupted(self: Any, *args: Any, **options: Any) -> float:
        calls.append(args)
        if len(calls) == 5:  # a warm-up and two rounds; a warm-up, and the next
            raise KeyboardInterrupt
        return round_(self, *args, **options)

    monkeypatch.setattr(measure.Run, "round", interrupted)
    path = tmp_path / "a.json"
    with pytest.raises(KeyboardInterrupt, match=r"what was measured is in .*a\.json"):
        measure.measure(settings(), path)
    found = table.read(path)
    assert found["ended"] == "interrupted" and len(found["cells"][0]["variants"][0]["seconds"]["ss"]) == 2
    assert len(table.rows(found)) == 2 * len(variants(SMALL))


def test_variants_run_in_alternating_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, FIRST)
    order: list[str] = []
    monkeypatch.setattr(measure.Run, "one", lambda self, cell, bed, way, row, warm: order.append(way.name))
    measure.measure(settings(), tmp_path / "a.json")
    assert order == [*NAMES, *NAMES, *NAMES[::-1]]


def test_a_block_that_takes_too_long_is_stopped() -> None:
    with pytest.raises(OutOfTime, match="compiling takes longer"), limited(0.05, "compiling"):
        time.sleep(5)
    with limited(5, "compiling"):
        pass


def test_too_little_memory_is_said_before_the_networks_are_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, FIRST)
    monkeypatch.setattr(machine, "free_bytes", lambda device: 10**7)
    found = measure.measure(settings(), tmp_path / "a.json")
    assert found["cells"] == [] and found["skipped"][0]["reason"] == "needs about 0.1 GB of memory, and 0.0 GB are free"


def test_other_programs_on_the_card() -> None:
    assert machine.others({}) is None and machine.others({"busy_percent": 2.0, "used_mebibytes": 500.0}) is None
    assert "30 % busy" in str(machine.others({"busy_percent": 30.0, "used_mebibytes": None}))
    assert "4.2 GB taken" in str(machine.others({"busy_percent": 0.0, "used_mebibytes": 4000.0}))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "torch finds no CUDA GPU here"),
        (("--device", "warp"), "--device warp cannot be used"),
        (("--minutes", "0"), "give a number above 0"),
        (
            ("--show", "missing.json"),
            "missing.json cannot be read (No such file or directory): give a file that measure-gpu wrote",
        ),
    ],
)
def test_mistakes(
    arguments: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    elsewhere: Path,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, _, err = run(capsys, "measure-gpu", *arguments)
    assert code == 2 and says in err and not list(elsewhere.iterdir())


def test_runs_the_tests_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_sam3d, "__file__", str(tmp_path / "fast_sam3d" / "__init__.py"))
    assert "no tests" in machine.run_tests(60.0)["not_run"]
    tests = tmp_path / "tests"
    tests.mkdir()
    (tests / "conftest.py").write_text("")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["gpu: needs one"]\n')
    (tests / "test_a.py").write_text(
        "import pytest\n"
        "@pytest.mark.gpu\ndef test_good(): pass\n"
        "@pytest.mark.gpu\ndef test_bad(): assert False\n"
        "@pytest.mark.gpu\ndef test_skipped(): pytest.skip('no')\n"
        "def test_other(): pass\n"
    )
    (tests / "test_b.py").write_text("import a_package_that_is_not_here\n")
    found = machine.run_tests(60.0)
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 2, 1)
    assert "tests.test_a::test_bad" in found["failures"]
    assert "did not end in 0 s" in machine.run_tests(0.01)["not_run"]


@pytest.mark.gpu
def test_measures_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch, FIRST, Cell("published", SMALL.radii[0]), Cell("bfloat16", SMALL.radii[1]))
    found = measure.measure(Settings(SMALL, torch.device("cuda"), 2.0, 2, tests=False), tmp_path / "a.json")
    assert found["skipped"] == [] and found["cells"][0]["half"] == "float16"
    for cell in found["cells"]:
        assert cell["weights_bytes"] > 0 and not any("error" in row for row in cell["variants"])
        assert all(peak > 0 for row in cell["variants"] for values in row["peak_bytes"].values() for peak in values)
