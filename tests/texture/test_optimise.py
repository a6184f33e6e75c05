"""A texture optimised against gaussians."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.gaussians import SH_C0, GaussianCloud
from fast_sam3d.geometry.surface import TexturedMesh
from fast_sam3d.texture.optimise import BakeSettings, optimised
from fast_sam3d.texture.views import views_around

SIZE = 32
SMALL = BakeSettings(steps=120, views=6, pixels=48, warmup=40, rate=0.05)


def plate() -> TexturedMesh:
    """A grey square plate that faces up, one chart."""
    corners = np.float32([[-0.4, -0.4, 0], [0.4, -0.4, 0], [0.4, 0.4, 0], [-0.4, 0.4, 0]])
    uv = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])
    grey = np.full((SIZE, SIZE, 3), 128, np.uint8)
    return TexturedMesh(corners, np.array([[0, 1, 2], [0, 2, 3]]), uv, grey, np.float32([[0, 0, 1]] * 4))


def stripes(opacity: float = 0.99) -> GaussianCloud:
    """Gaussians on the plate: red where x < 0, else blue."""
    x, y = np.meshgrid(np.linspace(-0.4, 0.4, 61), np.linspace(-0.4, 0.4, 61))
    points = np.stack([x.ravel(), y.ravel(), np.zeros(x.size)], -1).astype(np.float32)
    colour = np.where(points[:, :1] < 0, [[0.9, 0.1, 0.1]], [[0.1, 0.2, 0.8]])
    count = len(points)
    return GaussianCloud(
        points, np.tile(np.float32([0.01, 0.01, 0.001]), (count, 1)), np.tile(np.float32([1, 0, 0, 0]), (count, 1)),
        np.full((count, 1), opacity, np.float32), ((colour - 0.5) / SH_C0).astype(np.float32)[:, None],
    )  # fmt: skip


@pytest.mark.parametrize("gate", ["none", "skipgs"])
def test_the_texture_takes_the_colours_of_the_gaussians(gate: str):
    made, report = optimised(plate(), stripes(), dataclasses.replace(SMALL, gate=gate))
    assert np.abs(made.texture[4:-4, 2:12] / 255 - (0.9, 0.1, 0.1)).mean() < 0.06
    assert np.abs(made.texture[4:-4, -12:-2] / 255 - (0.1, 0.2, 0.8)).mean() < 0.06
    assert report.after < 0.2 * report.before
    assert report.backward == 120 if gate == "none" else 75 <= report.backward < 120


def test_pixels_of_a_view_know_their_place_in_the_texture():
    view = next(iter(views_around(plate(), stripes(), 4, 64)))
    red = view.rgb[:, 0] > 0.5
    assert (view.uv[red, 0] < 0.55).all() and (view.uv[~red, 0] > 0.45).all()
    assert view.uv.min() >= 0 and view.uv.max() <= 1


def test_the_same_settings_give_the_same_texture():
    first, second = (optimised(plate(), stripes(), SMALL)[0].texture for _ in range(2))
    assert (first == second).all()


def test_gaussians_away_from_the_mesh_or_transparent_are_refused():
    for cloud in (stripes(0.01), dataclasses.replace(stripes(), get_xyz=stripes().get_xyz + 50)):
        with pytest.raises(ExportError, match="cover no part"):
            optimised(plate(), cloud, SMALL)


@pytest.mark.parametrize("change", [{"gate": "other"}, {"steps": 0}, {"views": 0}, {"rate": 0.0}, {"warmup": -1}])
def test_settings_out_of_range_are_refused(change: dict[str, object]):
    with pytest.raises(ExportError):
        BakeSettings(**change)  # type: ignore[arg-type]
