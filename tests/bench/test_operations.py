"""Counted operations at the published sizes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fast_sam3d.adapters import adapt
from fast_sam3d.bench.operations import OFF, PUBLISHED, RADII, Solve, operations, solves, trellis_solves
from fast_sam3d.cli import count as command
from fast_sam3d.exact import Exact
from fast_sam3d.model.config import PUBLISHED_SS_CONTEXT
from fast_sam3d.model.published import published
from fast_sam3d.model.published_trellis import SAMPLER, TrellisSizes, published_trellis
from fast_sam3d.model.slat_config import MeshDecoderConfig, SLatFlowConfig
from tests.fakes import same_vars, snapshot

CONTEXT = Exact(**{**OFF.settings(), "context": True})


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return published()


def test_guided_steps_at_the_published_settings(pipeline: Any) -> None:
    assert adapt(pipeline).network_calls("ss") == (25, 19)
    assert adapt(pipeline).network_calls("slat") == (25, 13)


def test_operations_with_all_savings(pipeline: Any) -> None:
    before = snapshot(pipeline)
    expected = {
        "SS": (400, -0.32),
        "SLaT 5": (84, -0.35),
        "mesh 5": (1.62, -0.2),
    }
    for (label, (plain, saved)), solve in zip(expected.items(), solves(RADII[:1]), strict=True):
        assert solve.label.startswith(label)
        off, all_on = (operations(pipeline, solve, exact) for exact in (OFF, Exact()))
        assert off / 1e12 == pytest.approx(plain, rel=0.02)
        assert saved - 0.02 < all_on / off - 1 <= saved
    assert same_vars(before, snapshot(pipeline))


def test_savings_of_a_cached_context_by_hand(pipeline: Any) -> None:
    solve = next(solves(()))
    tokens, width = PUBLISHED_SS_CONTEXT
    keys_and_values = 2 * tokens * width * 2 * 1024
    spared = 24 * 24 * 2 * keys_and_values  # of 25 conditional calls, in 24 blocks, for shape and layout
    assert operations(pipeline, solve) - operations(pipeline, solve, CONTEXT) == spared


def test_count_operations_command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from fast_sam3d import cli
    from fast_sam3d.bench import operations as count

    asked: list[Exact] = []

    def counted(pipeline: Any, solve: Any, exact: Exact = OFF) -> int:
        asked.append(exact)
        return 1000 - 100 * exact.context - 200 * exact.unconditional

    monkeypatch.setattr(count, "operations", counted)
    monkeypatch.setitem(count.PUBLISHED, "sam3d", (published, lambda: solves(RADII[:1])))
    assert cli.main(["count", "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert {row: list(values.values()) for row, values in table.items() if row in ("off", "context", "all")} == {
        "off": [1000] * 3, "context": [900, 900, 1000], "all": [700] * 3
    }  # fmt: skip
    assert table.keys() == {"off", "all", *OFF.settings()}
    assert len(asked) == 11  # a saving without effect on these networks is not counted again
    shown = command.lines({"off": [4 * 10**14], "half": [4 * 10**14], "all": [3 * 10**14]}, ["SS"])
    assert shown[1:] == [
        "off     400.0",
        "all     300.0  -25.0 %",
        "outside these networks: half",
    ]


BLOCKS, WIDTH, TOKENS, CELLS = 3, 64, 10, 4**3
SMALL = TrellisSizes(
    SLatFlowConfig(16, 8, WIDTH, BLOCKS, 2, 4.0, WIDTH, 32, 2, False, convention="published"),
    MeshDecoderConfig(16, 8, 256, 2, 4, upsample_channels=(64, 32), out_channels=101),
    resolution=4,
    context=(TOKENS, WIDTH),
)


@pytest.fixture(scope="module")
def trellis() -> tuple[Any, list[Solve]]:
    return published_trellis(SMALL), list(trellis_solves([5.0], SMALL))


def test_network_calls_and_sizes_of_trellis() -> None:
    assert (command.MODELS, TrellisSizes().context) == (tuple(PUBLISHED), (1374, 1024))
    assert SAMPLER == {"steps": 25, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}
    assert [adapt(published_trellis(SMALL)).network_calls(stage) for stage in ("ss", "slat")] == [(25, 19)] * 2


def test_savings_of_trellis_by_hand(trellis: tuple[Any, list[Solve]]) -> None:
    """In the sparse structure: 25 conditional calls, of which 24 find keys and values; 19 unconditional ones."""
    pipeline, (structure, *_) = trellis
    keys_and_values = 2 * TOKENS * WIDTH * 2 * WIDTH
    cross = keys_and_values + 2 * 2 * CELLS * WIDTH * WIDTH + 2 * 2 * CELLS * TOKENS * WIDTH
    off = operations(pipeline, structure)
    assert off - operations(pipeline, structure, CONTEXT) == BLOCKS * 24 * keys_and_values
    constant = Exact(**{**OFF.settings(), "unconditional": True})
    one = 2 * WIDTH * WIDTH * 4 + 2 * 2 * WIDTH  # one query, key and value, in the first call of a solve
    assert off - operations(pipeline, structure, constant) == BLOCKS * (19 * cross - one)
    assert not adapt(pipeline).seams()


def test_count_of_trellis_command(
    trellis: tuple[Any, list[Solve]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from fast_sam3d import cli

    monkeypatch.setitem(PUBLISHED, "trellis", (lambda: trellis[0], lambda: trellis[1]))
    assert cli.main(["count", "--model", "trellis", "--json"]) == 0
    counts = {row: [*values.values()] for row, values in json.loads(capsys.readouterr().out).items()}
    off = counts.pop("off")
    saves = {row: [value < plain for value, plain in zip(values, off, strict=True)] for row, values in counts.items()}
    assert {row: stages for row, stages in saves.items() if any(stages)} == {
        "unconditional": [True, True, False], "context": [True, True, False], "subdivision": [False, False, True],
        "all": [True] * 3,
    }  # fmt: skip
