"""The samplers of TRELLIS and TRELLIS.2, whose loop is their own, as solvers with a `solve_iter`.

Names match trellis/pipelines/samplers (`FlowEulerSampler`, `GuidanceIntervalSamplerMixin`). There time t goes from 1
(noise) to 0; here it is s = 1 - t, and velocities have the other sign.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fast_sam3d.patch import Seam
from fast_sam3d.sampling.guide.base import Branch, Guidance

__all__ = [
    "KINDS",
    "STRENGTHS",
    "SampleSeam",
    "Velocity",
    "branch_of",
    "guidance_of",
    "has_known_loop",
    "only_voxels",
    "settings_of",
    "unfit",
    "voxels_of",
]

logger = logging.getLogger(__name__)

KINDS = ("FlowEulerSampler", "FlowEulerCfgSampler", "FlowEulerGuidanceIntervalSampler")
"""Classes of samplers."""

STRENGTHS = {"cfg_strength": ("cfg_interval", 0.0), "guidance_strength": ("guidance_interval", 1.0)}
"""Keyword of the strength -> that of the interval, and the strength that leaves the conditional velocity alone."""

_VIEWS = "_old_inference_model"
"""A sampler has this attribute while its pipeline runs on several pictures."""


class Times(list[float]):
    """[steps + 1] times s of one solve, with what its steps returned.

    Args:
        exact: the sampler's own times t.
    """

    def __init__(self, exact: Sequence[float]) -> None:
        super().__init__(float(1 - t) for t in exact)
        self.exact = list(exact)
        self.outs: list[Any] = []


@dataclass(eq=False)
class Velocity:
    """The dynamics of one solve: (state, s, condition, **guidance) -> velocity along s.

    Args:
        sampler: mixes the velocities of the network in `_inference_model`.
        network: the network.
        given: keywords of the sampler's call.
        views: pictures that the network gets at each step.
        times: s -> the sampler's own t.
    """

    sampler: Any
    network: Any
    given: Mapping[str, Any]
    views: int = 1
    times: Mapping[float, float] = field(default_factory=dict)
    _nonzero: tuple[Any, bool] | None = None

    def __call__(self, x: Any, s: float, cond: Any = None, **kwargs: Any) -> Any:
        self.given = kwargs  # a recorded solve may be under another guidance
        return -self.sampler._inference_model(self.network, x, self.times.get(s, 1 - s), cond, **kwargs)

    def is_nonzero(self, negative: Tensor) -> bool:
        """Whether a negative condition is one; its values are read once."""
        if self._nonzero is None or self._nonzero[0] is not negative:
            self._nonzero = (negative, not negative.is_meta and bool(negative.any()))
        return self._nonzero[1]


class SampleSeam(Seam):
    """Replaces `sampler.sample`: the same steps, taken by `solve_iter`, which a further seam may replace."""

    def __init__(self, sampler: Any) -> None:
        super().__init__(sampler, "sample")

    @property
    def wrapped(self) -> str | None:
        """The method that other code has replaced on the instance, so that its solves run unaccelerated; None: none."""
        steps = vars(self.owner()).keys() & {"sample_once", "_get_model_prediction"}
        return "sample" if self._shadowed else min(steps, default=None)

    @torch.no_grad()
    def __call__(self, model: Any, noise: Any, *args: Any, **kwargs: Any) -> Any:
        from tqdm import tqdm

        sampler = self.owner()
        if not self.layers:
            return self.original()(model, noise, *args, **kwargs)
        if (name := self.wrapped) or not has_known_loop(sampler):
            place = f"{type(sampler).__name__}.{name or 'sample'}"
            logger.warning("%s is wrapped by other code, so this solve runs as it is", place)
            return self.original()(model, noise, *args, **kwargs)
        bound = inspect.signature(self.original()).bind(model, noise, *args, **kwargs)
        bound.apply_defaults()
        given = dict(bound.arguments)
        given |= given.pop("kwargs", {})
        cond, steps, rescale_t = given["cond"], given["steps"], given["rescale_t"]
        if not steps:
            return self.original()(model, noise, *args, **kwargs)
        own = {"model", "noise", "cond", "steps", "rescale_t", "verbose", "tqdm_desc"}
        rest = {name: value for name, value in given.items() if name not in own}
        several, objects = _VIEWS in vars(sampler), noise.shape[0]
        views = len(cond) if several and not _take_turns(sampler) else 1
        # Once for all steps, so that the negative condition is the same tensor in each.
        if not several:
            cond = _repeated(cond, objects)
        if "neg_cond" in rest:
            rest["neg_cond"] = _repeated(rest["neg_cond"], objects)
        times = Times(grid(steps, rescale_t))
        velocity = Velocity(sampler, model, rest, views, dict(zip(times, times.exact, strict=True)))
        watched = any(getattr(layer.report, "progress", None) is not None for layer in self.layers)
        bar = {"total": steps, "desc": given.get("tqdm_desc", "Sampling"), "disable": watched or not given["verbose"]}
        sample, states = noise, []
        for sample, _ in tqdm(self.solve_iter(velocity, noise, times, cond, **rest), **bar):
            states.append(sample)
        kind: Any = type(times.outs[0])
        return kind({"samples": sample, "pred_x_t": states, "pred_x_0": [out.pred_x_0 for out in times.outs]})

    def solve_iter(
        self, dynamics: Callable[..., Any], x_init: Any, times: Sequence[float], *args: Any, **kwargs: Any
    ) -> Iterator[tuple[Any, float]]:
        """The sampler's own steps, with the velocities of `dynamics`: yields each state and its time."""
        stepper = copy.copy(self.owner())  # takes the velocity for the network's; the sampler itself stays as it is
        exact = times.exact if isinstance(times, Times) else [1 - s for s in times]
        known = dict(zip(exact, times, strict=True))
        stepper._inference_model = lambda model, x_t, t, cond: -dynamics(x_t, known.get(t, 1 - t), *args, **kwargs)
        x = x_init
        for after, (t, t_prev) in zip(times[1:], pairwise(exact), strict=True):
            out = stepper.sample_once(None, x, t, t_prev, None)
            if isinstance(times, Times):
                times.outs.append(out)
            x = out.pred_x_prev
            yield x, after


def has_known_loop(sampler: Any) -> bool:
    """Whether the `sample` of its class is that of one of `KINDS`, and not a loop of other code."""
    return next((base.__name__ for base in type(sampler).__mro__ if "sample" in vars(base)), None) in KINDS


def grid(steps: int, rescale_t: float) -> list[float]:
    """[steps + 1] times t of a sampler, 1 to 0."""
    t = np.linspace(1, 0, steps + 1)
    found: list[float] = (rescale_t * t / (1 + (rescale_t - 1) * t)).tolist()
    return found


def settings_of(sampler: Any) -> dict[str, Any]:
    """What a sampler's `sample` takes where a call does not say otherwise: steps, time grid and guidance."""
    names = {"steps", "rescale_t", *STRENGTHS, *(interval for interval, _ in STRENGTHS.values())}
    known = inspect.signature(type(sampler).sample).parameters
    return {"steps": 50, "rescale_t": 1.0} | {
        name: known[name].default for name in names & known.keys() if known[name].default is not inspect.Parameter.empty
    }


def guidance_of(dynamics: Any) -> Guidance | None:
    """The guidance of a `Velocity`, None without any. TRELLIS.2's strength of 1 is none, and 0 the negative alone."""
    name = next((name for name in STRENGTHS if name in getattr(dynamics, "given", ())), None)
    if name is None:
        return None
    interval, least = STRENGTHS[name]
    strength = float(dynamics.given[name]) - least
    if least and strength in (0.0, -1.0):
        return None
    low, high = dynamics.given.get(interval, (0.0, 1.0))
    return _Guidance(strength, ((low, high),), 1.0, 1 + dynamics.views, dynamics.views, dynamics.times)


@dataclass(frozen=True, slots=True)
class _Guidance(Guidance):
    """With an interval of the sampler's own times, compared as it does."""

    exact: Mapping[float, float] = field(default_factory=dict)

    def acts_at(self, t: float) -> bool:
        """See `Guidance`."""
        ((low, high),) = self.intervals
        return bool(low <= self.exact.get(t, 1 - t) <= high)


def branch_of(dynamics: Any, network: Any, args: Any, kwargs: Any) -> Branch | None:
    """What a call of the network is for: the negative condition is known by the tensor itself."""
    negative = dynamics.given.get("neg_cond")
    if len(args) < 3 or args[2] is not negative:
        return "conditional"
    # Those of pictures are zeros, that of a text is an empty text.
    return "negative" if not isinstance(negative, Tensor) or dynamics.is_nonzero(negative) else "zeros"


def unfit(dynamics: Any) -> str | None:
    """Why steps cannot be left out: pictures that take turns, where a step left out would leave out its picture."""
    return "its pictures take turns from step to step" if _take_turns(getattr(dynamics, "sampler", None)) else None


def _take_turns(sampler: Any) -> bool:
    """Whether a run on several pictures shows the network one at a time, rather than all at each step."""
    own = getattr(sampler, "__dict__", {})
    return _VIEWS in own and "neg_cond" not in inspect.signature(own["_inference_model"]).parameters


def voxels_of(x: Any, args: Any, kwargs: Any) -> Any:
    """The voxels [N, 4] of a state."""
    return getattr(x, "coords", None)


def only_voxels(x: Any, args: Any, kwargs: Any, index: Tensor, places: Tensor) -> tuple[Any, Any, Any] | None:
    """A state at some of its voxels, with the same condition; None if an object would have none."""
    coords = x.coords[index]
    if x.shape[0] > 1 and len(coords[:, 0].unique()) < x.shape[0]:
        return None
    few = {
        name: type(x)(value.feats[index], coords) if hasattr(value, "feats") else value
        for name, value in kwargs.items()
    }
    return type(x)(x.feats[index], coords), args, few


def _repeated(cond: Any, objects: int) -> Any:
    """A condition for several objects, as the sampler repeats it at each step."""
    if not isinstance(cond, Tensor) or objects == 1 or len(cond) != 1:
        return cond
    return cond.repeat(objects, *[1] * (cond.dim() - 1))
