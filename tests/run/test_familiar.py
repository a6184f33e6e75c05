"""Which pictures and results are out of distribution for the embedded model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fast_sam3d.inputs.load import list_masks, load_object
from fast_sam3d.run.familiar import MOST_DISTANT, Crop, oddities, surface_distance

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZE = 160


def place() -> tuple[np.ndarray, np.ndarray]:
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5
    return (u - SIZE / 2) / 60, (v - SIZE / 2) / 60


def ball(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """A shaded red ball before grey, and its mask."""
    x, y = place()
    inside = x * x + y * y < 1
    height = np.sqrt(np.clip(1 - x * x - y * y, 0, None))
    shade = np.clip(0.3 + 0.7 * (0.4 * -x + 0.5 * -y + 0.77 * height), 0, 1)
    rgb = np.where(inside[..., None], shade[..., None] * [0.8, 0.2, 0.1], 0.7)
    rgb = rgb + np.random.default_rng(0).normal(0, noise, rgb.shape)
    return (rgb.clip(0, 1) * 255).round().astype(np.uint8), inside


def reasons(rgb: np.ndarray, mask: np.ndarray, guessed: bool = True) -> str:
    return "; ".join(oddities(Crop.of(rgb, mask), guessed))


def house(colour: tuple[int, int, int] = (40, 90, 160)) -> tuple[np.ndarray, np.ndarray]:
    """Two shaded faces of a prism: no ellipse, no texture."""
    x, y = place()
    inside = (np.abs(x) < 0.8) & (y < 0.9) & (y > -0.9 + 0.6 * np.abs(x))
    shade = np.where(x < 0.2, 1.0, 0.6) * (1 - 0.1 * y)
    rgb = np.where(inside[..., None], shade[..., None] * colour, 200)
    return rgb.clip(0, 255).astype(np.uint8), inside


@pytest.mark.parametrize("name", [path.name for path in sorted(EXAMPLES.iterdir()) if (path / "truth.json").is_file()])
def test_rendered_examples_are_familiar(name):
    for number in list_masks(EXAMPLES / name):
        given = load_object(EXAMPLES / name, number, pointmap="none")
        assert reasons(given.image, given.mask) == "", number


def test_the_photograph_is_not():
    given = load_object(EXAMPLES / "photo")
    assert "background" in reasons(given.image, given.mask)


def test_a_photograph_that_is_cut_out_is_not():
    rgb, mask = ball(0.05)
    rgb[~mask] = 255
    assert "texture or noise" in reasons(rgb, mask, guessed=False)


def test_a_ball_without_depth_is_not():
    assert "ellipse" in reasons(*ball())
    assert reasons(*ball(), guessed=False) == ""


@pytest.mark.parametrize(
    ("colour", "reason"),
    [((40, 90, 160), ""), ((90, 90, 90), "no colours"), ((1, 1, 1), "no shading"), ((600, 600, 600), "drawing")],
)
def test_colours(colour, reason):
    assert reason in reasons(*house(colour)) and bool(reasons(*house(colour))) == bool(reason)


def test_many_colours():
    rgb, mask = house()
    x, y = place()
    rgb[mask] = np.stack([120 + 100 * x, 120 + 100 * y, 120 - 60 * x - 40 * y], -1)[mask].clip(0, 255).astype(np.uint8)
    assert "many colours" in reasons(rgb, mask)


def test_tiny_masks_are_left_out():
    rgb, _ = ball()
    mask = np.zeros((SIZE, SIZE), bool)
    mask[80, 80] = True
    assert isinstance(reasons(rgb, mask), str)


def test_distance_of_points_to_the_surface():
    from types import SimpleNamespace

    grid = np.stack(np.meshgrid(*[np.linspace(-0.5, 0.5, 60)] * 2), -1).reshape(-1, 2)
    wall = np.c_[grid[:, 0], np.zeros(len(grid)), grid[:, 1]].astype(np.float32)
    mesh = SimpleNamespace(vertices=wall, faces=np.array([[0, 1, 2]]))
    pose = {"rotation": [[1, 0, 0, 0]], "translation": [[0, 0, 4]], "scale": [[2, 2, 2]]}
    points = np.full((10, 10, 3), np.nan, np.float32)
    points[2:8, 2:8] = np.c_[grid[:36, 0], np.full(36, 0.1), grid[:36, 1]].reshape(6, 6, 3) * 2 + [0, 0, 4]
    mask = np.ones((10, 10), bool)
    assert surface_distance({"mesh": [mesh], **pose}, points, mask) == pytest.approx(0.1, abs=0.01)
    assert MOST_DISTANT < 0.1
    assert surface_distance(pose, points, mask) is None
    assert surface_distance({"mesh": [mesh], **pose}, points * np.nan, mask) is None
