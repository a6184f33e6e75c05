"""The files of a composed scene, read from the folders of its objects, and its summary."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fast_sam3d.config.compose import Config
from fast_sam3d.errors import OutputError
from fast_sam3d.outputs.folder import clear_unfinished, writing
from fast_sam3d.outputs.seals import damage, is_sealed, read_sealed
from fast_sam3d.run.notices import overlap_notices
from fast_sam3d.run.processes import Lost, in_forks
from fast_sam3d.scene.plan import ScenePlan
from fast_sam3d.scene.worker import ObjectOutcome, read_done

__all__ = ["finish"]

log = logging.getLogger(__name__)

SCENE_PLY, SCENE_GLB, SCENE_JSON = "scene.ply", "scene.glb", "scene.json"
PREVIEW, TURNTABLE, SUMMARY = "preview.png", "turntable.gif", "summary.json"
LARGE_TURNTABLE = "turntable.webp"
SCENE_SPLATS = {"spz": "scene.spz", "sog": "scene.sog", "glb-splat": "scene_gaussians.glb"}
"""Further files of the gaussians, by kind."""
SCENE_NAMES = (SCENE_PLY, *SCENE_SPLATS.values(), SCENE_GLB, SCENE_JSON, PREVIEW, TURNTABLE, LARGE_TURNTABLE, SUMMARY)


def finish(
    plan: ScenePlan, outcomes: Mapping[int, ObjectOutcome], config: Config, processes: int = 1
) -> dict[str, Any]:
    """Compose the complete objects and write the files of the scene, unless they are up to date.

    Args:
        outcomes: of every mask, by number.
        processes: number of forked processes that compose.

    Returns:
        The content of summary.json; it depends neither on time nor on interruptions.

    Raises:
        OutputError: objects have been removed or changed during the run, or the files cannot be written.
    """
    with writing(plan.target):
        return _finish(plan, outcomes, config, processes)


def _finish(plan: ScenePlan, outcomes: Mapping[int, ObjectOutcome], config: Config, processes: int) -> dict[str, Any]:
    from fast_sam3d.outputs.files import save_json

    numbers = [number for number in plan.scene.masks if outcomes[number].status == "complete"]
    complete: dict[int, dict[str, Any]] = {}
    for number in numbers:
        done = read_done(plan.target / str(number))
        if done is None:
            raise OutputError(
                f"{plan.target / str(number)} was removed or changed by something else during the run: run the command "
                "again, which reconstructs what is missing"
            )
        complete[number] = done
    splats = [kind for kind in SCENE_SPLATS if kind in (config.output.formats or ())]
    parts = [[*complete.items()], [config.output.preview, config.scene.turntable, *splats]]
    made_of = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
    composed = _composed(plan.target, made_of)
    if composed is None:
        for name in (SCENE_JSON, *SCENE_NAMES):  # stale files must not stay; the .json, which seals them, goes first
            (plan.target / name).unlink(missing_ok=True)
        if complete:
            begin = time.perf_counter()
            _compose(plan, complete, config, made_of, processes)
            log.info("composed %d objects in %.1f s", len(complete), time.perf_counter() - begin)
        composed = _composed(plan.target, made_of) or {"files": [], "objects": [], "mean_mask_iou": None}
    summary = _summary(plan, outcomes, composed, config.pipeline.layout_postprocess)
    save_json(plan.target / SUMMARY, summary)
    return summary


def _composed(target: Path, made_of: str) -> dict[str, Any] | None:
    """The content of scene.json, if it is of these objects, and no file of the scene has changed."""
    path = target / SCENE_JSON
    if not path.exists():
        return None
    try:
        scene = read_sealed(path)
        if scene["made_of"] != made_of and is_sealed(scene):
            return None
        changed = damage(path, scene)
    except (ValueError, KeyError, TypeError):
        changed = f"{path.name} has been changed"
    if changed is not None:
        log.warning("%s: %s since it was written, so the scene is composed again", target, changed)
        return None
    return scene


def _compose(
    plan: ScenePlan, complete: Mapping[int, Mapping[str, Any]], config: Config, made_of: str, processes: int
) -> None:
    from fast_sam3d.outputs.files import atomic_write
    from fast_sam3d.outputs.gaussians import save_gaussians_ply
    from fast_sam3d.outputs.splats import save_splats
    from fast_sam3d.render.turntable import save_turntable
    from fast_sam3d.scene.files import camera_of, camera_seen, load_object_folder, save_scene_glb, save_scene_json
    from fast_sam3d.scene.objects import compose_scene
    from fast_sam3d.scene.pictures import IOU_PX, mask_ious, sampled, scene_preview, turntable

    target = plan.target
    scene = compose_scene(load_object_folder(str(n), target / str(n)) for n in complete)
    cameras = [camera_of(done.get("camera")) for done in complete.values()]
    if plan.scene.pointmap is not None:
        cameras.insert(0, camera_seen(plan.scene.pointmap, plan.scene.size, plan.scene.name))
    camera = next(filter(None, cameras), None)
    # Reduced, so that not all masks are in memory at full size.
    factor = min(1.0, IOU_PX / max(plan.scene.size))
    size = (max(1, round(plan.scene.size[1] * factor)), max(1, round(plan.scene.size[0] * factor)))
    masks = {str(n): sampled(plan.scene.mask(n), size) for n in complete}

    def compare() -> dict[str, float]:
        return mask_ious(scene, camera, masks) if camera is not None else {}

    def preview() -> None:
        with atomic_write(target / PREVIEW) as file:
            scene_preview(plan.scene.image, masks, scene, camera).save(file, format="PNG")

    def turn() -> None:
        save_turntable(target, turntable(scene, camera))

    def splats(name: str) -> None:
        save = save_gaussians_ply if name == SCENE_PLY else save_splats
        save(target / name, scene.gaussians, "camera")

    meshes = any(item.surface is not None for item in scene.objects)
    gaussians = any(item.gaussians is not None for item in scene.objects)
    pictures = config.output.preview and (meshes or gaussians)
    formats = config.output.formats or ()
    asked = [name for kind, name in SCENE_SPLATS.items() if kind in formats]
    if not asked or {"gaussian", "gaussian_4"} & set(formats):
        asked.insert(0, SCENE_PLY)
    parts: dict[str, Callable[[], Any]] = {
        **{name: functools.partial(splats, name) for name in asked if gaussians},
        **({SCENE_GLB: lambda: save_scene_glb(target / SCENE_GLB, scene)} if meshes else {}),
        **({PREVIEW: preview} if pictures else {}),
        **({TURNTABLE: turn} if pictures and config.scene.turntable else {}),
    }
    # The pictures, which take longest, come first.
    *_, overlaps = _all_of([*reversed(parts.values()), compare], processes, target)
    about = {
        str(n): {
            "mask": plan.scene.masks[n].name,
            "folder": str(n),
            "mask_iou": overlaps.get(str(n)),
            "notices": _notices(complete[n].get("notices", ()), overlaps.get(str(n))),
            "identity": plan.identities[n],
        }
        for n in complete
    }
    facts = {
        "name": plan.scene.name,
        "image": plan.scene.image_path.name,
        "files": [*parts, *([LARGE_TURNTABLE] if (target / LARGE_TURNTABLE).is_file() else [])],
        "mean_mask_iou": sum(overlaps.values()) / len(overlaps) if overlaps else None,
        "made_of": made_of,
    }
    save_scene_json(target / SCENE_JSON, scene, camera, facts, about)


def _notices(own: Sequence[str], overlap: float | None) -> list[str]:
    """The notices of an object, with a remark if it covers its mask badly in the composed scene alone."""
    remark = overlap_notices(overlap)
    return [*own, *(() if remark and any(remark[0].split("(")[0] in notice for notice in own) else remark)]


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


def _summary(
    plan: ScenePlan, outcomes: Mapping[int, ObjectOutcome], composed: Mapping[str, Any], refined: bool
) -> dict[str, Any]:
    placed = {item["name"]: item for item in composed["objects"]}
    objects = []
    for number, source in plan.scene.masks.items():
        facts = asdict(outcomes[number])
        del facts["seconds"]  # differs from run to run
        folder = str(number) if facts["status"] == "complete" else None
        overlap = placed.get(str(number), {}).get("mask_iou")
        facts["notices"] = _notices(facts["notices"], overlap)
        objects.append({"mask": source.name, **facts, "folder": folder, "mask_iou": overlap})
    states = [item["status"] for item in objects]
    counts = {status: states.count(status) for status in ("complete", "failed", "duplicate")}
    return {
        "scene": plan.scene.name,
        "image": plan.scene.image_path.name,
        **counts,
        "pose_refined": refined,
        "passed_over": [path.name for path in plan.scene.passed_over],
        "mean_mask_iou": composed["mean_mask_iou"],
        "files": composed["files"],
        "objects": objects,
    }
