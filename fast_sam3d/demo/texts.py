"""What the page says about a job, as HTML: its progress, its result, and the comparison with the baseline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, Literal

from fast_sam3d.demo.choice import jpeg
from fast_sam3d.demo.events import StageRow
from fast_sam3d.demo.inputs import Example, JobInput
from fast_sam3d.demo.job import Comparison, Job, Results
from fast_sam3d.viewer import Pane

__all__ = [
    "address", "comparison", "downloads", "facts", "model_line", "objects", "on_shelf", "problem", "progress",
    "viewer",
]  # fmt: skip

EMBEDDED = (
    "This is the <b>embedded model</b>: it knows eighteen families of simple objects in flat colours, such as chairs, "
    "mugs and cars. <b>Real photographs are out of distribution</b>: expect a lump, or the wrong object. For "
    "photographs, start the demo with your own SAM 3D Objects weights (<code>--tag</code>)."
)
DRIFT = {
    "voxel_iou": ("voxel IoU", 3), "box_iou": ("box IoU", 3), "f1@0.05": ("F1@0.05", 3), "ssim": ("SSIM of views", 3),
    "rotation_deg": ("rotation, degrees", 2),
}  # fmt: skip
"""Measures between the accelerated result and the baseline, with their decimals."""


WAYS = ("baseline", "accelerated")
KINDS: tuple[tuple[Literal["mesh", "splats"], str], ...] = (("mesh", "mesh"), ("splats", "gaussians"))


def model_line(embedded: bool, tag: str) -> str:
    """Which model runs, and what it cannot do."""
    loaded = f"Model: <code>{escape(tag)}</code>."
    return f'<div class="notice">{loaded} {EMBEDDED}</div>' if embedded else f'<div class="model">{loaded}</div>'


def on_shelf(example: Example) -> dict[str, str]:
    """An example to pick, with a small copy of its picture."""
    from PIL import Image

    with Image.open(example.image) as picture:
        picture.thumbnail((144, 144))
        return {"name": example.name, "url": jpeg(picture.convert("RGB")), "masks": str(len(example.masks))}


def objects(given: Sequence[JobInput]) -> str:
    """The objects of a scene, each cut out."""
    if not given:
        return '<div class="status">No objects yet.</div>'
    return f'<div class="objects">{"".join(_object(number, one) for number, one in enumerate(given))}</div>'


def _object(number: int, given: JobInput) -> str:
    import numpy as np
    from PIL import Image

    mask = np.asarray(given.masks[0]) > 0
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    part = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    cut = np.where(mask[part][..., None], given.image[part], 255).astype(np.uint8)
    picture = Image.fromarray(cut)
    picture.thumbnail((96, 96))
    return f'<figure><img src="{jpeg(picture)}" alt=""><figcaption>{number}</figcaption></figure>'


def problem(text: str) -> str:
    """A sentence about what is wrong."""
    return f'<div class="problem" role="alert">{escape(text)}</div>'


def progress(job: Job) -> str:
    """The stages of a job so far, each with its steps: computed ones filled, predicted ones hollow."""
    last = job.last
    if last.kind == "failed":
        return problem(last.message)
    if last.kind == "cancelled":
        return '<div class="status" role="status">Cancelled; nothing was kept.</div>'
    if job.status in ("waiting", "loading"):
        return f'<div class="status" role="status"><span class="spin"></span>{_queued(job)}</div>'
    saved = f", {last.saved:g} saved" if last.saved else ""
    calls = f", {last.calls:g} network calls{saved}" if last.calls else ""
    going = "Cancelling, at the end of this step" if job.cancelled else "Running"
    state = "Done" if job.finished else f'<span class="spin"></span>{going}{_which(job)}'
    spent = f" ({', '.join(_spent(job))})" if job.finished else ""
    head = f'<div class="status" role="status">{state}: {job.seconds:.1f} s{spent}{calls}</div>'
    stages = f'<div class="stages">{"".join(_rows(job.rows))}</div>'
    return head + (f"<details><summary>stages</summary>{stages}</details>" if job.finished else stages)


def _which(job: Job) -> str:
    """The object of a scene that is worked on."""
    part, all_of = job.rows[-1].part if job.rows else "", len(job.given.masks) if job.given is not None else 0
    done = len({row.part for row in job.rows})
    return f", {part} ({done} of {all_of})" if job.scene and part.startswith("object") else ""


def _spent(job: Job) -> Iterable[str]:
    """The seconds of a job that has ended, by what they were spent on; together they are those of the whole job."""
    left, waited = job.seconds, job.waited
    kinds = {"waiting": waited, "reconstruction": 0.0, "baseline": 0.0, "faces and texture": 0.0}
    for row in job.rows:
        if row.stage == "export":
            kinds["faces and texture"] += row.seconds
        elif row.stage not in ("results", "compose", "drift"):
            kinds["baseline" if row.part == "baseline" and job.settings.compare else "reconstruction"] += row.seconds
    for what, seconds in kinds.items():
        left -= seconds
        if seconds >= 0.05:
            yield f"{what} {seconds:.1f} s"
    yield f"files {max(left, 0):.1f} s"


def _queued(job: Job) -> str:
    if job.status == "loading":
        return "The model is loading; this job is next."
    before = job.last.place
    return f"Waiting: {before} job{'s' * (before != 1)} before this one." if before else "Waiting."


def _rows(rows: Sequence[StageRow]) -> Iterable[str]:
    part = ""
    for row in rows:
        if row.part != part:
            part = row.part
            yield f'<div class="part">{escape(part)}</div>'
        marks = "".join(f'<i class="{"ran" if ran else "skipped"}"></i>' for ran in row.steps)
        marks += "<i></i>" * max(row.total - row.done, 0) if row.total <= 200 else ""
        count = f"{row.done}/{row.total}" if row.total > 1 else ""
        skipped = f", {row.skipped} skipped" if row.skipped else ""
        yield (
            f'<div class="stage"><span>{escape(row.title)}</span><span class="steps">{marks if row.total > 1 else ""}'
            f"</span><span>{count}{skipped}</span><span>{row.seconds:.2f} s</span></div>"
        )


def address(job: Job, path: Path) -> str:
    """Where the page finds a file of a job, from the page's own address."""
    inside = path.parts[next(i for i, part in enumerate(path.parts) if part.endswith(job.id)) + 1 :]
    return "/".join(["results", job.id, *inside])


def viewer(job: Job, views: Sequence[tuple[str, Mapping[str, Path]]] = ()) -> dict[str, Any]:
    """What the viewer shows: mesh and gaussians of a result, or of several side by side, each with a label.

    Without views: that the job runs.
    """
    panes = [
        Pane(kind, f"../{address(job, view[kind])}", f"{label} {name}".strip())._asdict()
        for label, view in views
        for kind, name in KINDS
        if kind in view
    ]
    note = "There is neither a mesh nor a file of gaussians to show." if views else "The result appears here."
    return {"job": job.id, "panes": panes, "note": note}


def downloads(job: Job, results: Results) -> str:
    """A link per file."""
    links = [
        f'<a href="{escape(address(job, path))}" download>{escape(path.name)} <small>{_size(path)}</small></a>'
        for path in results.files
        if path.is_file()
    ]
    everything = f'<a href="results/{job.id}/all.zip" download="everything.zip">everything <small>.zip</small></a>'
    return f'<div class="files">{"".join(links)}{everything}</div>'


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:.1f} MB" if size >= 1e6 else f"{size / 1e3:.1f} kB"


def facts(job: Job, results: Results) -> str:
    """Notices, time and calls, and the pose."""
    notices = "".join(f'<div class="notice">{escape(text)}</div>' for text in results.notices)
    saved = f" ({results.saved:g} saved)" if results.saved else ""
    rows = [
        (
            "reconstruction" if "rotation" in results.pose else "run",
            f"{results.seconds:.2f} s, {results.calls:g} network calls{saved}",
        )
    ]
    pose = results.pose
    if "rotation" in pose:
        for key in ("rotation", "translation", "scale"):
            rows.append((key + " (w x y z)" * (key == "rotation"), _numbers(pose[key])))
    for number, item in enumerate(pose.get("objects") or ()):
        if isinstance(item, Mapping) and "translation" in item:
            label = f"object {item.get('mask', item.get('number', number))}"
            rows.append((f"{label}: translation; scale", f"{_numbers(item['translation'])}; {_numbers(item['scale'])}"))
    return notices + _grid(rows) + _turntable(job, results)


def _grid(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f"<span>{escape(name)}</span><span>{escape(value)}</span>" for name, value in rows)
    return f'<div class="facts">{cells}</div>'


def _turntable(job: Job, results: Results) -> str:
    if (path := results.view.get("turntable")) is None:
        return ""
    source = f'src="{escape(address(job, path))}"'
    if path.suffix == ".mp4":
        return f'<video class="turntable" {source} autoplay loop muted playsinline></video>'
    return f'<img class="turntable" {source} alt="turntable">'


def _numbers(values: object) -> str:
    flat: list[float] = []

    def walk(value: object) -> None:
        if isinstance(value, (int, float)):
            flat.append(float(value))
        elif isinstance(value, Sequence):
            for part in value:
                walk(part)

    walk(values)
    return "  ".join(f"{value:.3f}" for value in flat)


def comparison(found: Comparison) -> str:
    """Times, calls and drift."""
    rows = [(way, f"{found.seconds[way]:.2f} s, {found.calls[way]:g} network calls") for way in WAYS]
    drift = [f"{label} {found.drift[key]:.{places}f}" for key, (label, places) in DRIFT.items() if key in found.drift]
    return (
        f'{_grid(rows)}<div class="status"><b>{found.speedup:.2f}× as fast</b>, one run of each. Accelerated against '
        f"baseline: {', '.join(drift)}.</div>"
    )
