"""A composed scene on disk: read from the folders of its objects, written as one .ply, one .glb and one .json."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fast_sam3d.documents import read_json
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.poses import OPENCV_FROM_CAMERA, Pose
from fast_sam3d.outputs.gaussians import load_gaussians_ply
from fast_sam3d.outputs.gltf import GlbWriter
from fast_sam3d.outputs.meshes import add_surface, load_glb
from fast_sam3d.outputs.pose import CAMERA_FRAME, OBJECT_FRAME, POSE_CONVENTION
from fast_sam3d.outputs.seals import save_sealed
from fast_sam3d.run.export import PARTS
from fast_sam3d.run.results import GAUSSIANS, GAUSSIANS_4, MESH, POSE
from fast_sam3d.scene.objects import PlacedObject, Scene

log = logging.getLogger(__name__)

__all__ = ["camera_facts", "camera_of", "camera_seen", "load_object_folder", "save_scene_glb", "save_scene_json"]

SCENE_CONVENTION = (
    POSE_CONVENTION + " scene.ply holds the gaussians of all objects in the camera's frame with the axes of OpenCV, "
    "(x, y, z) -> (-x, -y, z), each object's in the rows [first, first + count). scene.glb has one node per object: "
    "its mesh is that of the object's own .glb, its matrix is object_to_glb, and the world is the camera's frame "
    "turned by (x, y, z) -> (-x, y, -z), that is +x right, +y up, +z towards the viewer, with the picture's camera at "
    "the origin."
)


def node_name(name: str) -> str:
    """The name of an object's node in scene.glb."""
    return f"object_{name}"


def load_object_folder(name: str, folder: Path) -> PlacedObject:
    """Read the folder of one object, see `run.export.write_exports`.

    Raises:
        OSError, ValueError: a file is missing or damaged.
    """
    pose = Pose.of(read_json(folder / POSE))
    places = folder, folder / PARTS

    def there(*names: str) -> Path | None:
        return next((path for name in names for place in places if (path := place / name).is_file()), None)

    splats, mesh = there(GAUSSIANS, GAUSSIANS_4), there(MESH)
    gaussians = None if splats is None else load_gaussians_ply(splats)
    surface = None if mesh is None else load_glb(mesh)
    return PlacedObject(name, pose, gaussians, surface)


def save_scene_glb(path: Path, scene: Scene) -> None:
    """Write one node per object at its pose; textures as JPEG, so that a scene of many objects opens in a browser."""
    writer = GlbWriter()
    for item in scene.objects:
        if item.surface is not None:
            name = node_name(item.name)
            mesh = add_surface(writer, item.surface, name=name, lossless=False)
            writer.add_node(mesh, name=name, matrix=item.pose.glb_matrix)
    writer.save(path)


def save_scene_json(
    path: Path, scene: Scene, camera: Camera | None, facts: Mapping[str, Any], about: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write the poses of all objects and their conventions.

    Args:
        camera: of the picture.
        facts: further keys of the scene; digests of its "files" are added. about: further keys of objects, by name.
    """
    objects, row = [], 0
    for item in scene.objects:
        count = 0 if item.gaussians is None else len(item.gaussians.get_xyz)
        objects.append({
            "name": item.name,
            **about.get(item.name, {}),
            "rotation": item.pose.rotation,
            "rotation_matrix": item.pose.rotation_matrix,
            "translation": item.pose.translation,
            "scale": item.pose.scale,
            "object_to_camera": item.pose.matrix,
            "object_to_camera_opencv": OPENCV_FROM_CAMERA @ item.pose.matrix,
            "object_to_glb": item.pose.glb_matrix,
            "gaussians": {"first": row, "count": count} if count else None,
            "glb_node": None if item.surface is None else node_name(item.name),
        })  # fmt: skip
        row += count
    save_sealed(path, {
        **facts,
        "camera": None if camera is None else camera_facts(camera),
        "object_frame": OBJECT_FRAME,
        "camera_frame": CAMERA_FRAME,
        "convention": SCENE_CONVENTION,
        "objects": objects,
    }, facts.get("files", ()))  # fmt: skip


def camera_facts(camera: Camera) -> dict[str, Any]:
    """A camera at the origin as JSON: focal length and principal point (u, v) in pixels, size (width, height)."""
    return {"focal_px": camera.focal, "principal_px": camera.principal, "size_px": camera.size[::-1]}


def camera_seen(pointmap: Any, size: tuple[int, int], what: str) -> Camera | None:
    """The camera of a pointmap, for the picture at its own size (width, height); None, and a log line, without one."""
    try:
        return Camera.from_pointmap(pointmap).resized(max(size))
    except ValueError as error:
        log.info("%s: the camera of its pointmap is unknown: %s", what, error)
        return None


def camera_of(facts: Mapping[str, Any] | None) -> Camera | None:
    """The inverse of `camera_facts`."""
    if facts is None:
        return None
    u, v = facts["principal_px"]
    width, height = facts["size_px"]
    return Camera(np.eye(3), np.zeros(3), float(facts["focal_px"]), (float(u), float(v)), (int(height), int(width)))
