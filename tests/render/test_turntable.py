"""Turntables: once around, in the mesh's colours, in files that open."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import trimesh
from PIL import Image, features

from fast_sam3d.render import turntable
from fast_sam3d.render.turntable import TURNTABLES, object_turntable, save_turntable


def result(fine: int = 0) -> dict[str, object]:
    """A box whose front (-y) is red and whose right side (+x) is blue, the rest grey; finely divided: by dots."""
    box = trimesh.creation.box((1, 1, 1))
    for _ in range(fine):
        box = box.subdivide()
    box.unmerge_vertices()
    colours = np.full((len(box.vertices), 3), 0.6)
    facing = np.repeat(box.face_normals, 3, axis=0)
    colours[facing[:, 1] < -0.9] = (1, 0, 0)
    colours[facing[:, 0] > 0.9] = (0, 0, 1)
    return {"mesh": [SimpleNamespace(vertices=box.vertices, faces=box.faces, vertex_attrs=colours)]}


@pytest.mark.parametrize("fine", [0, 6], ids=["triangles", "dots"])
def test_the_object_turns_once_around(monkeypatch, fine):
    monkeypatch.setattr(turntable, "FRAME_PX", 96)
    frames = [np.asarray(frame).astype(int) for frame in object_turntable(result(fine), 4)]
    assert all(frame.shape == (96, 96, 3) for frame in frames)
    red, blue = ([int((f[..., k] > f[..., 1] + 60).sum()) for f in frames] for k in (0, 2))
    assert red[0] > 1000 and max(red[1:]) < 50
    assert blue[1] > 1000 and max(blue[0], *blue[2:]) < 50


def test_the_files_hold_all_frames(tmp_path: Path):
    shades = [Image.new("RGB", (640, 400), (10 * k, 200 - 10 * k, 90)) for k in range(6)]
    for k, shade in enumerate(shades):
        shade.paste((255, 255, 255), (40 * k, 40, 40 * k + 20, 60))
    assert save_turntable(tmp_path, shades) == list(TURNTABLES)
    for name, size in zip(TURNTABLES, ((640, 400), (320, 200)), strict=True):
        with Image.open(tmp_path / name) as picture:
            assert picture.n_frames == 6 and picture.size == size
            for k in (0, 5):
                picture.seek(k)
                assert np.abs(np.asarray(picture.convert("RGB")).mean((0, 1)) - shades[k].getpixel((0, 0))).max() < 12


def test_without_webp_there_is_a_gif(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    assert save_turntable(tmp_path, [Image.new("RGB", (64, 48))] * 4) == ["turntable.gif"]
    assert [path.name for path in tmp_path.iterdir()] == ["turntable.gif"]
