"""Schedules measured on many objects at once."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fast_sam3d.api import accelerated
from fast_sam3d.bench.samplers import SAMPLERS
from fast_sam3d.bench.schedules import evaluate as evaluation
from fast_sam3d.bench.schedules.draw import draw_all
from fast_sam3d.bench.schedules.evaluate import Settings, evaluate, summary
from fast_sam3d.bench.schedules.inputs import FIRST_SEED, load_inputs
from fast_sam3d.bench.schedules.rows import Row, plan
from fast_sam3d.bench.schedules.solves import Method, StructureBed, box_overlap
from fast_sam3d.checkpoints.load import find_checkpoint
from fast_sam3d.errors import OutputError
from fast_sam3d.mini.data.pictures import photograph
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.tune.presets import write_presets

HELD = {"when": {"name": "stride", "stride": 2}, "predict": {"name": "hold"}}


def test_a_batch_gives_each_object_the_result_of_its_own_run(tmp_path: Path) -> None:
    checkpoint = find_checkpoint("mini").folder
    inputs = load_inputs(checkpoint, range(FIRST_SEED, FIRST_SEED + 2), tmp_path)
    again = load_inputs(checkpoint, range(FIRST_SEED, FIRST_SEED + 2), tmp_path)
    assert torch.equal(inputs.ss, again.ss) and torch.equal(inputs.box, again.box)
    pipeline = Pipeline.from_pretrained(checkpoint)
    photo, _ = photograph(FIRST_SEED + 1)
    with SAMPLERS["published"].on(pipeline):
        bed = StructureBed(pipeline, inputs, [7, 8], 3)
        solved = bed.solve(Method(HELD, steps=6))
        state = bed.state(solved)
        with accelerated(pipeline, {"ss": HELD}) as handle:
            alone = pipeline.run(
                photo.rgb, photo.mask(), seed=8, stage1_only=True, stage1_inference_steps=6, pointmap=photo.points
            )
            assert handle.report.network_calls == solved.calls
    torch.testing.assert_close(solved.leaves["shape"][3:], alone["shape"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(state.translation[3], alone["translation"][0].numpy(), rtol=1e-3, atol=1e-4)
    assert state.against(state)["voxel_iou"].tolist() == [1.0] * 4
    assert max(values.max() for name, values in state.against(state).items() if name != "voxel_iou") < 1e-6


def test_overlap_of_boxes() -> None:
    unit = np.array([[[0.0, 0, 0], [1, 1, 1]]])
    empty = np.array([[[np.inf] * 3, [-np.inf] * 3]])
    with np.errstate(invalid="ignore"):
        assert box_overlap(unit, unit + 0.5).tolist() == [pytest.approx(0.125 / 1.875)]
        assert box_overlap(empty, unit).tolist() == [0.0]


def test_seeds_of_an_object_are_averaged_before_the_error() -> None:
    middle, error = summary({"voxel_iou": np.array([0.0, 1.0, 0.4, 0.6])}, 2)["voxel_iou"]
    assert (middle, error) == (0.5, pytest.approx(0.3, abs=1e-6))


def test_an_evaluation_resumes_and_refuses_the_results_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Row("ss", "published", "baseline", "baseline", Method(steps=4)),
            Row("ss", "published", "fewer steps", "2 steps", Method(steps=2))]  # fmt: skip
    monkeypatch.setattr(evaluation, "plan", lambda *args: rows)
    settings = Settings(objects=2, seeds=(42,), samplers=("published",), cache=tmp_path)
    path = tmp_path / "results.json"
    found = evaluate(settings, path)
    assert [row["kind"] for row in found["rows"]] == ["baseline", "fewer steps"]
    monkeypatch.setattr(evaluation, "_Beds", None)
    assert evaluate(settings, path)["rows"] == json.loads(path.read_text())["rows"]
    with pytest.raises(OutputError, match="another seeds"):
        evaluate(Settings(objects=2, seeds=(43,), cache=tmp_path), path)
    assert "fewer steps" in draw_all(found, tmp_path) and (tmp_path / "schedules-structure.png").is_file()


def test_the_rows_hold_every_preset_and_each_method_once() -> None:
    rows = plan(["published"], stages=("ss",))
    assert len({row.key for row in rows}) == len(rows)
    names = {row.name for row in rows}
    assert {"default", "fast", "easycache", "adams_bashforth (stride 4)", "12 steps"} <= names
    assert not next(row for row in rows if row.name == "easycache").together


def test_presets_are_written_as_configurations(tmp_path: Path) -> None:
    def path(nodes: list[int], stage: str) -> dict:
        main = {"name": "weighted_multistep", "weights": [[]] * len(nodes)}
        predict = {"shape": main, "layout": {"name": "live"}} if stage == "ss" else main
        return {"when": {"name": "path", "nodes": nodes, "steps": 25, "guided": 19}, "predict": predict}

    found = {"paths": {"ss": {"robust": {"6": path([0, 9, 19, 22], "ss"), "2": path([0], "ss")}},
                       "slat": {"": {"3": path([0, 13], "slat"), "2": path([0], "slat")}}}}  # fmt: skip
    picks = {"ss": ("robust/6", "robust/2"), "slat": ("/3", "/2")}
    assert len(write_presets(found, picks, tmp_path)) == 4
    assert "nodes: [0, 9, 19, 22]" in (tmp_path / "ss" / "path.yaml").read_text()
