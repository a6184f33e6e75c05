"""The samplers of SAM 3D Objects: their guidance, the arguments of their dynamics, and the leaves of their latents.

Names match sam3d_objects/model/backbone/generator (`FlowMatching`, `ShortCut`, `ClassifierFreeGuidance`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from fast_sam3d.sampling.guide import Guidance
from fast_sam3d.sampling.stage import SolveStage

__all__ = [
    "LAYOUT", "SHAPE", "count_calls", "decode_structure", "guidance_of", "only_voxels", "sampling_stages", "voxels_of",
]  # fmt: skip

SHAPE = "shape"
LAYOUT = ("6drotation_normalized", "scale", "translation", "translation_scale")
"""The leaves of the sparse-structure latent that hold the pose."""


def guidance_of(dynamics: Callable[..., Any]) -> Guidance | None:
    """The guidance of `generator._generate_dynamics`, None without any.

    Read at each call, because the pipeline sets strength and interval for each run.

    Args:
        dynamics: the bound method; anything else has no guidance.
    """
    generator = getattr(dynamics, "__self__", None)
    guidance = getattr(generator, "reverse_fn", None)
    strength = getattr(guidance, "strength", None)
    interval = getattr(guidance, "interval", None)
    if strength is None or interval is None or getattr(guidance, "training", False):
        return None
    # Either may be a mapping by leaf.
    strengths = strength if isinstance(strength, Mapping) else {None: strength}
    intervals = {
        tuple(interval[leaf] if isinstance(interval, Mapping) else interval) for leaf, s in strengths.items() if s > 0
    }
    if not intervals:
        return None
    # `PointmapCFG` has one more network call, without the pointmap.
    calls = 3 if any(kind.__name__ == "PointmapCFG" for kind in type(guidance).__mro__) else 2
    return Guidance(max(strengths.values()), tuple(sorted(intervals)), getattr(generator, "time_scale", 1.0), calls)


def count_calls(dynamics: Callable[..., Any], t: float) -> int:
    """Network calls of one `generator._generate_dynamics` at time t in 0..1, those of guidance included."""
    guidance = guidance_of(dynamics)
    return guidance.calls if guidance is not None and guidance.acts_at(t) else 1


def voxels_of(x: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The voxels [N, 4] among the arguments of the structured latent's dynamics: the last one, or `coords`."""
    coords = kwargs.get("coords", args[-1] if args else None)
    return coords if getattr(coords, "ndim", 0) == 2 and coords.shape[1] == 4 else None


def only_voxels(
    x: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any], index: Tensor, places: Tensor
) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """State and arguments of the structured latent's dynamics, restricted to some voxels."""
    coords = voxels_of(x, args, kwargs)
    few = coords[places.to(coords.device)] if isinstance(coords, Tensor) else coords[places.cpu().numpy()]
    if "coords" in kwargs:
        return x[:, index], tuple(args), {**kwargs, "coords": few}
    return x[:, index], (*args[:-1], few), dict(kwargs)


def decode_structure(decoder: Callable[..., Any], latent: Tensor) -> Tensor:
    """Occupancy logits [B, 1, R, R, R] of a shape leaf [B, N, C], as `sample_sparse_structure` decodes it."""
    batch, count, channels = latent.shape
    edge = round(count ** (1 / 3))
    return decoder(latent.transpose(1, 2).reshape(batch, channels, edge, edge, edge))


def sampling_stages(layout: Sequence[str] = LAYOUT) -> dict[str, SolveStage]:
    """The sampling stages by name, of a pipeline whose sparse structure has these leaves beside the shape."""
    groups = {"shape": (SHAPE,), **({"layout": tuple(layout)} if layout else {})}
    return {
        "ss": SolveStage("ss", SHAPE, groups, guidance_of, decode=decode_structure),
        "slat": SolveStage("slat", "feats", {"feats": ("feats",)}, guidance_of, voxels_of, only_voxels),
    }
