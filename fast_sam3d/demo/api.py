"""The demo as an API: reconstruct by a call of Gradio's clients instead of by the page.

from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860")
found = client.predict(picture=handle_file("mug.jpg"), clicks=[[310, 240]], api_name="/reconstruct")
print(found["files"]["mesh.glb"])  # an address below that of the client
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any
from urllib.parse import quote

import gradio as gr

from fast_sam3d.demo.asked import job_settings, together, uploaded
from fast_sam3d.demo.choice import Choice, open_example, open_picture
from fast_sam3d.demo.files import with_mask
from fast_sam3d.demo.inputs import JobInput
from fast_sam3d.demo.job import Job
from fast_sam3d.demo.page import Page
from fast_sam3d.demo.settings import JobSettings
from fast_sam3d.errors import FastSam3dError, InputError, suggest

__all__ = ["add_api", "facts"]


def add_api(page: Page) -> None:
    """Add the calls to a page that is not launched yet."""
    calls = _Calls(page)
    with page.blocks:
        for call in (calls.reconstruct, calls.submit, calls.state, calls.cancel):
            gr.api(call, api_name=call.__name__, concurrency_limit=None)


class _Calls:
    """The calls. Their errors are sentences; the docstrings are those of Gradio's page about the API."""

    def __init__(self, page: Page) -> None:
        self._engine, self._examples, self._sam2 = page.engine, page.examples, page.sam2

    def reconstruct(
        self, picture: Any, clicks: list | None = None, box: list | None = None, masks: list | None = None,
        settings: dict | None = None,
    ) -> dict:  # fmt: skip
        """Reconstruct one object, or a scene of several, and wait for the result.

        Args:
            picture: a file, or the name of an example, such as "teapot".
            clicks: pixels on the object as [x, y], or [x, y, 0] beside it.
            box: left, top, right, bottom of the object in pixels.
            masks: instead: files, or numbers of an example's masks; several are a scene. None: those of the example.
            settings: of preset, seed, ss_steps, slat_steps, formats, faces, texture, compare, overrides.
        """
        job = self._submitted(picture, clicks, box, masks, settings)
        for _ in job.events():
            pass
        if job.results is None:
            raise gr.Error(job.last.message, print_exception=False)
        return facts(job)

    def submit(
        self, picture: Any, clicks: list | None = None, box: list | None = None, masks: list | None = None,
        settings: dict | None = None,
    ) -> str:  # fmt: skip
        """As reconstruct, without waiting: returns the job's id for state and cancel."""
        return self._submitted(picture, clicks, box, masks, settings).id

    def state(self, job: str) -> dict:
        """Status, stages and, once it is done, results of a job."""
        return facts(self._found(job))

    def cancel(self, job: str) -> dict:
        """End a job: at once while it waits, else at its next step."""
        found = self._found(job)
        found.cancel()
        return facts(found)

    def _found(self, job: str) -> Job:
        found = self._engine.job(str(job))
        if found is None:
            raise gr.Error(f"there is no job '{job}', or it is too old", print_exception=False)
        return found

    def _submitted(self, picture: Any, clicks: Any, box: Any, masks: Any, settings: Any) -> Job:
        try:
            given = _objects(self._opened(picture), clicks, box, masks)
            return self._engine.submit(together(given) if len(given) > 1 else given[0], _settings(settings),
                                       scene=len(given) > 1)  # fmt: skip
        except FastSam3dError as error:
            raise gr.Error(str(error), print_exception=False) from error

    def _opened(self, picture: Any) -> Choice:
        if isinstance(picture, Mapping):
            return open_picture(uploaded(picture.get("path")), str(picture.get("orig_name") or "picture"), self._sam2)
        name = str(picture).removeprefix("examples/")
        if name not in self._examples:
            raise InputError(f"there is no example '{picture}', and it is no file: {suggest(name, self._examples)}")
        return open_example(self._examples[name], self._sam2)


def _objects(choice: Choice, clicks: Any, box: Any, masks: Any) -> list[JobInput]:
    """What to reconstruct. Raises InputError."""
    choice, own = choice.clear(), choice.picture.masks
    if masks is None and not clicks and not box:
        if not own:
            raise InputError("no object is selected: give clicks, a box, or masks")
        masks = list(own)
    try:
        if masks is not None:
            return [_by_mask(choice, mask) for mask in masks] or _nothing()
        if box:
            choice = choice.within([float(value) for value in box])
        for x, y, *keep in clicks or ():
            choice = choice.click(float(x), float(y), bool(keep[0]) if keep else True)
    except FastSam3dError:
        raise
    except (TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError("give clicks as [[x, y], ...] and a box as [left, top, right, bottom], in pixels") from error
    return [choice.input()]


def _by_mask(choice: Choice, mask: Any) -> JobInput:
    if isinstance(mask, Mapping):
        return with_mask(choice, uploaded(mask.get("path")))[0].input()
    if mask not in choice.picture.masks:
        raise InputError(f"there is no mask {mask}: give files, or numbers of {sorted(choice.picture.masks)}")
    return choice.take(mask).input()


def _nothing() -> list[JobInput]:
    raise InputError("the list of masks is empty: give at least one")


def _settings(asked: Any) -> JobSettings:
    """Settings of a call, checked as those of the page. Raises ConfigError, InputError."""
    known = {field.name: getattr(JobSettings(), field.name) for field in fields(JobSettings)}
    for name in asked or {}:
        if name not in known:
            raise InputError(f"there is no setting '{name}': {suggest(str(name), known)}")
    every = {**known, **(asked or {})}
    try:
        checked = job_settings(
            every["preset"], every["seed"], every["ss_steps"] or 1, every["slat_steps"] or 1, list(every["formats"]),
            every["faces"], every["texture"], " ".join(every["overrides"]), compare=bool(every["compare"]),
        )  # fmt: skip
    except (TypeError, ValueError) as error:
        if isinstance(error, FastSam3dError):
            raise
        raise InputError(f"a setting has a wrong type ({error})") from error
    steps = {name: None if every[name] is None else getattr(checked, name) for name in ("ss_steps", "slat_steps")}
    return JobSettings(**{**{name: getattr(checked, name) for name in known}, **steps})


def facts(job: Job) -> dict[str, Any]:
    """A job as JSON; files as addresses on the server."""
    last, results = job.last, job.results
    found: dict[str, Any] = {
        "job": job.id,
        "status": job.status,
        "message": last.message,
        "place": last.place,
        "seconds": job.seconds,
        "network_calls": last.calls,
        "network_calls_saved": last.saved,
        "stages": [
            {"part": row.part, "stage": row.stage, "title": row.title, "done": row.done, "total": row.total,
             "skipped": row.skipped, "seconds": row.seconds, "finished": row.finished}
            for row in job.rows
        ],
    }  # fmt: skip
    if results is None:
        return found
    versus = results.comparison
    addresses = _addresses(job, results.files)
    return found | {
        "files": addresses,
        "archive": f"/results/{job.id}/all.zip",
        "pose": results.pose,
        "notices": list(results.notices),
        "command": results.command,
        "comparison": None if versus is None else {
            **{key: value for key, value in asdict(versus).items() if key in ("seconds", "calls", "drift")},
            "speedup": versus.speedup,
            "files": _addresses(job, list(versus.view.values())),
        },
    }  # fmt: skip


def _addresses(job: Job, files: Sequence[Any]) -> dict[str, str]:
    """Where the server has files of a job, by name."""
    if job.folder is None:
        return {}
    return {path.name: f"/results/{job.id}/{quote(path.relative_to(job.folder).as_posix())}" for path in files}
