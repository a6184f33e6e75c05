"""Euler samplers as in trellis/pipelines/samplers: time from 1 (noise) to 0 (data), x <- x - (t - t_prev) v."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


class Answer(dict):  # type: ignore[type-arg]
    """A dict with its keys as attributes; TRELLIS returns an EasyDict."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


class FlowEulerSampler:
    """Without guidance."""

    def __init__(self, sigma_min: float) -> None:
        self.sigma_min = sigma_min

    def _v_to_xstart_eps(self, x_t: Any, t: float, v: Any) -> tuple[Any, Any]:
        assert x_t.shape == v.shape
        spread = self.sigma_min + (1 - self.sigma_min) * t
        return (1 - self.sigma_min) * x_t - spread * v, (1 - t) * v + x_t

    def _inference_model(self, model: Any, x_t: Any, t: float, cond: Any = None, **kwargs: Any) -> Any:
        times = torch.tensor([1000 * t] * x_t.shape[0], device=x_t.device, dtype=torch.float32)
        if cond is not None and cond.shape[0] == 1 < x_t.shape[0]:
            cond = cond.repeat(x_t.shape[0], *[1] * (cond.ndim - 1))  # the network gets another tensor
        return model(x_t, times, cond, **kwargs)

    def _get_model_prediction(self, model: Any, x_t: Any, t: float, cond: Any = None, **kwargs: Any) -> Any:
        velocity = self._inference_model(model, x_t, t, cond, **kwargs)
        return *self._v_to_xstart_eps(x_t=x_t, t=t, v=velocity), velocity

    @torch.no_grad()
    def sample_once(self, model: Any, x_t: Any, t: float, t_prev: float, cond: Any = None, **kwargs: Any) -> Answer:
        start, _, velocity = self._get_model_prediction(model, x_t, t, cond, **kwargs)
        return Answer(pred_x_prev=x_t - (t - t_prev) * velocity, pred_x_0=start)

    @torch.no_grad()
    def sample(
        self,
        model: Any,
        noise: Any,
        cond: Any = None,
        steps: int = 50,
        rescale_t: float = 1.0,
        verbose: bool = True,
        **kwargs: Any,
    ) -> Answer:
        return walk(self, model, noise, grid(steps, rescale_t), cond, **kwargs)


def grid(steps: int, rescale_t: float) -> NDArray[np.float64]:
    """[steps + 1] times from 1 to 0."""
    times = np.linspace(1, 0, steps + 1)
    return rescale_t * times / (1 + (rescale_t - 1) * times)


def walk(sampler: Any, model: Any, noise: Any, times: Any, cond: Any, **kwargs: Any) -> Answer:
    """All steps; TRELLIS's times are numpy's float64, TRELLIS.2's are floats."""
    answer = Answer(samples=None, pred_x_t=[], pred_x_0=[])
    x = noise
    for t, following in itertools.pairwise(times):
        step = sampler.sample_once(model, x, t, following, cond, **kwargs)
        x = step.pred_x_prev
        answer.pred_x_t.append(x)
        answer.pred_x_0.append(step.pred_x_0)
    answer.samples = x
    return answer


class FlowEulerCfgSampler(FlowEulerSampler):
    """Guided at all times."""

    def _inference_model(  # type: ignore[override]
        self, model: Any, x_t: Any, t: float, cond: Any, neg_cond: Any, cfg_strength: float, **kwargs: Any
    ) -> Any:
        positive = super()._inference_model(model, x_t, t, cond, **kwargs)
        negative = super()._inference_model(model, x_t, t, neg_cond, **kwargs)
        return (1 + cfg_strength) * positive - cfg_strength * negative

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        model: Any,
        noise: Any,
        cond: Any,
        neg_cond: Any,
        steps: int = 50,
        rescale_t: float = 1.0,
        cfg_strength: float = 3.0,
        verbose: bool = True,
        **kwargs: Any,
    ) -> Answer:
        kwargs |= {"neg_cond": neg_cond, "cfg_strength": cfg_strength}
        return super().sample(model, noise, cond, steps, rescale_t, verbose, **kwargs)


class FlowEulerGuidanceIntervalSampler(FlowEulerSampler):
    """Guided between two times, both included."""

    def _inference_model(  # type: ignore[override]
        self, model: Any, x_t: Any, t: float, cond: Any, neg_cond: Any, cfg_strength: float, cfg_interval: Any,
        **kwargs: Any,
    ) -> Any:  # fmt: skip
        positive = super()._inference_model(model, x_t, t, cond, **kwargs)
        if not cfg_interval[0] <= t <= cfg_interval[1]:
            return positive
        negative = super()._inference_model(model, x_t, t, neg_cond, **kwargs)
        return (1 + cfg_strength) * positive - cfg_strength * negative

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        model: Any,
        noise: Any,
        cond: Any,
        neg_cond: Any,
        steps: int = 50,
        rescale_t: float = 1.0,
        cfg_strength: float = 3.0,
        cfg_interval: tuple[float, float] = (0.0, 1.0),
        verbose: bool = True,
        **kwargs: Any,
    ) -> Answer:
        kwargs |= {"neg_cond": neg_cond, "cfg_strength": cfg_strength, "cfg_interval": cfg_interval}
        return super().sample(model, noise, cond, steps, rescale_t, verbose, **kwargs)
