"""Files that open elsewhere, and never half of one."""

import json
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh

from fast_sam3d.geometry.gaussians import SH_C0, GaussianCloud
from fast_sam3d.outputs.export import (
    PLY_FIELDS,
    atomic_write,
    load_gaussians_ply,
    mesh_summary,
    mesh_to_trimesh,
    pose_matrix,
    save_gaussians_ply,
    save_glb,
    save_json,
    save_pose_json,
)


def gaussians(count=5, **changes):
    """The attribute surface of the pipelines, with gradients as a careless caller would leave them."""
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


def decoded(mesh, **changes):
    rgb = torch.rand(len(mesh.vertices), 3, generator=torch.Generator().manual_seed(1))
    parts = {
        "vertices": torch.tensor(np.asarray(mesh.vertices), dtype=torch.float32),
        "faces": torch.tensor(np.asarray(mesh.faces)),
        "vertex_attrs": torch.cat([rgb, torch.zeros_like(rgb)], dim=1),
        "success": True,
    }
    return SimpleNamespace(**{**parts, **changes})


# ------------------------------------------------------------------------------------------------ atomic writes


def test_atomic_write_puts_the_whole_file(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with atomic_write(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [b"old", None])
def test_atomic_write_leaves_nothing_behind(tmp_path, error, existing):
    target = tmp_path / "a.bin"
    if existing:
        target.write_bytes(existing)

    def interrupted():
        with atomic_write(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir(tmp_path) == (["a.bin"] if existing else [])
    assert not existing or target.read_bytes() == existing


def test_atomic_write_cleans_up_when_the_rename_fails(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError), atomic_write(tmp_path / "taken") as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == ["taken"]


def test_atomic_write_keeps_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "atomic") as file:
        file.write(b"")
    assert os.stat(tmp_path / "atomic").st_mode == os.stat(tmp_path / "plain").st_mode


def test_atomic_write_by_many_at_once_gives_one_whole_file(tmp_path):
    def write(letter):
        with atomic_write(tmp_path / "a") as file:
            for _ in range(200):
                file.write(letter * 100)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a").read_bytes()
    assert len(content) == 20_000 and len(set(content)) == 1 and os.listdir(tmp_path) == ["a"]


def test_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        save_json(tmp_path / "missing" / "a.json", {})


# -------------------------------------------------------------------------------------------------- gaussians


def test_ply_is_a_standard_3dgs_file(tmp_path):
    source = gaussians()
    save_gaussians_ply(tmp_path / "a.ply", source)
    # A reader that is not ours: header and table are what trimesh finds.
    vertex = trimesh.load(tmp_path / "a.ply").metadata["_ply_raw"]["vertex"]["data"]
    assert vertex.dtype.names == PLY_FIELDS and all(vertex.dtype[name] == np.float32 for name in PLY_FIELDS)
    opacity = source.get_opacity[:, 0]
    assert np.allclose(vertex["opacity"], torch.logit(opacity), atol=1e-5)
    assert np.allclose(vertex["scale_1"], source.get_scaling[:, 1].log(), atol=1e-5)
    assert np.allclose(vertex["f_dc_2"], source._features_dc[:, 0, 2])
    assert np.allclose(vertex["z"], source.get_xyz.detach()[:, 2]) and not vertex["nx"].any()
    rotation = np.stack([vertex[f"rot_{i}"] for i in range(4)], axis=1)
    assert np.allclose(np.linalg.norm(rotation, axis=1), 1.0, atol=1e-6)
    assert np.allclose(rotation, torch.nn.functional.normalize(source.get_rotation), atol=1e-6)


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
    assert head.startswith(b"ply\nformat binary_little_endian 1.0\nelement vertex 1\nproperty float x\n")
    assert np.frombuffer(body, "<f4").tolist() == [1, 2, 3, 0, 0, 0, 4, 5, 6, 0, 0, 0, 0, 1, 0, 0, 0]


def test_ply_round_trip(tmp_path):
    source = gaussians(100)
    save_gaussians_ply(tmp_path / "a.ply", source)
    loaded, expected = load_gaussians_ply(tmp_path / "a.ply"), GaussianCloud.of(source)
    for name in ("get_xyz", "get_scaling", "get_rotation", "get_opacity", "_features_dc"):
        assert np.allclose(getattr(loaded, name), getattr(expected, name), atol=1e-5), name
    save_gaussians_ply(tmp_path / "b.ply", loaded)  # what was read can be written again


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


def test_colour_is_the_stock_one():
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
def test_unusable_gaussians_are_refused_before_writing(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        save_gaussians_ply(tmp_path / "a.ply", gaussians(**changes))
    with pytest.raises(ValueError, match="no gaussian"):
        save_gaussians_ply(tmp_path / "a.ply", gaussians(0))
    assert os.listdir(tmp_path) == []


def test_truncated_or_foreign_ply_is_refused(tmp_path):
    save_gaussians_ply(tmp_path / "a.ply", gaussians())
    whole = (tmp_path / "a.ply").read_bytes()
    for content, message in ((whole[:-4], "truncated"), (b"ply\nformat ascii 1.0\nend_header\n", "not a binary")):
        (tmp_path / "b.ply").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_gaussians_ply(tmp_path / "b.ply")


# -------------------------------------------------------------------------------------------------------- mesh


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
    if half:  # an open mesh that turns its back on the origin must not be judged from there
        ball.update_faces(ball.triangles_center[:, 0] < 0)
    ball.apply_translation((5.0, 0, 0))
    faces = torch.tensor(np.asarray(ball.faces))
    mesh = mesh_to_trimesh(decoded(ball, faces=faces.flip(1) if flip else faces))
    assert (np.einsum("ij,ij->i", mesh.vertex_normals, mesh.vertices - [5, 0, 0]) > 0).all()


def test_unreferenced_vertices_go_with_their_colours():
    box = trimesh.creation.box()
    source = decoded(box)
    source.vertices = torch.cat([torch.full((1, 3), 9.0), source.vertices])
    source.vertex_attrs = torch.cat([torch.zeros(1, 6), source.vertex_attrs])
    source.faces = source.faces + 1
    mesh = mesh_to_trimesh(source)
    assert len(mesh.vertices) == 8 and mesh.bounds.max() == 0.5
    assert np.array_equal(mesh.visual.vertex_colors[:, 0], (source.vertex_attrs[1:, 0] * 255).round().numpy())


def test_mesh_without_colours_is_grey_and_empty_ones_are_refused():
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
    srgb = source.visual.vertex_colors[:, :3] / 255.0
    assert mesh.visual.kind == "vertex"
    assert np.abs(mesh.visual.vertex_colors[:, :3] / 255.0 - ((srgb + 0.055) / 1.055) ** 2.4).max() < 0.01


def test_glb_holds_normals_so_that_viewers_shade_smoothly(tmp_path):
    save_glb(tmp_path / "a.glb", mesh_to_trimesh(decoded(trimesh.creation.icosphere(subdivisions=1))))
    content = (tmp_path / "a.glb").read_bytes()
    tree = json.loads(content[20 : 20 + int.from_bytes(content[12:16], "little")])
    assert {"POSITION", "NORMAL", "COLOR_0"} <= set(tree["meshes"][0]["primitives"][0]["attributes"])


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
    with pytest.raises(ValueError, match="no face"):
        save_glb(tmp_path / "b.glb", trimesh.Trimesh())
    assert os.listdir(tmp_path) == ["a.glb"]


# -------------------------------------------------------------------------------------------------------- pose

HALF = np.sqrt(0.5)
POSE = {  # a quarter turn about z (w, z), doubled, three metres ahead
    "rotation": torch.tensor([[HALF, 0.0, 0.0, HALF]]),
    "translation": torch.tensor([[0.1, -0.2, 3.0]]),
    "scale": torch.tensor([[2.0, 2.0, 2.0]]),
}


def test_pose_matrix_by_hand():
    # R = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]; on row vectors (1, 0, 0) @ R = (0, -1, 0).
    moved = pose_matrix(POSE) @ [1.0, 0.0, 0.0, 1.0]
    assert np.allclose(moved, [0.1, -2.2, 3.0, 1.0])


def test_pose_matrix_is_the_documented_row_vector_form(tmp_path):
    random = np.random.default_rng(3)
    result = {
        "rotation": random.normal(size=(1, 4)),
        "translation": random.normal(size=(1, 3)),
        "scale": random.uniform(0.5, 2, (1, 3)),
    }
    save_pose_json(tmp_path / "pose.json", result)
    pose = json.loads((tmp_path / "pose.json").read_text())
    points = random.normal(size=(7, 3))
    rows = (points * pose["scale"]) @ np.array(pose["rotation_matrix"]) + pose["translation"]
    columns = points @ pose_matrix(result)[:3, :3].T + pose_matrix(result)[:3, 3]
    assert np.allclose(rows, columns) and np.allclose(pose["object_to_camera"], pose_matrix(result))
    opencv = np.array(pose["object_to_camera_opencv"]) @ [*points[0], 1]
    assert np.allclose(opencv[:3], rows[0] * [-1, -1, 1])
    quaternion = trimesh.transformations.quaternion_matrix(pose["rotation"])[:3, :3]
    assert np.allclose(quaternion, pose["rotation_matrix"]) and np.isclose(np.linalg.norm(pose["rotation"]), 1.0)
    assert "+y up" in pose["camera_frame"] and "z up" in pose["object_frame"] and "@" in pose["convention"]


def test_pose_without_a_rotation_is_refused():
    with pytest.raises(ValueError, match="quaternion"):
        pose_matrix({**POSE, "rotation": torch.zeros(1, 4)})


def test_json_types(tmp_path):
    content = {
        "tensor": torch.tensor([1.5, float("nan")]),
        "array": np.arange(2),
        "number": np.float32(0.5),
        "path": tmp_path,
        "text": "größer",
        1: (True, None, float("inf")),
    }
    save_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "größer" in text and "NaN" not in text and text.endswith("}\n")
    loaded = json.loads(text)
    assert loaded["tensor"] == [1.5, None] and loaded["array"] == [0, 1] and loaded["number"] == 0.5
    assert loaded["1"] == [True, None, None] and loaded["path"] == str(tmp_path)
    with pytest.raises(TypeError, match="object"):
        save_json(tmp_path / "b.json", {"x": object()})
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_path_of_another_encoding_is_valid_json_and_reads_back(tmp_path):
    name = os.fsdecode(b"pict\xffure")
    save_json(tmp_path / "a.json", {"image": name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"image": name}
