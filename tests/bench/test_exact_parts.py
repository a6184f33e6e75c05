"""Time and memory without and with a saving. `tests/stock/test_measure.py` measures the stock parts."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from fast_sam3d.bench import exact_parts as measure
from fast_sam3d.bench.exact_parts import Comparison, compare
from fast_sam3d.cli import measure_exact as command
from tests.stand_in import run

MEBI = 2**20
BOTH = Comparison("windows", ((4.0, 1.0), (9.0, 3.0), (8.0, 2.0)), ((400, 100), (300, 150), (None, None)), True)


def test_both_variants_alternate_on_new_inputs() -> None:
    order: list[str] = []
    inputs: list[torch.Tensor] = []

    def given() -> torch.Tensor:
        inputs.append(torch.zeros(3))
        return inputs[-1]

    def off(x: torch.Tensor) -> tuple[torch.Tensor]:
        order.append("off")
        return (x.add_(1),)

    def on(x: torch.Tensor) -> tuple[torch.Tensor]:
        order.append("on")
        return (x.add_(1),)

    compared = compare("both", off, on, given, rounds=3)
    assert order == ["off", "on", "off", "on", "on", "off", "off", "on"]  # the first two for the bits
    assert len(inputs) == 8 and all(bool((x == 1).all()) for x in inputs)
    assert compared.equal and len(compared.seconds) == 3
    assert all(off > 0 and on > 0 for off, on in compared.seconds)
    assert not compare("differ", off, lambda x: (x,), given, rounds=1).equal


def test_medians_of_seconds_and_ratios() -> None:
    assert BOTH.faster == 4.0
    assert BOTH.median_seconds() == (8.0, 2.0)
    assert BOTH.median_peaks() == (350, 125)


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is unknown")
def test_peak_host_memory_of_a_call() -> None:
    def use(mebibytes: int) -> torch.Tensor:
        return torch.ones(mebibytes * MEBI // 4)[:1].clone()

    for mebibytes in (300, 60, 300):
        _, peak = measure.measured(use, mebibytes, torch.device("cpu"))
        if peak is None:
            pytest.skip("this system does not let a process reset its peak")
        assert peak == pytest.approx(mebibytes * MEBI, rel=0.1)


def test_measure_exact_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(measure, "everything", lambda *args: asked.append(args) or [BOTH])
    row = "windows 8.00 s 2.00 s 4.00 0 MiB 0 MiB 64 % equal"
    code, out, _ = run(capsys, "measure-exact", "--part", "attention", "--rounds", "3")
    assert code == 0
    assert asked == [(["attention"], 3, "cpu")]
    assert out.splitlines()[1].split() == row.split()
    monkeypatch.setattr(measure, "overhead", lambda rounds: {"import": 0.02, "accelerate": 0.03})
    code, out, _ = run(capsys, "measure-exact", "--json")
    assert code == 0 and json.loads(out)[0]["seconds"] == [[4.0, 1.0], [9.0, 3.0], [8.0, 2.0]]
    assert asked[-1] == (command.PARTS, 7, "cpu")


def test_overhead_of_import_and_of_accelerate(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "measure-exact", "--part", "overhead", "--rounds", "1", "--json")
    (seconds,) = json.loads(out)
    assert code == 0 and seconds.keys() == {"import", "accelerate"} and min(seconds.values()) > 0


def test_invalid_arguments_of_the_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    code, _, err = run(capsys, "measure-exact", "--rounds", "0")
    assert code == 2 and "--rounds is 0: give a whole number of at least 1" in err
    monkeypatch.setitem(sys.modules, "sam3d_objects", None)
    for name in [name for name in sys.modules if name.startswith("sam3d_objects.")]:
        monkeypatch.delitem(sys.modules, name)
    code, _, err = run(capsys, "measure-exact")
    assert code == 2 and "install SAM 3D Objects" in err and "embedded model has no such parts" in err
