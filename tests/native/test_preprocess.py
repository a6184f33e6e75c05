"""Inputs of the embedders against slow references, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fast_sam3d.errors import InputError
from fast_sam3d.native import preprocess
from fast_sam3d.native.preprocess import Preprocessor, camera_points, crop_box, fit_points, normalise_points

SIZE = 24

# height and width of the picture; left, top, right, bottom of the mask, all included; of the crop, the last two not
MASKS = {
    "in the middle": ((50, 60), (20, 21, 30, 40), (14, 19, 36, 41)),
    # 11 wide: half of int(11 * 1.2) is 6; 5.5 - 6 is cut to 0, so the crop is 11 wide and 12 high
    "uneven at the left": ((50, 60), (0, 20, 11, 29), (0, 18, 11, 30)),
    "uneven at the top": ((50, 60), (20, 0, 29, 11), (18, 0, 30, 11)),
    "at the right": ((50, 60), (40, 10, 59, 20), (38, 4, 60, 26)),
    "in the corner": ((50, 60), (0, 0, 12, 12), (-1, -1, 13, 13)),
    "full": ((20, 30), (0, 0, 29, 19), (-2, -7, 31, 26)),
}


def picture(size: tuple[int, int], box: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    random = np.random.default_rng(sum(box))
    rgba = random.integers(0, 256, (*size, 4), np.uint8)
    rgba[..., 3] = 0
    rgba[box[1] : box[3] + 1, box[0] : box[2] + 1, 3] = 255
    points = random.normal(0, 1, (3, *size)).astype(np.float32)
    points[:, random.random(size) < 0.1] = np.nan
    return rgba, points


def paste(image: NDArray[np.float32], left: int, top: int, side: int, value: float) -> NDArray[np.float32]:
    """A square of [C, H, W] at a place, `value` where there is no pixel."""
    out = np.full((len(image), side, side), value, np.float32)
    for row in range(side):
        for column in range(side):
            if 0 <= row + top < image.shape[1] and 0 <= column + left < image.shape[2]:
                out[:, row, column] = image[:, row + top, column + left]
    return out


def nearest(image: NDArray[np.float32]) -> NDArray[np.float32]:
    index = [int(np.float32(i) * np.float32(image.shape[1] / SIZE)) for i in range(SIZE)]
    return image[:, index][:, :, index]


def blended(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each result is the mean of its neighbours, weighted by a triangle as wide as the larger of both pixels."""
    side = image.shape[1]
    scale = side / SIZE
    weights = np.zeros((SIZE, side))
    for i in range(SIZE):
        for j in range(side):
            weights[i, j] = max(0, 1 - abs((i + 0.5) * scale - (j + 0.5)) / max(scale, 1))
    weights /= weights.sum(1, keepdims=True)
    return np.einsum("ij,cjk,lk->cil", weights, image, weights).astype(np.float32)


@pytest.mark.parametrize("place", MASKS)
def test_crop_and_full_picture(place: str) -> None:
    size, box, (left, top, right, bottom) = MASKS[place]
    rgba, points = picture(size, box)
    rgb, alpha = np.split(rgba.transpose(2, 0, 1).astype(np.float32) / 255, [3])
    normal = normalise_points(torch.from_numpy(points), torch.from_numpy(alpha[0] > 0.5))[0].numpy()
    found = {name: value[0].numpy() for name, value in Preprocessor(SIZE)(rgba, torch.from_numpy(points)).items()}

    side, longer = max(right - left, bottom - top), max(size)
    x, y = left - (side - (right - left)) // 2, top - (side - (bottom - top)) // 2
    full = -((longer - size[1]) // 2), -((longer - size[0]) // 2), longer

    def crop(image: NDArray[np.float32], uneven: float) -> NDArray[np.float32]:
        """0 beyond the picture, another value beyond the box, where that is not square."""
        out = paste(image, x, y, side, 0)
        out[:, : top - y], out[:, bottom - y :] = uneven, uneven
        out[:, :, : left - x], out[:, :, right - x :] = uneven, uneven
        return out

    np.testing.assert_allclose(found["image"], blended(crop(rgb, 0)), atol=5e-6)
    np.testing.assert_allclose(found["rgb_image"], blended(paste(rgb, *full, 0)), atol=5e-6)
    np.testing.assert_array_equal(found["mask"], nearest(crop(alpha, 0)))
    np.testing.assert_array_equal(found["rgb_image_mask"], nearest(paste(alpha, *full, 0)))
    np.testing.assert_array_equal(found["pointmap"], nearest(crop(normal, np.nan)))
    np.testing.assert_array_equal(found["rgb_pointmap"], nearest(paste(normal, *full, 0)))


def test_only_the_uneven_pixel_of_a_crop_is_unknown() -> None:
    size, box, _ = MASKS["uneven at the left"]
    rgba, points = picture(size, box)
    found = Preprocessor(12)(rgba, torch.from_numpy(np.nan_to_num(points)))
    # 11 columns on 12: the missing one is added at the right.
    assert found["pointmap"][0].isnan().all(0).all(0).tolist() == [False] * 11 + [True]
    assert not found["rgb_pointmap"].isnan().any()
    assert (found["rgb_pointmap"][0, :, 0] == 0).all()
    assert (found["mask"][..., 11] == 0).all() and (found["image"][..., 11] == 0).all()


def test_normalised_by_the_medians() -> None:
    _, points = picture((9, 11), (2, 2, 7, 6))
    points[0, 3, 3], points[2, 0, 0] = np.inf, np.nan
    on_object = np.zeros((9, 11), bool)
    on_object[2:7, 2:8] = True
    shift = [sorted(line[~np.isnan(line)]) for line in points[:, on_object]]
    shift = np.array([line[(len(line) - 1) // 2] for line in shift])  # the lower of two in the middle
    far = np.abs(points - shift[:, None, None]).max(0)
    far = np.sort(far[~np.isnan(far)])
    expected = (points - shift[:, None, None]) / far[(len(far) - 1) // 2]
    expected[:, ~np.isfinite(points).all(0)] = np.nan

    normal, scale, found = normalise_points(torch.from_numpy(points), torch.from_numpy(on_object))
    np.testing.assert_allclose(normal, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found, shift)
    assert scale.tolist() == [pytest.approx(far[(len(far) - 1) // 2])] * 3


def test_without_a_finite_point_on_the_object_nothing_is_normalised(caplog: pytest.LogCaptureFixture) -> None:
    points = torch.arange(60.0).reshape(3, 4, 5)
    points[:, 1, 1:3] = torch.nan
    on_object = torch.zeros(4, 5, dtype=torch.bool)
    on_object[1, 1:3] = True
    normal, scale, shift = normalise_points(points, on_object)
    torch.testing.assert_close(normal, points, rtol=0, atol=0, equal_nan=True)
    assert scale.tolist() == [1, 1, 1] and shift.tolist() == [0, 0, 0]
    assert "no finite point on the object" in caplog.text


def test_a_single_known_point_has_no_scale() -> None:
    points = torch.full((3, 4, 5), torch.nan)
    points[:, 1, 1] = 2.0
    with pytest.raises(InputError, match="gives no scale"):
        normalise_points(points, points[0].isfinite())


def test_second_stage_gets_the_same_pictures_and_no_points() -> None:
    rgba, points = picture(*MASKS["in the middle"][:2])
    first, second = Preprocessor(SIZE)(rgba, torch.from_numpy(points)), Preprocessor(SIZE)(rgba)
    assert second.keys() == {"image", "mask", "rgb_image", "rgb_image_mask"}
    assert all(torch.equal(first[name], value) for name, value in second.items())


def test_results_are_on_the_device_and_points_may_be_half() -> None:
    rgba, points = picture(*MASKS["in the middle"][:2])
    found = Preprocessor(SIZE)(rgba, torch.from_numpy(points).half(), device="meta")
    assert {(value.device.type, value.dtype) for value in found.values()} == {("meta", torch.float32)}


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([], "the mask is empty"),
        ([(4, 4)], r"only 1 x 1 pixels: mark at least 3"),
        ([(4, 4), (5, 9)], r"only 6 x 2 pixels"),
    ],
)
def test_refuses_masks_without_a_box(mask: list[tuple[int, int]], message: str) -> None:
    rgba = np.zeros((12, 14, 4), np.uint8)
    for row, column in mask:
        rgba[row, column, 3] = 255
    with pytest.raises(InputError, match=message):
        Preprocessor(SIZE)(rgba)


def test_refuses_other_shapes() -> None:
    rgba, points = picture(*MASKS["in the middle"][:2])
    with pytest.raises(InputError, match=r"the picture is \[50, 60, 3\] of uint8"):
        Preprocessor(SIZE)(rgba[..., :3])
    with pytest.raises(InputError, match="of float32"):
        Preprocessor(SIZE)(rgba.astype(np.float32))
    with pytest.raises(InputError, match=r"the pointmap is \[50, 60, 3\]"):
        Preprocessor(SIZE)(rgba, torch.from_numpy(points).permute(1, 2, 0))


def test_soft_masks_reach_the_box_but_give_no_points() -> None:
    rgba, points = picture((50, 60), (20, 21, 30, 40))
    rgba[21:41, 20, 3] = 100
    mask = torch.from_numpy(rgba[..., 3] / 255)
    assert crop_box(mask, 1.2) == MASKS["in the middle"][2]
    points[:] = np.where(rgba[..., 3] > 127, 7, 9)
    points[:, 21:41, 20] = 100
    assert Preprocessor(SIZE)(rgba, torch.from_numpy(points))["pointmap_shift"].tolist() == [[7, 7, 7]]


def test_points_of_a_depth_model_reach_the_camera_frame() -> None:
    points = torch.tensor([[[1.0, 2, 3], [torch.inf, 2, 3]], [[1, 2, torch.nan], [-1, 0, 1]]])
    expected = torch.tensor([[[-1.0, -2, 3], [torch.nan] * 3], [[torch.nan] * 3, [1, 0, 1]]])
    torch.testing.assert_close(camera_points(points), expected, equal_nan=True)


def test_a_given_pointmap_is_fitted_by_the_nearest_point() -> None:
    points = torch.arange(18.0).reshape(2, 3, 3)
    assert fit_points(points, 4, 3).tolist() == points[[0, 0, 1, 1]].tolist()
    assert fit_points(points, 2, 3) is points


def test_of_a_square_that_is_too_large_the_picture_is_resized_first(monkeypatch: pytest.MonkeyPatch) -> None:
    height, width = 300, 90
    rows, columns = np.indices((height, width))
    rgba = np.stack([rows % 256, columns * 2, rows // 2, (rows > 40) * (columns > 20) * 255], -1).astype(np.uint8)
    points = torch.from_numpy(np.stack([columns, rows, rows + columns]).astype(np.float32))
    built = Preprocessor(96)(rgba, points)
    monkeypatch.setattr(preprocess, "LARGEST_SQUARE", 10_000)
    resized = Preprocessor(96)(rgba, points)
    for name, value in built.items():
        assert value.shape == resized[name].shape
        away = (value - resized[name]).abs().nan_to_num() / value.abs().nan_to_num().max()
        assert away.mean() < 0.06, name  # what is left is along the padding


def test_the_longest_picture_needs_no_square_of_its_side() -> None:
    rgba = np.zeros((65_535, 8, 4), np.uint8)
    rgba[1000:60_000, :, 3] = 255
    found = Preprocessor(SIZE)(rgba)
    assert {tuple(value.shape[2:]) for value in found.values()} == {(SIZE, SIZE)}
    assert all(found[name].any() for name in ("mask", "rgb_image_mask"))
