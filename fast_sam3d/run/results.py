"""The result files of one object."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import Config
from fast_sam3d.inputs.load import ObjectInput
from fast_sam3d.run.export import EXPORT_NAMES, GAUSSIANS, GAUSSIANS_4, MESH, write_exports
from fast_sam3d.run.object import ObjectRun
from fast_sam3d.run.own_process import Call, here

__all__ = ["GAUSSIANS", "GAUSSIANS_4", "MESH", "RESULT_NAMES", "write_results"]

POSE, PREVIEW, MASK, REPORT = "pose.json", "preview.png", "mask.png", "report.json"
RESULT_NAMES = (*EXPORT_NAMES, POSE, PREVIEW, MASK, "turntable.webp", "turntable.gif", REPORT)


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
    keep: Collection[str] = (),
    call: Call = here,
) -> tuple[list[str], tuple[str, ...]]:
    """Write every result of a run into `folder`, the report last; the time that it takes is a row of the report.

    Args:
        tag: of the checkpoint.
        load_seconds: time that loading the pipeline took.
        out_of_memory: earlier attempts that did not fit into the memory.
        identity: of the inputs and settings, for the report; see `fast_sam3d.outputs.folder.has_results`.
        notices: of `fast_sam3d.run.notices.notices_of`, for report and preview.
        keep: kinds of files that are written beside those of `config.output`; see `run.export.write_exports`.
        call: see `run.export.write_exports`.

    Returns:
        The names of the files, in order of interest, and the notices with those of the files.
    """
    from fast_sam3d.outputs.seals import save_sealed

    with run.report.stage("results"):
        written, facts, found = write_exports(folder, run, config.output, keep, call)
        notices = (*notices, *found)
        written, facts = _write(folder, config, given, run, notices, written, facts)
    report: dict[str, Any] = {
        "input": {
            "image": str(given.image_path),
            "mask": str(given.mask_path),
            "pointmap": None if given.pointmap_path is None else str(given.pointmap_path),
            "size": given.size,
        },
        "pipeline": {
            "model": config.pipeline.model,
            "tag": tag,
            "runtime": run.runtime,
            "device": run.device,
            "dtype": config.pipeline.dtype,
        },
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
    save_sealed(folder / REPORT, report, () if identity is None else written)
    return [*written, REPORT], notices


def _write(
    folder: Path, config: Config, given: ObjectInput, run: ObjectRun, notices: Sequence[str], exports: Sequence[str],
    about: Mapping[str, Any],
) -> tuple[list[str], dict[str, Any]]:  # fmt: skip
    """Write pose and preview. Returns the names of all files but the report, and what it says of the result."""
    from fast_sam3d.outputs.pose import save_pose_json

    result, written, facts = run.result, [*exports], {**about}
    if (refinement := result.get("layout_refinement")) is not None:
        facts["layout_refinement"] = refinement
    if "rotation" in result:  # the model has a pose
        save_pose_json(folder / POSE, result)
        written.append(POSE)
    if config.input.marked or config.input.rembg:
        from PIL import Image

        # Of the embedded model at the size to which the picture was reduced.
        Image.fromarray(given.mask).resize(given.size, Image.Resampling.NEAREST).save(folder / MASK)
        written.append(MASK)
    if config.output.preview and exports:
        from fast_sam3d.model.inputs import reduce_picture
        from fast_sam3d.render.preview import save_preview

        # A few hundred pixels high: what is drawn from does not have to be larger than this.
        mesh = facts.get("mesh", {})
        if "written" in mesh:
            shown = f"the views show the full mesh of {mesh['faces']} faces; that of the files has"
            notices = [*notices, f"{shown} {mesh['written']['faces']}"]
        save_preview(folder / PREVIEW, *reduce_picture(given.image, given.mask), result, notices)
        written.insert(0, PREVIEW)
    if config.output.turntable and exports:
        from fast_sam3d.render.turntable import object_turntable, save_turntable

        written += save_turntable(folder, object_turntable(result))
    return written, facts
