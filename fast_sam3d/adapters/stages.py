"""The stages of a published pipeline, stock or native, each run alone on given inputs.

Names follow sam3d_objects/pipeline/inference_pipeline_pointmap.py (`InferencePipelinePointMap`), and the order of the
stages is that of its `run`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fast_sam3d.adapters.base import unwrap

__all__ = ["StageRuns"]

_INPUTS = {"ss": "ss_preprocessor", "slat": "slat_preprocessor"}
_MESH = ("vertices", "faces", "vertex_attrs")
_GAUSSIANS = ("get_xyz", "get_scaling", "get_rotation", "get_opacity", "_features_dc")


class StageRuns:
    """Runs one stage at a time. Tensors that are given may be on any device, and results are on the host.

    Args:
        pipeline: the stock or the native one; the embedded one has other inputs.
    """

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = unwrap(pipeline)
        self.device = torch.device(self.pipeline.device)

    def pointmap(self, rgba: NDArray[np.uint8], pointmap: Tensor | None) -> Tensor:
        """[3, H, W] of a picture [H, W, 4]; a given one is [H, W, 3]."""
        with self._running():
            return _host(self.pipeline.compute_pointmap(rgba, pointmap)["pointmap"])

    def inputs(self, rgba: NDArray[np.uint8], points: Tensor) -> dict[str, dict[str, Tensor]]:
        """What the embedders of "ss" and "slat" take."""
        found = {}
        with self._running():
            for stage, name in _INPUTS.items():
                given = (points.to(self.device),) if stage == "ss" else ()
                inputs = self.pipeline.preprocess_image(rgba, getattr(self.pipeline, name), *given)
                found[stage] = {name: _host(value) for name, value in inputs.items()}
        return found

    def structure(self, inputs: Mapping[str, Tensor], seed: int, steps: int | None) -> dict[str, Tensor]:
        """Latent leaves, and coords [N, 4]."""
        with self._running(seed):
            found = self.pipeline.sample_sparse_structure(self._placed(inputs), inference_steps=steps)
        return {name: _host(value) for name, value in found.items() if isinstance(value, Tensor)}

    def pose(self, structure: Mapping[str, Tensor], inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """rotation, translation and scale of the latent leaves."""
        scene = {f"scene_{name}": inputs[f"pointmap_{name}"].to(self.device) for name in ("scale", "shift")}
        with self._running():
            found = self.pipeline.pose_decoder(self._placed(structure), **scene)
        return {name: _host(found[name]) for name in ("rotation", "translation", "scale")}

    def latent(self, inputs: Mapping[str, Tensor], coords: Tensor, seed: int, steps: int | None) -> Any:
        """The structured latent of voxels [N, 4], as the pipeline's decoders take it."""
        with self._running(seed):
            return self.pipeline.sample_slat(self._placed(inputs), coords.to(self.device), inference_steps=steps)

    def decode(self, latent: Any, feats: Tensor, formats: Sequence[str]) -> dict[str, dict[str, Tensor]]:
        """Mesh and gaussians of a latent of this pipeline with other features [N, C], by format."""
        with self._running():
            found = self.pipeline.decode_slat(latent.replace(feats.to(latent.feats)), list(formats))
        names = {name: _MESH if name == "mesh" else _GAUSSIANS for name in found}
        return {
            name: {part: _host(getattr(items[0], part)) for part in names[name] if getattr(items[0], part) is not None}
            for name, items in found.items()
        }

    def _placed(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.device) for name, value in tensors.items()}

    @contextmanager
    def _running(self, seed: int | None = None) -> Iterator[None]:
        """As in `run`: on the stock pipeline's device, and with a random state of its own."""
        with torch.random.fork_rng(), torch.no_grad():
            if seed is not None:
                torch.manual_seed(seed)
            if type(self.pipeline).__module__.startswith("fast_sam3d."):
                yield
            else:
                with self.device:
                    yield


def _host(value: Tensor) -> Tensor:
    return value.detach().cpu()
