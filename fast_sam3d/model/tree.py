"""Small helpers for latents that are a tensor or a dict of tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree

Tree: TypeAlias = Tensor | dict[str, Tensor]
Shapes: TypeAlias = Sequence[int] | Mapping[str, Sequence[int]]


def tree_map(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Apply `function` to matching leaves; dicts are matched by key, whatever their order."""
    return _pytree.tree_map(function, tree, *others)


def tree_leaves(tree: Any) -> list[Any]:
    """Leaves of a tree."""
    return _pytree.tree_leaves(tree)


def tree_randn(shapes: Shapes, device: torch.device | str, generator: torch.Generator) -> Tree:
    """Standard normal noise, leaves drawn in sorted key order as the stock generators do.

    Drawn on the generator's own device and then moved, so one seed gives the same noise on every device.

    Args:
        shapes: one shape, or one shape per leaf.
        device: where the noise is wanted.
        generator: source of randomness.

    Returns:
        float32 noise with the keys of `shapes` in their order.
    """
    if isinstance(shapes, Mapping):
        noise = {name: _randn(shapes[name], device, generator) for name in sorted(shapes)}
        return {name: noise[name] for name in shapes}
    return _randn(shapes, device, generator)


def _randn(shape: Sequence[int], device: torch.device | str, generator: torch.Generator) -> Tensor:
    return torch.randn(tuple(shape), generator=generator, device=generator.device).to(device)
