"""Write results to disk: 3DGS `.ply`, coloured `.glb`, pose `.json`. A file appears whole or not at all.

Sources: 3DGS layout from graphdeco-inria/gaussian-splatting (`save_ply`), glTF 2.0 section 3.6 (axes) and 3.7.2.1
(COLOR_0 is linear).
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import numpy as np

from fast_sam3d.geometry.arrays import as_numpy
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.outputs.interrupts import interrupts_deferred

if TYPE_CHECKING:
    import trimesh

PLY_FIELDS = (
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
    *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
)
# Finite limits for the logit and the logarithm: an opacity of exactly 0 or 1, or a scale of 0, has neither.
MIN_OPACITY = 1e-6
MIN_SCALE = 1e-10

CAMERA_FRAME = "PyTorch3D: +x left, +y up, +z forward (into the picture), same units as the pointmap"
OBJECT_FRAME = "canonical cube [-0.5, 0.5]^3, +z up"
POSE_CONVENTION = (
    "rotation is a quaternion (w, x, y, z) and rotation_matrix is its matrix R, used on row vectors: "
    "p_camera = (p_object * scale) @ rotation_matrix + translation. "
    "object_to_camera is the same map for column vectors: [p_camera, 1] = object_to_camera @ [p_object, 1]. "
    "object_to_camera_opencv goes to +x right, +y down, +z forward instead. "
    "The .ply holds object coordinates; the .glb holds them turned to +y up, (x, y, z) -> (x, z, -y)."
)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """Open a binary file that takes the place of `path` only when the block ends without an exception.

    The bytes go to a hidden file in the same folder (a rename across file systems is not atomic), are synced and then
    renamed. On any exception, KeyboardInterrupt too, the hidden file is removed and an older `path` stays as it was.

    Raises:
        OSError: the folder does not exist or cannot be written.
    """
    target = Path(path)
    aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        # Not tempfile: it makes files that only their owner can read, and the rename would keep that.
        with open(aside, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, target)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


# --------------------------------------------------------------------------------------------------- gaussians


def save_gaussians_ply(path: str | os.PathLike[str], gaussians: Any) -> None:
    """Write a standard 3DGS file: binary little-endian, float32, logit opacity, log scale, unit quaternion wxyz.

    Args:
        gaussians: object with get_xyz [n, 3], get_scaling [n, 3], get_rotation [n, 4] wxyz, get_opacity [n, 1] in 0..1
            and _features_dc [n, 1, 3]. Coordinates are written as they are (canonical, +z up).

    Raises:
        ValueError: no gaussian, or attributes that `GaussianCloud.of` refuses.
    """
    cloud = GaussianCloud.of(gaussians)
    count = len(cloud.get_xyz)
    if count == 0:
        raise ValueError("there is no gaussian to write")
    opacity = np.clip(cloud.get_opacity.astype(np.float64), MIN_OPACITY, 1.0 - MIN_OPACITY)
    columns = (
        cloud.get_xyz,
        np.zeros((count, 3)),  # normals: part of the format, unused by viewers
        cloud._features_dc.reshape(count, 3),
        np.log(opacity / (1.0 - opacity)),
        np.log(np.maximum(cloud.get_scaling.astype(np.float64), MIN_SCALE)),
        cloud.get_rotation,
    )
    header = ["ply", "format binary_little_endian 1.0", f"element vertex {count}"]
    header += [f"property float {name}" for name in PLY_FIELDS] + ["end_header", ""]
    with atomic_write(path) as file:
        file.write("\n".join(header).encode("ascii"))
        file.write(np.concatenate(columns, axis=1).astype("<f4").tobytes())


def load_gaussians_ply(path: str | os.PathLike[str]) -> GaussianCloud:
    """Read a file written by `save_gaussians_ply` back to activated values.

    Raises:
        ValueError: not a binary little-endian 3DGS file of degree 0, or truncated.
    """
    content = Path(path).read_bytes()
    head, mark, body = content.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").split("\n")
    names = tuple(line.split()[-1] for line in lines if line.startswith("property float "))
    counts = [int(line.split()[-1]) for line in lines if line.startswith("element vertex ")]
    if not mark or lines[:2] != ["ply", "format binary_little_endian 1.0"] or names != PLY_FIELDS or len(counts) != 1:
        raise ValueError(f"{path} is not a binary little-endian 3DGS file with the fields {' '.join(PLY_FIELDS)}")
    if len(body) != counts[0] * len(PLY_FIELDS) * 4:
        raise ValueError(f"{path} is truncated: {len(body)} bytes of data for {counts[0]} gaussians")
    table = np.frombuffer(body, "<f4").reshape(counts[0], len(PLY_FIELDS)).astype(np.float32)
    return GaussianCloud(
        get_xyz=table[:, 0:3],
        get_scaling=np.exp(table[:, 10:13]),
        get_rotation=table[:, 13:17],
        get_opacity=1.0 / (1.0 + np.exp(-table[:, 9:10])),
        _features_dc=table[:, None, 6:9],
    )


# -------------------------------------------------------------------------------------------------------- mesh


def mesh_to_trimesh(mesh_result: Any) -> trimesh.Trimesh:
    """Turn a decoded mesh into a trimesh: canonical frame (+z up), uint8 vertex colours, outward normals.

    Args:
        mesh_result: object with vertices [V, 3], faces [F, 3] and optionally vertex_attrs [V, >=3] whose first three
            channels are rgb in 0..1; grey without them. Its other channels are ignored: normals follow from the faces.

    Raises:
        ValueError: the decoder found no surface.
    """
    vertices = as_numpy(mesh_result.vertices, np.float64).reshape(-1, 3)
    faces = as_numpy(mesh_result.faces, np.int64).reshape(-1, 3)
    if len(faces) == 0 or not getattr(mesh_result, "success", True):
        raise ValueError("the decoded mesh is empty: no surface was found")
    attributes = getattr(mesh_result, "vertex_attrs", None)
    rgb = np.full((len(vertices), 3), 0.7) if attributes is None else as_numpy(attributes)[:, :3]
    rgba = np.full((len(vertices), 4), 255, np.uint8)
    rgba[:, :3] = np.round(np.clip(np.nan_to_num(rgb), 0.0, 1.0) * 255.0)
    if _signed_volume(vertices, faces) < 0:
        faces = faces[:, ::-1]
    with whole_trimesh():
        import trimesh

        mesh = trimesh.Trimesh(vertices=vertices, faces=faces, vertex_colors=rgba, process=False)
        mesh.remove_unreferenced_vertices()
    return mesh


def whole_trimesh() -> contextlib.AbstractContextManager[None]:
    """For calls of trimesh: its many `except BaseException`, around imports above all, would swallow a Ctrl-C."""
    return interrupts_deferred()


def mesh_summary(mesh: Any) -> dict[str, Any]:
    """Count what tells a closed mesh from a broken one.

    Args:
        mesh: object with vertices [V, 3] and faces [F, 3].

    Returns:
        vertices, faces, components (connected through shared vertices), boundary_loops (holes: connected groups of
        edges that belong to one face; two holes that touch at a vertex count as one), watertight (every edge belongs to
        exactly two faces, run through in opposite directions), volume (signed, meaningful where watertight).
    """
    vertices, faces = as_numpy(mesh.vertices, np.float64), as_numpy(mesh.faces, np.int64)
    summary: dict[str, Any] = {"vertices": len(vertices), "faces": len(faces)}
    directed = faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    low, high = directed.min(axis=1), directed.max(axis=1)
    key, sides = np.unique(low * max(len(vertices), 1) + high, return_inverse=True)
    uses = np.bincount(sides, minlength=len(key))
    # +1 one way, -1 the other: zero for every edge whose two faces agree on the outside.
    balance = np.bincount(sides, weights=np.where(directed[:, 0] < directed[:, 1], 1.0, -1.0), minlength=len(key))
    boundary = directed[uses[sides] == 1]
    summary["watertight"] = bool(len(faces) and (uses == 2).all() and (balance == 0).all())
    summary["boundary_loops"] = _edge_groups(boundary, len(vertices))
    summary["components"] = _edge_groups(directed, len(vertices))
    summary["volume"] = float(_signed_volume(vertices, faces)) if len(faces) else 0.0
    return summary


def _edge_groups(edges: np.ndarray, count: int) -> int:
    """Number of connected groups among edges [E, 2] over `count` vertices, vertices without an edge left out."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if len(edges) == 0:
        return 0
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    labels = connected_components(graph, directed=False)[1]
    return len(np.unique(labels[edges[:, 0]]))


def _signed_volume(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Volume of tetrahedra from the centroid to each face; positive if the faces run counter-clockwise from outside."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    corner = (vertices - vertices[used].mean(axis=0))[faces]
    return float(np.einsum("ij,ij->", corner[:, 0], np.cross(corner[:, 1], corner[:, 2])) / 6.0)


def save_glb(path: str | os.PathLike[str], mesh: Any, up: Literal["z", "y"] = "z") -> None:
    """Write a coloured glTF binary, +y up as glTF expects, with vertex normals and linear vertex colours.

    Vertices are turned by (x, y, z) -> (x, z, -y) where the mesh is +z up. glTF takes COLOR_0 as linear light, so the
    sRGB colours are converted: written as they are, every viewer shows them washed out.

    Args:
        mesh: a decoded mesh (a result's "mesh"[0]), or a trimesh with uint8 sRGB vertex colours; not changed.
        up: the mesh's own up axis; "y" (stock `glb` results) writes the coordinates as they are.

    Raises:
        ValueError: empty mesh or unknown axis.
    """
    if up not in ("z", "y"):
        raise ValueError(f"up must be 'z' or 'y', got {up!r}")
    if len(mesh.faces) == 0:
        raise ValueError("there is no face to write")
    surface = mesh if hasattr(mesh, "visual") else mesh_to_trimesh(mesh)
    with whole_trimesh():
        turned = surface.copy()
        if up == "z":
            turned.vertices = np.stack([turned.vertices[:, 0], turned.vertices[:, 2], -turned.vertices[:, 1]], axis=1)
        visual: Any = turned.visual
        if visual.kind in ("vertex", "face"):
            rgba = np.array(visual.vertex_colors, np.uint8)
            rgba[:, :3] = linear_from_srgb()[rgba[:, :3]]
            visual.vertex_colors = rgba
        content: Any = turned.export(file_type="glb", include_normals=True)
    with atomic_write(path) as file:
        file.write(content)


def linear_from_srgb() -> np.ndarray:
    """[256] uint8 table from sRGB to linear values (IEC 61966-2-1)."""
    srgb = np.arange(256) / 255.0
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    return np.round(linear * 255.0).astype(np.uint8)


# -------------------------------------------------------------------------------------------------------- pose


def quaternion_matrix(quaternion: Any) -> np.ndarray:
    """[3, 3] float64 matrix of a quaternion (w, x, y, z) of any length but zero (pytorch3d `quaternion_to_matrix`)."""
    q = as_numpy(quaternion, np.float64).reshape(4)
    norm = np.linalg.norm(q)
    if not np.isfinite(norm) or norm < 1e-12:
        raise ValueError(f"rotation is not a quaternion: {q.tolist()}")
    w, x, y, z = q / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def pose_matrix(result: Mapping[str, Any]) -> np.ndarray:
    """[4, 4] float64 object-to-camera matrix for column vectors from a result's rotation, translation and scale.

    The result's own convention is for row vectors, p_camera = (p_object * scale) @ R + translation, so the upper left
    block is R transposed times diag(scale).
    """
    scale = np.broadcast_to(as_numpy(result["scale"], np.float64).reshape(-1), (3,))
    matrix = np.eye(4)
    matrix[:3, :3] = quaternion_matrix(result["rotation"]).T * scale
    matrix[:3, 3] = as_numpy(result["translation"], np.float64).reshape(3)
    return matrix


def save_pose_json(path: str | os.PathLike[str], result: Mapping[str, Any]) -> None:
    """Write the pose of one object with its conventions spelled out (`POSE_CONVENTION`).

    Args:
        result: with rotation [1, 4] wxyz, translation [1, 3], scale [1, 3].
    """
    matrix = pose_matrix(result)
    quaternion = as_numpy(result["rotation"], np.float64).reshape(4)
    pose = {
        "rotation": quaternion / np.linalg.norm(quaternion),
        "rotation_matrix": quaternion_matrix(quaternion),
        "translation": matrix[:3, 3],
        "scale": np.broadcast_to(as_numpy(result["scale"], np.float64).reshape(-1), (3,)),
        "object_to_camera": matrix,
        "object_to_camera_opencv": np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix,
        "object_frame": OBJECT_FRAME,
        "camera_frame": CAMERA_FRAME,
        "convention": POSE_CONVENTION,
    }
    save_json(path, pose)


def save_json(path: str | os.PathLike[str], content: Any) -> None:
    """Write indented UTF-8 JSON; arrays and tensors become lists, values that are not finite become null.

    What UTF-8 cannot hold, as in a path of another encoding, is written in JSON's way, \\udcXX, and reads back so.
    """
    text = json.dumps(_plain(content), indent=2, ensure_ascii=False, allow_nan=False)
    with atomic_write(path) as file:
        file.write((text + "\n").encode("utf-8", "backslashreplace"))


def _plain(value: Any) -> Any:
    """JSON types only, recursively."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars, torch tensors
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, int, bool)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON")
