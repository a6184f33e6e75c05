"""The values of one step: the state as named leaves, and an evaluation of the network."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from torch import Tensor


class Sparse(Protocol):
    """Features [N, C] at voxels [N, 4] (object, x, y, z)."""

    feats: Tensor
    coords: Tensor

    def replace(self, feats: Tensor) -> Any:
        """Other features at the same voxels."""
        ...


Tree: TypeAlias = Tensor | Mapping[str, Tensor] | Sparse
Leaves: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One run of the network.

    Args:
        t: time in 0 (noise) to 1 (data).
        x: state at t, by leaf, in float32 or better.
        v: velocity at t after guidance, by leaf, in float32 or better.
    """

    t: float
    x: Leaves
    v: Leaves


@dataclass(frozen=True, slots=True)
class LeafEvaluation:
    """An `Evaluation` seen by one leaf: x and v are tensors of the leaf's shape."""

    t: float
    x: Tensor
    v: Tensor


def to_leaves(tree: Any, bare: str) -> dict[str, Tensor] | None:
    """The leaves of a state or velocity.

    Args:
        tree: a tensor; a grid [B, C, X, Y, Z], whose cells become tokens [B, X Y Z, C]; a sparse tensor, whose voxels
            become tokens [1, N, C]; or a mapping of tensors.
        bare: the name given to a tensor that comes without one.

    Returns:
        name -> tensor, or None for anything else.
    """
    if isinstance(tree, Tensor):
        return {bare: tree.flatten(2).transpose(1, 2) if tree.dim() == 5 else tree}
    if is_sparse(tree):
        return {bare: tree.feats[None]}
    if isinstance(tree, Mapping) and tree and all(isinstance(leaf, Tensor) for leaf in tree.values()):
        return dict(tree)
    return None


def is_sparse(tree: Any) -> bool:
    """Whether it has the surface of a `Sparse`."""
    return isinstance(getattr(tree, "feats", None), Tensor) and hasattr(tree, "coords") and hasattr(tree, "replace")


def like(tree: Tree, leaves: Leaves) -> Tree:
    """`leaves` in the container of `tree`: same type, same key order (the solver maps over both together)."""
    if isinstance(tree, Tensor):
        (leaf,) = leaves.values()
        return leaf.transpose(1, 2).reshape(-1, *tree.shape[1:]) if tree.dim() == 5 else leaf
    if not isinstance(tree, Mapping):
        (leaf,) = leaves.values()
        return tree.replace(leaf[0])
    if type(tree) is dict:
        return {name: leaves[name] for name in tree}
    result: Any = copy.copy(tree)
    for name in tree:
        result[name] = leaves[name]
    return result


def token_count(leaves: Leaves) -> int:
    """Tokens of a state: the sum over its [B, N, C] leaves of N."""
    return sum(int(leaf.shape[-2]) if leaf.dim() > 1 else 1 for leaf in leaves.values())
