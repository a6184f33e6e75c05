"""A job with one object: the accelerated run, the files, and the comparison with the baseline."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.config.compose import MODULES, BakeConfig, Config, OutputConfig
from fast_sam3d.demo.events import Watch
from fast_sam3d.demo.inputs import JobInput
from fast_sam3d.demo.job import Comparison, Job, Results
from fast_sam3d.demo.settings import command_line, configuration
from fast_sam3d.documents import read_json
from fast_sam3d.geometry.arrays import first
from fast_sam3d.inputs.load import ObjectInput
from fast_sam3d.inputs.masks import check_shape
from fast_sam3d.run.object import ObjectRun
from fast_sam3d.run.own_process import in_own_process
from fast_sam3d.run.results import GAUSSIANS, GAUSSIANS_4, MESH, POSE, PREVIEW, REPORT
from fast_sam3d.run.to_folder import Written, run_to_folder

VIEW = "view"
"""The folder of plain files to look at, in that of a job."""

__all__ = ["Model", "found_view", "run_object_job"]


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """The loaded pipeline, and what a configuration of it starts from.

    Args:
        values, overrides: see `fast_sam3d.demo.settings.configuration`.
    """

    pipeline: Any
    checkpoint: Checkpoint
    load_seconds: float
    values: Mapping[str, Any]
    overrides: Sequence[str]


def run_object_job(job: Job, given: JobInput, model: Model, folder: Path) -> Results:
    """Run one object and write its files; `Job.view` has the plain ones before a texture is computed.

    Args:
        folder: of the job; exists, and is removed by the caller if this does not return.
    """
    settings, watch = job.settings, job.watch
    saved = folder / "input" / given.folder_name
    config = configuration(settings, saved, model.values, model.overrides)
    source = given.source or Path("input") / given.folder_name
    number = given.number if given.source is not None else 0
    command = command_line(settings, given, source, number, model.values, model.overrides)
    item = _object_input(given, saved, model.checkpoint.kind == "mini")
    watch.part = "accelerated" if any(config.modules.values()) else "baseline"
    written = _run(item, config, model, watch, folder / "result", job)
    run = written.run
    given.save(saved)
    comparison = None
    if settings.compare and watch.part == "accelerated":
        comparison = _compare(item, run, config, model, job, folder)
    report = read_json(folder / "result" / REPORT)
    files = tuple(folder / "result" / name for name in written.files)
    results = Results(
        folder, files, _final_view(folder), report,
        read_json(folder / "result" / POSE), run.seconds, run.report.network_calls,
        run.report.network_calls_saved, command, written.notices, comparison,
    )  # fmt: skip
    (folder / "command.txt").write_text(command + "\n", encoding="utf-8")
    return results


def _object_input(given: JobInput, saved: Path, reduce: bool) -> ObjectInput:
    """The object as `infer` would read it from the saved folder, reduced as the embedded pipeline does."""
    image = np.asarray(given.image)
    item = ObjectInput(
        f"{given.folder_name}_0", image, np.asarray(given.masks[0]) > 0, given.pointmap, saved / "image.png",
        saved / "0.png", None if given.pointmap is None else saved / "pointmap.npy", (image.shape[1], image.shape[0]),
    )  # fmt: skip
    item = item.reduced() if reduce else item
    notices = list(given.notices)
    if given.source is None:
        check_shape(item.mask, Path(f"{given.folder_name}/0.png"), notices)
    return replace(item, notices=tuple(notices))


def _run(given: ObjectInput, config: Config, model: Model, watch: Watch, target: Path, job: Job | None) -> Written:
    """One run with its files; with a job, these are shown as soon as there is something to look at."""
    from fast_sam3d.report import observe

    def show(run: ObjectRun) -> None:
        if job is not None and not _shown_at_once(config.output):
            job.show(_plain_files(run, target.parent / VIEW))
        watch.check()

    with observe(model.pipeline, watch) as watch.report:
        written = run_to_folder(
            model.pipeline, config, given, model.checkpoint, target, progress=watch.outside,
            load_seconds=model.load_seconds, before=show,
            call=functools.partial(in_own_process, watch.check),
        )  # fmt: skip
    watch.check()
    if job is not None:
        job.show(_final_view(target.parent))
    return written


def _shown_at_once(asked: OutputConfig) -> bool:
    """Whether the files that are asked for can be looked at, and are written in a moment."""
    quick = asked.faces is None and asked.texture is None
    return quick and (asked.formats is None or {"mesh", "gaussian"} <= set(asked.formats))


def _plain_files(run: ObjectRun, folder: Path) -> dict[str, Path]:
    """The mesh with vertex colours and the gaussians, to look at until the other files are written."""
    from fast_sam3d.outputs.gaussians import save_gaussians_ply
    from fast_sam3d.outputs.meshes import mesh_to_trimesh, save_glb

    folder.mkdir(exist_ok=True)
    mesh = first(run.result.get("mesh"))
    if mesh is not None and len(mesh.faces):
        save_glb(folder / MESH, mesh_to_trimesh(mesh))
    for name, file in (("gaussian", GAUSSIANS), ("gaussian_4", GAUSSIANS_4)):
        if (gaussians := first(run.result.get(name))) is not None:
            save_gaussians_ply(folder / file, gaussians)
            break
    return found_view(folder)


def _final_view(folder: Path) -> dict[str, Path]:
    """The files of a job to look at; gaussians that are shown already stay, as those that are written look the same."""
    shown = found_view(folder / VIEW)
    return found_view(folder / "result", folder / VIEW) | {name: shown[name] for name in ("splats",) if name in shown}


def found_view(*folders: Path) -> dict[str, Path]:
    """What there is to look at in some folders; the first one that has it counts."""
    names = {
        "mesh": (MESH, "scene.glb"),
        "splats": (GAUSSIANS, GAUSSIANS_4, "scene.ply", "gaussians.spz", "scene.spz"),
        "preview": (PREVIEW,),
        "turntable": ("turntable.webp", "turntable.gif"),
    }
    found: dict[str, Path] = {}
    for what, each in names.items():
        for path in (folder / name for folder in folders for name in each):
            if path.is_file():
                found.setdefault(what, path)
    return found


def _compare(given: ObjectInput, run: ObjectRun, config: Config, model: Model, job: Job, folder: Path) -> Comparison:
    """Run the baseline and measure how far the accelerated result is from it."""
    from fast_sam3d.metrics import Reconstruction, compare

    watch = job.watch
    watch.part = "baseline"
    off = replace(
        config, modules={module: {} for module in MODULES}, choices={**config.choices, "preset": "off"},
        output=replace(config.output, formats=None, faces=None, texture=None, bake=BakeConfig(), turntable=False),
    )  # fmt: skip
    plain = _run(given, off, model, watch, folder / "baseline", None).run
    watch("drift", 0, 1)
    drift = compare(Reconstruction.of(run.result).on_host(), Reconstruction.of(plain.result).on_host())
    watch("drift", 1, 1)
    return Comparison(
        {"baseline": plain.seconds, "accelerated": run.seconds},
        {"baseline": plain.report.network_calls, "accelerated": run.report.network_calls},
        {name: float(value) for name, value in drift.items()}, found_view(folder / "baseline"), folder / "baseline",
    )  # fmt: skip
