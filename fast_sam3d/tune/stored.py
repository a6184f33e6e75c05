"""The baseline's solves of an object on disk, so that an interrupted calibration does not run it again."""

from __future__ import annotations

import hashlib
import io
import logging
import pickle
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fast_sam3d.adapters.solves import RecordedSolve
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.sampling.step import like, to_leaves
from fast_sam3d.tune.cases import Case

__all__ = ["Stored"]

log = logging.getLogger(__name__)

_DIGEST = hashlib.sha256().digest_size
"""Bytes before the content of a file."""
_PLAIN = (bool, int, float, str, type(None))


class Stored:
    """A folder of solves.

    Args:
        folder: is created with the first of them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, case: Case, solves: Mapping[str, RecordedSolve]) -> None:
        """Keep the solves of a case; one that cannot be kept is run again after an interruption, which is logged."""
        try:
            content = io.BytesIO()
            torch.save({stage: _content(solve) for stage, solve in solves.items()}, content)
            kept = content.getvalue()
            self.folder.mkdir(exist_ok=True)
            with atomic_write(self._path(case)) as file:
                file.write(hashlib.sha256(kept).digest() + kept)
        except (OSError, TypeError) as error:
            log.warning("the baseline of object %s is not kept for an interruption: %s", case[0], error)

    def load(self, case: Case, templates: Mapping[str, RecordedSolve]) -> dict[str, RecordedSolve] | None:
        """The solves of a case, None where they are not there.

        Args:
            templates: solves of another case by the same pipeline, with what is not kept on disk.
        """
        path = self._path(case)
        if not path.is_file():
            return None
        try:
            kept = path.read_bytes()
            if hashlib.sha256(kept[_DIGEST:]).digest() != kept[:_DIGEST]:
                raise KeyError("digest")
            content = torch.load(io.BytesIO(kept[_DIGEST:]), map_location="cpu", weights_only=True)
            return {stage: _restored(content[stage], template) for stage, template in templates.items()}
        except (OSError, RuntimeError, KeyError, EOFError, TypeError, pickle.UnpicklingError) as error:
            log.warning("%s cannot be read (%s), so that its object is run again", path, type(error).__name__)
            return None

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, case: Case) -> Path:
        return self.folder / f"{hashlib.sha256(repr(case).encode()).hexdigest()[:16]}.pt"


def _content(solve: RecordedSolve) -> dict[str, Any]:
    return {
        "start": _kept(to_leaves(solve.start, solve.stage.bare)),
        "states": _kept(solve.states),
        "args": _kept(list(solve.args)),
        "kwargs": _kept(dict(solve.kwargs)),
        "times": solve.grid,
    }


def _restored(content: Mapping[str, Any], template: RecordedSolve) -> RecordedSolve:
    if content["times"] != template.grid:
        raise KeyError("times")
    device = next(iter((to_leaves(template.start, template.stage.bare) or {}).values())).device
    return replace(
        template,
        start=like(template.start, _placed(content["start"], device)),
        states=_placed(content["states"], device),
        args=tuple(_placed(value, device, other) for value, other in zip(content["args"], template.args, strict=True)),
        kwargs={name: _placed(value, device, template.kwargs[name]) for name, value in content["kwargs"].items()},
    )


def _kept(value: Any) -> Any:
    """Tensors on the host, in plain containers; an array as a tensor."""
    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, Mapping):
        return {str(name): _kept(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_kept(item) for item in value]
    if isinstance(value, _PLAIN):
        return value
    raise TypeError(f"its condition has a {type(value).__name__}")


def _placed(value: Any, device: torch.device, other: Any = None) -> Any:
    """The inverse; other: of the same kind as the original."""
    if isinstance(value, Tensor):
        if isinstance(other, np.ndarray):
            return value.numpy()
        return value.to(other.device if isinstance(other, Tensor) else device)
    if isinstance(value, dict):
        inner = other if isinstance(other, Mapping) else {}
        return {name: _placed(item, device, inner.get(name)) for name, item in value.items()}
    if isinstance(value, list):
        inside = other if isinstance(other, (list, tuple)) and len(other) == len(value) else [None] * len(value)
        found = [_placed(item, device, each) for item, each in zip(value, inside, strict=True)]
        return tuple(found) if isinstance(other, tuple) else found
    return value
