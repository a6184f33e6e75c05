"""A sheet that compares results for one object: the input with its mask, and a row of rendered views per result."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fast_sam3d.geometry.camera import Camera
from fast_sam3d.render.preview import (
    ACCENT,
    input_camera,
    orbit_cameras,
    outlined,
    posed_camera,
    posed_window,
    resized_mask,
    square_window,
    subject_of,
)
from fast_sam3d.render.sheet import BACKGROUND, INK, PANEL, eight_bit, label_font
from fast_sam3d.render.threads import map_threads

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Row", "compose_comparison"]

WIDTH_PX, MARGIN_PX, GAP_PX = 1200, 16, 8
HEAD_PX, CAPTION_PX, LINE_PX = 34, 28, 27
TITLE_PX, TEXT_PX = 21, 16
MUTED = (112, 117, 124)
TURNS = ((60.0, "from the right"), (180.0, "from behind"))
SAMPLING = 2  # pixels rendered per pixel shown, on each axis
BORDER = 0.07  # free border around the object, share of a view
CONTEXT = 0.18  # share of the mask's longer side that the input shows around it


@dataclass(frozen=True)
class Row:
    """One result.

    Args:
        title, note, accent: text above the row, from left to right; the accent is coloured.
        result: of a pipeline's `run`, see `fast_sam3d.render.preview.save_preview`.
    """

    title: str
    note: str
    accent: str
    result: Mapping[str, Any]


def compose_comparison(image: Any, mask: Any, rows: Sequence[Row], lines: Sequence[str] = ()) -> Image.Image:
    """The sheet, 1200 pixels wide. All rows are rendered by the same cameras, which show every result whole.

    Args:
        image: [H, W, 3] uint8. mask: [H, W], non-zero on the object.
        lines: of text below, the first in full contrast.

    Raises:
        ValueError: a result has neither a mesh nor gaussians.
    """
    from PIL import Image, ImageDraw

    covered = np.asarray(mask) > 0
    count = len(TURNS) + 1
    # The input is as tall as all rows: width = margins + input + views.
    fixed = len(rows) * HEAD_PX + (len(rows) - 1) * MARGIN_PX + 3 * MARGIN_PX + (count - 1) * GAP_PX
    view = (WIDTH_PX - fixed) // (len(rows) + count)
    tall = len(rows) * (HEAD_PX + view) + (len(rows) - 1) * MARGIN_PX
    views, captions = _views(covered, rows, view)

    height = MARGIN_PX + tall + CAPTION_PX + LINE_PX * len(lines) + (MARGIN_PX if lines else 0)
    sheet = Image.new("RGB", (WIDTH_PX, height), BACKGROUND)
    pen, title, text = ImageDraw.Draw(sheet), label_font(TITLE_PX), label_font(TEXT_PX)
    sheet.paste(_window(np.asarray(image)[..., :3], covered, tall), (MARGIN_PX, MARGIN_PX))
    left, bottom = 2 * MARGIN_PX + tall, MARGIN_PX + tall
    for number, row in enumerate(rows):
        top = MARGIN_PX + number * (HEAD_PX + view + MARGIN_PX)
        x = float(left)
        for words, colour in ((row.title, INK), (row.note, MUTED), (row.accent, ACCENT)):
            pen.text((x, top + HEAD_PX / 2 - 3), words, fill=colour, font=title, anchor="lm")
            x += pen.textlength(words, font=title) + 2 * MARGIN_PX
        for column, picture in enumerate(views[number]):
            sheet.paste(picture, (left + column * (view + GAP_PX), top + HEAD_PX))
    pen.text((MARGIN_PX, bottom + 5), "input, mask outlined", fill=MUTED, font=text)
    for column, caption in enumerate(captions):
        pen.text((left + column * (view + GAP_PX), bottom + 5), caption, fill=MUTED, font=text)
    for number, line in enumerate(lines):
        colour = MUTED if number else INK
        pen.text((MARGIN_PX, bottom + CAPTION_PX + MARGIN_PX / 2 + number * LINE_PX), line, fill=colour, font=text)
    return sheet


def _views(covered: np.ndarray, rows: Sequence[Row], size: int) -> tuple[list[list[Image.Image]], list[str]]:
    """The pictures of each row, and the captions of the columns."""
    from PIL import Image

    subjects = [subject_of(row.result) for row in rows]
    kind = subjects[0][0]
    camera, azimuth, matrix = input_camera(rows[0].result, covered.shape)
    everything = np.concatenate([points for _, points, _ in subjects])
    orbits = [
        _fit(camera, everything, size) for camera in orbit_cameras(everything, [azimuth + turn for turn, _ in TURNS])
    ]
    captions = [caption for _, caption in TURNS]
    outline = None
    poses = (input_camera(row.result, covered.shape)[2] for row in rows)
    posed = [pose for pose in poses if pose is not None]
    if camera is not None and matrix is not None and len(posed) == len(rows):
        window, outline = posed_window(camera, [p for _, p, _ in subjects], posed, covered, size * SAMPLING, BORDER)
        captions.insert(0, f"{kind} as posed and mask")
    else:
        orbits.insert(0, _fit(orbit_cameras(everything, [azimuth])[0], everything, size))
        captions.insert(0, f"{kind} from the front")
    found = []
    for number, (_, _, draw) in enumerate(subjects):
        views = map_threads(draw, orbits if outline is None else [posed_camera(window, posed[number]), *orbits])
        own = [eight_bit(view) for view in views]
        if outline is not None:
            own[0] = outlined(views[0], outline, SAMPLING)
        found.append([Image.fromarray(p).resize((size, size), Image.Resampling.LANCZOS) for p in own])
    return found, captions


def _fit(camera: Camera, points: np.ndarray, size: int) -> Camera:
    """The camera with its picture filled by the points, at the sampled size."""
    pixels = camera.project(points)[0]
    low, high = pixels.min(axis=0), pixels.max(axis=0)
    zoom = (1.0 - 2.0 * BORDER) * size * SAMPLING / max(float((high - low).max()), 1e-6)
    centre = (low + high) / 2.0
    principal = tuple((np.asarray(camera.principal) - centre) * zoom + size * SAMPLING / 2.0)
    return replace(camera, focal=camera.focal * zoom, principal=principal, size=(size * SAMPLING, size * SAMPLING))


def _window(rgb: np.ndarray, covered: np.ndarray, size: int) -> Image.Image:
    """A square window of the picture around the mask, with the mask outlined."""
    from PIL import Image

    height, width = covered.shape
    rows, columns = np.nonzero(covered) if covered.any() else (np.arange(height), np.arange(width))
    longer = max(np.ptp(rows), np.ptp(columns)) + 1
    side = int(min(math.ceil(longer * (1.0 + 2.0 * CONTEXT)), max(height, width)))
    corner = []
    for centre, limit in (((columns.min() + columns.max()) / 2, width), ((rows.min() + rows.max()) / 2, height)):
        start = round(centre - side / 2)
        corner.append(min(max(start, 0), limit - side) if side <= limit else (limit - side) // 2)
    left, top = corner
    large = (size * SAMPLING, size * SAMPLING)
    window = square_window(np.ascontiguousarray(rgb), left, top, side, PANEL).resize(large, Image.Resampling.LANCZOS)
    drawn = outlined(np.asarray(window) / 255.0, resized_mask(covered, left, top, side, large[0]), SAMPLING)
    return Image.fromarray(drawn).resize((size, size), Image.Resampling.LANCZOS)
