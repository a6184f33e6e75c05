"""glTF binaries: against an independent loader, the Khronos validator, and damaged files."""

import json
import shutil
import subprocess

import numpy as np
import pytest
import trimesh

from fast_sam3d.geometry.surface import Surface, TexturedMesh
from fast_sam3d.outputs.gltf import POINTS, GlbWriter, read_glb
from fast_sam3d.outputs.meshes import add_surface, save_glb

TRIANGLE = {"POSITION": np.eye(3, dtype=np.float32)}


def test_nodes_stand_where_their_matrices_say(tmp_path):
    writer = GlbWriter()
    mesh = writer.add_mesh(TRIANGLE, np.array([[0, 1, 2]]), name="triangle")
    matrix = np.diag([2.0, 2, 2, 1])
    matrix[:3, 3] = 1, 2, 3
    writer.add_node(mesh, name="Tür 3", matrix=matrix, extras={"score": 0.5})
    writer.add_node(mesh, name="second")
    writer.save(tmp_path / "a.glb")
    loaded = trimesh.load(tmp_path / "a.glb")
    assert np.array_equal(loaded.graph["Tür 3"][0], matrix) and np.array_equal(loaded.graph["second"][0], np.eye(4))
    assert read_glb(tmp_path / "a.glb").tree["nodes"][0]["extras"] == {"score": 0.5}


@pytest.mark.parametrize("count", [65535, 65536, 70000])
def test_indices_are_as_wide_as_they_need_to_be(tmp_path, count):
    points = np.random.default_rng(0).random((count, 3)).astype(np.float32)
    faces = np.array([[0, 1, count - 1]])
    writer = GlbWriter()
    writer.add_node(writer.add_mesh({"POSITION": points}, faces, name="a"), name="a")
    writer.save(tmp_path / "a.glb")
    file = read_glb(tmp_path / "a.glb")
    indices = file.accessor(file.primitives[0]["indices"])
    assert indices.tolist() == [0, 1, count - 1]
    assert indices.dtype == (np.uint16 if count <= 65535 else np.uint32), "65535 restarts a primitive"


def test_points_with_an_extension(tmp_path):
    writer = GlbWriter()
    attributes = {"POSITION": np.eye(3, dtype=np.float32), "EXT_x:OPACITY": np.arange(3, dtype=np.float32)}
    writer.add_node(writer.add_mesh(attributes, name="a", mode=POINTS, extensions={"EXT_x": {"y": 1}}), name="a")
    writer.save(tmp_path / "a.glb")
    file = read_glb(tmp_path / "a.glb")
    assert file.tree["extensionsUsed"] == ["EXT_x"] and file.primitives[0]["mode"] == POINTS
    assert file.accessor(file.primitives[0]["attributes"]["EXT_x:OPACITY"]).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"POSITION": np.eye(3)}, "float64"),
        ({**TRIANGLE, "COLOR_0": np.zeros((3, 3), np.uint8)}, "multiple of 4"),
        ({**TRIANGLE, "NORMAL": np.zeros((2, 3), np.float32)}, "one length"),
        ({"POSITION": np.zeros((0, 3), np.float32)}, "one length"),
        ({"POSITION": np.full((3, 3), np.nan, np.float32)}, "finite"),
    ],
)
def test_what_the_format_cannot_hold_is_refused(attributes, words):
    with pytest.raises(ValueError, match=words):
        GlbWriter().add_mesh(attributes, name="a")


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "version", "json"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    writer = GlbWriter()
    writer.add_node(writer.add_mesh(TRIANGLE, name="a"), name="a")
    writer.save(tmp_path / "a.glb")
    good = (tmp_path / "a.glb").read_bytes()
    bad = {
        "empty": b"", "cut": good[:-5], "text": b"solid x\n" * 9, "version": good[:4] + b"\1" + good[5:],
        "json": good[:20] + b"[" + good[21:],
    }  # fmt: skip
    (tmp_path / "a.glb").write_bytes(bad[damage])
    with pytest.raises(ValueError, match=r"a\.glb is not a complete"):
        read_glb(tmp_path / "a.glb")


def validated(path):
    """The report of the Khronos validator."""
    node = shutil.which("node")
    script = (
        "const v=require('gltf-validator'),fs=require('fs');v.validateBytes(new Uint8Array(fs.readFileSync("
        "process.argv[1])),{maxIssues:20}).then(r=>console.log(JSON.stringify(r)),e=>{console.error(e);process.exit(3)})"
    )
    if node is None:
        pytest.skip("node is not installed")
    done = subprocess.run([node, "-e", script, str(path)], capture_output=True, text=True)
    if done.returncode != 0 and "Cannot find module" in done.stderr:
        pytest.skip("npm's gltf-validator is not installed, or NODE_PATH does not name its folder")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_normal_has_a_direction(tmp_path):
    # The two sides of one triangle cancel each other, but for rounding.
    corners = np.float32([[0.1, 0.2, 0.3], [0.7, 0.3, 0.1], [0.2, 0.9, 0.4]])
    sheet = Surface(corners, np.array([[0, 1, 2], [2, 1, 0]]), np.zeros((3, 3), np.uint8))
    faint = TexturedMesh(corners, sheet.faces, corners[:, :2], np.zeros((8, 8, 3), np.uint8), corners * 1e-30)
    for mesh in (sheet, faint):
        save_glb(tmp_path / "a.glb", mesh)
        file = read_glb(tmp_path / "a.glb")
        normals = file.accessor(file.primitives[0]["attributes"]["NORMAL"])
        np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("kind", ["coloured", "textured", "scene"])
def test_the_khronos_validator_finds_nothing(tmp_path, kind):
    ball = trimesh.creation.icosphere(subdivisions=2)
    vertices, faces = ball.vertices.astype(np.float32), np.asarray(ball.faces)
    # A vertex whose one face has no area has no normal of its own.
    vertices, faces = np.vstack([vertices, vertices[:1]]), np.vstack([faces, [0, 0, len(vertices)]])
    coloured = Surface(vertices, faces, np.random.default_rng(0).integers(0, 256, vertices.shape, np.uint8))
    uv = np.random.default_rng(1).random((len(vertices), 2)).astype(np.float32)
    textured = TexturedMesh(vertices, faces, uv, np.zeros((8, 8, 3), np.uint8), np.zeros_like(vertices))
    if kind == "scene":
        writer = GlbWriter()
        for i, mesh in enumerate((coloured, textured)):
            turned = np.diag([-2.0, 2, -2, 1])
            writer.add_node(add_surface(writer, mesh, name=f"m{i}", lossless=False), name=f"object_{i}", matrix=turned)
        writer.save(tmp_path / "a.glb")
    else:
        save_glb(tmp_path / "a.glb", coloured if kind == "coloured" else textured)
    issues = validated(tmp_path / "a.glb")["issues"]
    assert (issues["numErrors"], issues["numWarnings"]) == (0, 0), issues["messages"]
