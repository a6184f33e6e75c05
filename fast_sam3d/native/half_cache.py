"""A copy of a checkpoint's weights in half precision, as the networks hold them: half the size, and faster to read.

One safetensors file. Image encoders with equal weights are in it once. Its metadata say of which files it is a copy,
by their sizes and times of change, and for which settings; where these differ, it is written again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final

import torch
from torch import nn

from fast_sam3d.documents import parse_json
from fast_sam3d.errors import CheckpointError, OutputError
from fast_sam3d.model.weight_files import map_tensors, read_header
from fast_sam3d.native.embedder import ImageEncoder
from fast_sam3d.native.networks import build_networks, file_parts, file_sources, image_encoders, make_parts
from fast_sam3d.native.settings import NativeSettings
from fast_sam3d.native.weights import FileWeights, Tensors, WeightsPart
from fast_sam3d.outputs.files import atomic_write

__all__ = ["cache_path", "cached_parts", "is_current", "write_cache"]

log = logging.getLogger(__name__)

_VERSION: Final = 1
_SPARE: Final = 256 << 20
_ABANDONED: Final = 3600.0
"""Seconds after which an unfinished copy that no process writes to is removed: its process was killed."""
_TYPES: Final = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def cache_path(folder: Path, half: torch.dtype) -> Path:
    """The file for a checkpoint folder, in that folder."""
    return folder / f"{str(half).removeprefix('torch.')}.cache"


def cached_parts(folder: Path, settings: NativeSettings, half: torch.dtype, restore: str) -> dict[str, WeightsPart]:
    """As `networks.file_parts`; weights in half precision are read from the copy, which is written if it is not there.

    Raises:
        CheckpointError: as `file_parts`.
        OutputError: the copy cannot be written.
    """
    path = cache_path(folder, half)
    if not is_current(folder, settings, half):
        write_cache(folder, settings, half, restore)
    networks, files = build_networks(settings), file_sources(folder, settings, restore)
    rewrite = f"remove {path} to write it again"
    places = _Places.read(_metadata(path), networks)
    if places is None:
        raise CheckpointError(f"the weights {path} have other image encoders than the checkpoint: {rewrite}")
    places.share(networks)
    sources = {name: {None: files[name], half: _Cached(path, name, places, rewrite)} for name in networks}
    parts = make_parts(networks, sources, settings)
    for part in parts.values():
        part.check()
    return parts


def is_current(folder: Path, settings: NativeSettings, half: torch.dtype) -> bool:
    """Whether there is an up-to-date copy of the folder's weights."""
    try:
        known = _metadata(cache_path(folder, half))
    except (OSError, ValueError):
        return False
    return known.keys() >= {"encoders"} and known.items() >= _origin(folder, settings).items()


def write_cache(folder: Path, settings: NativeSettings, half: torch.dtype, restore: str) -> Path:
    """Write the copy, tensor by tensor; it appears when it is complete. Returns its path.

    Raises:
        CheckpointError: as `file_parts`, or values that are not finite in half precision.
        OutputError: the folder cannot be written, or its disk is too full.
    """
    path, before = cache_path(folder, half), _origin(folder, settings)
    _remove_abandoned(path)
    parts = file_parts(folder, settings, restore)
    size = sum(part.size(half) for part in parts.values())
    free = shutil.disk_usage(folder).free
    if size + _SPARE > free:
        raise OutputError(
            f"the copy of the weights in half precision takes {size / 2**30:.1f} GiB, and the disk of {folder} has "
            f"{free / 2**30:.1f} GiB left: free some space, or leave pipeline.half_cache out"
        )
    log.info("writing the weights in half precision to %s (%.1f GiB)", path, size / 2**30)
    metadata = before | {"encoders": json.dumps(_Places.of(parts).first)}
    try:
        with atomic_write(path) as file:
            _write(file, parts, half, metadata)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror or error}): see that the folder is writable and its disk has "
            "room, or leave pipeline.half_cache out"
        ) from error
    return path


class _Places:
    """Which image encoders of a checkpoint are one network.

    Args:
        first: place of an encoder, "part/name", to that of the first one with the same network.
    """

    def __init__(self, first: Mapping[str, str]) -> None:
        self.first = dict(first)

    @classmethod
    def of(cls, parts: Mapping[str, WeightsPart]) -> _Places:
        """Those of parts whose encoders share networks."""
        known: dict[nn.Module, str] = {}
        found = {}
        for place, encoder in _encoders({name: part.module for name, part in parts.items()}):
            found[place] = known.setdefault(encoder.backbone, place)
        return cls(found)

    @classmethod
    def read(cls, metadata: Mapping[str, Any], networks: Mapping[str, nn.Module]) -> _Places | None:
        """Those of a file; None where they are not those of the networks."""
        first = parse_json(metadata["encoders"], "the metadata of a copy", error=CheckpointError, advice="remove it")
        encoders = {place for place, _ in _encoders(networks)}
        known = isinstance(first, dict) and first.keys() == encoders and all(v in encoders for v in first.values())
        return cls(first) if known else None

    def share(self, networks: Mapping[str, nn.Module]) -> None:
        """Give encoders their common network."""
        encoders = dict(_encoders(networks))
        for place, encoder in encoders.items():
            encoder.backbone = encoders[self.first[place]].backbone


class _Cached(FileWeights):
    """One network of the copy."""

    def __init__(self, path: Path, part: str, places: _Places, restore: str) -> None:
        super().__init__(path, "", restore)
        self._part, self._places = part, places

    @contextmanager
    def opened(self) -> Iterator[Tensors]:
        tensors = map_tensors(self.path, self.restore)
        own = {key.partition("/")[2]: value for key, value in tensors.items() if key.startswith(f"{self._part}/")}
        for place, first in self._places.first.items():
            owner, _, encoder = place.partition("/")
            start = f"{first}.backbone."
            if owner == self._part and first != place:
                own |= {
                    f"{encoder}.backbone.{key.removeprefix(start)}": value
                    for key, value in tensors.items()
                    if key.startswith(start)
                }
        yield own


def _encoders(networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, ImageEncoder]]:
    for name, network in networks.items():
        yield from ((f"{name}/{place}", encoder) for place, encoder in image_encoders(network))


def _write(file: IO[bytes], parts: Mapping[str, WeightsPart], half: torch.dtype, metadata: dict[str, str]) -> None:
    """The format of safetensors: the length of the header, the header, then the values of every tensor.

    Those of four bytes come first, so that all are aligned.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    order = [(dtype, name, part) for dtype in (torch.float32, half) for name, part in parts.items()]
    place = 0
    for dtype, name, part in order:
        for key, shape, kind in part.layout(half):
            if kind is dtype:
                end = place + shape.numel() * dtype.itemsize
                header[f"{name}/{key}"] = {"dtype": _TYPES[dtype], "shape": [*shape], "data_offsets": [place, end]}
                place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for dtype, _, part in order:
        for value in part.read(half, dtype):
            file.write(value.reshape(-1).view(torch.uint8).numpy().data)


def _metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    _, header = read_header(path)
    found = header.get("__metadata__")
    return found if isinstance(found, dict) else {}


def _origin(folder: Path, settings: NativeSettings) -> dict[str, str]:
    """What a copy is of: size in bytes and time of change in nanoseconds of every weights file, and the settings."""
    paths = {source.path for source in file_sources(folder, settings, "").values()}
    try:
        files = {os.path.relpath(path, folder): [path.stat().st_size, path.stat().st_mtime_ns] for path in paths}
    except OSError as error:
        raise CheckpointError(f"{error.filename} is missing: download it again") from error
    known = json.dumps(asdict(settings), sort_keys=True, default=sorted)
    digest = hashlib.sha256(known.encode()).hexdigest()
    return {"version": str(_VERSION), "sources": json.dumps(files, sort_keys=True), "settings": digest}


def _remove_abandoned(path: Path) -> None:
    """Remove copies of `outputs.files.atomic_write` that were never completed."""
    for unfinished in path.parent.glob(f".{path.name}.*.tmp"):
        with suppress(OSError):
            if time.time() - unfinished.stat().st_mtime > _ABANDONED:
                unfinished.unlink()
