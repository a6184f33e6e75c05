"""Toy equations with known solutions, and slow solvers of them in plain floats.

The slow solvers do not use the driver, its schedules or its predictors, for which they are the reference.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fast_sam3d.model.solver import Euler
from fast_sam3d.patch import Layer
from fast_sam3d.sampling import build_stage_method
from fast_sam3d.sampling.driver import SolveSeam, SolveStage
from fast_sam3d.sampling.guide import Guidance
from fast_sam3d.telemetry import Report, SolveRecord

Field = Callable[[np.ndarray, float], np.ndarray]

STEPS = 25
GRID = [s / (3 - 2 * s) for s in (i / STEPS for i in range(STEPS + 1))]
"""SAM 3D's grid of the sparse structure."""
PAPER = [0, 1, 4, 7, 10, 13, 16, 19, 22, 24]
"""The steps that stride 3 with warm-up 2 evaluates."""
START = np.array([1.0, -0.5, 2.0])


def forced(x: np.ndarray, t: float) -> np.ndarray:
    """x' = -x + sin t."""
    return -x + math.sin(t)


def forced_solution(t: float) -> np.ndarray:
    """Of `forced` from START at 0."""
    return (START + 0.5) * math.exp(-t) + (math.sin(t) - math.cos(t)) / 2


MATRIX = np.array([[-1.0, 0.7, 0.0], [-0.7, -0.2, 0.3], [0.1, 0.0, -2.0]])
SHIFT = np.array([0.4, -1.0, 0.2])


def affine(x: np.ndarray, t: float) -> np.ndarray:
    """x' = A x + b."""
    return MATRIX @ x + SHIFT


def affine_solution(t: float) -> np.ndarray:
    """Of `affine` from START at 0, by eigenvectors."""
    values, vectors = np.linalg.eig(MATRIX)
    rest = -np.linalg.solve(MATRIX, SHIFT)
    return (vectors @ (np.exp(values * t) * np.linalg.solve(vectors, START - rest))).real + rest


def denoising(x: np.ndarray, t: float) -> np.ndarray:
    """The flow from noise to one moving point of data: v = (D(t) - x) / (1 - t)."""
    return (moving(t) - x) / (1 - t)


def moving(t: float) -> np.ndarray:
    """A parabola."""
    return np.array([1.0, 2.0, -1.0]) + t * np.array([0.5, -1.0, 0.0]) + t * t * np.array([0.2, 0.0, 1.0])


ODES: dict[str, tuple[Field, Callable[[float], np.ndarray]]] = {
    "forced": (forced, forced_solution),
    "affine": (affine, affine_solution),
}


def driven(
    method: dict[str, object],
    field: Field,
    times: Sequence[float] = GRID,
    start: np.ndarray = START,
    guidance: Guidance | None = None,
) -> tuple[np.ndarray, SolveRecord, list[np.ndarray]]:
    """The final state under the driver, the record of its cost, and the state after each step; all in float64."""
    solver, report = Euler(), Report()
    stage = SolveStage("ss", "x", {"x": ("x",)}, guidance=lambda dynamics: guidance)
    seam = SolveSeam(solver, stage)
    seam.add(Layer(report, True, build_stage_method(method, stage.groups)))

    def dynamics(x: Tensor, t: float) -> Tensor:
        return torch.as_tensor(field(x.numpy(), float(t)))

    states = [x.numpy() for x, _ in solver.solve_iter(dynamics, torch.as_tensor(start), list(times))]
    return states[-1], report.solves[0], states


def integral(f: Callable[[float], float], a: float, b: float) -> float:
    """By Gauss-Legendre with 40 points."""
    nodes, weights = np.polynomial.legendre.leggauss(40)
    middle, half = (a + b) / 2, (b - a) / 2
    return half * sum(w * f(middle + half * n) for n, w in zip(nodes, weights, strict=True))


def lagrange(times: Sequence[float], i: int, t: float) -> float:
    """The polynomial that is 1 at times[i] and 0 at the others."""
    return math.prod((t - s) / (times[i] - s) for j, s in enumerate(times) if j != i)


Past = list[tuple[float, np.ndarray, np.ndarray]]
"""(t, x, v) of the evaluations, newest first."""


def slow(
    field: Field,
    evaluated: Sequence[int],
    predict: Callable[[Past, float, float, np.ndarray], np.ndarray],
    times: Sequence[float] = GRID,
    start: np.ndarray = START,
) -> np.ndarray:
    """Euler steps; where the network does not run, with the velocity `predict`(past, step's start, end, state)."""
    x, past = start, []
    for step, (a, b) in enumerate(itertools.pairwise(times)):
        if step in evaluated:
            v = field(x, a)
            past = [(a, x, v), *past]
        else:
            v = predict(past, a, b, x)
        x = x + (b - a) * v
    return x
