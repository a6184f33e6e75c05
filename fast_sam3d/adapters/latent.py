"""The sampling of one structured latent, kept so that it can be repeated on the same voxels from the same noise.

Names match sam3d_objects/pipeline/inference_pipeline.py and trellis/pipelines (`sample_slat`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from fast_sam3d.adapters.base import unwrap

__all__ = ["LatentSampling", "latents_kept"]


class LatentSampling:
    """One call of a pipeline's `sample_slat`.

    Attributes:
        ended: (wall-clock, processor) seconds of this process's counters when it returned.
    """

    def __init__(self, pipeline: Any, seed: int, inputs: tuple[Any, Any]) -> None:
        self._pipeline, self._seed, self._inputs = pipeline, seed, inputs
        self._scale: Mapping[str, list[float]] | None = getattr(pipeline, "slat_normalization", None)  # of TRELLIS
        self.ended = (0.0, 0.0)
        self._feats: Tensor | None = None

    @property
    def feats(self) -> Tensor:
        """[N, C] of the first time, float32 on the host, as the sampler returned it."""
        assert self._feats is not None
        return self._feats

    def first(self, sample: Any, args: Any, kwargs: Any) -> Any:
        """The call itself, with noise of its own seed."""
        torch.manual_seed(self._seed)
        latent = sample(*self._inputs, *args, **kwargs)
        self._feats = self._normalised(latent)
        self.ended = (time.perf_counter(), time.process_time())
        return latent

    def again(self, steps: int | None = None) -> Tensor:
        """[N, C] of another time, with what accelerates the pipeline now; steps: as of `sample_slat`."""
        stock = not (self._scale or type(self._pipeline).__module__.startswith("fast_sam3d."))
        given = {"inference_steps": steps} if self._scale is None else {"sampler_params": _of_steps(steps)}
        with torch.random.fork_rng(), torch.no_grad(), torch.device(self._pipeline.device) if stock else nullcontext():
            torch.manual_seed(self._seed)
            return self._normalised(self._pipeline.sample_slat(*self._inputs, **given))

    def _normalised(self, latent: Any) -> Tensor:
        """The features without the scale and shift that `sample_slat` adds."""
        feats = latent.feats.detach().float()
        if self._scale is not None:
            mean, std = (feats.new_tensor(self._scale[name]) for name in ("mean", "std"))
        else:
            mean, std = self._pipeline.slat_mean.to(feats), self._pipeline.slat_std.to(feats)
        return ((feats - mean) / std).cpu()


def _of_steps(steps: int | None) -> dict[str, int]:
    return {} if steps is None else {"steps": steps}


@contextmanager
def latents_kept(pipeline: Any, seed: int = 0) -> Iterator[list[LatentSampling]]:
    """Keep every sampling of a structured latent in the runs of a block.

    Args:
        pipeline: of SAM 3D Objects or TRELLIS, or an object that holds one in `_pipeline`.
        seed: of their noise, which is not that of a plain run.
    """
    inner = unwrap(pipeline)
    found: list[LatentSampling] = []
    own = vars(inner).get("sample_slat")
    sample = inner.sample_slat

    def kept(slat_input: Any, coords: Any, *args: Any, **kwargs: Any) -> Any:
        found.append(LatentSampling(inner, seed, (slat_input, coords)))
        return found[-1].first(sample, args, kwargs)

    inner.sample_slat = kept
    try:
        yield found
    finally:
        if own is None:
            del inner.sample_slat
        else:
            inner.sample_slat = own
