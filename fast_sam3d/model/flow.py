"""Flow-matching generators and classifier-free guidance, with the attribute surface of the stock ones.

Time runs from 0 (noise) to 1 (data): x_t = (1 - t) noise + t data, and the network predicts data - noise.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fast_sam3d.model.solver import SOLVERS, ODESolver, Shapes, Tree, tree_leaves, tree_map, tree_randn


def time_grid(steps: int, rescale_t: float = 1.0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Sampling times t = s / (s + rescale_t (1 - s)) with s uniform; a factor above 1 makes early steps smaller.

    Args:
        steps: number of steps.
        rescale_t: 1 is uniform.
        dtype: that it is computed in.

    Returns:
        [steps + 1], from 0 to 1.
    """
    if steps < 1:
        raise ValueError(f"inference steps must be at least 1, got {steps}")
    s = torch.linspace(0, 1, steps + 1, dtype=dtype, device="cpu")
    return s / (1 + (rescale_t - 1) * (1 - s))


def interpolate(noise: Tree, data: Tree, t: Tensor) -> tuple[Tree, Tree]:
    """Training pair of the flow.

    Args:
        noise, data: trees of [B, ...] tensors.
        t: [B] in 0..1.

    Returns:
        (x_t, velocity), trees like data.
    """

    def mix(a: Tensor, b: Tensor) -> Tensor:
        return torch.lerp(a, b, t.to(b.dtype).reshape(-1, *[1] * (b.dim() - 1)))

    return tree_map(mix, noise, data), tree_map(lambda a, b: b - a, noise, data)


def mixed(strength: float, conditional: Tensor, unconditional: Tensor) -> Tensor:
    """(1 + s) c - s u, computed in float32 or better, in the type of c.

    In half precision, the multiples of c and u would be rounded before their difference is taken.
    """
    dtype = torch.promote_types(conditional.dtype, torch.float32)
    return ((1 + strength) * conditional.to(dtype) - strength * unconditional.to(dtype)).to(conditional.dtype)


class ClassifierFreeGuidance(nn.Module):
    """Velocity (1 + s) c - s u while the time is inside the interval, else c alone.

    The unconditional call is the conditional one with the keyword `cfg=True`: the backbone then zeroes its context.
    Training calls the backbone directly and drops conditions itself.

    Args:
        backbone: network of (x, t, *cond, **kwargs).
        strength: s; 0 disables guidance.
        interval: (low, high) in network time 0..1000, both ends included; None disables guidance.
        unconditional_handling: "add_flag", the only supported value.
    """

    def __init__(
        self,
        backbone: nn.Module,
        strength: float = 0.0,
        interval: Sequence[float] | None = (0.0, 500.0),
        unconditional_handling: str = "add_flag",
    ) -> None:
        super().__init__()
        if unconditional_handling != "add_flag":
            raise ValueError(f"unconditional_handling must be 'add_flag', got {unconditional_handling!r}")
        self.backbone = backbone
        self.strength = strength
        self.interval = interval
        self.unconditional_handling = unconditional_handling

    def forward(self, x: Tree, t: Tensor, *args: Any, **kwargs: Any) -> Tree:
        """Guided velocity; x as the backbone takes it, t one time in 0..1000, best on the host, where it is read."""
        strength = self._strength_at(t)
        device = tree_leaves(x)[0].device
        if t.device != device:
            t = torch.full_like(t, float(t), device=device)  # filled in there, not copied
        return self.inner_forward(x, t, not strength > 0, strength, *args, **kwargs)

    def inner_forward(self, x: Tree, t: Tensor, is_cond: bool, strength: float, *args: Any, **kwargs: Any) -> Tree:
        """Conditional call, then the unconditional one unless `is_cond`."""
        conditional = self.backbone(x, t, *args, **kwargs)
        if is_cond:
            return conditional
        unconditional = self.backbone(x, t, *args, **{**kwargs, "cfg": True})
        return tree_map(partial(mixed, strength), conditional, unconditional)

    def _strength_at(self, t: Tensor) -> float:
        if self.interval is None or self.strength == 0:
            return 0.0
        low, high = self.interval
        return self.strength if low <= float(t) <= high else 0.0


class FlowMatching(nn.Module):
    """Generator that integrates the flow from noise to data.

    Args:
        reverse_fn: velocity (x, t in 0..time_scale, *cond, **kwargs), usually a `ClassifierFreeGuidance`.
        inference_steps: steps of the time grid.
        time_scale: factor from sampling time to the network's time.
        rescale_t: see `time_grid`.
        solver_method: a name of `SOLVERS`, or a solver.
        random_generator: source of the initial noise; None uses torch's default generator.
    """

    def __init__(
        self,
        reverse_fn: nn.Module,
        inference_steps: int = 25,
        time_scale: float = 1000.0,
        rescale_t: float = 1.0,
        solver_method: str | ODESolver = "euler",
        random_generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if isinstance(solver_method, str) and solver_method not in SOLVERS:
            raise ValueError(f"unknown solver {solver_method!r}, choose from {sorted(SOLVERS)}")
        self.reverse_fn = reverse_fn
        self.inference_steps = inference_steps
        self.time_scale = time_scale
        self.rescale_t = rescale_t
        self._solver = SOLVERS[solver_method]() if isinstance(solver_method, str) else solver_method
        self._random_generator = random_generator
        self.no_shortcut = True

    @property
    def guidance(self) -> ClassifierFreeGuidance:
        """`reverse_fn`, where it is a `ClassifierFreeGuidance`."""
        if not isinstance(self.reverse_fn, ClassifierFreeGuidance):
            raise TypeError(f"reverse_fn is a {type(self.reverse_fn).__name__}, not a ClassifierFreeGuidance")
        return self.reverse_fn

    @property
    def random_generator(self) -> torch.Generator:
        """Source of the initial noise."""
        # Looked up at each use: deepcopy would detach a stored reference to the default generator.
        return torch.default_generator if self._random_generator is None else self._random_generator

    @random_generator.setter
    def random_generator(self, generator: torch.Generator | None) -> None:
        self._random_generator = generator

    def forward(self, x_shape: Shapes, x_device: torch.device | str, *args: Any, **kwargs: Any) -> Tree:
        """Sample; see `generate`."""
        return self.generate(x_shape, x_device, *args, **kwargs)

    def generate(self, x_shape: Shapes, x_device: torch.device | str, *args: Any, **kwargs: Any) -> Tree:
        """Sample from noise.

        Args:
            x_shape: shape of the state, or one per leaf.
            x_device: device of the state.
            args, kwargs: condition, passed to reverse_fn.

        Returns:
            State at t = 1, float32.
        """
        return deque(self.generate_iter(x_shape, x_device, *args, **kwargs), maxlen=1).pop()[1]

    def generate_iter(
        self, x_shape: Shapes, x_device: torch.device | str, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[float, Tree, tuple]]:
        """Yield (time at the step's start, state after the step, ()) for every step."""
        x_0 = self._generate_noise(x_shape, x_device)
        for x_t, t in self._solver.solve_iter(self._generate_dynamics, x_0, self._prepare_t(), *args, **kwargs):
            yield t, x_t, ()

    def solve(self, x_0: Tree, *args: Any, **kwargs: Any) -> Tree:
        """Sample from given noise x_0."""
        steps = self._solver.solve_iter(self._generate_dynamics, x_0, *self._schedule(), *args, **kwargs)
        return deque(steps, maxlen=1).pop()[0]

    def _schedule(self) -> tuple[Any, ...]:
        """Positional arguments of the solver between the state and the condition."""
        return (self._prepare_t(),)

    def _generate_noise(self, x_shape: Shapes, x_device: torch.device | str) -> Tree:
        return tree_randn(x_shape, x_device, self.random_generator)

    def _prepare_t(self, steps: int | None = None) -> list[float]:
        # Python floats: the grid is read on the host at every step.
        return time_grid(self.inference_steps if steps is None else steps, self.rescale_t).tolist()

    def _device_of_time(self, x_t: Tree) -> torch.device:
        """The host for guidance, which reads the time, and the state's for a network."""
        guided = isinstance(self.reverse_fn, ClassifierFreeGuidance)
        return torch.device("cpu") if guided else tree_leaves(x_t)[0].device

    def _generate_dynamics(self, x_t: Tree, t: float, *args: Any, **kwargs: Any) -> Tree:
        scaled = torch.full((), t * self.time_scale, device=self._device_of_time(x_t), dtype=torch.float32)
        return self.reverse_fn(x_t, scaled, *args, **kwargs)


class ShortCut(FlowMatching):
    """Flow matching with the step size as an additional input of the network (shortcut models).

    Args:
        no_shortcut: pass d = 0 (plain flow matching) instead of 1 / steps.
        args, kwargs: as for `FlowMatching`.
    """

    def __init__(self, *args: Any, no_shortcut: bool = True, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.no_shortcut = no_shortcut

    def generate_iter(
        self, x_shape: Shapes, x_device: torch.device | str, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[float, Tree, tuple]]:
        x_0 = self._generate_noise(x_shape, x_device)
        t_seq, d = self._prepare_t_and_d()
        for x_t, t in self._solver.solve_iter(self._generate_dynamics, x_0, t_seq, d, *args, **kwargs):
            yield t, x_t, ()

    def _schedule(self) -> tuple[Any, ...]:
        return self._prepare_t_and_d()

    def _prepare_t_and_d(self, steps: int | None = None) -> tuple[list[float], float]:
        steps = self.inference_steps if steps is None else steps
        return self._prepare_t(steps), 0.0 if self.no_shortcut else 1.0 / steps

    def _generate_dynamics(self, x_t: Tree, t: float, d: float, *args: Any, **kwargs: Any) -> Tree:
        device = tree_leaves(x_t)[0].device
        scaled = torch.full((1,), t * self.time_scale, device=self._device_of_time(x_t), dtype=torch.float32)
        step = torch.full((1,), d * self.time_scale, device=device, dtype=torch.float32)
        return self.reverse_fn(x_t, scaled, *args, d=step, **kwargs)
