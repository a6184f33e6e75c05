"""The mesh and the gaussians of a result, in the formats that are asked for."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.config.compose import OutputConfig
from fast_sam3d.errors import ExportError
from fast_sam3d.geometry.arrays import first
from fast_sam3d.outputs.packages import require_packages
from fast_sam3d.run.object import ObjectRun
from fast_sam3d.run.own_process import Call, here

if TYPE_CHECKING:
    from fast_sam3d.geometry.surface import TexturedMesh

__all__ = ["EXPORT_NAMES", "check_exports", "shaped", "write_exports"]

log = logging.getLogger(__name__)

MISSED = 1.1
"""Times the faces that were asked for; more get a notice."""
MOST_MOVED = 0.04
"""Of the longest side of a mesh's box: how far a hundredth of the surface may be off after the reduction without a
notice. Meshes reduced to hundreds of faces are off by .03 at most, a mug of 10 faces by .32."""
TEXTURED_FACES = 20_000
"""Of a mesh with a texture, where no number is given."""
PARTS = ".parts"
"""Folder for what a scene is composed from, where no such files are asked for."""
GAUSSIANS, GAUSSIANS_4, MESH = "gaussians.ply", "gaussians_4.ply", "mesh.glb"
_SPLATS = {"gaussian": "gaussians", "gaussian_4": "gaussians_4"}
"""Names of files by what they are written from."""
_SUFFIXES = {"gaussian": ".ply", "gaussian_4": ".ply", "spz": ".spz", "sog": ".sog", "glb-splat": ".glb"}
_MESHES = {"mesh": MESH, "obj": "mesh.obj", "stl": "mesh.stl"}
_BESIDE = ("mesh.mtl", "mesh.png")
"""Material and texture of mesh.obj."""
EXPORT_NAMES = (
    *(f"{stem}{suffix}" for stem in _SPLATS.values() for suffix in dict.fromkeys(_SUFFIXES.values())),
    *_MESHES.values(),
    *_BESIDE,
)
"""Every name that `write_exports` uses."""


def check_exports(output: OutputConfig) -> None:
    """Check before the work that the packages for the files are installed.

    Raises:
        ExportError: one is not.
    """
    kinds = output.formats or ()
    needed = [("gaussforge", f".{kind} files") for kind in ("spz", "sog") if kind in kinds]
    if output.faces is not None or output.texture is not None:
        needed.append(("fast_simplification", "meshes with fewer faces (--faces, --texture)"))
    if output.texture is not None:
        needed.append(("xatlas", "textures (--texture)"))
    require_packages(needed)


def write_exports(
    folder: Path, run: ObjectRun, output: OutputConfig, keep: Collection[str] = (), call: Call = here
) -> tuple[list[str], dict[str, Any], list[str]]:
    """Write the mesh and the gaussians of a run.

    Args:
        output: which files; see `OutputConfig.files`.
        keep: kinds that are written into `PARTS` where they were decoded and are not asked for.
        call: calls what reduces and textures the mesh, which takes seconds.

    Returns:
        The names of the files, what the report says of mesh and gaussians, and notices of what was not written as it
        was asked for.
    """
    from fast_sam3d.outputs.gaussians import save_gaussians_ply
    from fast_sam3d.outputs.splats import save_splats

    asked = output.files(run.formats)
    kept = [kind for kind in keep if kind in run.formats and (kind, kind) not in asked]
    kinds = {kind: "" for kind, source in asked if source == "mesh"} | {kind: PARTS for kind in kept if kind == "mesh"}
    written, notices = list[str](), list[str]()
    facts: dict[str, Any] = {}
    for name, stem in _SPLATS.items():
        gaussians = first(run.result.get(name)) if name in run.formats else None
        if gaussians is None:
            continue
        facts[stem] = len(gaussians.get_xyz)
        files = [stem + _SUFFIXES[kind] for kind, source in asked if source == name]
        files += [f"{PARTS}/{stem}{_SUFFIXES[name]}"] * (name in kept)
        for file in files:
            (folder / file).parent.mkdir(exist_ok=True)
            save = save_gaussians_ply if file.endswith(".ply") else save_splats
            save(folder / file, gaussians)
            written.append(file)
    if kinds and (mesh := first(run.result.get("mesh"))) is not None:
        if len(mesh.faces):
            shapes = output.faces is not None or output.texture is not None
            with run.report.stage("export") if shapes else nullcontext():
                files, facts["mesh"], notices = _write_mesh(folder, mesh, kinds, output, run.result, call)
            written += files
        else:
            names = " or ".join(_MESHES[kind] for kind in kinds)
            log.warning("the decoded mesh has no faces, so no %s is written: another --seed may help", names)
    return written, facts, notices


def _write_mesh(
    folder: Path,
    mesh: Any,
    kinds: Mapping[str, str],
    output: OutputConfig,
    result: Mapping[str, Any],
    call: Call,
) -> tuple[list[str], dict[str, Any], list[str]]:
    from fast_sam3d.metrics.surface import largest_offset
    from fast_sam3d.outputs.mesh_files import save_obj, save_stl
    from fast_sam3d.outputs.meshes import mesh_summary, mesh_to_trimesh, save_glb

    surface = mesh_to_trimesh(mesh)
    facts, notices = mesh_summary(surface), list[str]()
    made: Any = surface
    try:
        made = shaped(surface, output, result, getattr(mesh, "vertex_attrs", None) is not None, call)
        if output.bake.gate is not None:
            made, facts["bake"] = _optimised(made, output.bake.gate, result)
    except ExportError as error:  # the reconstruction took longer than writing it again
        what = "with all faces and the colours of its vertices" if made is surface else "without optimising its texture"
        notices.append(f"{error}; the mesh is written {what}")
    if made is not surface:
        facts["written"] = {"vertices": len(made.vertices), "faces": len(made.faces), "texture": output.texture}
        wanted = output.faces or TEXTURED_FACES
        if len(surface.faces) > wanted and len(made.faces) > MISSED * wanted:
            notices.append(f"the mesh could be reduced to {len(made.faces)} faces only, of the {wanted} asked for")
        if (moved := largest_offset(made, surface)) > MOST_MOVED:
            notices.append(
                f"the mesh of {len(made.faces)} faces has another shape than the full one: in places it is off by "
                f"{moved:.0%} of its size; ask for more --faces"
            )
    for notice in notices:
        log.warning("%s", notice)
    save = {"mesh": save_glb, "obj": save_obj, "stl": save_stl}
    for kind, inside in kinds.items():
        (folder / inside).mkdir(exist_ok=True)
        save[kind](folder / inside / _MESHES[kind], made)
    written = [f"{inside}/{_MESHES[kind]}".lstrip("/") for kind, inside in kinds.items()]
    return [*written, *(name for name in _BESIDE if (folder / name).is_file())], facts, notices


def shaped(
    surface: Any, output: OutputConfig, result: Mapping[str, Any], coloured: bool = True, call: Call = here
) -> Any:
    """The mesh that is written: with fewer faces, and with a texture, where asked for.

    Args:
        surface: decoded, with vertex colours.
        output: a texture without `faces` has `TEXTURED_FACES`.
        result: of the run; its gaussians are what a texture is optimised against.
        coloured: whether the vertices have colours; if not, a texture takes those of the gaussians.
        call: see `write_exports`.

    Raises:
        ExportError: the mesh cannot be decimated or unwrapped.
    """
    if output.faces is None and output.texture is None:
        return surface
    from fast_sam3d.geometry.gaussians import GaussianCloud
    from fast_sam3d.outputs.meshes import mesh_to_surface
    from fast_sam3d.texture import decimated, textured

    detailed = mesh_to_surface(surface)
    if output.texture is None:
        return call(decimated, detailed, output.faces or len(detailed.faces))
    gaussians = None if coloured and output.bake.gate is None else _gaussians(result)
    colours = None if gaussians is None else GaussianCloud.of(gaussians)  # on the host, to be sent to a process
    return call(textured, detailed, output.texture, output.faces or TEXTURED_FACES, colours)


def _gaussians(result: Mapping[str, Any]) -> Any:
    """Those of a result that were decoded; None without any."""
    return next((found for name in _SPLATS if (found := first(result.get(name))) is not None), None)


def _optimised(mesh: TexturedMesh, gate: str, result: Mapping[str, Any]) -> tuple[TexturedMesh, dict[str, Any]]:
    """A mesh whose texture is optimised against the gaussians of a result, and what the report says of it.

    Raises:
        ExportError: there are no gaussians, or none of them is on the mesh.
    """
    from fast_sam3d.texture.optimise import BakeSettings, optimised

    gaussians = _gaussians(result)
    if gaussians is None:
        raise ExportError("no gaussians were decoded to optimise a texture against")
    made, report = optimised(mesh, gaussians, BakeSettings(gate=gate))
    log.info("texture: %s", report)
    return made, asdict(report)
