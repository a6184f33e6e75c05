"""The ratio of high frequencies, against the definition written out with numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fast_sam3d.decode.spectrum import SIDE, mixed, picture_ratio, shape_ratio


def slow_ratio(values: np.ndarray, cutoff: float) -> float:
    """Sums over a loop of all frequencies but the mean's."""
    spectrum = np.abs(np.fft.fftn(values))
    high = total = 0.0
    for index in np.ndindex(values.shape):
        frequency = [min(i, n - i) / n for i, n in zip(index, values.shape, strict=True)]
        if any(index):
            total += spectrum[index]
            high += spectrum[index] * (sum(f * f for f in frequency) > cutoff**2)
    return high / total


def square(pattern: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    """A pattern [n, n] as the grey object of a larger picture with noise around it."""
    n = len(pattern)
    noise = np.random.default_rng(0).integers(0, 255, (n + 20, n + 30, 3))
    noise[10 : 10 + n, 12 : 12 + n] = pattern[..., None]
    mask = np.zeros(noise.shape[:2], bool)
    mask[10 : 10 + n, 12 : 12 + n] = True
    return torch.from_numpy(noise.astype(np.uint8)), torch.from_numpy(mask)


def stripes(period: float, n: int = SIDE) -> np.ndarray:
    return 128 + 100 * np.sin(2 * np.pi * np.arange(n) / period)[None].repeat(n, 0)


def test_picture_against_a_slow_reference() -> None:
    """At 252 pixels the box with its margin is 256 pixels wide: nothing is resized."""
    pattern = np.random.default_rng(1).integers(40, 200, (SIDE - 4, SIDE - 4))
    rgb, mask = square(pattern)
    filled = np.full((SIDE, SIDE), pattern.mean())
    filled[2:-2, 2:-2] = pattern
    window = np.hanning(SIDE)
    expected = slow_ratio((filled - filled.mean()) * np.outer(window, window), 38 / SIDE)
    assert picture_ratio(rgb, mask) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("corner", ["first", "last"])
def test_an_object_at_the_picture_s_border_has_no_margin_there(corner: str) -> None:
    """At 254 pixels the box with its one margin is 256 pixels wide: nothing is resized."""
    pattern = np.random.default_rng(1).integers(40, 200, (SIDE - 2, SIDE - 2))
    place = slice(0, SIDE - 2) if corner == "first" else slice(10, SIDE + 8)
    picture, mask = np.zeros((SIDE + 8, SIDE + 8)), np.zeros((SIDE + 8, SIDE + 8), bool)
    picture[place, place], mask[place, place] = pattern, True
    filled = np.full((SIDE, SIDE), pattern.mean())
    inside = slice(0, SIDE - 2) if corner == "first" else slice(2, SIDE)
    filled[inside, inside] = pattern
    expected = slow_ratio((filled - filled.mean()) * np.outer(np.hanning(SIDE), np.hanning(SIDE)), 38 / SIDE)
    rgb = torch.from_numpy(picture)[..., None].repeat(1, 1, 3)
    assert picture_ratio(rgb, torch.from_numpy(mask)) == pytest.approx(expected, rel=1e-4)


def test_fine_stripes_have_a_higher_ratio_than_coarse_ones() -> None:
    fine, coarse = (picture_ratio(*square(stripes(period))) for period in (4, 40))
    assert fine is not None and coarse is not None
    assert fine > 0.6 > 0.4 > coarse


def test_detail_finer_than_the_crop_does_not_become_coarse() -> None:
    """Stripes of 5 pixels, of which the crop keeps every fourth: read without a filter they would be 20 pixels wide."""
    coarse, fine = stripes(300, 4 * SIDE - 4), stripes(5, 4 * SIDE - 4)
    ratio = picture_ratio(*square((coarse + fine) / 2))
    assert ratio is not None and ratio < 0.1


def test_the_background_does_not_matter() -> None:
    rgb, mask = square(stripes(9, 100))
    other = torch.where(mask[..., None], rgb, 255 - rgb)
    assert picture_ratio(rgb, mask) == picture_ratio(other, mask)


def test_the_type_of_the_mask_does_not_matter(tmp_path) -> None:
    """RGBA, binary and grey files of one mask, which the public release treats as three different objects."""
    rgb, mask = square(stripes(7, 90))
    grey = mask.numpy().astype(np.uint8) * 200
    Image.fromarray(np.dstack([rgb.numpy(), grey])).save(tmp_path / "rgba.png")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(mask.numpy()).save(tmp_path / "binary.png")
    from fast_sam3d.inputs.masks import read_mask

    masks = [torch.from_numpy(read_mask(tmp_path / f"{name}.png")) for name in ("rgba", "grey", "binary")]
    ratios = {picture_ratio(rgb, loaded) for loaded in masks}
    assert ratios == {picture_ratio(rgb, mask)}


def test_undefined_ratios() -> None:
    rgb, mask = square(np.full((50, 50), 77))
    assert picture_ratio(rgb, mask) is None
    assert picture_ratio(rgb, mask & False) is None
    assert shape_ratio(torch.zeros(0, 3, dtype=torch.int32), 8) is None
    assert shape_ratio(torch.argwhere(torch.ones(4, 4, 4)), 4) is None


def test_shape_against_a_slow_reference() -> None:
    grid = np.random.default_rng(2).random((8, 8, 8)) < 0.3
    got = shape_ratio(torch.from_numpy(np.argwhere(grid)), 8)
    assert got == pytest.approx(slow_ratio(grid - grid.mean(), 8 / 64), rel=1e-6)


def test_one_voxel_has_a_flat_spectrum() -> None:
    ratio = shape_ratio(torch.tensor([[3, 1, 2]]), 16)
    assert ratio is not None and 0.98 < ratio < 1


@pytest.mark.parametrize(
    ("picture", "shape", "expected"), [(0.4, 0.8, 0.44), (None, 0.8, 0.8), (0.4, None, 0.4), (None, None, None)]
)
def test_weighted_mean_of_both_ratios(picture: float | None, shape: float | None, expected: float | None) -> None:
    assert mixed(picture, shape, 0.9) == (expected if expected is None else pytest.approx(expected))
