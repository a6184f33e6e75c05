"""Gaussian container and its PLY file."""

from __future__ import annotations

import numpy as np
import torch

from fast_sam3d.model.gaussian import SH_C0, Gaussians


def some(n: int = 5) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    return Gaussians.from_values(
        xyz=torch.rand(n, 3, generator=generator) - 0.5,
        features_dc=torch.randn(n, 1, 3, generator=generator),
        log_scaling=torch.randn(n, 3, generator=generator) - 4,
        rotation=torch.randn(n, 4, generator=generator),
        opacity_logit=torch.randn(n, 1, generator=generator),
    )


def test_ply_holds_the_standard_fields(tmp_path):
    gaussians = some()
    gaussians.save_ply(tmp_path / "x.ply")
    head, _, body = (tmp_path / "x.ply").read_bytes().partition(b"end_header\n")
    lines = head.decode("ascii").split("\n")
    assert lines[:3] == ["ply", "format binary_little_endian 1.0", "element vertex 5"]
    names = [line.split()[2] for line in lines[3:] if line]
    colour_and_shape = ["f_dc_0", "f_dc_1", "f_dc_2", "opacity", "scale_0", "scale_1", "scale_2"]
    rotation = ["rot_0", "rot_1", "rot_2", "rot_3"]
    assert names == ["x", "y", "z", "nx", "ny", "nz", *colour_and_shape, *rotation]
    table = np.frombuffer(body, "<f4").reshape(5, len(names))
    want = torch.cat(
        [
            gaussians.get_xyz,
            torch.zeros(5, 3),
            gaussians._features_dc[:, 0],
            torch.logit(gaussians.get_opacity),
            gaussians.get_scaling.log(),
            gaussians.get_rotation,
        ],
        dim=1,
    )
    np.testing.assert_allclose(table, want.numpy(), atol=1e-5)


def test_setters_undo_getters():
    first, second = some(), Gaussians()
    second.from_xyz(first.get_xyz)
    second.from_scaling(first.get_scaling)
    second.from_rotation(first.get_rotation)
    second.from_opacity(first.get_opacity)
    second.from_features(first.get_features)
    for name in ("get_xyz", "get_scaling", "get_rotation", "get_opacity", "get_features"):
        torch.testing.assert_close(getattr(second, name), getattr(first, name), atol=1e-6, rtol=1e-5)
    assert len(second) == 5


def test_first_harmonic():
    assert abs(SH_C0 - 0.5 / np.sqrt(np.pi)) < 1e-12
