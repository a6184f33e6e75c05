"""One object: the call of the pipeline, and the files of its results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.config.compose import Config
from fast_sam3d.inputs.load import ObjectInput

if TYPE_CHECKING:
    from fast_sam3d.telemetry import Report

__all__ = ["RESULT_NAMES", "Run", "first", "run_pipeline", "with_alpha", "write_results"]

log = logging.getLogger(__name__)

GAUSSIANS, GAUSSIANS_4, MESH = "gaussians.ply", "gaussians_4.ply", "mesh.glb"
POSE, PREVIEW, REPORT = "pose.json", "preview.png", "report.json"
RESULT_NAMES = (GAUSSIANS, GAUSSIANS_4, MESH, POSE, PREVIEW, REPORT)


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """What one run gave: the pipeline's result, what was measured, and the acceleration's settings.

    Args:
        load_seconds: that the pipeline took to load.
        tag: of the checkpoint.
        formats: that were decoded.
        out_of_memory: the tries before it that did not fit.
    """

    result: Mapping[str, Any]
    report: Report
    methods: Mapping[str, Any]
    load_seconds: float
    tag: str
    device: str
    formats: tuple[str, ...]
    out_of_memory: tuple[str, ...] = ()


def run_pipeline(
    pipeline: Any,
    image: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    pointmap: Any = None,
    *,
    seed: int | None,
    ss_steps: int | None = None,
    slat_steps: int | None = None,
    formats: Sequence[str] | None = None,
    layout: bool = True,
) -> dict[str, Any]:
    """One run with the arguments of the stock notebook (notebook/inference.py, Inference.__call__).

    Args:
        pipeline: a SAM 3D pipeline, or an object that holds one in `_pipeline`; accelerated or not.
        image: [H, W, 3] uint8.
        mask: [H, W] bool.
        pointmap: [H, W, 3] float32, camera frame, NaN where unknown; None asks the depth model.
        seed: of the noise; None goes on with torch's generator.
        ss_steps, slat_steps, formats: None takes the pipeline's own.
        layout: refine the pose against mask and pointmap once the object is decoded.
    """
    import torch

    result: dict[str, Any] = getattr(pipeline, "_pipeline", pipeline).run(
        with_alpha(image, mask),
        None,
        seed=seed,
        stage1_only=False,
        with_mesh_postprocess=False,
        with_texture_baking=False,
        with_layout_postprocess=layout,
        use_vertex_color=True,
        stage1_inference_steps=ss_steps,
        stage2_inference_steps=slat_steps,
        pointmap=None if pointmap is None else torch.as_tensor(pointmap),
        decode_formats=None if formats is None else list(formats),
    )
    return result


def with_alpha(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """[H, W, 4], the mask as alpha in 0 or 255.

    A separate mask of booleans would become an alpha of 1 in 255 in the stock pipeline (inference_pipeline.py,
    merge_image_and_mask).
    """
    return np.dstack([image, mask.astype(np.uint8) * 255])


def write_results(
    folder: Path, config: Config, given: ObjectInput, run: Run, identity: Mapping[str, Any] | None = None
) -> list[str]:
    """Writes every result into `folder`, and the report last.

    Args:
        identity: of the inputs and settings, for the report; see `fast_sam3d.outputs.folder.has_results`.

    Returns:
        the names of the files, in order of interest.
    """
    from fast_sam3d.outputs.files import save_json
    from fast_sam3d.outputs.gaussians import save_gaussians_ply
    from fast_sam3d.outputs.meshes import mesh_summary, mesh_to_trimesh, save_glb
    from fast_sam3d.outputs.pose import save_pose_json

    result = run.result
    written: list[str] = []
    facts: dict[str, Any] = {}
    if "gaussian" in run.formats and (gaussians := first(result.get("gaussian"))) is not None:
        save_gaussians_ply(folder / GAUSSIANS, gaussians)
        facts["gaussians"] = len(gaussians.get_xyz)
        written.append(GAUSSIANS)
    if "gaussian_4" in run.formats and (gaussians := first(result.get("gaussian_4"))) is not None:
        save_gaussians_ply(folder / GAUSSIANS_4, gaussians)
        facts["gaussians_4"] = len(gaussians.get_xyz)
        written.append(GAUSSIANS_4)
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
    elif (overlap := result.get("iou")) is not None:  # of the stock pipeline (run_post_optimization)
        facts["layout_refinement"] = {"mask_iou_after": float(overlap)}
    save_pose_json(folder / POSE, result)
    written.append(POSE)
    if config.output.preview and (MESH in written or GAUSSIANS in written or GAUSSIANS_4 in written):
        from fast_sam3d.model.inputs import reduce_picture
        from fast_sam3d.render.preview import save_preview

        # A few hundred pixels high: what is drawn from does not have to be larger than this.
        save_preview(folder / PREVIEW, *reduce_picture(given.image, given.mask), result)
        written.insert(0, PREVIEW)
    report = _report(config, given, run, facts)
    if identity is not None:
        report |= {"identity": identity, "files": {name: (folder / name).stat().st_size for name in written}}
    save_json(folder / REPORT, report)
    return [*written, REPORT]


def _report(config: Config, given: ObjectInput, run: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "input": {
            "image": str(given.image_path),
            "mask": str(given.mask_path),
            "pointmap": None if given.pointmap_path is None else str(given.pointmap_path),
            "size": given.size,
        },
        "pipeline": {"tag": run.tag, "device": run.device, "dtype": config.pipeline.dtype},
        "preset": config.choices.get("preset", "off"),
        "seed": config.seed,
        "steps": {"ss": config.pipeline.ss_steps, "slat": config.pipeline.slat_steps},
        "formats": run.formats,
        "out_of_memory": run.out_of_memory,
        "load_seconds": run.load_seconds,
        "result": facts,
        **run.report.to_dict(),
        "methods": run.methods,
    }


def first(item: Any) -> Any:
    """Results hold a list per format, or the object itself."""
    return (item[0] if item else None) if isinstance(item, (list, tuple)) else item
