"""A scene from its folder to a folder of results, in a way that can be stopped anywhere and goes on.

    OUT/kitchen/0, 2, 11 ...    one folder per mask, as `infer` writes it, with a done.json
    OUT/kitchen/scene.ply, scene.glb, scene.json, preview.png, turntable.gif, summary.json

An object's folder appears whole. Its done.json holds the identity of what it was made of: digests of the pixels, and
the settings. What is there in its whole and of the same identity is not made again. The composed files are made of the
objects' files, never of what is in memory, so that a scene that was stopped ends with the bytes of one that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fast_sam3d.camera import Camera
from fast_sam3d.config import Config
from fast_sam3d.errors import FastSam3dError, InputError, OutputError
from fast_sam3d.result_folder import check_target
from fast_sam3d.scene.batch import groups_of
from fast_sam3d.scene.inputs import SceneInput
from fast_sam3d.scene.worker import DONE, OBJECT_NAMES, ObjectTask, Outcome, Worker, input_identity, read_done

__all__ = [
    "LOCK",
    "Engine",
    "Plan",
    "clear_left_behind",
    "count_as_missing",
    "finish",
    "one_after_another",
    "plan",
    "run_folder",
    "scene_lock",
]

log = logging.getLogger(__name__)

SCENE_PLY, SCENE_GLB, SCENE_JSON = "scene.ply", "scene.glb", "scene.json"
PREVIEW, TURNTABLE, SUMMARY = "preview.png", "turntable.gif", "summary.json"
SCENE_NAMES = (SCENE_PLY, SCENE_GLB, SCENE_JSON, PREVIEW, TURNTABLE, SUMMARY)
LOCK = ".fast_sam3d.lock"
_LEFT_BEHIND = re.compile(r"\.fast_sam3d-.*|\..+\.[0-9a-f]{8}\.tmp")
"""Names that `result_folder` and `export.atomic_write` give to what is not finished."""

Engine = Callable[[Iterable[ObjectTask]], Iterator[Outcome]]
"""Makes objects in any order, in this process or elsewhere, and tells what became of each as it is done."""


def one_after_another(worker: Worker) -> Engine:
    """The plain engine: this process, in the order of the masks."""

    def run(tasks: Iterable[ObjectTask]) -> Iterator[Outcome]:
        for task in tasks:
            yield worker.process(task)

    return run


@dataclass(slots=True, eq=False)
class Plan:
    """What is to be done for a scene.

    Args:
        target: the folder of its results.
        tasks: objects to be made.
        known: what is known already, by mask: complete from an earlier run, a mask that cannot be used, a duplicate.
        identities: of every object that can be made, by mask.
    """

    scene: SceneInput
    target: Path
    tasks: list[ObjectTask] = field(default_factory=list)
    known: dict[int, Outcome] = field(default_factory=dict)
    identities: dict[int, Mapping[str, Any]] = field(default_factory=dict)


def plan(scene: SceneInput, config: Config, settings: Mapping[str, Any], target: Path, overwrite: bool = False) -> Plan:
    """Looks at every mask and at what is there from earlier runs; makes nothing.

    Args:
        settings: `scene.worker.config_identity`.
        target: the folder of the scene's results.
        overwrite: make everything again.

    Raises:
        OutputError: results of other settings are there and `overwrite` is not set; the place cannot be written, is
            in the way of the input, or holds files that are not results.
    """
    _refuse_input_folder(scene, target)
    whole = Plan(scene, target)
    seen: dict[str, int] = {}
    done = {number: read_done(target / str(number)) for number in scene.masks}
    if not overwrite:
        _refuse_other_settings(target, done, settings)
    for number, path in scene.masks.items():
        try:
            given = input_identity(scene, number)
        except InputError as error:
            whole.known[number] = Outcome(number, "failed", str(error))
            continue
        first = seen.setdefault(given["mask"], number)
        if first != number:
            message = f"{path.name} has the same pixels as {scene.masks[first].name}, so it is the same object"
            log.warning("%s", message)
            whole.known[number] = Outcome(number, "duplicate", message)
            continue
        identity = {"input": given, "settings": settings}
        whole.identities[number] = identity
        there = done[number]
        if there is not None and not overwrite and there["identity"] == identity:
            told = tuple(there.get("out_of_memory", ()))
            whole.known[number] = Outcome(number, "complete", "", tuple(there.get("formats", ())), told)
            continue
        if there is not None and not overwrite:
            log.info("object %d: its picture, mask or pointmap has changed, so it is made again", number)
        check_target(target / str(number), OBJECT_NAMES)
        whole.tasks.append(ObjectTask(scene.folder, config.input.pointmap, number, target / str(number), identity))
    # Of all objects that can be made, so that a run that goes on has the groups of one that was not stopped.
    groups = groups_of(list(whole.identities), config.scene.batch)
    whole.tasks = [replace(task, group=groups.get(task.number, ())) for task in whole.tasks]
    return whole


def _refuse_input_folder(scene: SceneInput, target: Path) -> None:
    if target.resolve() == scene.folder.resolve():
        raise OutputError(f"the results would go to {target}, where the picture is: choose another --output_dir")


def _refuse_other_settings(
    target: Path, done: Mapping[int, Mapping[str, Any] | None], settings: Mapping[str, Any]
) -> None:
    for number, there in done.items():
        old = None if there is None else there["identity"].get("settings")
        if not isinstance(old, dict) or old == settings:
            continue
        key = next((key for key in settings if old.get(key) != settings[key]), "settings")
        values = [json.dumps(value)[:80] for value in (old.get(key), settings.get(key))]
        raise OutputError(
            f"{target / str(number)} was made with other settings ({key} was {values[0]} and is {values[1]}): "
            "add --overwrite to make everything again, or choose another --output_dir"
        )


@contextlib.contextmanager
def scene_lock(target: Path) -> Iterator[None]:
    """Keeps a second run out of a scene's folder, and clears away what a killed one has left there.

    The system gives the lock back when its holder dies, however that happens. Where it knows no such locks (Windows,
    some network drives) nothing is kept out.

    Raises:
        OutputError: another run has the folder, or it cannot be written.
    """
    made = [path for path in (target, *target.absolute().parents) if not path.exists()]
    try:
        target.mkdir(parents=True, exist_ok=True)
        lock = open(target / LOCK, "a")  # noqa: SIM115 (held for the length of the block)
    except OSError as error:
        raise OutputError(f"{target} cannot be written ({error.strerror}): choose another --output_dir") from error
    with lock:
        try:
            import fcntl

            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock.fileno()).st_nlink == 0:  # its last holder has just removed it
                raise BlockingIOError
        except BlockingIOError as error:
            raise OutputError(
                f"another run is writing into {target}: wait for its end, or choose another --output_dir"
            ) from error
        except (ImportError, OSError):
            log.debug("%s cannot be locked", target)
        try:
            clear_left_behind(target)
            yield
        finally:
            with contextlib.suppress(OSError):  # Windows removes no open file
                (target / LOCK).unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty: there are results
                for path in made:
                    path.rmdir()


def clear_left_behind(target: Path) -> None:
    """Removes what killed processes have begun in a scene's folder. Nobody else may be writing there."""
    for path in target.iterdir():
        if _LEFT_BEHIND.fullmatch(path.name):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def count_as_missing(tasks: Iterable[ObjectTask]) -> None:
    """What is to be made again counts as missing from now on: a run that is stopped goes on where it was."""
    for task in tasks:
        (task.target / DONE).unlink(missing_ok=True)


def finish(whole: Plan, outcomes: Mapping[int, Outcome], config: Config) -> dict[str, Any]:
    """Composes what is complete and writes the files of the scene; they are left alone where nothing has changed.

    Args:
        outcomes: of every mask, by number.

    Returns:
        what summary.json says; nothing in it depends on time, or on how often the scene was stopped.
    """
    from fast_sam3d.export import save_json

    complete = [number for number in whole.scene.masks if outcomes[number].status == "complete"]
    made_of = _made_of(whole, complete, config)
    composed = _up_to_date(whole.target, made_of)
    if composed is None:
        for name in (SCENE_JSON, *SCENE_NAMES):  # what is not made anew must not stay; the .json first, as its seal
            (whole.target / name).unlink(missing_ok=True)
        composed = _compose(whole, complete, config, made_of) if complete else {"files": [], "mask_iou": {}}
    summary = _summary(whole, outcomes, composed)
    save_json(whole.target / SUMMARY, summary)
    return summary


def _made_of(whole: Plan, complete: list[int], config: Config) -> str:
    told = [[number, (read_done(whole.target / str(number)) or {})] for number in complete]
    pictures = [config.output.preview, config.scene.turntable]
    return hashlib.sha256(json.dumps([told, pictures], sort_keys=True).encode()).hexdigest()


def _up_to_date(target: Path, made_of: str) -> dict[str, Any] | None:
    """What the composed files say of themselves, if they are all there and made of the same objects."""
    try:
        scene = json.loads((target / SCENE_JSON).read_text(encoding="utf-8"))
        if scene["made_of"] != made_of or not all((target / name).is_file() for name in scene["files"]):
            return None
        overlaps = {item["name"]: item["mask_iou"] for item in scene["objects"]}
        return {"files": scene["files"], "mask_iou": overlaps}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _compose(whole: Plan, complete: list[int], config: Config, made_of: str) -> dict[str, Any]:
    from fast_sam3d.export import atomic_write
    from fast_sam3d.scene import compose_scene
    from fast_sam3d.scene.files import (
        camera_of,
        load_object_folder,
        save_gif,
        save_scene_glb,
        save_scene_json,
        save_scene_ply,
    )
    from fast_sam3d.scene.pictures import FRAME_MS, IOU_PX, mask_ious, sampled, scene_preview, turntable

    target = whole.target
    scene = compose_scene(load_object_folder(str(n), target / str(n)) for n in complete)
    done = {n: read_done(target / str(n)) or {} for n in complete}
    camera = _camera(whole.scene) or next((c for n in complete if (c := camera_of(done[n].get("camera")))), None)
    # Not all of them at the picture's size at once.
    factor = min(1.0, IOU_PX / max(whole.scene.size))
    size = (max(1, round(whole.scene.size[1] * factor)), max(1, round(whole.scene.size[0] * factor)))
    masks = {str(n): sampled(whole.scene.mask(n), size) for n in complete}
    overlaps = mask_ious(scene, camera, masks) if camera is not None else {}
    files = []
    if save_scene_ply(target / SCENE_PLY, scene):
        files.append(SCENE_PLY)
    if save_scene_glb(target / SCENE_GLB, scene):
        files.append(SCENE_GLB)
    drawn = [item for item in scene.objects if item.surface is not None or item.gaussians is not None]
    if config.output.preview and drawn:
        with atomic_write(target / PREVIEW) as file:
            scene_preview(whole.scene.image, masks, scene, camera).save(file, format="PNG")
        files.append(PREVIEW)
        if config.scene.turntable:
            save_gif(target / TURNTABLE, turntable(scene, camera), FRAME_MS)
            files.append(TURNTABLE)
    about = {
        str(n): {
            "mask": whole.scene.masks[n].name,
            "folder": str(n),
            "mask_iou": overlaps.get(str(n)),
            "identity": whole.identities[n],
        }
        for n in complete
    }
    facts = {
        "name": whole.scene.name,
        "image": whole.scene.image_path.name,
        "files": files,
        "mean_mask_iou": _mean(overlaps),
        "made_of": made_of,
    }
    save_scene_json(target / SCENE_JSON, scene, camera, facts, about)
    return {"files": files, "mask_iou": {str(n): overlaps.get(str(n)) for n in complete}}


def _camera(scene: SceneInput) -> Camera | None:
    """The camera of the given pointmap, for the picture at its own size."""
    if scene.pointmap is None:
        return None
    try:
        return Camera.from_pointmap(scene.pointmap).resized(max(scene.size))
    except ValueError as error:
        log.warning("the camera of the pointmap is not known: %s", error)
        return None


def _mean(overlaps: Mapping[str, float | None]) -> float | None:
    known = [value for value in overlaps.values() if value is not None]
    return sum(known) / len(known) if known else None


def _summary(whole: Plan, outcomes: Mapping[int, Outcome], composed: Mapping[str, Any]) -> dict[str, Any]:
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
        for number, path in whole.scene.masks.items()
    ]
    states = [outcome.status for outcome in outcomes.values()]
    counts = {status: states.count(status) for status in ("complete", "failed", "duplicate")}
    return {
        "scene": whole.scene.name,
        "image": whole.scene.image_path.name,
        **counts,
        "passed_over": [path.name for path in whole.scene.passed_over],
        "mean_mask_iou": _mean(overlaps),
        "files": composed["files"],
        "objects": objects,
    }


def run_folder(
    whole: Plan, config: Config, engine: Engine, tell: Callable[[Outcome], None] = lambda outcome: None
) -> dict[str, Any]:
    """Makes what a plan says and finishes the scene. Returns the summary.

    Args:
        engine: is given the tasks, if there are any.
        tell: told of every outcome as it is known, those of earlier runs first.
    """
    outcomes = dict(whole.known)
    for outcome in whole.known.values():
        tell(outcome)
    count_as_missing(whole.tasks)
    if whole.tasks:
        for outcome in engine(whole.tasks):
            outcomes[outcome.number] = outcome
            tell(outcome)
    lost = [task.number for task in whole.tasks if task.number not in outcomes]
    if lost:
        raise FastSam3dError(f"the engine gave no word of the objects {lost}")
    return finish(whole, outcomes, config)
