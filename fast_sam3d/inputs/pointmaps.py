"""Reading of pointmaps: one 3D point per pixel in PyTorch3D's camera frame (+x left, +y up, +z forward)."""

from __future__ import annotations

import logging
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import InputError, first_line

__all__ = ["check_known", "find_pointmap", "read_pointmap"]

log = logging.getLogger(__name__)

_NAMES = ("pointmap.npz", "pointmap.npy")
FARTHEST = 1e6
"""Largest valid coordinate (1,000 km, or 1 km in millimetres); squares of larger ones overflow float32."""
LEAST_SHARE = 0.005
"""Share of the object's pixels that must have a point; the condition crop has 64 x 64 pixels."""
_GRID = 1024  # samples along the longer side for the check of the axes


def find_pointmap(folder: Path, choice: str) -> Path | None:
    """Resolve "auto" (the file beside the image, if any), "none", or a path.

    Raises:
        InputError: the named file does not exist.
    """
    if choice == "none":
        return None
    if choice == "auto":
        for name in _NAMES:
            if (folder / name).is_file():
                log.info("using the pointmap %s; --no_pointmap ignores it", folder / name)
                return folder / name
        return None
    try:
        path = Path(choice).expanduser()
        there = path.is_file()
    except (OSError, RuntimeError) as error:  # a name that is too long, or the home of an unknown user
        raise InputError(f"the pointmap {choice} cannot be read ({error}): check --pointmap") from error
    if not there:
        raise InputError(f"there is no pointmap at {path}: check --pointmap, or leave it out")
    return path


def read_pointmap(path: Path, size: tuple[int, int], mask: NDArray[np.bool_] | None) -> NDArray[np.float32]:
    """Read a pointmap.

    Args:
        path: a .npy file, or a .npz file with one array or one named "pointmap".
        size: (H, W) of the image.
        mask: [H, W] bool, to check for known points on the object; None: call `check_known` later.

    Returns:
        [H, W, 3] float32, NaN where unknown; a point with z <= 0 is unknown.

    Raises:
        InputError: the file is unreadable, has another shape or type, or too few known points on the object.
    """
    try:
        points = _array(path, (*size, 3))
    except (InputError, MemoryError):
        raise
    # numpy, zipfile, zlib and the parser of numpy's header raise many types for damaged files.
    except Exception as error:
        reason = first_line(error).rstrip(".")
        raise InputError(
            f"the pointmap {path} cannot be read ({reason}): save it with numpy.savez_compressed"
        ) from error
    with np.errstate(over="ignore"):
        points = np.ascontiguousarray(points.astype(np.float32, copy=False))
    step = max(max(size) // _GRID, 1)
    depth = points[::step, ::step, 2]
    depth = depth[(depth != 0) & (np.abs(depth) <= FARTHEST)]  # not NaN, either
    if len(depth) and np.median(depth) < 0:
        raise InputError(f"in the pointmap {path} z is negative: use PyTorch3D's camera frame, +z forward")
    known = np.empty(size, bool)
    far = 0
    for row, line in zip(known, points, strict=True):  # row by row: no second copy of a large pointmap
        finite = np.isfinite(line).all(axis=-1)
        near = (np.abs(line) <= FARTHEST).all(axis=-1)
        far += int((finite & ~near).sum())
        row[:] = finite & near & (line[:, 2] > 0)  # depth cameras write 0 where they measured nothing
        line[~row] = np.nan
    if far:
        log.warning("%s: %d points are farther than %g and are ignored", path, far, FARTHEST)
    if mask is not None:
        _check_share(int((known & mask).sum()), int(mask.sum()), path)
    grid, known = points[::step, ::step], known[::step, ::step]
    if known.any():
        _warn_about_axes(grid, known, path)
    return points


def check_known(points: NDArray[np.float32], mask: NDArray[np.bool_], path: Path) -> None:
    """Check that a pointmap [H, W, 3] has enough known points on an object's mask [H, W].

    Raises:
        InputError: too few known points on the object.
    """
    _check_share(int(np.isfinite(points[mask]).all(axis=-1).sum()), int(mask.sum()), path)


def _check_share(known: int, pixels: int, path: Path) -> None:
    if not known:
        raise InputError(f"the pointmap {path} has no known point on the object: leave it out with --no_pointmap")
    if known < LEAST_SHARE * pixels:
        raise InputError(
            f"the pointmap {path} has {known} known points for the object's {pixels} pixels, too few for its pose: "
            "leave it out with --no_pointmap"
        )


def _array(path: Path, shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Load the array after checking the shape in its header, which bounds the memory."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as stream:
            _check_header(stream, shape, path)
        return np.load(path, allow_pickle=False)
    with np.load(path, allow_pickle=False) as archive:
        names = archive.files
        name = "pointmap" if "pointmap" in names else names[0] if len(names) == 1 else None
        if name is None:
            raise InputError(f"the pointmap {path} has {len(names)} arrays: name one of them 'pointmap'")
        with archive.zip.open(f"{name}.npy") as stream:
            _check_header(stream, shape, path)
        return archive[name]


def _check_header(stream, shape: tuple[int, ...], path: Path) -> None:  # type: ignore[no-untyped-def]
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    found, _, dtype = reader(stream)
    if found != shape:
        raise InputError(
            f"the pointmap {path} has shape {list(found)} but the image needs {list(shape)}: "
            "create it from the same image, or leave it out with --no_pointmap"
        )
    if dtype.kind != "f":
        raise InputError(f"the pointmap {path} has dtype {dtype}: save it as float32")


def _warn_about_axes(points: NDArray[np.float32], known: NDArray[np.bool_], path: Path) -> None:
    """Warn if x grows to the right or y grows downwards, as in OpenCV's convention."""
    rows, columns = np.nonzero(known)
    for name, axis, pixels in (("x", 0, columns), ("y", 1, rows)):
        values = points[..., axis][known]
        if values.std() > 0 and pixels.std() > 0 and np.corrcoef(values, pixels)[0, 1] > 0.5:
            log.warning("in the pointmap %s %s has the sign of another convention: +x is left, +y is up", path, name)
