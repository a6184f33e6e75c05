"""Parts of the native runtime next to the stock ones. `tests/stock/native/test_measure.py` measures them."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import torch.nn.functional as F

from fast_sam3d.bench import native_parts as measure
from fast_sam3d.bench.exact_parts import Comparison, compare, counter
from fast_sam3d.cli.measure_native import PARTS, lines
from tests.stand_in import run

EXTRACTION = Comparison("mesh extraction", ((30.0, 2.0),), ((400, 100),), True, 0.0)
NETWORK = Comparison("mesh network", ((9.0, 3.0),), ((None, None),), False, 2e-6, (80, 20))


def test_operations_and_the_largest_difference_of_outputs() -> None:
    x = torch.ones(4, 8)
    compared = compare(
        "products", lambda y: (y @ y.T, y), lambda y: (y @ y.T + 0.5, y - 1), lambda: x, rounds=1, counted=True
    )
    assert (compared.equal, compared.difference, compared.operations) == (False, 1.0, (256, 256))
    plain = compare("shapes", lambda y: (y,), lambda y: (y[:2],), lambda: x, rounds=1)
    assert (plain.equal, plain.difference, plain.operations) == (False, None, None)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_is_counted_on_a_cpu(masked: bool) -> None:
    q = torch.randn(1, 2, 10, 16)
    with counter() as found:
        F.scaled_dot_product_attention(q, q, q, attn_mask=torch.zeros(10, 10) if masked else None)
    assert found.get_total_flops() == 2 * (2 * 10 * 10 * 16) * 2


def test_the_table_has_ratios_of_times_and_of_operations() -> None:
    table = lines([EXTRACTION, NETWORK])
    assert " ".join(table[1].split()) == "mesh extraction 30.00 s 2.00 s 15.00 0 MiB 0 MiB equal"
    assert " ".join(table[2].split()) == "mesh network 9.00 s 3.00 s 3.00 4.00 2.0e-06"


def test_measure_native_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[object, ...]] = []
    monkeypatch.setattr(measure, "everything", lambda *args: asked.append(args) or [EXTRACTION])
    code, out, _ = run(capsys, "measure-native", "--part", "extraction", "--rounds", "2")
    assert code == 0 and out.splitlines()[1].startswith("mesh extraction")
    code, out, _ = run(capsys, "measure-native", "--network_voxels", "20k", "--json")
    made = json.loads(out)
    assert code == 0 and made["parts"][0]["seconds"] == [[30.0, 2.0]] and "torch" in made["about"]
    assert asked == [(["extraction"], 2, "cpu", 18.9), (PARTS, 3, "cpu", 29.6)]


def test_without_the_stock_code_it_says_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sam3d_objects", None)
    for name in [name for name in sys.modules if name.startswith("sam3d_objects.")]:
        monkeypatch.delitem(sys.modules, name)
    for part in PARTS:
        code, _, err = run(capsys, "measure-native", "--part", part)
        assert code == 2 and "install SAM 3D Objects" in err
