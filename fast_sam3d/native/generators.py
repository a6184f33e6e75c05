"""The two samplers of the published pipeline: network, guidance, time grid and noise.

Facts from sam3d_objects/model/backbone/generator (shortcut/model.py, flow_matching/model.py,
classifier_free_guidance.py) and sam3d_objects/pipeline/inference_pipeline.py (`sample_sparse_structure`,
`sample_slat`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from fast_sam3d.model.config import SSFlowConfig
from fast_sam3d.model.config_file import SamplingConfig
from fast_sam3d.model.contexts import ConditionedNetwork
from fast_sam3d.model.flow import ClassifierFreeGuidance, FlowMatching, ShortCut, time_grid
from fast_sam3d.model.slat_config import SLatFlowConfig
from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.solver import Shapes, Tree, tree_randn
from fast_sam3d.model.ss_flow import SparseStructureFlow

__all__ = ["LatentGenerator", "StructureGenerator", "latent_generator", "structure_generator"]


class _Generator(FlowMatching):
    """Noise of torch's default generator of the state's device, and a network that keeps what a solve repeats."""

    def generate_iter(
        self, x_shape: Shapes, x_device: torch.device | str, *args: Any, **kwargs: Any
    ) -> Iterator[tuple[float, Tree, tuple]]:
        with self._keeping(*args, **kwargs):
            yield from super().generate_iter(x_shape, x_device, *args, **kwargs)

    def solve(self, x_0: Tree, *args: Any, **kwargs: Any) -> Tree:
        with self._keeping(*args, **kwargs):
            return super().solve(x_0, *args, **kwargs)

    def _keeping(self, cond: Any = None, coords: Any = None, **rest: Any) -> AbstractContextManager[None]:
        network = getattr(self.reverse_fn, "backbone", None)
        return network.keeping(cond, coords) if isinstance(network, ConditionedNetwork) else nullcontext()

    def _generate_noise(self, x_shape: Shapes, x_device: torch.device | str) -> Tree:
        """Equal to stock's for equal seeds on the same type of device."""
        return tree_randn(x_shape, x_device, self._random_generator)


class StructureGenerator(_Generator, ShortCut):
    """Sampler of the sparse structure; its time grid is computed in float64, by numpy as in stock."""

    def _prepare_t(self, steps: int | None = None) -> list[float]:
        s = np.linspace(0, 1, (self.inference_steps if steps is None else steps) + 1)
        return (s / (1 + (self.rescale_t - 1) * (1 - s))).tolist()


class LatentGenerator(_Generator):
    """Sampler of the structured latent; its time grid is computed in float32."""

    def _prepare_t(self, steps: int | None = None) -> list[float]:
        return time_grid(self.inference_steps if steps is None else steps, self.rescale_t, torch.float32).tolist()


def structure_generator(flow: SSFlowConfig, sampling: SamplingConfig) -> StructureGenerator:
    """The sampler of the sparse structure and the layout, without acceleration: d = 0, guided within the interval.

    `backbone.keep_context` and `backbone.constant_unconditional` switch its exact savings.
    """
    return StructureGenerator(
        _guided(SparseStructureFlow(flow), sampling), sampling.inference_steps, rescale_t=sampling.rescale_t
    )


def latent_generator(flow: SLatFlowConfig, sampling: SamplingConfig) -> LatentGenerator:
    """The sampler of the structured latent; savings as for `structure_generator`."""
    return LatentGenerator(
        _guided(StructuredLatentFlow(flow), sampling), sampling.inference_steps, rescale_t=sampling.rescale_t
    )


def _guided(network: ConditionedNetwork, sampling: SamplingConfig) -> ClassifierFreeGuidance:
    network.keep_context = network.constant_unconditional = True
    return ClassifierFreeGuidance(network, sampling.cfg_strength, sampling.cfg_interval)
