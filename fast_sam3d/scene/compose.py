"""The files of a composed scene, read from the folders of its objects, and its summary."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import Config
from fast_sam3d.geometry.camera import Camera
from fast_sam3d.outputs.folder import clear_unfinished
from fast_sam3d.run.processes import Lost, in_forks
from fast_sam3d.scene.inputs import SceneInput
from fast_sam3d.scene.plan import ScenePlan
from fast_sam3d.scene.worker import ObjectOutcome, read_done

__all__ = ["finish"]

log = logging.getLogger(__name__)

SCENE_PLY, SCENE_GLB, SCENE_JSON = "scene.ply", "scene.glb", "scene.json"
PREVIEW, TURNTABLE, SUMMARY = "preview.png", "turntable.gif", "summary.json"
SCENE_NAMES = (SCENE_PLY, SCENE_GLB, SCENE_JSON, PREVIEW, TURNTABLE, SUMMARY)


def finish(
    plan: ScenePlan, outcomes: Mapping[int, ObjectOutcome], config: Config, processes: int = 1
) -> dict[str, Any]:
    """Compose the complete objects and write the files of the scene, unless they are up to date.

    Args:
        outcomes: of every mask, by number.
        processes: number of forked processes that compose.

    Returns:
        The content of summary.json; it depends neither on time nor on interruptions.
    """
    from fast_sam3d.outputs.files import save_json

    complete = [number for number in plan.scene.masks if outcomes[number].status == "complete"]
    made_of = _made_of(plan, complete, config)
    composed = _up_to_date(plan.target, made_of)
    if composed is None:
        for name in (SCENE_JSON, *SCENE_NAMES):  # stale files must not stay; the .json, which seals them, goes first
            (plan.target / name).unlink(missing_ok=True)
        composed = _compose(plan, complete, config, made_of, processes) if complete else {"files": [], "mask_iou": {}}
    summary = _summary(plan, outcomes, composed, config.pipeline.layout_postprocess)
    save_json(plan.target / SUMMARY, summary)
    return summary


def _made_of(plan: ScenePlan, complete: list[int], config: Config) -> str:
    objects = [[number, (read_done(plan.target / str(number)) or {})] for number in complete]
    pictures = [config.output.preview, config.scene.turntable]
    return hashlib.sha256(json.dumps([objects, pictures], sort_keys=True).encode()).hexdigest()


def _up_to_date(target: Path, made_of: str) -> dict[str, Any] | None:
    """The composed files and mask IoUs, if all files exist and are of the same objects."""
    try:
        scene = json.loads((target / SCENE_JSON).read_text(encoding="utf-8"))
        if scene["made_of"] != made_of or not all((target / name).is_file() for name in scene["files"]):
            return None
        overlaps = {item["name"]: item["mask_iou"] for item in scene["objects"]}
        return {"files": scene["files"], "mask_iou": overlaps}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _compose(plan: ScenePlan, complete: list[int], config: Config, made_of: str, processes: int) -> dict[str, Any]:
    from fast_sam3d.outputs.files import atomic_write
    from fast_sam3d.scene.files import (
        camera_of,
        load_object_folder,
        save_gif,
        save_scene_glb,
        save_scene_json,
        save_scene_ply,
    )
    from fast_sam3d.scene.objects import compose_scene
    from fast_sam3d.scene.pictures import FRAME_MS, IOU_PX, mask_ious, sampled, scene_preview, turntable

    target = plan.target
    scene = compose_scene(load_object_folder(str(n), target / str(n)) for n in complete)
    done = {n: read_done(target / str(n)) or {} for n in complete}
    camera = _camera(plan.scene) or next((c for n in complete if (c := camera_of(done[n].get("camera")))), None)
    # Reduced, so that not all masks are in memory at full size.
    factor = min(1.0, IOU_PX / max(plan.scene.size))
    size = (max(1, round(plan.scene.size[1] * factor)), max(1, round(plan.scene.size[0] * factor)))
    masks = {str(n): sampled(plan.scene.mask(n), size) for n in complete}

    def compare() -> dict[str, float]:
        return mask_ious(scene, camera, masks) if camera is not None else {}

    def preview() -> bool:
        with atomic_write(target / PREVIEW) as file:
            scene_preview(plan.scene.image, masks, scene, camera).save(file, format="PNG")
        return True

    def turn() -> bool:
        save_gif(target / TURNTABLE, turntable(scene, camera), FRAME_MS)
        return True

    drawn = any(item.surface is not None or item.gaussians is not None for item in scene.objects)
    pictures = config.output.preview and drawn
    parts: dict[str, Callable[[], bool]] = {
        SCENE_PLY: lambda: save_scene_ply(target / SCENE_PLY, scene),
        SCENE_GLB: lambda: save_scene_glb(target / SCENE_GLB, scene),
        **({PREVIEW: preview} if pictures else {}),
        **({TURNTABLE: turn} if pictures and config.scene.turntable else {}),
    }
    # The pictures, which take longest, come first.
    *written, overlaps = _all_of([*reversed(parts.values()), compare], processes, target)
    files = [name for name, made in zip(parts, reversed(written), strict=True) if made]
    about = {
        str(n): {
            "mask": plan.scene.masks[n].name,
            "folder": str(n),
            "mask_iou": overlaps.get(str(n)),
            "identity": plan.identities[n],
        }
        for n in complete
    }
    facts = {
        "name": plan.scene.name,
        "image": plan.scene.image_path.name,
        "files": files,
        "mean_mask_iou": _mean(overlaps),
        "made_of": made_of,
    }
    save_scene_json(target / SCENE_JSON, scene, camera, facts, about)
    return {"files": files, "mask_iou": {str(n): overlaps.get(str(n)) for n in complete}}


def _all_of(parts: Sequence[Callable[[], Any]], processes: int, target: Path) -> list[Any]:
    """The values of all calls, in order; the part of a process that died is repeated here after the others."""
    if processes < 2:
        return [part() for part in parts]
    done = dict(in_forks(lambda part: part(), parts, processes))
    for answer in done.values():
        if isinstance(answer, Lost):
            log.warning("a process that composed the scene ended with %s; its part is repeated here", answer)
            clear_unfinished(target)
    return [parts[i]() if isinstance(done[i], Lost) else done[i] for i in range(len(parts))]


def _camera(scene: SceneInput) -> Camera | None:
    """The camera of the given pointmap, for the picture at its own size."""
    if scene.pointmap is None:
        return None
    try:
        return Camera.from_pointmap(scene.pointmap).resized(max(scene.size))
    except ValueError as error:
        log.warning("the camera of the pointmap is unknown: %s", error)
        return None


def _mean(overlaps: Mapping[str, float | None]) -> float | None:
    known = [value for value in overlaps.values() if value is not None]
    return sum(known) / len(known) if known else None


def _summary(
    plan: ScenePlan, outcomes: Mapping[int, ObjectOutcome], composed: Mapping[str, Any], refined: bool
) -> dict[str, Any]:
    overlaps = composed["mask_iou"]
    objects = [
        {
            "mask": path.name,
            "number": number,
            "status": outcomes[number].status,
            "message": outcomes[number].message,
            "formats": outcomes[number].formats,
            "out_of_memory": outcomes[number].out_of_memory,
            "folder": str(number) if outcomes[number].status == "complete" else None,
            "mask_iou": overlaps.get(str(number)),
        }
        for number, path in plan.scene.masks.items()
    ]
    states = [outcome.status for outcome in outcomes.values()]
    counts = {status: states.count(status) for status in ("complete", "failed", "duplicate")}
    return {
        "scene": plan.scene.name,
        "image": plan.scene.image_path.name,
        **counts,
        "pose_refined": refined,
        "passed_over": [path.name for path in plan.scene.passed_over],
        "mean_mask_iou": _mean(overlaps),
        "files": composed["files"],
        "objects": objects,
    }
