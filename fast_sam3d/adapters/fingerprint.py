"""Which model and samplers a schedule was measured on, in a few plain values, and whether a pipeline has the same."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from fast_sam3d.adapters.base import Adapter
from fast_sam3d.adapters.memory import residency_of

__all__ = ["difference", "fingerprint"]

_LAYERS: Final = 8
_VALUES: Final = 4
_TOLERANCE: Final = 5e-3
"""Relative; rounding to bfloat16 changes a value by up to 2e-3 of it, and to float16 by 5e-4."""
_SMALLEST: Final = 1e-6
"""Smaller differences are roundings of float16's smallest values."""
_NAMES: Final = {
    "steps": "{} steps",
    "rescale_t": "rescale_t {}",
    "guidance": "guidance {}",
    "interval": "guidance on the interval {}",
    "shortcut": "shortcut {}",
}


def fingerprint(adapter: Adapter, steps: Mapping[str, int | None] | None = None) -> dict[str, Any]:
    """The fingerprint of a pipeline, JSON-ready.

    Weights are identified by names and shapes of the linear layers, and by a few of their values, compared with a
    tolerance: float32, bfloat16 and float16 copies of a checkpoint agree, and so do the stock and the native runtime.

    Args:
        adapter: the pipeline; weights that are not loaded are read from their files.
        steps: of each stage's solves; None, also of one stage: the pipeline's own.

    Returns:
        {"weights": {stage: {"layers": hexadecimal, "values": [32]}}, stage: {steps, rescale_t, guidance, interval,
        shortcut}}.
    """
    asked = steps or {}
    return {
        "weights": {stage: _weights(adapter, stage) for stage in adapter.stages},
        **{stage: _sampler(adapter, stage, asked.get(stage)) for stage in adapter.stages},
    }


def difference(measured: Mapping[str, Any], own: Mapping[str, Any]) -> str | None:
    """The first difference of two fingerprints as the rest of a sentence "the path was measured with ..."; None: equal.

    Args:
        measured: that of a file, of any content.
        own: that of the pipeline.
    """
    for stage, weights in own["weights"].items():
        known = _mapping(_mapping(measured.get("weights")).get(stage))
        if known.get("layers") != weights["layers"]:
            return f"another {stage} network (other layers)"
        if not _close(known.get("values"), weights["values"]):
            return f"another checkpoint (the weights of the {stage} network differ)"
    for stage in own["weights"]:
        known = _mapping(measured.get(stage))
        for name, value in own[stage].items():
            if not _same(known.get(name), value):
                return f"{stage} {_said(name, known.get(name))}, and the pipeline has {_said(name, value, bare=True)}"
    return None


def _sampler(adapter: Adapter, stage: str, steps: int | None) -> dict[str, Any]:
    facts = adapter.sampler(stage, steps)
    return {**_plain(facts), "steps": int(facts["steps"])}


def _weights(adapter: Adapter, stage: str) -> dict[str, Any]:
    with _tensors(adapter, stage) as tensors:
        names = sorted(name for name, shape in tensors.shapes.items() if len(shape) == 2)
        digest = hashlib.sha256()
        for name in names:
            digest.update(f"{name} {list(tensors.shapes[name])}\n".encode())
        spread = [names[(2 * k + 1) * len(names) // (2 * _LAYERS)] for k in range(_LAYERS)] if names else []
        values = [value for name in dict.fromkeys(spread) for value in _some(tensors[name])]
        found = torch.stack(values).tolist() if values else []
    return {"layers": digest.hexdigest()[:12], "values": [float(f"{value:.5g}") for value in found]}


class _Tensors:
    """Tensors of a network by name; `shapes` reads no values."""

    def __init__(self, found: Mapping[str, Tensor], prefix: str = "") -> None:
        self._found, self._prefix = found, prefix
        like = getattr(found, "like", found.__getitem__)  # of tensors that are generated
        own = {name: like(name) for name in found if name.startswith(prefix)}
        # Of a compiled network.
        self._names = {name.removeprefix(prefix).replace("_orig_mod.", ""): name for name in own}
        self.shapes = {short: own[name].shape for short, name in self._names.items() if own[name].is_floating_point()}

    def __getitem__(self, name: str) -> Tensor:
        return self._found[self._names[name]]


@contextmanager
def _tensors(adapter: Adapter, stage: str) -> Iterator[_Tensors]:
    network = adapter.network(stage)
    state = network.state_dict() if isinstance(network, torch.nn.Module) else {}
    if any(tensor.is_meta for tensor in state.values()):
        residency = residency_of(adapter.pipeline)
        sources = getattr(residency.parts.get(f"{stage}_generator"), "sources", None) if residency else None
        if sources is not None:
            with sources[None].opened() as tensors:
                yield _Tensors(tensors, "reverse_fn.backbone.")
            return
        state = {}
    yield _Tensors(state)


def _some(matrix: Tensor) -> list[Tensor]:
    """Values of a matrix in float32, of places spread over it."""
    rows, columns = matrix.shape
    places = [(2 * k + 1, 2 * _VALUES) for k in range(_VALUES)]
    return [matrix[rows * a // b, (columns * a // b * 7 + a) % columns].detach().float() for a, b in places]


def _close(measured: Any, own: list[float]) -> bool:
    if not isinstance(measured, (list, tuple)) or len(measured) != len(own):
        return False
    return all(
        _number(a) and abs(a - b) <= _TOLERANCE * max(abs(a), abs(b)) + _SMALLEST
        for a, b in zip(measured, own, strict=True)
    )


def _same(measured: Any, own: Any) -> bool:
    if isinstance(own, list):
        return isinstance(measured, (list, tuple)) and len(measured) == len(own) and all(map(_same, measured, own))
    if isinstance(own, dict):
        return isinstance(measured, Mapping) and {*measured} == {*own} and all(_same(measured[k], own[k]) for k in own)
    if _number(own):
        return _number(measured) and abs(measured - own) <= 1e-6 * max(1.0, abs(own))
    return type(measured) is type(own) and measured == own


def _said(name: str, value: Any, bare: bool = False) -> str:
    text = f"{value:g}" if _number(value) else str(value)[:60]
    return text if bare else _NAMES[name].format(text)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) or (hasattr(value, "__iter__") and not isinstance(value, str)):
        return [_plain(item) for item in value]
    return float(value) if _number(value) else value


def _number(value: Any) -> bool:
    """Whether it is a number that a float can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and not abs(value) > sys.float_info.max


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
