"""The baseline's solves, recorded and called again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.bench.objects import BenchObject
from fast_sam3d.bench.runs import Given
from fast_sam3d.errors import FastSam3dError
from fast_sam3d.patch import Seam
from fast_sam3d.tune.problem import Problem, collect
from tests.fakes import same_vars, snapshot
from tests.minis import picture, random_mini


def item(shift: int = 0) -> BenchObject:
    image, mask = picture()
    return BenchObject(f"disc {shift}", Given(np.roll(image, shift, 1), np.roll(mask, shift, 1)))


def run(pipeline: Any, seed: int = 42) -> Any:
    image, mask = picture()
    return pipeline.run(image, mask, seed=seed, decode_formats=["gaussian"])


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return random_mini()


def test_states_are_those_of_the_run_and_nothing_stays_on_the_pipeline(pipeline: Any) -> None:
    plain, before = run(pipeline), snapshot(pipeline)
    found = collect(pipeline, item())
    assert same_vars(before, snapshot(pipeline))
    assert not any(isinstance(value, Seam) for value in vars(adapt(pipeline).solver("ss")).values())
    assert torch.equal(found["ss"].states[-1]["shape"], plain["shape"])
    assert [len(solve.states) for solve in found.values()] == [9, 9]
    assert torch.equal(run(pipeline)["shape"], plain["shape"])


def test_velocities_give_the_same_solve_again(pipeline: Any) -> None:
    for solve in collect(pipeline, item()).values():
        again = solve.under(solve.times).solved()
        for name, leaf in solve.states[-1].items():
            torch.testing.assert_close(again.states[-1][name], leaf, rtol=1e-4, atol=1e-5)


def test_the_sampler_of_the_recording_holds_whatever_the_pipeline_is_set_to(pipeline: Any) -> None:
    solve = collect(pipeline, item(), stages=["ss"], solve=False)["ss"]
    assert solve.states == []
    x = solve.leaves
    guided, guidance = solve.velocity(x, 0)["shape"], adapt(pipeline).guidance("ss")
    guidance.strength = 0.0
    assert torch.equal(solve.velocity(x, 0)["shape"], guided)
    assert guidance.strength == 0.0
    assert not torch.equal(solve.under(solve.times, 1.0).velocity(x, 0)["shape"], guided)
    assert solve.under(solve.times, interval=(0.0, 0.0)).calls == [2, 1, 1, 1, 1, 1, 1, 1]
    assert solve.calls == [2, 2, 2, 2, 2, 2, 2, 1]  # rescale_t 3: the seventh step starts at .5


def test_objects_of_a_batch_are_solved_as_alone(pipeline: Any) -> None:
    solves = [collect(pipeline, item(shift), stages=["ss"], solve=False)["ss"] for shift in (0, 9)]
    problem = Problem.of(solves)
    assert len(problem.groups) == 1
    assert problem.objects == 2
    for i, solve in enumerate(solves):
        alone = solve.solved().states[-1]
        for name, leaf in problem.part([i]).groups[0].states[-1].items():
            torch.testing.assert_close(leaf, alone[name], rtol=1e-4, atol=1e-5)
    states = [[group.states[j] for group in problem.groups] for j in (3, 5)]
    together = problem.velocities(states, 5)
    torch.testing.assert_close(together[1][0], problem.groups[0].velocity(states[1][0], 5), rtol=1e-4, atol=1e-5)


def test_voxels_of_several_objects_stay_apart(pipeline: Any) -> None:
    problem = Problem.of([collect(pipeline, item(shift))["slat"] for shift in (0, 9)])
    assert [group.objects for group in problem.groups] == [1, 1]
    assert problem.part([1]).groups == [problem.groups[1]]


def test_an_accelerated_pipeline_is_refused(pipeline: Any) -> None:
    refused = pytest.raises(FastSam3dError, match="restore it before")
    with fast_sam3d.accelerated(pipeline, preset="fast_sam3d"), refused:
        collect(pipeline, item())


def test_an_object_that_is_not_finite_is_named(pipeline: Any) -> None:
    def broken(module: Any, args: Any, v: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: leaf * float("nan") for name, leaf in v.items()}

    hook = adapt(pipeline).network("ss").register_forward_hook(broken)
    try:
        with pytest.raises(FastSam3dError, match=r"object disc 0: .*not finite after step 1 of ss"):
            collect(pipeline, item(), stages=["ss"])
    finally:
        hook.remove()
