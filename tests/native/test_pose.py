"""Poses of layout leaves against SciPy's rotations and sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from fast_sam3d.native.pose import ROTATION_MEAN, ROTATION_STD, PoseDecoder, matrix_from_6d, quaternion_from_matrix


def leaves(batch: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"6drotation_normalized": 6, "scale": 3, "translation": 3, "translation_scale": 1}
    return {name: torch.randn(batch, 1, size, generator=generator) for name, size in sizes.items()}


def test_poses_by_hand() -> None:
    given = leaves(5)
    scene_scale, scene_shift = torch.rand(5, 1).expand(5, 3) + 1, torch.randn(5, 3)
    found = PoseDecoder()(given, scene_scale, scene_shift)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "translation": (5, 3), "rotation": (5, 4), "scale": (5, 3),
    }  # fmt: skip
    for i in range(5):
        six = given["6drotation_normalized"][i, 0].double().numpy() * ROTATION_STD + ROTATION_MEAN
        x = six[:3] / np.linalg.norm(six[:3])
        y = six[3:] - x * (x @ six[3:])
        y /= np.linalg.norm(y)
        w = Rotation.from_matrix(np.stack([x, y, np.cross(x, y)], 1)).as_quat(canonical=True)[[3, 0, 1, 2]]
        np.testing.assert_allclose(found["rotation"][i], w, atol=1e-6)
        size = given["scale"][i, 0].double().exp().mean() * scene_scale[i, 0]
        np.testing.assert_allclose(found["scale"][i], size.expand(3), rtol=1e-6)
        place = given["translation"][i, 0] * scene_scale[i] + scene_shift[i]
        np.testing.assert_allclose(found["translation"][i], place, atol=1e-6)


def test_without_a_pointmap_the_scene_is_the_unit() -> None:
    given = leaves(1)
    unit = PoseDecoder()(given, torch.ones(1, 3), torch.zeros(1, 3))
    assert all(torch.equal(value, unit[name]) for name, value in PoseDecoder()(given).items())


def test_leaves_in_half_are_decoded_in_float32() -> None:
    found = PoseDecoder()({name: leaf.half() for name, leaf in leaves(1).items()})
    assert {value.dtype for value in found.values()} == {torch.float32}


def test_quaternions_of_every_turn() -> None:
    random = Rotation.random(300, rng=np.random.default_rng(0))
    half_turns = Rotation.from_rotvec(np.pi * np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.8, 0], [0, 0.6, 0.8]]))
    near = Rotation.from_rotvec((np.pi - 1e-4) * np.array([[0, -1, 0], [-0.6, 0, 0.8], [0, 0, -1]]))
    for turns in (random, half_turns, near, Rotation.identity(1)):
        matrix = torch.from_numpy(turns.as_matrix()).float()
        found = quaternion_from_matrix(matrix)
        assert (found[:, 0] >= 0).all()
        np.testing.assert_allclose(
            Rotation.from_quat(found[:, [1, 2, 3, 0]].double()).as_matrix(), turns.as_matrix(), atol=1e-6
        )


def test_six_numbers_are_the_first_two_columns() -> None:
    matrix = torch.from_numpy(Rotation.random(4, rng=np.random.default_rng(1)).as_matrix()).float()
    six = torch.cat([matrix[..., 0] * 3, matrix[..., 1] + 2 * matrix[..., 0]], -1)
    torch.testing.assert_close(matrix_from_6d(six), matrix)


def test_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apple's MPS has none."""
    from torch.overrides import TorchFunctionMode

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            assert not (isinstance(result, Tensor) and result.dtype is torch.float64), function
            return result

    with Watch():
        PoseDecoder()(leaves(1), torch.ones(1, 3), torch.zeros(1, 3))
