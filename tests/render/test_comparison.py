"""The sheet that compares results for one object."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fast_sam3d.render.comparison import GAP_PX, HEAD_PX, MARGIN_PX, WIDTH_PX, Row, compose_comparison
from fast_sam3d.render.sheet import PANEL


def result(size: float, posed: bool = True) -> dict[str, object]:
    """A red box; where it is posed, with a pointmap of 40 x 48 pixels."""
    trimesh = pytest.importorskip("trimesh")
    box = trimesh.creation.box((size, size, size))
    mesh = SimpleNamespace(vertices=box.vertices, faces=box.faces, vertex_attrs=np.tile([0.9, 0.1, 0.1], (8, 1)))
    found: dict[str, object] = {"mesh": [mesh]}
    if posed:
        v, u = np.mgrid[:40, :48] + 0.5
        points = np.stack([(24 - u) / 50, (20 - v) / 50, np.ones_like(u)], axis=-1) * 4
        pose = {"rotation": [[1.0, 0, 0, 0]], "translation": [[0.1, 0.0, 4.0]], "scale": [[1.0, 1.0, 1.0]]}
        found |= {"pointmap": points.astype(np.float32), **{key: np.array(value) for key, value in pose.items()}}
    return found


def views(sheet: np.ndarray, rows: int = 2) -> np.ndarray:
    """[rows, 3, size, size, 3]"""
    fixed = rows * HEAD_PX + (rows - 1) * MARGIN_PX + 3 * MARGIN_PX + 2 * GAP_PX
    size = (WIDTH_PX - fixed) // (rows + 3)
    left = 2 * MARGIN_PX + rows * (HEAD_PX + size) + (rows - 1) * MARGIN_PX
    return np.stack(
        [
            [sheet[top : top + size, x : x + size] for x in (left + i * (size + GAP_PX) for i in range(3))]
            for top in (MARGIN_PX + HEAD_PX + row * (HEAD_PX + size + MARGIN_PX) for row in range(rows))
        ]
    )


@pytest.mark.parametrize("posed", [True, False])
def test_rows_share_their_cameras(picture, disc, posed):
    rows = [
        Row("baseline", "6 s", "", result(1.0, posed)),
        Row("accelerated", "2 s", "3x", result(0.5, posed)),
    ]
    sheet = compose_comparison(picture, disc, rows, ["drift", "settings"])
    assert sheet.width == WIDTH_PX
    found = views(np.asarray(sheet))
    red = (found[..., 0].astype(int) - found[..., 1] > 60).sum(axis=(2, 3))
    assert (red > 200).all(), "every view shows its object"
    assert (red[0] > 2.5 * red[1]).all(), "an object of half the size is drawn at half the size"
    same = [Row("baseline", "", "", result(1.0, posed)), Row("accelerated", "", "", result(1.0, posed))]
    again = views(np.asarray(compose_comparison(picture, disc, same)))
    np.testing.assert_array_equal(again[0], again[1])
    assert (again[:, 1:, :3, :3] == PANEL).all(), "the object does not touch the corners"


def test_result_without_mesh_or_gaussians_is_refused(picture, disc):
    with pytest.raises(ValueError, match="neither a mesh nor gaussians"):
        compose_comparison(picture, disc, [Row("baseline", "", "", {}), Row("accelerated", "", "", {})])
