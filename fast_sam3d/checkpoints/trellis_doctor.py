"""Diagnosis of the installation for TRELLIS: the answer, and the state of every package. Imports none of them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fast_sam3d.checkpoints.packages import PackageState, holds, inspect
from fast_sam3d.checkpoints.requirements import TRELLIS
from fast_sam3d.checkpoints.trellis import check_folder, locate_trellis
from fast_sam3d.errors import FastSam3dError, first_line

__all__ = ["TrellisState", "examine_trellis"]

_SUBMODULE = "trellis.representations.mesh.flexicubes.flexicubes"


@dataclass(frozen=True, slots=True)
class TrellisState:
    """Result of the diagnosis.

    Args:
        packages: by what they are for.
        weights: the folder, or the name on the hub.
        fault: why the weights cannot be used; None if they can.
        problem: why TRELLIS cannot be used here, the first in the order of installation; None if it can.
    """

    packages: Mapping[str, tuple[PackageState, ...]]
    weights: str
    fault: str | None
    problem: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {"ready": self.problem is None, **asdict(self)}


def examine_trellis(tag: str | None = None) -> TrellisState:
    """Diagnose the installation; `tag` as of `locate_trellis`. Problems are returned, not raised."""
    packages = {what: tuple(map(inspect, parts)) for what, parts in TRELLIS.items()}
    weights, fault = "", None
    try:
        weights, _ = locate_trellis(tag)
        if os.path.isdir(weights):
            check_folder(weights)
    except FastSam3dError as error:
        fault = str(error)
    return TrellisState(packages, weights, fault, _missing(packages) or _gpu_problem() or fault)


def _gpu_problem() -> str | None:
    try:
        import torch
    except Exception as error:  # a missing or incompatible library
        return f"torch cannot be imported ({first_line(error)})"
    return None if torch.cuda.is_available() else "TRELLIS needs an NVIDIA GPU, and torch sees none"


def _missing(packages: Mapping[str, tuple[PackageState, ...]]) -> str | None:
    lacking = [p for states in packages.values() for p in states if p.problem is not None and not p.optional]
    names = [state.module for state in lacking]
    for what, states in packages.items():
        if all(state.optional and state.problem is not None for state in states):
            names.append(" or ".join(state.module for state in states) + f" ({what.split(',')[0]})")
    if "trellis" not in names and not holds(_SUBMODULE):
        return "trellis lacks its submodule FlexiCubes: run `git submodule update --init --recursive` in its clone"
    if len(names) == 1 and lacking:
        return f"{names[0]} {lacking[0].problem}"
    verb = "is" if len(names) == 1 else "are"
    return f"{', '.join(names)} {verb} missing or unusable" if names else None
