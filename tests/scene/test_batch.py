"""Sparse structures of several objects in one batch, against single runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import fast_sam3d
from fast_sam3d.config.compose import load
from fast_sam3d.report import observe
from fast_sam3d.run.object import RunSettings, run_object
from fast_sam3d.scene import run_scene
from fast_sam3d.scene.batch import Ahead, groups_of
from tests.minis import aim_at_few_voxels, random_mini

STEPS = 6
STRIDE = {"when": {"name": "stride", "stride": 3, "warmup": 1}, "predict": {"name": "taylor", "order": 1}}
BUDGET = {"when": {"name": "budget", "threshold": 0.2, "warmup": 2}, "predict": {"name": "offset"}}


def solve_ahead(pipeline, things, seed, steps):
    Ahead(pipeline, seed, steps).prepare(len(things), ((each.image, each.mask, each.pointmap) for each in things))


class Thing:
    """The inputs of an object that `Ahead` reads."""

    def __init__(self, left: int) -> None:
        rng = np.random.default_rng(left)
        self.image = rng.integers(0, 255, (48, 64, 3), np.uint8)
        self.mask = np.zeros((48, 64), bool)
        self.mask[10:40, left : left + 20] = True
        rows, columns = np.mgrid[:48, :64]
        self.pointmap = np.stack([(32 - columns) / 32, (24 - rows) / 32, np.full((48, 64), 2.0)], axis=-1)
        self.pointmap = self.pointmap.astype(np.float32)


@pytest.fixture(scope="module")
def pipeline():
    made = random_mini()
    aim_at_few_voxels(made, 40)
    return made


def results(pipeline, things, seed=7):
    for thing in things:
        with observe(pipeline) as report:
            settings = RunSettings(seed, STEPS, 2, ("gaussian",))
            result = run_object(pipeline, thing.image, thing.mask, thing.pointmap, settings=settings).result
        yield result, report


AROUND = {"when": {"name": "guided_stride", "stride": 3, "warmup": 2}, "predict": {"name": "hold"}}


@pytest.mark.parametrize("method", [None, STRIDE, AROUND, load(["ss=path"]).modules["ss"]])
def test_a_batched_object_equals_the_single_one(pipeline, method):
    things = [Thing(left) for left in (5, 20, 40)]
    with fast_sam3d.accelerated(pipeline, {} if method is None else {"ss": method}):
        alone = list(results(pipeline, things))
        before = torch.get_rng_state()
        solve_ahead(pipeline, things, 7, STEPS)
        assert torch.equal(before, torch.get_rng_state())
        assert len(pipeline.solved_ahead) == 3
        sizes = [solved.voxels for solved in pipeline.solved_ahead]
        calls = count_solves(pipeline)
        together = list(results(pipeline, things[::-1]))[::-1]
        assert not calls
    pipeline.solved_ahead.clear()
    poses = [result["translation"] for result, _ in alone]
    assert not torch.equal(poses[0], poses[1])  # objects that differ
    assert sizes == [len(result["coords_original"]) for result, _ in together]
    for (one, report), (other, other_report) in zip(alone, together, strict=True):
        assert torch.equal(one["coords"], other["coords"])
        for name in ("shape", "translation", "rotation", "scale"):
            torch.testing.assert_close(other[name], one[name], rtol=1e-5, atol=1e-5)
        # The noise of the second stage continues the generator after the first.
        torch.testing.assert_close(other["gaussian"][0].get_xyz, one["gaussian"][0].get_xyz, rtol=1e-5, atol=1e-5)
        assert [solve.to_dict()["steps"] for solve in other_report.solves] == [
            s.to_dict()["steps"] for s in report.solves
        ]


def test_batch_is_decoded_without_gradients(pipeline):
    seen = []
    hook = pipeline.models["ss_decoder"].register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    with hook:
        pipeline.sample_structures([(thing.image, thing.mask, thing.pointmap) for thing in (Thing(5), Thing(20))], 7, 2)
    assert seen == [False, False]


def test_reports_count_a_batch_once(pipeline):
    things = [Thing(5), Thing(20), Thing(40)]
    masks = [thing.mask for thing in things]
    options = {"seed": 7, "ss_steps": STEPS, "slat_steps": 2, "formats": ["gaussian"], "pointmap": things[0].pointmap}
    single = next(run_scene(pipeline, things[0].image, masks, **options, batch=1)).report
    calls = count_solves(pipeline)
    with observe(pipeline) as scene:
        reports = [item.report for item in run_scene(pipeline, things[0].image, masks, **options)]
    batched = sum(len(x["shape"]) == 3 for x in calls)
    row = scene.to_dict()["network_calls"]["ss"]
    assert row["steps"] == row["steps_evaluated"] == 3 * STEPS
    assert row["made"] == batched == single.to_dict()["network_calls"]["ss"]["made"]
    assert scene.seconds["ss"] > 0.5 * sum(report.seconds["ss"] for report in reports) > 0
    for report in reports:
        own = report.to_dict()["network_calls"]["ss"]
        assert own["steps"] == STEPS and own["made"] == pytest.approx(batched / 3)
        assert report.solves[0].shared_by == 3 and report.seconds["ss"] > scene.seconds["ss"] / 4
        assert "1/3 of a batch of 3 objects" in report.table()
    assert sum(report.network_calls for report in reports) == pytest.approx(scene.network_calls)
    assert sum(report.total_seconds for report in reports) == pytest.approx(scene.total_seconds, rel=0.2)
    assert "3 objects were sampled in batches" in scene.table()


def count_solves(pipeline):
    """The states that the sparse structure's network is called with from now on."""
    calls = []
    backbone = pipeline.generator("ss").reverse_fn.backbone
    backbone.register_forward_pre_hook(lambda _, args: calls.append(args[0]))
    return calls


def test_a_scene_solves_each_group_once(pipeline):
    things = [Thing(left) for left in (5, 20, 40)]
    same = things[0]
    masks = {"a": things[0].mask, "none": np.zeros_like(same.mask), "b": things[1].mask, "c": things[2].mask}
    options = {"seed": 7, "ss_steps": STEPS, "slat_steps": 2, "formats": ["gaussian"], "pointmap": same.pointmap}
    alone = list(run_scene(pipeline, same.image, masks, **options, batch=1))
    calls = count_solves(pipeline)
    together = list(run_scene(pipeline, same.image, masks, **options, batch=2))
    assert len(calls) == 2 * (len(calls) // 2) > 0 and not pipeline.solved_ahead
    for one, other in zip(alone, together, strict=True):
        assert one.name == other.name and (one.error is None) == (other.error is None) == (one.name != "none")
        if one.result is not None:
            torch.testing.assert_close(other.result["translation"], one.result["translation"], rtol=1e-5, atol=1e-5)
    batches = [len(x["shape"]) for x in calls]
    assert set(batches[: len(batches) // 2]) == {2} and set(batches[len(batches) // 2 :]) == {1}
    for _item in run_scene(pipeline, same.image, masks, **options):
        assert len(pipeline.solved_ahead) == 3
        break  # a caller may stop early, and no state is kept
    del _item
    assert not pipeline.solved_ahead


def test_another_seed_or_step_count_is_solved_separately(pipeline):
    things = [Thing(5), Thing(20)]
    (plain, _), *_ = results(pipeline, things, seed=8)
    solve_ahead(pipeline, things, 7, STEPS)
    (other, _), *_ = results(pipeline, things, seed=8)
    assert torch.equal(other["shape"], plain["shape"])
    solve_ahead(pipeline, things, 8, STEPS + 1)
    (other, _), *_ = results(pipeline, things, seed=8)
    assert torch.equal(other["shape"], plain["shape"])
    pipeline.solved_ahead.clear()


def test_no_batch_if_objects_may_take_different_steps(pipeline, caplog):
    caplog.set_level("INFO", "fast_sam3d")
    things = [Thing(5), Thing(20)]
    with fast_sam3d.accelerated(pipeline, {"ss": BUDGET}):
        solve_ahead(pipeline, things, 7, STEPS)
    assert "different steps" in caplog.text and not pipeline.solved_ahead
    solve_ahead(pipeline, things, None, STEPS)
    assert "there is no seed" in caplog.text and not pipeline.solved_ahead
    things[1].mask[:] = False
    solve_ahead(pipeline, things, 7, STEPS)
    assert "the mask is empty" in caplog.text and not pipeline.solved_ahead
    solve_ahead(object(), things, 7, STEPS)
    assert "this pipeline samples one at a time" in caplog.text


def test_groups_are_consecutive_objects():
    assert groups_of([0, 2, 5, 9, 11], 2) == {0: (0, 2), 2: (0, 2), 5: (5, 9), 9: (5, 9)}
    assert groups_of([0, 2, 5], 8) == dict.fromkeys((0, 2, 5), (0, 2, 5))
    assert groups_of([0, 2], 1) == {}
