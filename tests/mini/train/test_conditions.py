"""Conditions and layout targets against the poses that they encode."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fast_sam3d.mini.train.conditions import crops, layout_statistics, layout_targets, poses, standardise
from fast_sam3d.model.config import LAYOUT_CHANNELS
from fast_sam3d.model.pose import PoseDecoder, decode_pose


@pytest.fixture
def rows(objects) -> np.ndarray:
    return objects.arrays["pose"]


def test_targets_decode_to_the_stored_poses(rows):
    pose = poses(rows)
    got = decode_pose(layout_targets(rows), pose["scene_scale"], pose["scene_shift"])
    torch.testing.assert_close(got["translation"], pose["t"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(got["scale"], pose["size"][:, None].expand(-1, 3), atol=0, rtol=1e-5)
    w, x, y, z = got["rotation"].unbind(-1)
    # First row of the matrix of a quaternion, by hand.
    first = torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1)
    torch.testing.assert_close(first, pose["R"][:, 0], atol=1e-5, rtol=0)


def test_pipeline_inverts_the_standardisation(rows):
    statistics = layout_statistics(rows)
    leaves = standardise(layout_targets(rows), statistics)
    decoder = PoseDecoder(
        {name: leaf["mean"] for name, leaf in statistics.items()},
        {name: leaf["std"] for name, leaf in statistics.items()},
    )
    pose = poses(rows)
    got = decoder(leaves, scene_scale=pose["scene_scale"], scene_shift=pose["scene_shift"])
    torch.testing.assert_close(got["translation"].reshape(-1, 3), pose["t"], atol=1e-4, rtol=1e-4)


def test_standardised_leaves_have_no_mean_and_unit_deviation(rows):
    leaves = standardise(layout_targets(rows), layout_statistics(rows))
    assert {name: leaf.shape[1:] for name, leaf in leaves.items()} == {n: (1, c) for n, c in LAYOUT_CHANNELS.items()}
    for leaf in leaves.values():
        torch.testing.assert_close(leaf.mean(0), torch.zeros(1, leaf.shape[2]), atol=1e-4, rtol=0)
        assert (leaf.std(0) < 1.001).all()
    torch.testing.assert_close(leaves["scale"].std(0), torch.ones(1, 3))


def test_constant_channels_stay_finite(rows):
    same = np.repeat(rows[:1], 4, 0)
    leaves = standardise(layout_targets(same), layout_statistics(same))
    assert all(torch.allclose(leaf, torch.zeros_like(leaf), atol=1e-3) for leaf in leaves.values())


def test_crops_without_augmentation_equal_the_stored_ones(objects):
    picked = torch.tensor([5, 0])
    got = crops(objects, picked, None)
    assert {name: tuple(value.shape) for name, value in got.items()} == {
        "image": (2, 3, 64, 64),
        "mask": (2, 1, 64, 64),
        "pointmap": (2, 3, 64, 64),
        "descriptor": (2, 8),
    }
    assert all(value.dtype == torch.float32 for value in got.values())
    for row, view in enumerate(picked.tolist()):
        image = (got["image"][row].permute(1, 2, 0) * 255).round().numpy()
        np.testing.assert_array_equal(image, objects.arrays["image"][view])
        np.testing.assert_array_equal(got["mask"][row, 0].numpy(), objects.arrays["mask"][view])
        np.testing.assert_array_equal(got["pointmap"][row].permute(1, 2, 0), objects.arrays["pointmap"][view])


def test_augmentation_is_bounded_and_does_not_modify_the_data(objects):
    before = {name: objects.arrays[name].copy() for name in ("image", "pointmap", "descriptor")}
    picked = torch.arange(8).repeat(8)
    plain = crops(objects, picked, None)
    got = crops(objects, picked, torch.Generator().manual_seed(0))
    again = crops(objects, picked, torch.Generator().manual_seed(0))
    assert all(torch.equal(got[name], again[name]) for name in got)
    assert got["image"].min() >= 0 and got["image"].max() <= 1
    assert not torch.equal(got["image"], plain["image"])
    assert torch.equal(got["mask"], plain["mask"])
    assert (got["pointmap"][plain["pointmap"].eq(0).all(1, keepdim=True).expand_as(plain["pointmap"])] == 0).all()
    noisy = (got["pointmap"] != plain["pointmap"]).flatten(1).any(1)
    assert 0.25 < noisy.float().mean() < 0.75
    assert (got["pointmap"] - plain["pointmap"]).abs().max() < 0.2
    assert (got["descriptor"][:, 4] == 0).any() and (got["descriptor"][:, 4] != 0).any()
    others = [0, 1, 2, 3, 5, 6, 7]
    assert torch.equal(got["descriptor"][:, others], plain["descriptor"][:, others])
    assert all(np.array_equal(objects.arrays[name], value) for name, value in before.items())
