"""Files of weights, `.safetensors` and torch's own: mapped into memory, checked, and copied into a network.

Nothing that a file says is executed: safetensors holds no code, and torch files go through restricted unpicklers.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from fast_sam3d.documents import parse_json
from fast_sam3d.errors import CheckpointError
from fast_sam3d.model import unpickle
from fast_sam3d.model.finite import is_finite

__all__ = ["check_dtype", "check_fit", "fill", "map_content", "map_tensors", "read_header"]

_HEADER: Final = 2 << 20
"""Bytes of the longest header; the published files would have 0.3 MB, and each entry takes time."""
_UNMAPPED: Final = 512 << 20
"""Bytes of the largest file that cannot be mapped, so that all of it is read."""

_NOT_WEIGHTS: Final = {
    b"version https://git-lfs": "is a Git LFS pointer, not the weights (run `git lfs pull` there)",
    b"<!doctype": "is a web page, not the weights",
    b"<html": "is a web page, not the weights",
    b"gguf": "is a GGUF file, which is not supported",
}
# How files begin that torch.save wrote before 1.6, or with _use_new_zipfile_serialization=False.
_LEGACY: Final = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_DTYPES: Final = {
    "BF16": torch.bfloat16, "BOOL": torch.bool, "C64": torch.complex64, "F16": torch.float16, "F32": torch.float32,
    "F64": torch.float64, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I16": torch.int16,
    "I32": torch.int32, "I64": torch.int64, "I8": torch.int8, "U8": torch.uint8,
}  # fmt: skip
_FLOATS: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


class _UnfitError(Exception):
    """A readable file that is not taken. The message says why, after "the weights PATH"."""


def map_tensors(path: Path, restore: str, under: str = "state_dict") -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU. Their values are read from the disk when they are used.

    Args:
        path: of the file.
        restore: what to do about a bad file, for error messages.
        under: name of the mapping in the file that holds the tensors, as in Lightning checkpoints; where there is none
            of that name, they are those at the top.

    Raises:
        CheckpointError: as `map_content`, or without tensors.
    """
    content = map_content(path, restore)
    inner = content.get(under)
    items = (inner if isinstance(inner, Mapping) else content).items()
    tensors = {name: value for name, value in items if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        raise CheckpointError(f"the weights {path} have no tensors: {restore}")
    if odd := next((name for name in tensors if not name.isprintable()), None):
        raise CheckpointError(f"the weights {path} have a name with control characters, {odd!a}: {restore}")
    return tensors


def map_content(path: Path, restore: str) -> Mapping[str, Any]:
    """What a weights file holds: tensors by name, or mappings of tensors and of settings; empty if anything else.

    The format is read from the first bytes, not from the name.

    Args:
        path: of the file.
        restore: what to do about a bad file, for error messages.

    Raises:
        CheckpointError: missing, unreadable, truncated, or with code; one sentence with the path.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe or a device may have no end
            raise CheckpointError(f"the weights {path} are a folder or a special file: {restore}")
        with path.open("rb") as stream:
            start = stream.read(64)
    except FileNotFoundError as error:
        raise CheckpointError(f"the weights {path} are missing: {restore}") from error
    except OSError as error:
        raise CheckpointError(f"the weights {path} cannot be read ({error.strerror}): {restore}") from error
    fault = next((fault for magic, fault in _NOT_WEIGHTS.items() if start.lstrip().lower().startswith(magic)), None)
    if fault is not None or not start:
        raise CheckpointError(f"{path} {fault or 'is empty'}: {restore}")
    read: Callable[[Path], Any] = _map_safetensors
    if start.startswith((b"PK\x03\x04", _LEGACY)):
        read = _map_torch
    try:
        content = read(path)
    except unpickle.RefusedError as error:
        raise CheckpointError(
            f"the weights {path} would run '{error}' when unpickled: do not use this file, nor others from its source"
        ) from error
    except (_UnfitError, unpickle.TooLongError) as error:
        raise CheckpointError(f"the weights {path} {error}: {restore}") from error
    except Exception as error:  # each format and each opcode has errors of its own
        raise CheckpointError(f"the weights {path} are corrupt or incomplete: {restore}") from error
    return content if isinstance(content, Mapping) else {}


def _map_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import safe_open

    length, header = read_header(path)
    with safe_open(path, framework="pt"):
        pass  # checks the header: offsets, sizes, and the length of the file
    # Not `get_tensor`: it reads the whole file ahead (safetensors 0.8), and a header is enough to compare shapes.
    storage = torch.UntypedStorage.from_file(str(path), False, path.stat().st_size)
    tensors = {}
    for name, entry in header.items():
        if name != "__metadata__":
            if entry["dtype"] not in _DTYPES:
                raise _UnfitError(f"have {name!a} as {entry['dtype']}, which is not supported")
            first, last = (8 + length + offset for offset in entry["data_offsets"])
            empty = torch.empty(0, dtype=_DTYPES[entry["dtype"]], device="cpu")
            tensors[name] = empty.set_(storage[first:last]).view(entry["shape"])
    return tensors


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """The length of a safetensors file's header in bytes, and the header: tensors, and `__metadata__`.

    Raises:
        OSError, ValueError: it cannot be read, or is longer than `_HEADER`.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > _HEADER:
            raise ValueError(f"the header has {length} bytes")
        header = parse_json(stream.read(length), str(path), error=CheckpointError, most_bytes=_HEADER)
    if not isinstance(header, dict):
        raise ValueError("the header is no mapping")
    return length, header


def _map_torch(path: Path) -> Any:
    # A zip archive has its directory at the end, so an incomplete one is none. Older files cannot be mapped.
    mapped = zipfile.is_zipfile(path)
    if mapped:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
        if any(entry.filename.endswith("/constants.pkl") for entry in entries):
            raise _UnfitError("hold a TorchScript program, not only weights")
        # Mapped, compressed values would be taken for the values themselves.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise _UnfitError("are compressed, as torch.save never leaves them")
        # All but the tensors is read at once.
        if any(entry.file_size > unpickle.LONGEST and "/data/" not in entry.filename for entry in entries):
            raise unpickle.TooLongError
    elif path.stat().st_size > _UNMAPPED:
        raise _UnfitError(f"are in torch's format of before 1.6, and larger than {_UNMAPPED >> 20} MiB")
    # Where a user forbids other unpicklers, torch takes its own. Else weights_only=False is not "anything goes", but
    # the way to have it take the one that it is given.
    forced = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD", "0").lower() in ("1", "y", "yes", "true")
    reader: Any = {"weights_only": True} if forced else {"weights_only": False, "pickle_module": unpickle}
    return torch.load(str(path), map_location="cpu", mmap=mapped, **reader)


def check_dtype(path: Path, name: str, found: torch.dtype, restore: str) -> None:
    """Raises CheckpointError for a dtype that no network of this project or of SAM 3D Objects has."""
    if found not in _FLOATS:
        kind = str(found).removeprefix("torch.")
        raise CheckpointError(
            f"the weights {path} have {name} as {kind}, and only floating point weights of 16 bits or more are "
            f"supported: {restore}"
        )


def check_fit(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, restore: str) -> None:
    """Compares names, shapes and dtypes with those of a network, without reading values.

    Raises:
        CheckpointError: they differ; names the file and the first name that does.
    """
    wanted = module.state_dict()
    if missing := wanted.keys() - tensors.keys():
        raise CheckpointError(f"the weights {path} lack {_some(missing)}: {restore}")
    if surplus := tensors.keys() - wanted.keys():
        raise CheckpointError(f"the weights {path} have {_some(surplus)}, which the network lacks: {restore}")
    for name, value in wanted.items():
        given = tensors[name]
        if given.shape != value.shape:
            shapes = f"{list(given.shape)}, and the network takes {list(value.shape)}"
            raise CheckpointError(f"the weights {path} have {name} with the shape {shapes}: {restore}")
        if given.dtype != value.dtype:
            check_dtype(path, name, given.dtype, restore)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, restore: str) -> None:
    """Copies weights into a network, converted to its dtypes and device, and checks the copies.

    Args:
        module: receives the weights.
        tensors: by the names of `module.state_dict()`, all of them.
        path: of the file, for error messages.
        restore: what to do about a bad file, for error messages.

    Raises:
        CheckpointError: names, shapes or dtypes differ, or a weight is NaN or infinite.
    """
    check_fit(module, tensors, path, restore)
    module.load_state_dict(dict(tensors))
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not is_finite(value):
            kind = str(value.dtype).removeprefix("torch.")
            raise CheckpointError(f"the weights {path} have values in {name} that are not finite in {kind}: {restore}")


def _some(names: Iterable[str]) -> str:
    """The first name, and how many more there are."""
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first
