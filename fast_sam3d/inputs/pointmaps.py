"""Reading of pointmaps: one 3D point per pixel in PyTorch3D's camera frame (+x left, +y up, +z forward)."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.config.settings import POINTMAP_AXES
from fast_sam3d.errors import InputError
from fast_sam3d.inputs.axes import SIGNS, Seen, seen_axes
from fast_sam3d.inputs.pointmap_files import Stored, read_stored

__all__ = ["Pointmap", "check_known", "find_pointmap", "read_pointmap"]

log = logging.getLogger(__name__)

_NAMES = ("pointmap.npz", "pointmap.npy")
FARTHEST = 1e6
"""Largest valid coordinate (1,000 km, or 1 km in millimetres); squares of larger ones overflow float32."""
LEAST_SHARE = 0.005
"""Share of the object's pixels that must have a point; the condition crop has 64 x 64 pixels."""
LIKELY_DEPTH = (0.02, 200.0)
"""Metres. A median depth beyond is probably in another unit; the embedded model's result depends on it."""
_GRID = 512  # samples along the longer side for the check of the axes


class Pointmap(NamedTuple):
    """A pointmap as pipelines take it.

    Args:
        points: [H, W, 3] float32, PyTorch3D's camera frame, NaN where unknown; None: there is none.
        notices: what is odd about how it was read.
    """

    points: NDArray[np.float32] | None
    notices: tuple[str, ...] = ()


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
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"the pointmap {choice} cannot be read ({reason}): check --pointmap") from error
    if not there:
        raise InputError(f"there is no pointmap at {path}: check --pointmap, or leave it out")
    return path


def read_pointmap(
    path: Path, size: tuple[int, int], mask: NDArray[np.bool_] | None, axes: str = POINTMAP_AXES[0]
) -> Pointmap:
    """Read a pointmap, or depth and intrinsics, and convert it to the picture's size and PyTorch3D's frame.

    Args:
        path: see `fast_sam3d.inputs.pointmap_files.read_stored`.
        size: (H, W) of the image.
        mask: [H, W] bool, to check for known points on the object; None: call `check_known` later.
        axes: of the file, of `POINTMAP_AXES`; "auto" recognises them. Depth and intrinsics need none.

    Returns:
        the points; unknown where a coordinate is not finite, farther than `FARTHEST`, or z <= 0.

    Raises:
        InputError: the file is unreadable, has another shape or type, axes that cannot be recognised, or too few known
            points on the object.
    """
    stored = read_stored(path, size)
    notices = _convert(stored, axes, path)
    points = stored.points
    known = np.empty(points.shape[:2], bool)
    far = behind = 0
    for number, line in enumerate(points):  # row by row: no second copy of a large pointmap
        finite = np.isfinite(line).all(axis=-1)
        near = (np.abs(line) <= FARTHEST).all(axis=-1)
        far += int((finite & ~near).sum())
        ahead = line[:, 2] > 0  # depth cameras write 0 where they measured nothing
        behind += int((near & ~ahead).sum())
        known[number] = finite & near & ahead & (True if stored.valid is None else stored.valid[number])
        line[~known[number]] = np.nan
    if far:
        log.warning("%s: %d points are farther than %g and are ignored", path, far, FARTHEST)
    if behind:
        log.info("%s: %d points have z <= 0, so they are unknown", path, behind)
    if points.shape[:2] != size:
        log.info("%s: resampled from %dx%d to the picture's %dx%d", path, *points.shape[1::-1], *size[::-1])
        row, column = (((np.arange(n) + 0.5) * m / n).astype(int) for n, m in zip(size, points.shape, strict=False))
        points, known = points[row[:, None], column], known[row[:, None], column]
    if mask is not None:
        _check_share(int((known & mask).sum()), int(mask.sum()), path)
    return Pointmap(points, (*notices, *_unit_notices(points, known)))


def check_known(points: NDArray[np.float32], mask: NDArray[np.bool_], path: Path) -> None:
    """Check that a pointmap [H, W, 3] has enough known points on an object's mask [H, W].

    Raises:
        InputError: too few known points on the object.
    """
    _check_share(int(np.isfinite(points[mask]).all(axis=-1).sum()), int(mask.sum()), path)


def _check_share(known: int, pixels: int, path: Path) -> None:
    if not known:
        raise InputError(
            f"the pointmap {path} has no known point on the object: name its axes with "
            "--pointmap_axes, or leave it out with --no_pointmap"
        )
    if known < LEAST_SHARE * pixels:
        raise InputError(
            f"the pointmap {path} has {known} known points for the object's {pixels} pixels, too few for its pose: "
            "leave it out with --no_pointmap"
        )


def _unit_notices(points: NDArray[np.float32], known: NDArray[np.bool_]) -> list[str]:
    step = max(max(known.shape) // _GRID, 1)
    depth = points[::step, ::step, 2][known[::step, ::step]]
    middle = float(np.median(depth)) if len(depth) else 1.0
    if LIKELY_DEPTH[0] <= middle <= LIKELY_DEPTH[1]:
        return []
    return [f"half of the pointmap is farther than {middle:.4g}: give it in metres, and divide millimetres by 1,000"]


def _convert(stored: Stored, axes: str, path: Path) -> tuple[str, ...]:
    """Convert the points to PyTorch3D's frame, in place. Returns notices."""
    notices: tuple[str, ...] = ()
    named = stored.axes
    if named is None:
        seen = _seen(stored.points, stored.valid)
        named = _recognised(seen, path) if axes == "auto" else axes
        if axes != "auto" and seen is not None and axes not in seen.possible:
            notices = (f"the pointmap is read as {axes}, but its points have {seen}: check --pointmap_axes",)
        elif axes == "auto" and named != "pytorch3d":
            log.info("%s: its points have %s, so they are converted from the axes of %s", path, seen, named)
    if named != "pytorch3d":
        points = stored.points
        points *= np.array(SIGNS[named], np.float32)
    return notices


def _seen(points: NDArray[np.float32], valid: NDArray[np.bool_] | None) -> Seen | None:
    step = max(max(points.shape) // _GRID, 1)
    grid = points[::step, ::step]
    known = np.all(np.abs(grid) <= FARTHEST, axis=-1)  # not NaN, either
    return seen_axes(grid, np.asarray(known if valid is None else known & valid[::step, ::step]))


def _recognised(seen: Seen | None, path: Path) -> str:
    """The one convention of a pointmap; PyTorch3D's for hardly any points, which are refused later.

    Raises:
        InputError: none or several.
    """
    if seen is None:
        return "pytorch3d"
    if len(seen.possible) == 1:
        return seen.possible[0]
    names = ", ".join(POINTMAP_AXES[1:])
    if seen.possible:
        raise InputError(
            f"the axes of the pointmap {path} are not clear ({seen}): name them with --pointmap_axes {names}"
        )
    raise InputError(
        f"the pointmap {path} has {seen}, which is none of {names}: create it from the picture as it is stored, in one"
        " of these frames, or name one with --pointmap_axes"
    )
