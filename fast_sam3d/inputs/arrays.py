"""Arrays in .npy and .npz files, whose headers are checked before anything of their size is allocated."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError, first_line
from fast_sam3d.inputs.pictures import MAX_MEGAPIXELS

__all__ = ["npy_header", "read_array"]

MAX_BYTES = MAX_MEGAPIXELS * 10**6 * 16


def read_array(path: Path) -> NDArray[Any]:
    """The array of a .npy file, or the one array of a .npz file: bool, integers or floats.

    Raises:
        InputError: the file is missing, unreadable or too large, or holds several arrays or something else.
    """
    if not path.is_file():
        raise InputError(f"there is no file at {path}: check the path")
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as stream:
                _check_header(stream, path)
            return np.load(path, allow_pickle=False)
        with np.load(path, allow_pickle=False) as archive:
            if len(archive.files) != 1:
                raise InputError(f"{path} has {len(archive.files)} arrays: save the masks alone, as one array")
            name = archive.files[0]
            with archive.zip.open(f"{name}.npy") as stream:
                _check_header(stream, path)
            return archive[name]
    except (InputError, MemoryError):
        raise
    # numpy, zipfile, zlib and the parser of numpy's header raise many types for damaged files.
    except Exception as error:
        reason = first_line(error).rstrip(".")
        raise InputError(f"{path} cannot be read ({reason}): save it with numpy.save") from error


def npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and dtype of the .npy array that a binary stream begins with, without reading the array."""
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(stream)
    return shape, dtype


def _check_header(stream: Any, path: Path) -> None:
    shape, dtype = npy_header(stream)
    size = dtype.itemsize
    for side in shape:
        size *= side
    if size > MAX_BYTES:
        raise InputError(f"{path} has shape {list(shape)}, more than {MAX_MEGAPIXELS} megapixels: scale it down")
    if dtype.kind not in "buif" or size == 0:
        raise InputError(f"{path} has shape {list(shape)} and dtype {dtype}: save masks as bool or whole numbers")
