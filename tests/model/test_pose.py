"""Poses to layout leaves and back, and the normalisation that they are relative to."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from fast_sam3d.model.config import LAYOUT_CHANNELS
from fast_sam3d.model.pose import (
    CLAMP,
    LEAST_SCALE,
    decode_pose,
    encode_pose,
    normalise_pointmap,
    quaternion_from_matrix,
    rotation_from_6d,
)


def rotations(count: int = 16) -> Tensor:
    return torch.from_numpy(Rotation.random(count, random_state=0).as_matrix()).float()


def matrix_from_quaternion(wxyz: Tensor) -> Tensor:
    """The standard formula, as pytorch3d.transforms.quaternion_to_matrix computes it for unit quaternions."""
    w, x, y, z = wxyz.unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def test_round_trip() -> None:
    generator = torch.Generator().manual_seed(0)
    R = rotations()
    t, shift = torch.randn(16, 3, generator=generator) * 3, torch.randn(16, 3, generator=generator)
    size, scale = (torch.rand(16, generator=generator) * 2 + 0.1 for _ in range(2))
    leaves = encode_pose(R, t, size, scale, shift)
    assert {name: leaf.shape[1:] for name, leaf in leaves.items()} == {n: (1, c) for n, c in LAYOUT_CHANNELS.items()}
    pose = decode_pose(leaves, scale, shift)
    torch.testing.assert_close(matrix_from_quaternion(pose["rotation"]), R, rtol=0, atol=1e-5)
    torch.testing.assert_close(pose["translation"], t, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pose["scale"], size[:, None].expand(-1, 3))


def test_leaves_are_invariant_to_distance_and_scene_size() -> None:
    """A scene twice as large, moved: the same picture, the same leaves."""
    R, t, size = rotations(4), torch.randn(4, 3), torch.rand(4) + 0.5
    scale, shift = torch.rand(4) + 0.5, torch.randn(4, 3)
    near = encode_pose(R, t, size, scale, shift)
    far = encode_pose(R, t * 2 + 1, size * 2, scale * 2, shift * 2 + 1)
    for name in near:
        torch.testing.assert_close(far[name], near[name], rtol=1e-4, atol=1e-5)


def test_both_size_estimates_have_equal_weight() -> None:
    leaves = {name: torch.zeros(1, 1, channels) for name, channels in LAYOUT_CHANNELS.items()}
    leaves["6drotation_normalized"][..., 0] = leaves["6drotation_normalized"][..., 4] = 1
    leaves["scale"] += torch.tensor([0.0, 0.3, 0.6])
    leaves["translation_scale"] += 0.7
    pose = decode_pose(leaves, torch.tensor([2.0]), torch.zeros(1, 3))
    torch.testing.assert_close(pose["scale"], torch.full((1, 3), 2 * float(np.exp(0.5))))


def test_any_six_numbers_give_a_rotation() -> None:
    R = rotation_from_6d(torch.randn(32, 6, generator=torch.Generator().manual_seed(1)) * 3)
    torch.testing.assert_close(R @ R.mT, torch.eye(3).expand_as(R), rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(32))
    exact = rotations()
    torch.testing.assert_close(rotation_from_6d(exact[:, :2].reshape(-1, 6) * 2), exact, rtol=0, atol=1e-5)


def test_quaternions_are_canonical() -> None:
    q = quaternion_from_matrix(rotations())
    assert (q[:, 0] >= 0).all()
    torch.testing.assert_close(q.norm(dim=1), torch.ones(16))


def test_pointmap_normalisation_by_hand() -> None:
    points = torch.tensor([[0.0, 0, 2], [1, 0, 2], [-1, 0, 2], [0, 5, 2], [100, 0, 2], [torch.nan, 0, 0]])
    on_object = torch.tensor([True, True, True, False, False, True])
    normal, scale, shift = normalise_pointmap(points, on_object)
    assert float(scale) == 1
    assert shift.tolist() == [0, 0, 2]
    expected = [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [0, CLAMP, 0], [CLAMP, 0, 0], [0, 0, 0]]
    torch.testing.assert_close(normal, torch.tensor(expected))


def test_a_single_point_has_a_bounded_scale() -> None:
    normal, scale, _ = normalise_pointmap(torch.ones(4, 4, 3), torch.ones(4, 4, dtype=torch.bool))
    assert float(scale) == pytest.approx(LEAST_SCALE)
    assert not normal.any()


def test_pointmap_without_finite_points_is_refused() -> None:
    with pytest.raises(ValueError, match="no finite point"):
        normalise_pointmap(torch.full((2, 2, 3), torch.inf), torch.ones(2, 2, dtype=torch.bool))
