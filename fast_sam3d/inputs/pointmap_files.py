"""Pointmap files: arrays of points, MoGe's archives, and depth with intrinsics; checked before they are loaded."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError, first_line
from fast_sam3d.inputs.arrays import npy_header
from fast_sam3d.inputs.pictures import MAX_MEGAPIXELS

__all__ = ["Stored", "read_stored"]

_POINTS = ("pointmap", "points")  # MoGe calls them points
_DEPTH, _VALID = "depth", "mask"
_INTRINSICS = ("intrinsics", "K")
LEAST_SIDE = 32
"""Pixels of the longer side of a pointmap of another size than the picture's."""


class Stored(NamedTuple):
    """What a file holds.

    Args:
        points: [h, w, 3] float32, not shared.
        valid: [h, w] bool, or None.
        axes: where the kind of file determines them, else None.
    """

    points: NDArray[np.float32]
    valid: NDArray[np.bool_] | None
    axes: str | None


def read_stored(path: Path, size: tuple[int, int]) -> Stored:
    """Read a .npy file with points; or a .npz file with one array of points, with one named "pointmap" or "points", or
    with "depth" and "intrinsics"; "mask" in it says which pixels are known, as MoGe writes it.

    Args:
        size: (H, W) of the picture; the arrays have this size, or that of the picture scaled.

    Raises:
        InputError: the file is unreadable, or has another shape or type.
    """
    try:
        return _read(path, size)
    except (InputError, MemoryError):
        raise
    # numpy, zipfile, zlib and the parser of numpy's header raise many types for damaged files.
    except Exception as error:
        reason = first_line(error).rstrip(".")
        raise InputError(
            f"the pointmap {path} cannot be read ({reason}): save it with numpy.savez_compressed"
        ) from error


def _read(path: Path, size: tuple[int, int]) -> Stored:
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            shape = _check(stream, path, size, 3)
        return Stored(_float32(np.load(path, allow_pickle=False), shape), None, None)
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files

        def load(name: str, channels: int) -> NDArray[Any]:
            with archive.zip.open(f"{name}.npy") as stream:
                shape = _check(stream, path, size, channels)
            array = archive[name]
            return array.reshape(shape) if name == _VALID else _float32(array, shape)

        points = next((name for name in _POINTS if name in names), names[0] if len(names) == 1 else None)
        if points is not None and points != _POINTS[1]:
            return Stored(load(points, 3), None, None)
        valid = load(_VALID, 0) > 0 if _VALID in names else None
        if points is not None:
            found = load(points, 3)
            return Stored(found, _same(valid, found, path), None)
        intrinsics = next((name for name in _INTRINSICS if name in names), None)
        if _DEPTH not in names or intrinsics is None:
            raise InputError(
                f"the pointmap {path} has the arrays {', '.join(names) or 'none'}: name one of them 'pointmap', or give"
                " 'depth' and 'intrinsics'"
            )
        depth = load(_DEPTH, 1)
        with archive.zip.open(f"{intrinsics}.npy") as stream:
            shape, _ = npy_header(stream)
        if shape[-2:] != (3, 3) or any(side != 1 for side in shape[:-2]):
            raise InputError(f"the intrinsics in {path} have shape {list(shape)}: give one 3x3 matrix")
        matrix = archive[intrinsics].reshape(3, 3).astype(np.float64)
        return Stored(_unprojected(depth, matrix, size, path), _same(valid, depth, path), "opencv")


def _same(valid: NDArray[np.bool_] | None, found: NDArray[Any], path: Path) -> NDArray[np.bool_] | None:
    if valid is not None and valid.shape != found.shape[:2]:
        raise InputError(f"the mask in {path} is {list(valid.shape)} and the points are {list(found.shape[:2])}")
    return valid


def _float32(array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(array.reshape(shape), np.float32)


def _unprojected(
    depth: NDArray[np.float32], matrix: NDArray[np.float64], size: tuple[int, int], path: Path
) -> NDArray[np.float32]:
    """Points [h, w, 3] in OpenCV's frame of a depth map [h, w] along z.

    Args:
        matrix: intrinsics in pixels of the depth map or of the picture, or in units of width and height, as MoGe's.
    """
    (fx, skew, cx), (_, fy, cy), last = matrix.tolist()
    if not np.isfinite(matrix).all() or fx <= 0 or fy <= 0 or last != [0, 0, 1]:
        raise InputError(f"the intrinsics in {path} are no camera matrix: give [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]")
    units: list[tuple[int, ...]] = [(1, 1), depth.shape, size]
    # The one in which the principal point is nearest to the centre.
    high, wide = min(units, key=lambda unit: abs(cy / unit[0] - 0.5) + abs(cx / unit[1] - 0.5))
    if not (0 < cy < high and 0 < cx < wide):
        raise InputError(f"the principal point ({cx:g}, {cy:g}) in {path} is outside of the picture: check intrinsics")
    y = ((np.arange(depth.shape[0]) + 0.5) / depth.shape[0] * high - cy) / fy
    x = (((np.arange(depth.shape[1]) + 0.5) / depth.shape[1] * wide - cx)[None] - skew * y[:, None]) / fx
    points = np.empty((*depth.shape, 3), np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        points[..., 0], points[..., 1], points[..., 2] = x * depth, y[:, None] * depth, depth
    return points


def _check(stream: Any, path: Path, size: tuple[int, int], channels: int) -> tuple[int, ...]:
    """The shape of an array without leading ones, after checking its header, which bounds the memory.

    Args:
        channels: 3 for points, 1 for depth, 0 for a mask.
    """
    stored, dtype = npy_header(stream)
    shape = stored
    while len(shape) > (3 if channels == 3 else 2) and shape[0] == 1:
        shape = shape[1:]
    wanted = [*size, *([3] if channels == 3 else [])]
    if channels == 3 and len(shape) == 2:
        raise InputError(
            f"the pointmap {path} has shape {list(stored)}, a depth map: save it in a .npz file as 'depth', with"
            " the camera's 'intrinsics'"
        )
    if len(shape) != len(wanted) or list(shape[2:]) != wanted[2:] or not _scaled(shape[:2], size):
        raise InputError(
            f"the pointmap {path} has shape {list(stored)} but the image needs {wanted}: "
            "create it from the same image, or leave it out with --no_pointmap"
        )
    if channels and dtype.kind != "f":
        raise InputError(f"the pointmap {path} has dtype {dtype}: save it as float32")
    if dtype.kind not in "buif":
        raise InputError(f"the mask in {path} has dtype {dtype}: save it as bool")
    return shape


def _scaled(shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether an array has the picture's size, or that of the whole picture scaled and rounded."""
    if tuple(shape) == size:
        return True
    rows, columns = shape
    if rows == size[0] or columns == size[1] or max(shape) < LEAST_SIDE or rows * columns > MAX_MEGAPIXELS * 1e6:
        return False
    low = max((rows - 1) / size[0], (columns - 1) / size[1])
    high = min((rows + 1) / size[0], (columns + 1) / size[1])
    return low < high
