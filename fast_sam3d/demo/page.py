"""The page: choose a picture, mark an object, reconstruct it, look at it. Gradio draws it, `engine` does the work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from fast_sam3d.config.compose import group_options, load
from fast_sam3d.demo import texts
from fast_sam3d.demo.asked import TURNTABLE, job_settings, marked, together, uploaded
from fast_sam3d.demo.choice import Choice, open_example, open_picture
from fast_sam3d.demo.engine import Engine
from fast_sam3d.demo.files import AXES, with_mask, with_pointmap
from fast_sam3d.demo.inputs import JobInput, examples
from fast_sam3d.demo.job import Job
from fast_sam3d.demo.settings import FACES, FORMATS, TEXTURE
from fast_sam3d.errors import FastSam3dError, InputError
from fast_sam3d.segment.sam2 import Sam2

__all__ = ["Page"]

STATIC = Path(__file__).parent / "static"
EMPTY: dict[str, Any] = {"mask": None, "points": [], "box": None, "note": "", "wrong": False}
FILE_NAMES = [
    ("mesh .glb", "mesh"), ("mesh .obj", "obj"), ("mesh .stl", "stl"), ("gaussians .ply", "gaussian"),
    ("gaussians .spz", "spz"), ("gaussians .sog", "sog"), ("gaussians .glb", "glb-splat"),
]  # fmt: skip
LOOK = 0.2
"""Seconds between two looks at a job that runs."""
KEPT = 1800
"""Seconds for which the picture of a page that was closed stays in memory."""


class Page:
    """Builds the page over an engine.

    Args:
        engine: that runs the jobs.
        sam2: selects objects, if given.

    Attributes:
        blocks: the page, as Gradio's `launch` takes it.
    """

    def __init__(self, engine: Engine, sam2: Sam2 | None = None) -> None:
        self.engine, self.sam2 = engine, sam2
        self.examples = {example.name: example for example in examples()}
        self._sessions: dict[str, set[str]] = {}
        self._lock = threading.Lock()
        with gr.Blocks(
            title="fast_sam3d", analytics_enabled=False, fill_width=True, delete_cache=(600, KEPT)
        ) as blocks:
            self._build()
            blocks.load(engine.start, api_visibility="private", show_progress="hidden")  # once the page is drawn
            blocks.unload(self._left)
        self.blocks = blocks

    # ----------------------------------------------------------------------------------------------------- layout

    def _build(self) -> None:
        choice = gr.State(None, time_to_live=KEPT)
        objects = gr.State((), time_to_live=KEPT)
        gr.HTML("<h1>fast_sam3d <small>from a picture to mesh, gaussians and pose</small></h1>")
        gr.HTML(texts.model_line(self.engine.embedded, self.engine.checkpoint.tag))
        with gr.Row(elem_classes="main"):
            with gr.Column(scale=4, min_width=320):
                picker = gr.HTML(
                    EMPTY, picture=None, html_template=_read("pick.html"), css_template=_read("pick.css"),
                    js_on_load=_read("pick.js"), elem_id="picker",
                )  # fmt: skip
                shelf = gr.HTML(
                    [texts.on_shelf(example) for example in self.examples.values()],
                    html_template=_read("shelf.html"), js_on_load=_read("shelf.js"), elem_id="examples",
                )  # fmt: skip
                given = self._given()
                settings = self._settings()
            with gr.Column(scale=6, min_width=320), gr.Tabs(elem_id="tabs"):
                with gr.Tab("Object"):
                    with gr.Row():
                        go = gr.Button("Reconstruct", variant="primary", elem_id="run")
                        versus = gr.Button("Compare with the baseline", elem_id="compare")
                        stop = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel")
                    one = _Output("object")
                with gr.Tab("Scene"):
                    gr.HTML("Several objects of one picture: select one, add it, select the next one.")
                    with gr.Row():
                        add = gr.Button("Add the selected object", elem_id="add")
                        add_all = gr.Button("Add all objects of the example", elem_id="add-all")
                        drop = gr.Button("Remove the last one", elem_id="remove")
                    chosen = gr.HTML(texts.objects(()), elem_id="objects")
                    with gr.Row():
                        go_scene = gr.Button("Reconstruct the scene", variant="primary", elem_id="run-scene")
                        stop_scene = gr.Button("Cancel", variant="stop", visible=False, elem_id="cancel-scene")
                    many = _Output("scene")
        picked = [choice, picker, objects, chosen]
        hidden: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden", "concurrency_limit": None}
        picker.upload(self._upload, choice, picked, **hidden)
        shelf.select(self._example, choice, picked, **hidden)
        picker.select(self._mark, choice, [choice, picker], **hidden)
        mask, label, threshold, points, axes = given
        mask.upload(self._mask_file, [choice, mask, label, threshold], [choice, picker, mask], **hidden)
        points.upload(self._points_file, [choice, points, axes], [choice, picker, points], **hidden)
        listed = [objects, chosen, choice, picker]
        add.click(self._add, [choice, objects], listed, **hidden)
        add_all.click(self._add_all, choice, listed, **hidden)
        drop.click(lambda given: (given[:-1], texts.objects(given[:-1])), objects, [objects, chosen], **hidden)
        for button, run, what, output, cancel in (
            (go, self._run, choice, one, stop),
            (versus, self._compare, choice, one, stop),
            (go_scene, self._run_scene, objects, many, stop_scene),
        ):
            buttons = [go, versus] if output is one else [go_scene]
            button.click(run, [what, *settings], [*output.parts, cancel, *buttons], **hidden)
        stop.click(self._cancel, one.job, None, queue=False, **hidden)
        stop_scene.click(self._cancel, many.job, None, queue=False, **hidden)

    def _given(self) -> list[Any]:
        with gr.Accordion("A mask or a pointmap from a file", open=False, elem_id="given"):
            what = "mask: white on black, alpha, or a label map"
            mask = gr.File(file_types=["image", ".npy", ".npz"], label=what, height=130, elem_id="mask-file")
            with gr.Row():
                label = gr.Textbox("", label="label of the object, in a label map", max_lines=1, min_width=140)
                threshold = gr.Number(0, label="mask threshold, 0 to 1 (0: by the file)", min_width=140)
            what = "pointmap, or depth and intrinsics: .npy, .npz"
            points = gr.File(file_types=[".npy", ".npz"], label=what, height=130, elem_id="points-file")
            axes = gr.Dropdown(list(AXES), value=AXES[0], label="axes of the pointmap (choose before the file)")
        return [mask, label, threshold, points, axes]

    def _settings(self) -> list[Any]:
        standard = load().pipeline
        with gr.Accordion("Settings", open=False, elem_id="settings"):
            with gr.Row():
                preset = gr.Dropdown(group_options()["preset"], value="default", label="preset", min_width=120)
                seed = gr.Number(42, precision=0, label="seed", min_width=100)
            with gr.Row():
                ss = gr.Slider(1, 50, standard.ss_steps, step=1, label="steps of the sparse structure", min_width=140)
                slat = gr.Slider(
                    1, 50, standard.slat_steps, step=1, label="steps of the structured latent", min_width=140
                )
            formats = gr.CheckboxGroup([*FILE_NAMES, TURNTABLE], value=list(FORMATS), label="files")
            with gr.Row():
                faces = gr.Number(FACES, precision=0, label="faces of the mesh, at most (0: all)", min_width=140)
                texture = gr.Dropdown(
                    [("none, vertex colours", 0), ("512", 512), ("1024", TEXTURE), ("2048", 2048)], value=TEXTURE,
                    label="texture, pixels", min_width=140,
                )  # fmt: skip
            more = gr.Textbox("", label="further settings, such as ss.when.stride=4", max_lines=1)
        return [preset, seed, ss, slat, formats, faces, texture, more]

    # --------------------------------------------------------------------------------------- choosing an object

    def _upload(self, choice: Choice | None, event: gr.EventData) -> tuple[Any, ...]:
        try:
            path, name = uploaded(event._data.get("path")), str(event._data.get("name") or "picture")
            new = open_picture(path, name, self.sam2)
        except FastSam3dError as error:
            return choice, _refused(choice, error), gr.skip(), gr.skip()
        path.unlink(missing_ok=True)
        return _opened(new)

    def _example(self, choice: Choice | None, event: gr.EventData) -> tuple[Any, ...]:
        example = self.examples.get(str(event._data.get("name")))
        if example is None:
            return choice, _refused(choice, InputError("there is no such example")), gr.skip(), gr.skip()
        return _opened(open_example(example, self.sam2))

    def _mark(self, choice: Choice | None, event: gr.EventData) -> tuple[Any, Any]:
        asked = event._data
        if asked.get("kind") == "close" or choice is None:
            return None, gr.HTML(value=EMPTY, picture=None)
        try:
            new = marked(choice, asked)
        except FastSam3dError as error:
            return choice, choice.shown(str(error), wrong=True)
        return new, new.shown()

    def _mask_file(self, choice: Choice | None, path: Any, label: str, threshold: float | None) -> tuple[Any, ...]:
        return _with_file(choice, "mask", path, lambda own: with_mask(own, Path(path), label, threshold or 0))

    def _points_file(self, choice: Choice | None, path: Any, axes: str) -> tuple[Any, ...]:
        def use(own: Choice) -> tuple[Choice, str]:
            new, odd = with_pointmap(own, Path(path), axes)
            return new, f"The pointmap {Path(path).name} is used. {odd}".strip()

        return _with_file(choice, "pointmap", path, use)

    def _add(self, choice: Choice | None, given: tuple[JobInput, ...]) -> tuple[Any, ...]:
        try:
            if choice is None:
                raise InputError("no object is selected: choose a picture, and select an object in it")
            new = choice.input()
            if any(np.array_equal(new.masks[0], one.masks[0]) for one in given):
                raise InputError("this object is in the scene already: select another one")
            more = (*given, new)
        except FastSam3dError as error:
            return given, texts.objects(given) + texts.problem(str(error)), choice, gr.skip()
        clean = choice.clear()
        return more, texts.objects(more), clean, clean.shown(f"Object {len(more)} is added. Select the next one.")

    def _add_all(self, choice: Choice | None) -> tuple[Any, ...]:
        example = None if choice is None else choice.picture.example
        if choice is None or example is None:
            return gr.skip(), texts.problem("only examples come with masks: choose one"), gr.skip(), gr.skip()
        every = tuple(example.input(number) for number in example.masks)
        return every, texts.objects(every), choice.clear(), gr.skip()

    # --------------------------------------------------------------------------------------------------- running

    def _run(self, request: gr.Request, choice: Choice | None, *settings: Any) -> Iterator[Any]:
        yield from self._object(choice, settings, False, request)

    def _compare(self, request: gr.Request, choice: Choice | None, *settings: Any) -> Iterator[Any]:
        yield from self._object(choice, settings, True, request)

    def _object(
        self, choice: Choice | None, settings: Sequence[Any], versus: bool, request: gr.Request
    ) -> Iterator[Any]:
        try:
            if choice is None:
                raise InputError("there is no picture yet: drop one on the page, or pick an example")
            job = self.engine.submit(choice.input(), replace(job_settings(*settings), compare=versus))
        except FastSam3dError as error:
            yield _Output.failed(str(error), 2)
            return
        yield from self._follow(job, request, 2)

    def _run_scene(self, request: gr.Request, given: tuple[JobInput, ...], *settings: Any) -> Iterator[Any]:
        try:
            if not given:
                raise InputError("the scene has no objects yet: select one in the picture and add it")
            job = self.engine.submit(together(given), job_settings(*settings, scene=True), scene=True)
        except FastSam3dError as error:
            yield _Output.failed(str(error), 1)
            return
        yield from self._follow(job, request, 1)

    def _follow(self, job: Job, request: gr.Request, buttons: int) -> Iterator[Any]:
        """Shows a job until it ends; a page that goes away takes its job with it."""
        session = request.session_hash or ""
        with self._lock:
            self._sessions.setdefault(session, set()).add(job.id)
        shown: Any = None
        busy = [gr.Button(visible=True), *[gr.Button(interactive=False)] * buttons]
        try:
            yield [texts.progress(job), texts.viewer(job), "", "", gr.Textbox(visible=False), job.id, *busy]
            while not job.finished:
                job.look(shown or {}, LOOK)
                look: Any = gr.skip()
                if job.view and dict(job.view) != shown and not job.finished:
                    shown = dict(job.view)
                    look = texts.viewer(job, [("", shown)])
                yield [texts.progress(job), look, *[gr.skip()] * (4 + len(busy))]
            yield _Output.ended(job, shown, buttons)
        finally:
            job.cancel()
            with self._lock:
                self._sessions.get(session, set()).discard(job.id)

    def _cancel(self, job: str) -> None:
        if (found := self.engine.job(job)) is not None:
            found.cancel()

    def _left(self, request: gr.Request) -> None:
        """A page was closed, or its connection is lost: its jobs are cancelled."""
        with self._lock:
            jobs = self._sessions.pop(request.session_hash or "", set())
        for job in jobs:
            self._cancel(job)


class _Output:
    """The part of a tab that shows a job: progress, viewer, facts, files, command line."""

    def __init__(self, name: str) -> None:
        self.job = gr.State("")
        self.parts = [
            gr.HTML("", elem_id=f"{name}-progress"),
            gr.HTML(None, html_template=_read("viewer.html"), js_on_load=_read("viewer.js"), elem_id=f"{name}-viewer"),
            gr.HTML("", elem_id=f"{name}-facts"),
            gr.HTML("", elem_id=f"{name}-files"),
            gr.Textbox(
                label="the command that repeats this result",
                buttons=["copy"],
                interactive=False,
                visible=False,
                elem_id=f"{name}-command",
            ),
            self.job,
        ]

    @staticmethod
    def failed(text: str, buttons: int) -> list[Any]:
        """A job that could not be submitted; an earlier result stays."""
        return [texts.problem(text), *[gr.skip()] * 5, *_idle(buttons)]

    @staticmethod
    def ended(job: Job, shown: Any, buttons: int) -> list[Any]:
        """The last state of a job."""
        results = job.results
        if results is None:
            return [texts.progress(job), texts.viewer(job) if shown else gr.skip(), *[gr.skip()] * 4, *_idle(buttons)]
        found = results.comparison
        views = [("", results.view)] if found is None else [("accelerated", results.view), ("baseline", found.view)]
        look = gr.skip() if found is None and dict(results.view) == shown else texts.viewer(job, views)
        about = texts.facts(job, results) if found is None else texts.comparison(found) + texts.facts(job, results)
        return [
            texts.progress(job), look, about, texts.downloads(job, results),
            gr.Textbox(results.command, visible=True), gr.skip(), *_idle(buttons),
        ]  # fmt: skip


def _idle(buttons: int) -> list[Any]:
    return [gr.Button(visible=False), *[gr.Button(interactive=True)] * buttons]


def _opened(choice: Choice) -> tuple[Any, ...]:
    return choice, gr.HTML(value=choice.shown(), picture=choice.picture.shown()), (), texts.objects(())


def _with_file(
    choice: Choice | None, what: str, path: str | None, use: Callable[[Choice], tuple[Choice, str]]
) -> tuple[Any, ...]:
    """The choice with a file, its picture, and no file: it is not needed any longer."""
    if choice is None or path is None:
        return choice, EMPTY | {"note": f"Choose the picture first, then its {what}.", "wrong": True}, None
    try:
        new, note = use(choice)
    except FastSam3dError as error:
        return choice, choice.shown(str(error), wrong=True), None
    finally:
        Path(path).unlink(missing_ok=True)
    return new, new.shown(note), None


def _refused(choice: Choice | None, error: FastSam3dError) -> dict[str, Any]:
    return EMPTY | {"note": str(error), "wrong": True} if choice is None else choice.shown(str(error), wrong=True)


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
