"""The result files of one object."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import Config
from fast_sam3d.geometry.arrays import first
from fast_sam3d.inputs.load import ObjectInput
from fast_sam3d.run.object import ObjectRun

__all__ = ["RESULT_NAMES", "write_results"]

log = logging.getLogger(__name__)

GAUSSIANS, GAUSSIANS_4, MESH = "gaussians.ply", "gaussians_4.ply", "mesh.glb"
POSE, PREVIEW, REPORT = "pose.json", "preview.png", "report.json"
RESULT_NAMES = (GAUSSIANS, GAUSSIANS_4, MESH, POSE, PREVIEW, REPORT)


def write_results(
    folder: Path,
    config: Config,
    given: ObjectInput,
    run: ObjectRun,
    *,
    tag: str,
    load_seconds: float = 0.0,
    out_of_memory: Sequence[str] = (),
    identity: Mapping[str, Any] | None = None,
    notices: Sequence[str] = (),
) -> list[str]:
    """Write every result of a run into `folder`, the report last; the time that it takes is a row of the report.

    Args:
        tag: of the checkpoint.
        load_seconds: time that loading the pipeline took.
        out_of_memory: earlier attempts that did not fit into the memory.
        identity: of the inputs and settings, for the report; see `fast_sam3d.outputs.folder.has_results`.
        notices: of `fast_sam3d.run.notices.notices_of`, for report and preview.

    Returns:
        The names of the files, in order of interest.
    """
    from fast_sam3d.outputs.files import save_json

    with run.report.stage("results"):
        written, facts = _write(folder, config, given, run, notices)
    report: dict[str, Any] = {
        "input": {
            "image": str(given.image_path),
            "mask": str(given.mask_path),
            "pointmap": None if given.pointmap_path is None else str(given.pointmap_path),
            "size": given.size,
        },
        "pipeline": {"tag": tag, "runtime": run.runtime, "device": run.device, "dtype": config.pipeline.dtype},
        "preset": config.choices.get("preset", "off"),
        "seed": config.seed,
        "steps": {"ss": config.pipeline.ss_steps, "slat": config.pipeline.slat_steps},
        "formats": run.formats,
        "pose_refined": run.pose_refined,
        "notices": notices,
        "out_of_memory": out_of_memory,
        "load_seconds": load_seconds,
        "result": facts,
        **run.report.to_dict(),
    }
    if identity is not None:
        report |= {"identity": identity, "files": {name: (folder / name).stat().st_size for name in written}}
    save_json(folder / REPORT, report)
    return [*written, REPORT]


def _write(
    folder: Path, config: Config, given: ObjectInput, run: ObjectRun, notices: Sequence[str]
) -> tuple[list[str], dict[str, Any]]:
    """Write everything but the report. Returns the names of the files, and what the report says of the result."""
    from fast_sam3d.outputs.gaussians import save_gaussians_ply
    from fast_sam3d.outputs.meshes import mesh_summary, mesh_to_trimesh, save_glb
    from fast_sam3d.outputs.pose import save_pose_json

    result = run.result
    written: list[str] = []
    facts: dict[str, Any] = {}
    for name, file in (("gaussian", GAUSSIANS), ("gaussian_4", GAUSSIANS_4)):
        if name in run.formats and (gaussians := first(result.get(name))) is not None:
            save_gaussians_ply(folder / file, gaussians)
            facts[Path(file).stem] = len(gaussians.get_xyz)
            written.append(file)
    if "mesh" in run.formats and (mesh := first(result.get("mesh"))) is not None:
        if len(mesh.faces):
            surface = mesh_to_trimesh(mesh)
            save_glb(folder / MESH, surface)
            facts["mesh"] = mesh_summary(surface)
            written.append(MESH)
        else:
            log.warning("the decoded mesh has no faces, so no %s is written: another --seed may help", MESH)
    if (refinement := result.get("layout_refinement")) is not None:
        facts["layout_refinement"] = refinement
    save_pose_json(folder / POSE, result)
    written.append(POSE)
    if config.output.preview and {MESH, GAUSSIANS, GAUSSIANS_4} & set(written):
        from fast_sam3d.model.inputs import reduce_picture
        from fast_sam3d.render.preview import save_preview

        # A few hundred pixels high: what is drawn from does not have to be larger than this.
        save_preview(folder / PREVIEW, *reduce_picture(given.image, given.mask), result, notices)
        written.insert(0, PREVIEW)
    return written, facts
