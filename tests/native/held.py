"""A tiny native pipeline whose weights are loaded from main memory as from a checkpoint's files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fast_sam3d.model.half import half_weights
from fast_sam3d.native.depth import DepthModel
from fast_sam3d.native.moge import MoGe
from fast_sam3d.native.networks import build_networks, make_parts
from fast_sam3d.native.pipeline import NativePipeline
from fast_sam3d.native.plans import PLANS
from fast_sam3d.native.residency import Residency
from fast_sam3d.native.weights import WeightsPart
from tests.minis import aim_at_few_voxels
from tests.native.small_moge import TINY, see_a_scene
from tests.native.tiny import SETTINGS, random_parts

VOXELS = 30
Weights = dict[str, dict[str, Tensor]]


class Held:
    """A source of weights in main memory."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors

    @contextmanager
    def opened(self) -> Iterator[dict[str, Tensor]]:
        yield self.tensors

    def refuse(self, name: str, fault: str) -> Exception:
        return AssertionError(f"{name}: {fault}")


def random_weights() -> Weights:
    """Of a pipeline that finds about `VOXELS` voxels, and of a small MoGe."""
    found = random_parts()
    torch.manual_seed(0)
    depth = MoGe(TINY).eval().requires_grad_(False)
    see_a_scene(depth, 0.5)
    aim_at_few_voxels(NativePipeline(SETTINGS, found, depth_model=DepthModel(depth)), VOXELS)
    modules = {**{name: part.module for name, part in found.items()}, "depth_model": depth}
    return {name: dict(module.state_dict()) for name, module in modules.items()}


def parts_of(weights: Weights) -> dict[str, WeightsPart]:
    """As from a checkpoint folder."""
    networks = build_networks(SETTINGS)
    parts = make_parts(networks, {name: {None: Held(weights[name])} for name in networks}, SETTINGS)
    with torch.device("meta"):
        depth = MoGe(TINY)
    together = next(iter(parts.values())).together
    halves = frozenset(half_weights(depth))
    parts["depth_model"] = WeightsPart("depth_model", depth, {None: Held(weights["depth_model"])}, halves, together)
    return parts


def pipeline_on(
    device: torch.device, weights: Weights, half: torch.dtype | None = None, plan: str = "all"
) -> NativePipeline:
    parts = parts_of(weights)
    residency = Residency(parts, PLANS[plan], device, half)
    return NativePipeline(SETTINGS, parts, device, half, residency, DepthModel(parts["depth_model"].module))
