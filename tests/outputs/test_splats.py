"""Gaussians as .spz, .sog and .glb files."""

import numpy as np
import pytest
import torch

from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.outputs import packages
from fast_sam3d.outputs.gaussians import GLB_AXES, PLY_AXES, load_gaussians_ply
from fast_sam3d.outputs.gltf import read_glb
from fast_sam3d.outputs.splats import EXTENSION, save_splats
from tests.outputs.test_gaussians import covariances, gaussians
from tests.outputs.test_gltf import validated


def coloured(count=200):
    """Gaussians with colours and sizes that a small file can hold."""
    random = torch.Generator().manual_seed(1)
    return gaussians(
        count, _features_dc=torch.rand(count, 1, 3, generator=random) * 3 - 1.5,
        get_opacity=torch.rand(count, 1, generator=random) * 0.9 + 0.05,
    )  # fmt: skip


@pytest.mark.parametrize("frame", ["object", "camera"])
@pytest.mark.parametrize(("kind", "axes"), [("spz", GLB_AXES), ("sog", PLY_AXES)])
def test_small_files_hold_the_gaussians_in_the_axes_of_their_format(tmp_path, kind, axes, frame):
    """.spz is right, up, back; .sog is right, down, forward as .ply."""
    gaussforge = pytest.importorskip("gaussforge")
    source = GaussianCloud.of(coloured())
    save_splats(tmp_path / f"a.{kind}", source, frame)
    assert (tmp_path / f"a.{kind}").stat().st_size < 20_000
    back = gaussforge.GaussForge().convert((tmp_path / f"a.{kind}").read_bytes(), kind, "ply")
    (tmp_path / "a.ply").write_bytes(back["data"])
    found, expected = load_gaussians_ply(tmp_path / "a.ply"), source.turned(axes[frame])
    # The format sorts them.
    place = {"spz": 2e-4, "sog": 1e-4}[kind]
    nearest = np.linalg.norm(found.get_xyz[:, None] - expected.get_xyz, axis=2).argmin(axis=1)
    assert sorted(nearest) == list(range(len(nearest)))
    np.testing.assert_allclose(found.get_xyz, expected.get_xyz[nearest], atol=place)
    np.testing.assert_allclose(found.rgb, expected.rgb[nearest], atol=0.02)
    np.testing.assert_allclose(found.get_opacity, expected.get_opacity[nearest], atol=0.02)
    np.testing.assert_allclose(covariances(found), covariances(expected)[nearest], atol=2e-4)


@pytest.mark.parametrize("frame", ["object", "camera"])
def test_khr_gaussian_splatting_holds_the_gaussians_exactly(tmp_path, frame):
    source = GaussianCloud.of(coloured())
    save_splats(tmp_path / "a.glb", source, frame)
    file = read_glb(tmp_path / "a.glb")
    (primitive,) = file.primitives
    parts = {name: file.accessor(index) for name, index in primitive["attributes"].items()}
    assert primitive["mode"] == 0 and primitive["extensions"][EXTENSION]["kernel"] == "ellipse"
    assert primitive["extensions"][EXTENSION]["colorSpace"] == "srgb_rec709_display"
    expected = source.turned(GLB_AXES[frame])
    np.testing.assert_array_equal(parts["POSITION"], expected.get_xyz)
    np.testing.assert_array_equal(parts[f"{EXTENSION}:ROTATION"], expected.get_rotation[:, [1, 2, 3, 0]])
    np.testing.assert_array_equal(parts[f"{EXTENSION}:SCALE"], expected.get_scaling)  # linear
    np.testing.assert_array_equal(parts[f"{EXTENSION}:OPACITY"].reshape(-1), expected.get_opacity[:, 0])
    np.testing.assert_array_equal(parts[f"{EXTENSION}:SH_DEGREE_0_COEF_0"], expected._features_dc[:, 0])


def test_the_khronos_validator_finds_nothing_in_gaussians(tmp_path):
    save_splats(tmp_path / "a.glb", coloured())
    # Version 2.0.0-dev.3.10 of the validator does not know the names of the extension's attributes.
    unknown = ("UNSUPPORTED_EXTENSION", "MESH_PRIMITIVE_INVALID_ATTRIBUTE")
    issues = [
        item for item in validated(tmp_path / "a.glb")["issues"]["messages"]
        if item["code"] not in unknown or (item["code"] == unknown[1] and EXTENSION not in item["pointer"])
    ]  # fmt: skip
    assert not issues


def test_a_missing_package_is_named_with_its_command(tmp_path, monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(packages.importlib, "import_module", missing)
    with pytest.raises(ExportError, match=r'gaussforge cannot be imported.*pip install "fast-sam3d\[export\]"'):
        save_splats(tmp_path / "a.spz", gaussians())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["spz", "sog", "glb"])
def test_what_no_format_holds_is_refused_before_writing(tmp_path, kind):
    for wrong in (gaussians(0), gaussians(get_xyz=torch.full((5, 3), torch.nan))):
        with pytest.raises(ValueError):
            save_splats(tmp_path / f"a.{kind}", wrong)
    if kind == "spz":
        with pytest.raises(ExportError, match="coordinates from 2048 up"):
            save_splats(tmp_path / "a.spz", gaussians(get_xyz=torch.full((5, 3), 3e3)))
    assert not list(tmp_path.iterdir())
