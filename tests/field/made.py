"""A picture with one object, and its mask in the ways in which tools save it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 64, 80


def scene() -> tuple[np.ndarray, np.ndarray]:
    """A picture [H, W, 3] of a bright object with a corner on a dim, uneven ground, and its mask [H, W]."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    mask = (rows >= 12) & (rows < 40) & (columns >= 8) & (columns < 50) & ~((rows >= 24) & (columns >= 24))
    noise = np.random.default_rng(3).integers(0, 24, (HEIGHT, WIDTH, 3))
    picture = noise + np.where(mask[..., None], (210, 120, 30), (40, 60, 90)) - 4
    return picture.astype(np.uint8), mask


PICTURE, MASK = scene()
WHITE = MASK.astype(np.uint8) * 255
OTHER = np.zeros_like(MASK)
OTHER[50:60, 60:75] = True
LABELS = MASK * np.uint8(2) + OTHER * np.uint8(5)


def save(pixels: Any, path: Path, **options: Any) -> Path:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path, **options)
    return path


def palette(indices: np.ndarray, *colours: Sequence[int]) -> Image.Image:
    """A picture whose palette begins with these colours."""
    picture = Image.fromarray(indices.astype(np.uint8))
    flat = [level for colour in colours for level in colour]
    picture.putpalette(flat + [0] * (768 - len(flat)))
    return picture


def coloured(mask: np.ndarray, colour: Sequence[int]) -> np.ndarray:
    """[H, W, 3] uint8: a colour on black."""
    return (mask[..., None] * np.array(colour)).astype(np.uint8)


def soft(mask: np.ndarray) -> np.ndarray:
    """Values of 0 to 255 with edges of three pixels, at least 128 on the mask only."""
    padded = np.pad(mask.astype(np.float64), 1, mode="edge")
    mean = sum(padded[i : i + HEIGHT, j : j + WIDTH] for i in range(3) for j in range(3)) / 9
    return np.where(mask, np.maximum(mean, 0.51), np.minimum(mean, 0.49)) * 255


def exif(orientation: int) -> Image.Exif:
    data = Image.Exif()
    data[0x0112] = orientation
    return data


def stored(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels that an EXIF orientation turns into the given ones."""
    back = {6: 8, 8: 6}.get(orientation, orientation)
    ways = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }  # fmt: skip
    picture = Image.fromarray(pixels)
    return np.asarray(picture.transpose(ways[back]) if back in ways else picture)


def runs(mask: np.ndarray) -> list[int]:
    """COCO's run lengths, counted one pixel after another."""
    found, value = [0], False
    for pixel in mask.T.ravel():
        if pixel != value:
            found.append(0)
            value = bool(pixel)
        found[-1] += 1
    return found


def text_of(numbers: Sequence[int]) -> str:
    """COCO's compressed form of run lengths."""
    letters = ""
    for place, number in enumerate(numbers):
        rest = number - numbers[place - 2] if place > 2 else number
        more = True
        while more:
            five, rest = rest & 31, rest >> 5
            more = rest != (-1 if five & 16 else 0)
            letters += chr((five | 32 * more) + 48)
    return letters


CORNERS = [(8, 12), (50, 12), (50, 24), (24, 24), (24, 40), (8, 40)]
"""Of the mask, (x, y) in pixels."""


def labelme(*shapes: dict[str, Any]) -> str:
    return json.dumps({"shapes": shapes, "imagePath": "image.png", "imageHeight": HEIGHT, "imageWidth": WIDTH})


def shape(label: str, points: Sequence[Any], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "shape_type": kind, "group_id": None, **more}


def pasted() -> dict[str, Any]:
    """labelme's mask: a PNG of the box around it."""
    data = io.BytesIO()
    Image.fromarray(WHITE[12:40, 8:50]).save(data, "PNG")
    return shape("cup", [(8, 12), (49, 39)], "mask", mask=base64.b64encode(data.getvalue()).decode())


def coco(segmentation: Any, *, file_name: str = "image.png", others: int = 1) -> str:
    """An annotation file of a picture and some others, with two objects each."""
    images = [{"id": 7, "file_name": file_name, "height": HEIGHT, "width": WIDTH}]
    images += [{"id": 8 + n, "file_name": f"other{n}.jpg", "height": 10, "width": 10} for n in range(others)]
    corner = [60, 50, 75, 50, 75, 60, 60, 60]
    annotations = [
        {"id": 40, "image_id": 8, "category_id": 1, "segmentation": [[0, 0, 9, 0, 9, 9]]},
        {"id": 41, "image_id": 7, "category_id": 2, "segmentation": segmentation},
        {"id": 42, "image_id": 7, "category_id": 3, "segmentation": [corner]},
    ]
    categories = [{"id": 2, "name": "cup"}, {"id": 3, "name": "tray"}, {"id": 1, "name": "cat"}]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories})
