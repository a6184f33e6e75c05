"""Settings of the exact savings."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fast_sam3d.errors import ConfigError
from fast_sam3d.ranges import build_settings

logger = logging.getLogger(__name__)

RETIRED: Mapping[str, str] = {"grids": "it made no measurable difference"}
"""Savings that were removed, and why. Configurations may still name them."""


@dataclass(frozen=True, slots=True)
class Exact:
    """Savings that are exact up to floating-point rounding.

    Args:
        unconditional: in the unconditional call of guidance the context is all zeros, so all keys and values are equal
            and cross-attention gives every query the same vector: it is computed once per layer. Equal up to rounding.
        context: keys and values of the image tokens are computed once per solve, not at each call. Bit for bit equal.
            Costs the memory of those keys and values during a solve (report: context_bytes).
        extraction: the stock mesh extractor processes the cubes that intersect the surface, not the whole grid. Bit for
            bit equal; the embedded model's extractor is restricted to the object's box anyway.
        attention: sparse attention without a kernel for sequences of different length builds no [N, N] mask, and reads
            the keys of the windows alone. Bit for bit equal.
        embedders: two image encoders with equal weights share their passes: where those of SS and SLaT are equal, each
            input is encoded once. Bit for bit equal. Costs a copy of a run's tokens and inputs, about 0.05 GiB at the
            published sizes.
        images: the depth network's result and the encoders' tokens are reused for the next object of the same image,
            compared by content. Bit for bit equal. Costs about 0.2 GiB at the published sizes (`passes.LIMITS`), until
            removal.
        half: the weights of the sampling networks' linear layers are cast to autocast's half type once, not at each
            call. Bit for bit equal; nothing is stored without autocast, or where weights have that type already.
            Costs half of those weights' memory, 1.6 GiB for SS at the published sizes, until removal.
        subdivision: the convolution after each subdivision of the mesh decoder reads the voxels instead of eight equal
            copies of each, with a kernel summed for each child. Equal up to rounding.
    """

    unconditional: bool = True
    context: bool = True
    extraction: bool = True
    attention: bool = True
    embedders: bool = True
    images: bool = True
    half: bool = True
    subdivision: bool = True

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not isinstance(value, bool):
                raise ConfigError(f"{field.name} is {value!r}: give true or false")

    @property
    def any(self) -> bool:
        """Whether any saving is on."""
        return any(getattr(self, field.name) for field in dataclasses.fields(self))

    def settings(self) -> dict[str, Any]:
        """The savings as a plain mapping."""
        return dataclasses.asdict(self)


def retired(key: str) -> bool:
    """Whether a key, such as "exact.grids", names a saving that was removed; logs that it is ignored."""
    reason = RETIRED.get(key.removeprefix("exact.")) if key.startswith("exact.") else None
    if reason:
        logger.warning("%s is ignored: that saving was removed, because %s", key, reason)
    return reason is not None


def build_exact(mapping: Any, path: str = "exact") -> Exact:
    """The savings that a mapping names; those that it leaves out are on.

    Raises:
        ConfigError: an unknown key, or a value that is neither true nor false.
    """
    if isinstance(mapping, Mapping):
        mapping = {key: value for key, value in mapping.items() if not retired(f"exact.{key}")}
    return build_settings(Exact, mapping, path, "{context: true}")
