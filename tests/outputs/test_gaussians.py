"""3DGS `.ply` files."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh

from fast_sam3d.geometry.gaussians import SH_C0, GaussianCloud
from fast_sam3d.geometry.poses import matrices_of_unit_quaternions
from fast_sam3d.outputs.gaussians import PLY_AXES, PLY_FIELDS, load_gaussians_ply, save_gaussians_ply


def gaussians(count=5, **changes):
    """An object with the attributes of a pipeline's gaussians; positions still require gradients."""
    random = torch.Generator().manual_seed(0)
    parts = {
        "get_xyz": torch.rand(count, 3, generator=random) - 0.5,
        "get_scaling": torch.rand(count, 3, generator=random) * 0.05 + 1e-3,
        "get_rotation": torch.randn(count, 4, generator=random),
        "get_opacity": torch.rand(count, 1, generator=random),
        "_features_dc": torch.randn(count, 1, 3, generator=random),
        "sh_degree": 0,
    }
    parts["get_xyz"].requires_grad_()
    return SimpleNamespace(**{**parts, **changes})


def test_ply_is_a_standard_3dgs_file(tmp_path):
    source = gaussians()
    save_gaussians_ply(tmp_path / "a.ply", source)
    # Read by trimesh, an independent reader.
    vertex = trimesh.load(tmp_path / "a.ply").metadata["_ply_raw"]["vertex"]["data"]
    assert vertex.dtype.names == PLY_FIELDS and all(vertex.dtype[name] == np.float32 for name in PLY_FIELDS)
    opacity = source.get_opacity[:, 0]
    assert np.allclose(vertex["opacity"], torch.logit(opacity), atol=1e-5)
    assert np.allclose(vertex["scale_1"], source.get_scaling[:, 2].log(), atol=1e-5)
    assert np.allclose(vertex["f_dc_2"], source._features_dc[:, 0, 2])
    # +y down and +z forward, as COLMAP and the viewers have it.
    assert np.allclose(vertex["y"], -source.get_xyz.detach()[:, 2]) and not vertex["nx"].any()
    assert np.allclose(vertex["z"], source.get_xyz.detach()[:, 1])
    rotation = np.stack([vertex[f"rot_{i}"] for i in range(4)], axis=1)
    assert np.allclose(np.linalg.norm(rotation, axis=1), 1.0, atol=1e-6)
    unit = torch.nn.functional.normalize(source.get_rotation).numpy()
    assert np.allclose(rotation, unit[:, [0, 1, 3, 2]] * [1, 1, -1, 1], atol=1e-6)


def test_ply_bytes_of_one_gaussian(tmp_path):
    one = gaussians(
        1,
        get_xyz=[[1.0, 2.0, 3.0]],
        get_scaling=[[1.0, 1.0, 1.0]],
        get_rotation=[[2.0, 0, 0, 0]],
        get_opacity=[[0.5]],
        _features_dc=[[[4.0, 5.0, 6.0]]],
    )
    save_gaussians_ply(tmp_path / "a.ply", one)
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    assert head.startswith(
        b"ply\nformat binary_little_endian 1.0\ncomment frame: object, written as x -z y of an object with +z up\n"
        b"element vertex 1\nproperty float x\n"
    )
    assert np.frombuffer(body, "<f4").tolist() == [1, -3, 2, 0, 0, 0, 4, 5, 6, 0, 0, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("frame", ["object", "camera"])
def test_ply_round_trip(tmp_path, frame):
    source = gaussians(100)
    save_gaussians_ply(tmp_path / "a.ply", source, frame)
    loaded, expected = load_gaussians_ply(tmp_path / "a.ply"), GaussianCloud.of(source)
    for name in ("get_xyz", "get_scaling", "get_rotation", "get_opacity", "_features_dc"):
        assert np.allclose(getattr(loaded, name), getattr(expected, name), atol=1e-5), name
    save_gaussians_ply(tmp_path / "b.ply", loaded, frame)
    np.testing.assert_array_equal(load_gaussians_ply(tmp_path / "b.ply").get_xyz, loaded.get_xyz)


def test_ply_without_a_frame_is_read_as_it_is(tmp_path):
    """As earlier versions wrote it, and as other programs do."""
    save_gaussians_ply(tmp_path / "a.ply", gaussians())
    head, mark, body = (tmp_path / "a.ply").read_bytes().partition(b"element vertex")
    (tmp_path / "b.ply").write_bytes(b"ply\nformat binary_little_endian 1.0\n" + mark + body)
    new, old = load_gaussians_ply(tmp_path / "a.ply"), load_gaussians_ply(tmp_path / "b.ply")
    assert b"comment frame" in head
    np.testing.assert_array_equal(old.get_xyz, new.get_xyz[:, [0, 2, 1]] * [1, -1, 1])


def test_turning_gaussians_turns_their_covariances():
    cloud = GaussianCloud.of(gaussians(20))
    for axes in PLY_AXES.values():
        new = cloud.turned(axes)
        assert np.allclose(covariances(new), axes @ covariances(cloud) @ axes.T, atol=1e-6)
        np.testing.assert_array_equal(new.turned(axes.T).get_rotation, cloud.get_rotation)
        assert np.isclose(np.linalg.det(axes), 1)


def covariances(cloud):
    rotation = matrices_of_unit_quaternions(cloud.get_rotation.astype(np.float64))
    return rotation @ (cloud.get_scaling[:, :, None] ** 2 * np.eye(3)) @ rotation.swapaxes(1, 2)


def test_extreme_values_stay_finite(tmp_path):
    hard = gaussians(2, get_opacity=torch.tensor([[0.0], [1.0]]), get_scaling=torch.tensor([[0.0] * 3, [1.0] * 3]))
    save_gaussians_ply(tmp_path / "a.ply", hard)
    vertex = trimesh.load(tmp_path / "a.ply").metadata["_ply_raw"]["vertex"]["data"]
    assert all(np.isfinite(vertex[name]).all() for name in PLY_FIELDS)
    assert vertex["opacity"][0] < -10 and vertex["opacity"][1] > 10


def test_half_precision_gaussians(tmp_path):
    source = gaussians()
    half = {k: v.detach().bfloat16() if torch.is_tensor(v) else v for k, v in vars(source).items()}
    save_gaussians_ply(tmp_path / "a.ply", SimpleNamespace(**half))
    assert np.allclose(load_gaussians_ply(tmp_path / "a.ply").get_xyz, source.get_xyz.detach(), atol=3e-3)


def test_colour_equals_the_stock_formula():
    grey = GaussianCloud.of(gaussians(1, _features_dc=torch.tensor([[[0.0, 0.5 / SH_C0, -9.0]]])))
    assert np.allclose(grey.rgb, [[0.5, 1.0, 0.0]])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sh_degree": 2}, "degree 0"),
        ({"get_opacity": torch.rand(4, 1)}, "get_opacity has shape"),
        ({"get_scaling": torch.full((5, 3), torch.nan)}, "get_scaling .* not finite"),
    ],
)
def test_invalid_gaussians_are_rejected_before_writing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        save_gaussians_ply(tmp_path / "a.ply", gaussians(**changes))
    with pytest.raises(ValueError, match="no gaussians"):
        save_gaussians_ply(tmp_path / "a.ply", gaussians(0))
    assert os.listdir(tmp_path) == []


def test_truncated_or_other_ply_files_are_rejected(tmp_path):
    save_gaussians_ply(tmp_path / "a.ply", gaussians())
    whole = (tmp_path / "a.ply").read_bytes()
    for content, message in ((whole[:-4], "truncated"), (b"ply\nformat ascii 1.0\nend_header\n", "not a binary")):
        (tmp_path / "b.ply").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_gaussians_ply(tmp_path / "b.ply")
