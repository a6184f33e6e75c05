"""Meshes as `.glb` files, and their topology."""

import os
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from fast_sam3d.geometry.surface import Surface, TexturedMesh
from fast_sam3d.outputs.gltf import read_glb
from fast_sam3d.outputs.meshes import (
    linear_from_srgb,
    load_glb,
    mesh_summary,
    mesh_to_trimesh,
    save_glb,
    srgb_from_linear,
)  # fmt: skip


def decoded(mesh, **changes):
    rgb = torch.rand(len(mesh.vertices), 3, generator=torch.Generator().manual_seed(1))
    parts = {
        "vertices": torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32),
        "faces": torch.tensor(np.asarray(mesh.faces)),
        "vertex_attrs": torch.cat([rgb, torch.zeros_like(rgb)], dim=1),
        "success": True,
    }
    return SimpleNamespace(**{**parts, **changes})


def test_mesh_to_trimesh_keeps_frame_and_colours():
    box = trimesh.creation.box((0.2, 0.4, 0.8))
    source = decoded(box)
    mesh = mesh_to_trimesh(source)
    assert np.allclose(mesh.extents, [0.2, 0.4, 0.8])
    assert mesh.visual.kind == "vertex" and mesh.visual.vertex_colors.dtype == np.uint8
    assert np.array_equal(mesh.visual.vertex_colors[:, :3], (source.vertex_attrs[:, :3] * 255).round().numpy())
    assert (mesh.visual.vertex_colors[:, 3] == 255).all()


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("flip", [False, True])
def test_normals_point_outwards(flip, half):
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.3)
    if half:  # an open mesh: orientation must not depend on the origin
        ball.update_faces(ball.triangles_center[:, 0] < 0)
    ball.apply_translation((5.0, 0, 0))
    faces = torch.tensor(np.asarray(ball.faces))
    mesh = mesh_to_trimesh(decoded(ball, faces=faces.flip(1) if flip else faces))
    assert (np.einsum("ij,ij->i", mesh.vertex_normals, mesh.vertices - [5, 0, 0]) > 0).all()


def test_unreferenced_vertices_and_their_colours_are_removed():
    box = trimesh.creation.box()
    source = decoded(box)
    source.vertices = torch.cat([torch.full((1, 3), 9.0), source.vertices])
    source.vertex_attrs = torch.cat([torch.zeros(1, 6), source.vertex_attrs])
    source.faces = source.faces + 1
    mesh = mesh_to_trimesh(source)
    assert len(mesh.vertices) == 8 and mesh.bounds.max() == 0.5
    assert np.array_equal(mesh.visual.vertex_colors[:, 0], (source.vertex_attrs[1:, 0] * 255).round().numpy())


def test_a_mesh_without_colours_is_grey_and_an_empty_one_is_rejected():
    box = trimesh.creation.box()
    assert np.ptp(mesh_to_trimesh(decoded(box, vertex_attrs=None)).visual.vertex_colors[:, :3]) == 0
    for changes in ({"success": False}, {"faces": torch.zeros(0, 3, dtype=torch.int64)}):
        with pytest.raises(ValueError, match="empty"):
            mesh_to_trimesh(decoded(box, **changes))


def test_mesh_summary_by_hand():
    box = trimesh.creation.box((1, 2, 3))
    closed = {"vertices": 8, "faces": 12, "watertight": True, "boundary_loops": 0, "components": 1}
    summary = mesh_summary(box)
    assert np.isclose(summary.pop("volume"), 6.0) and summary == closed

    tube = trimesh.creation.cylinder(radius=1, height=2, sections=16)
    open_tube = tube.submesh([np.abs(tube.face_normals[:, 2]) < 0.5], append=True)
    summary = mesh_summary(open_tube)
    assert summary["boundary_loops"] == 2 and not summary["watertight"] and summary["components"] == 1

    two = trimesh.util.concatenate([box, box.copy().apply_translation((9, 0, 0))])
    assert mesh_summary(two)["components"] == 2 and np.isclose(mesh_summary(two)["volume"], 12.0)

    turned = box.copy()
    turned.faces[0] = turned.faces[0][::-1]
    assert mesh_summary(turned)["boundary_loops"] == 0 and not mesh_summary(turned)["watertight"]


def test_a_textured_mesh_keeps_its_texture(tmp_path):
    box = trimesh.creation.box()
    image = Image.fromarray(np.full((4, 4, 3), 90, np.uint8))
    box.visual = trimesh.visual.TextureVisuals(uv=box.vertices[:, :2] + 0.5, image=image)
    save_glb(tmp_path / "a.glb", box, up="y")
    loaded = trimesh.load(tmp_path / "a.glb", force="mesh", process=False)
    assert loaded.visual.kind == "texture" and np.allclose(loaded.vertices, box.vertices)


def groups(edges):
    """How many groups of edges are connected."""
    found = []
    for edge in edges:
        touching = [group for group in found if group & set(edge)]
        found = [group for group in found if group not in touching] + [set(edge).union(*touching)]
    return len(found)


@pytest.mark.parametrize("seed", range(4))
def test_mesh_summary_agrees_with_a_slow_count(seed):
    ball, random = trimesh.creation.icosphere(subdivisions=2), np.random.default_rng(seed)
    faces = ball.faces[random.random(len(ball.faces)) < (0.6, 0.9, 1.0, 0.95)[seed]]
    mesh = trimesh.Trimesh(np.vstack([ball.vertices, ball.vertices + 3]), np.vstack([faces, ball.faces + 162]),
                           process=False)  # fmt: skip
    counts = Counter(
        tuple(sorted(edge)) for face in mesh.faces.tolist() for edge in zip(face, face[1:] + face[:1], strict=True)
    )
    summary = mesh_summary(mesh)
    assert summary["boundary_loops"] == groups(edge for edge, faces in counts.items() if faces == 1)
    assert summary["components"] == groups(counts)
    assert summary["watertight"] == (set(counts.values()) == {2})


def test_mesh_summary_agrees_with_trimesh():
    mesh = trimesh.creation.torus(0.4, 0.1)
    mesh.update_faces(np.arange(len(mesh.faces)) % 97 != 0)
    assert mesh_summary(mesh)["watertight"] == mesh.is_watertight is False
    assert mesh_summary(mesh)["boundary_loops"] == len(mesh.outline().entities)


def test_glb_is_y_up_with_outward_normals_and_linear_colours(tmp_path):
    source = mesh_to_trimesh(decoded(trimesh.creation.icosphere(subdivisions=2, radius=0.5)))
    source.apply_scale((0.2, 0.4, 1.0))
    before = source.vertices.copy(), source.visual.vertex_colors.copy()
    save_glb(tmp_path / "a.glb", source)
    assert np.array_equal(before[0], source.vertices) and np.array_equal(before[1], source.visual.vertex_colors)

    mesh = trimesh.load(tmp_path / "a.glb", force="mesh", process=False)
    assert np.allclose(mesh.vertices, source.vertices @ [[1, 0, 0], [0, 0, -1], [0, 1, 0]], atol=1e-6)
    assert np.isclose(mesh.extents[1], source.extents[2])  # tall along +y
    assert mesh.volume > 0 and mesh.is_watertight
    assert (np.einsum("ij,ij->i", mesh.vertex_normals, mesh.vertices) > 0).all()
    assert np.allclose(np.linalg.norm(mesh.vertex_normals, axis=1), 1)

    file = read_glb(tmp_path / "a.glb")
    colour = file.accessor(file.primitives[0]["attributes"]["COLOR_0"])
    srgb = source.visual.vertex_colors[:, :3] / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    assert colour.dtype == np.uint16 and np.abs(colour[:, :3] / 65535 - linear).max() < 1e-5
    assert file.tree["materials"][0]["pbrMetallicRoughness"] == {"metallicFactor": 0, "roughnessFactor": 1}


def test_every_8_bit_colour_survives_a_glb_of_16_bits():
    every = np.arange(256)
    assert np.array_equal(srgb_from_linear(linear_from_srgb()[every]), every)
    assert len(np.unique(linear_from_srgb())) == 256


def test_a_coloured_mesh_is_read_back_exactly(tmp_path):
    source = mesh_to_trimesh(decoded(trimesh.creation.icosphere(subdivisions=2)))
    save_glb(tmp_path / "a.glb", source)
    read = load_glb(tmp_path / "a.glb")
    assert isinstance(read, Surface)
    assert np.array_equal(read.vertices, source.vertices.astype(np.float32)) and np.array_equal(
        read.faces, source.faces
    )
    assert np.array_equal(read.rgb, source.visual.vertex_colors[:, :3])


def test_a_glb_of_an_earlier_version_is_read(tmp_path):
    box = trimesh.creation.box((1, 2, 3))
    box.visual.vertex_colors = np.tile([55, 55, 55, 255], (8, 1)).astype(np.uint8)
    box.export(tmp_path / "a.glb", include_normals=True)
    read = load_glb(tmp_path / "a.glb")
    assert np.ptp(read.vertices, axis=0).tolist() == [1, 3, 2] and len(read.faces) == 12
    assert set(read.rgb.reshape(-1)) == {128}, "linear 55 of 255"


def test_a_texture_is_read_back_exactly(tmp_path):
    random = np.random.default_rng(0)
    corners = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    mesh = TexturedMesh(
        corners, np.array([[0, 1, 2], [0, 2, 3]]), corners[:, :2],
        random.integers(0, 256, (8, 16, 3), np.uint8), np.tile(np.float32([0, 0, 1]), (4, 1)),
    )  # fmt: skip
    save_glb(tmp_path / "a.glb", mesh)
    read = load_glb(tmp_path / "a.glb")
    assert isinstance(read, TexturedMesh)
    for name in ("vertices", "faces", "uv", "texture", "normals"):
        assert np.array_equal(getattr(read, name), getattr(mesh, name)), name
    assert np.array_equal(read.rgb, mesh.texture[[0, 0, -1, -1], [0, -1, -1, 0]])
    other = trimesh.load(tmp_path / "a.glb", force="mesh", process=False)
    assert np.array_equal(np.asarray(other.visual.material.baseColorTexture), mesh.texture)
    assert np.allclose(other.visual.uv, corners[:, :2] * (1, -1) + (0, 1)), "v goes down in glTF, up in trimesh"


def test_glb_of_a_decoded_mesh_needs_no_conversion(tmp_path):
    ball = decoded(trimesh.creation.icosphere(subdivisions=1))
    save_glb(tmp_path / "a.glb", ball)
    save_glb(tmp_path / "b.glb", mesh_to_trimesh(ball))
    assert (tmp_path / "a.glb").read_bytes() == (tmp_path / "b.glb").read_bytes()


def test_glb_of_a_mesh_that_is_y_up_already(tmp_path):
    box = trimesh.creation.box((1, 2, 3))
    save_glb(tmp_path / "a.glb", box, up="y")
    assert np.allclose(trimesh.load(tmp_path / "a.glb", force="mesh").extents, [1, 2, 3])
    with pytest.raises(ValueError, match="'x'"):
        save_glb(tmp_path / "b.glb", box, up="x")
    with pytest.raises(ValueError, match="no faces"):
        save_glb(tmp_path / "b.glb", trimesh.Trimesh())
    assert os.listdir(tmp_path) == ["a.glb"]
