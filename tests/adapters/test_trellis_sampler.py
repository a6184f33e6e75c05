"""Samplers of TRELLIS that other code has changed: never another result, and never a loop that is left out."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import fast_sam3d
from fast_sam3d.errors import FastSam3dError
from tests.beds import differing, tensors
from tests.contract import EXACT, METHODS
from tests.contract_trellis import distance
from tests.trellis_like.beds import STAND_IN
from tests.trellis_like.samplers import FlowEulerGuidanceIntervalSampler

AS_IT_IS = "is wrapped by other code"


class Doubled(FlowEulerGuidanceIntervalSampler):
    """With a `sample` of its own, whose arguments have no names."""

    def sample(self, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        answer = super().sample(*args, **kwargs)
        answer["samples"] = answer["samples"] * 2
        return answer


class Faster(FlowEulerGuidanceIntervalSampler):
    """Changes the velocity after the network."""

    def _get_model_prediction(self, *args: Any, **kwargs: Any) -> Any:
        start, noise, velocity = super()._get_model_prediction(*args, **kwargs)
        return start, noise, velocity * 1.1


class Midpoint(FlowEulerGuidanceIntervalSampler):
    """Takes the velocity in the middle of each step, from the network itself."""

    def sample_once(self, model: Any, x_t: Any, t: float, t_prev: float, cond: Any = None, **kwargs: Any) -> Any:
        first = self._inference_model(model, x_t, t, cond, **kwargs)
        middle = (t + t_prev) / 2
        answer = super().sample_once(model, x_t - (t - middle) * first, middle, t_prev, cond, **kwargs)
        second = self._inference_model(model, x_t - (t - middle) * first, middle, cond, **kwargs)
        answer.pred_x_prev = x_t - (t - t_prev) * second
        return answer


@pytest.mark.parametrize("kind", [Doubled, Faster, Midpoint])
def test_a_sampler_of_the_users_keeps_its_steps(kind: type, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = STAND_IN.build()
    pipeline.slat_sampler = kind(1e-5)
    plain = tensors(STAND_IN.raw(pipeline))
    with fast_sam3d.observe(pipeline), caplog.at_level(logging.WARNING):
        assert differing(tensors(STAND_IN.raw(pipeline)), plain) == set()
    with fast_sam3d.accelerated(pipeline, EXACT):
        assert distance(tensors(STAND_IN.raw(pipeline))["slat"], plain["slat"]) < 1e-5
    assert (AS_IT_IS in caplog.text) == (kind is Doubled)
    said = "sampler is Doubled" if kind is Doubled else "solver SampleSeam does not take Euler"
    with pytest.raises(FastSam3dError, match=f"slat: the {said}"):
        fast_sam3d.accelerate(pipeline, METHODS["both"])
    assert vars(pipeline.slat_sampler).keys() == {"sigma_min"}


def test_a_loop_that_other_code_wraps_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    pipeline, called = STAND_IN.build(), []
    own = pipeline.slat_sampler.sample
    pipeline.slat_sampler.sample = wrapped = lambda *args, **kwargs: called.append(1) or own(*args, **kwargs)
    plain = tensors(STAND_IN.raw(pipeline))
    with caplog.at_level(logging.WARNING), fast_sam3d.accelerated(pipeline, METHODS["slat"]) as handle:
        assert differing(tensors(STAND_IN.raw(pipeline)), plain) == set()
    assert len(called) == 2 and handle.report.network_calls_saved == 0
    assert "sample is wrapped by other code" in caplog.text
    assert vars(pipeline.slat_sampler)["sample"] is wrapped
