"""The names, shapes and types of the published tensors (published_keys.txt)."""

from __future__ import annotations

import re
from pathlib import Path

import torch

LISTING = Path(__file__).with_name("published_keys.txt")
Tensors = dict[str, tuple[tuple[int, ...], torch.dtype]]


def published_keys() -> dict[str, Tensors]:
    """Shape and type by network and name."""
    found: dict[str, Tensors] = {}
    for line in LISTING.read_text(encoding="ascii").splitlines():
        if line.startswith("["):
            network = found.setdefault(line.strip("[]"), {})
        elif not line.startswith("#"):
            name, sizes, dtype = line.split()
            shape = tuple(map(int, sizes.split("x")))
            span = re.search(r"\((\d+)-(\d+)\)", name)
            numbers = range(int(span[1]), int(span[2]) + 1) if span else (0,)
            for number in numbers:
                whole = name.replace(span[0], str(number)) if span else name
                network[whole] = (shape, getattr(torch, dtype))
    return found
