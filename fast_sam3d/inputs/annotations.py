"""Masks in JSON: COCO annotation files, run lengths (compressed or not), results of SAM, and labelme's shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.documents import read_json
from fast_sam3d.errors import InputError, first_line
from fast_sam3d.inputs.pictures import MAX_MEGAPIXELS, picture_size

__all__ = ["Labelled", "annotated_objects", "drawn_polygon", "mask_of_runs", "runs_of_text"]

MAX_BYTES = 256 * 10**6
Drawing = Callable[[], NDArray[np.bool_]]


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """One object of a file with several.

    Args:
        number: its label, or its place in the file; names its results.
        name: of what it shows, such as "chair"; empty: unknown.
        draw: its mask [H, W] bool; may raise InputError.
    """

    number: int
    name: str
    draw: Callable[[], NDArray[np.bool_]]

    @property
    def label(self) -> str:
        """The name, if any, and the number."""
        return f"{self.name}_{self.number}" if self.name else str(self.number)


def annotated_objects(path: Path, picture: Path, notices: list[str]) -> list[Labelled]:
    """The objects of a picture in a file of annotations.

    Args:
        picture: whose annotations are taken where the file has those of several.
        notices: receives a sentence for shapes that are no areas.

    Raises:
        InputError: unreadable, of another format, or without this picture.
    """
    content = read_json(path, error=InputError, advice="keep this picture's annotations only", most_bytes=MAX_BYTES)
    try:
        if isinstance(content, dict) and isinstance(content.get("shapes"), list):
            found = _labelme(content, picture, path, notices)
        else:
            found = _coco(content, picture, path, notices)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise InputError(f"the annotations in {path} have an unknown form ({first_line(error)})") from error
    return found


# ------------------------------------------------------------------------------------------------------------- labelme


def _labelme(content: Mapping[str, Any], picture: Path, path: Path, notices: list[str]) -> list[Labelled]:
    """Shapes of one label and group are one object; without a group each is one."""
    _check_name(content.get("imagePath"), picture, path, notices)
    size = _size(content.get("imageHeight"), content.get("imageWidth"), picture, path)
    groups: dict[Any, tuple[str, list[Drawing]]] = {}
    left_out = []
    for place, shape in enumerate(content["shapes"]):
        name, kind = str(shape.get("label") or ""), shape.get("shape_type") or "polygon"
        drawing = _labelme_shape(kind, shape, size, path)
        if drawing is None:
            left_out.append(kind)
            continue
        group = shape.get("group_id")
        groups.setdefault(place if group is None else (name, str(group)), (name, []))[1].append(drawing)
    if left_out:
        notices.append(
            f"{path.name}: {len(left_out)} shapes are no areas and are left out ({', '.join(sorted(set(left_out)))})"
        )
    return [Labelled(n, name, _union(parts)) for n, (name, parts) in enumerate(groups.values())]


def _labelme_shape(kind: str, shape: Mapping[str, Any], size: tuple[int, int], path: Path) -> Drawing | None:
    points = _points(shape["points"], path)
    if kind == "polygon" and len(points) >= 3:
        return lambda: drawn_polygon(points, size)
    if kind == "rectangle" and len(points) in (2, 4):
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        corners = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
        return lambda: drawn_polygon(corners, size)
    if kind == "circle" and len(points) == 2:
        radius = float(np.linalg.norm(points[1] - points[0]))
        angles = np.linspace(0, 2 * math.pi, 360, endpoint=False)
        around = points[0] + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)
        return lambda: drawn_polygon(around, size)
    if kind == "mask" and len(points) >= 1:
        content = str(shape["mask"])
        return lambda: _pasted(content, points[0], size, path)
    return None


def _pasted(text: str, corner: NDArray[np.float64], size: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    """A mask in base64, whose upper left pixel is at `corner` (x, y)."""
    import base64
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as picture:
            if picture.width * picture.height > MAX_MEGAPIXELS * 10**6:
                raise InputError(f"a mask in {path} has more than {MAX_MEGAPIXELS} megapixels")
            part = np.asarray(picture.convert("L")) > 0
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"a mask in {path} cannot be read ({first_line(error)})") from error
    mask = np.zeros(size, bool)
    left, top = (round(float(value)) for value in corner)
    if left < 0 or top < 0 or left + part.shape[1] > size[1] or top + part.shape[0] > size[0]:
        raise InputError(f"a mask in {path} reaches outside of its picture of {size[1]}x{size[0]} pixels")
    mask[top : top + part.shape[0], left : left + part.shape[1]] = part
    return mask


# ---------------------------------------------------------------------------------------------------------------- COCO


def _coco(content: Any, picture: Path, path: Path, notices: list[str]) -> list[Labelled]:
    """Annotations, or run lengths themselves, of one picture."""
    names: dict[Any, str] = {}
    size = None
    if isinstance(content, dict) and "annotations" in content:
        names = {item["id"]: str(item["name"]) for item in content.get("categories") or ()}
        items = list(content["annotations"])
        image = content.get("image")
        if content.get("images"):
            image = _image(content["images"], picture, path)
            _check_name(image.get("file_name"), picture, path, notices)
            items = [item for item in items if item["image_id"] == image["id"]]
        if image is not None and "height" in image:
            size = image["height"], image["width"]
    else:
        items = list(content) if isinstance(content, list) else [content]
        if len(pictures := {str(item.get("image_id")) for item in items}) > 1:
            raise InputError(f"{path} has the masks of {len(pictures)} pictures: keep those of {picture.name}")
    if not items:
        raise InputError(f"{path} holds no annotation of {picture.name}")
    ids = [item.get("id") for item in items]
    numbered = all(isinstance(n, int) and n >= 0 for n in ids) and len(set(ids)) == len(ids)
    found = []
    for place, item in enumerate(items):
        segments = item if "counts" in item else item["segmentation"]
        name = names.get(item.get("category_id"), str(item.get("label") or ""))
        found.append(Labelled(ids[place] if numbered else place, name, _segments(segments, size, picture, path)))
    return found


def _image(images: Sequence[Mapping[str, Any]], picture: Path, path: Path) -> Mapping[str, Any]:
    """The entry of a picture: by its file's name, and folders where several have that name, or the only one."""
    wanted = picture.absolute().with_suffix("").parts[::-1]

    def equal(item: Mapping[str, Any]) -> int:
        """How many parts of the path are those of the picture's, from the end."""
        parts = PurePosixPath(str(item.get("file_name", ""))).with_suffix("").parts[::-1]
        return next((n for n, (a, b) in enumerate(zip(parts, wanted, strict=False)) if a != b), len(parts))

    ranks = [equal(item) for item in images]
    best = [item for item, rank in zip(images, ranks, strict=True) if rank == max(ranks) > 0]
    if not best and len(images) == 1:
        return images[0]
    if not best:
        raise InputError(f"{path} has annotations of {len(images)} pictures, and none is named {picture.name}")
    if len(best) > 1:
        raise InputError(f"{path} has {len(best)} pictures named {picture.stem}: keep one of them")
    return best[0]


def _check_name(name: Any, picture: Path, path: Path, notices: list[str]) -> None:
    """A notice for annotations of a picture with another name; image.png is what many pictures are renamed to."""
    other = PurePosixPath(str(name or "").replace("\\", "/")).stem
    if other and picture.stem.lower() not in (other.lower(), "image"):
        notices.append(f"{path.name} has annotations of {other}, which are used for {picture.name}")


def _segments(segments: Any, size: tuple[Any, Any] | None, picture: Path, path: Path) -> Drawing:
    if isinstance(segments, dict):
        height, width = segments["size"]
        height, width = _size(height, width, picture, path)
        counts = segments["counts"]
        runs = runs_of_text(counts) if isinstance(counts, str) else [int(count) for count in counts]
        return lambda: mask_of_runs(runs, (height, width), path)
    given = size or (None, None)
    height, width = _size(given[0], given[1], picture, path)
    parts = [_points(np.reshape(np.asarray(part, np.float64), (-1, 2)), path) for part in segments]
    if not parts or min(len(part) for part in parts) < 3:
        raise InputError(f"{path} has a polygon of less than three points")
    return _union([lambda part=part: drawn_polygon(part, (height, width)) for part in parts])  # type: ignore[misc]


def runs_of_text(text: str) -> list[int]:
    """Run lengths of COCO's compressed text.

    Each character holds 5 bits, the lowest first, and a bit that says whether more follow; the sign is that of the last
    one. From the fourth run on a number is the difference to the run two before.

    Raises:
        ValueError: another text.
    """
    runs: list[int] = []
    value = bits = 0
    for letter in text:
        code = ord(letter) - 48
        if not 0 <= code < 64 or bits > 60:
            raise ValueError("its run lengths are damaged")
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << bits
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = bits = 0
    if bits:
        raise ValueError("its run lengths are cut off")
    return runs


def mask_of_runs(runs: Sequence[int], size: tuple[int, int], path: Path) -> NDArray[np.bool_]:
    """The mask [H, W] of run lengths, of background and object in turn, down the columns.

    Raises:
        InputError: they are not those of this size.
    """
    if any(run < 0 for run in runs) or sum(runs) != size[0] * size[1]:
        raise InputError(f"the run lengths in {path} are not those of {size[1]}x{size[0]} pixels")
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(size[1], size[0]).T)


# -------------------------------------------------------------------------------------------------------------- shapes


def drawn_polygon(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels [H, W] whose centres are inside a polygon [N, 2] of (x, y), where 0 is the picture's border.

    By the even-odd rule: every edge toggles the pixels to the right of it.
    """
    height, width = size
    toggles = np.zeros((height, width + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
        first, last = (min(max(math.ceil(y - 0.5), 0), height) for y in sorted((y0, y1)))
        if first == last:
            continue
        rows = np.arange(first, last)
        across = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        np.add.at(toggles, (rows, np.clip(np.ceil(across - 0.5), 0, width).astype(np.int64)), 1)
    return np.cumsum(toggles, axis=1)[:, :-1] % 2 == 1


def _union(parts: Sequence[Drawing]) -> Drawing:
    def draw() -> NDArray[np.bool_]:
        mask = parts[0]()
        for part in parts[1:]:
            mask = mask | part()
        return mask

    return draw


def _points(given: Any, path: Path) -> NDArray[np.float64]:
    points = np.asarray(given, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not (np.abs(points) < 1e6).all():  # also NaN
        raise InputError(f"{path} has a shape whose points are not (x, y) in pixels")
    return points


def _size(height: Any, width: Any, picture: Path, path: Path) -> tuple[int, int]:
    """(height, width) that a file says, or of its picture."""
    if height is None or width is None:
        if (size := picture_size(picture)) is None:
            raise InputError(f"{path} does not say the size of its picture")
        return size[1], size[0]
    height, width = int(height), int(width)
    if min(height, width) < 1 or height * width > MAX_MEGAPIXELS * 10**6:
        raise InputError(
            f"{path} says that its picture has {width}x{height} pixels: at most {MAX_MEGAPIXELS} megapixels"
        )
    return height, width
