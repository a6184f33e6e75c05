"""A web page that shows meshes and gaussians, with everything it needs in `static/`; it loads nothing from elsewhere.

The page is `static/index.html`, with what it shows in its address (`page_address` writes it):

| parameter | meaning |
|---|---|
| `mesh`, `splats` | address of a .glb; of a .ply, .spz or .sog. Repeatable: each is a pane, and all turn together |
| `label` | text of the first pane, the second … |
| `pose`, `report` | addresses of pose.json (or scene.json) and report.json, whose facts and notices are shown |
| `notice` | a line of warning; repeatable |
| `title`, `theme` | text above; `light` or `dark` instead of the system's |
| `show` | `all` (side by side), or the number of one pane; default: all, and the first one on a narrow screen |
| `shading` | `colours` (default), `shaded` or `normals` |
| `wait` | 1: in a frame, prepare, and wait for a message with what to show |
| `up` | frame of the gaussians, if the file does not say it: `y`, `-y`, `z`, `camera` (+x left, +y up, +z forward) |

Addresses must be on the same server. The page says how far it is in `document.body.dataset.state` (`empty`, `loading`,
`ready`, `failed`), and to a page around it by a message `{source: "fast_sam3d.viewer", state}`. With `wait`, the page
around sends `{target: "fast_sam3d.viewer", job, panes: [{kind, address, label}], note}` after the first `empty`, as
often as there is something else to show: no panes show the note. The view is kept for the same `job`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import quote, urlencode

__all__ = ["PAGE", "Pane", "page_address"]

PAGE = Path(__file__).parent / "static" / "index.html"
"""The page; a server has to serve all files of its folder."""


class Pane(NamedTuple):
    """One view of the page: a mesh (.glb) or gaussians (.ply, .spz, .sog), by address, with an optional label."""

    kind: Literal["mesh", "splats"]
    address: str
    label: str = ""


def page_address(
    page: str,
    panes: Sequence[Pane],
    *,
    pose: str | None = None,
    report: str | None = None,
    title: str | None = None,
    notices: Sequence[str] = (),
    theme: Literal["light", "dark"] | None = None,
    show: str | None = None,
) -> str:
    """The address of the page with parameters.

    Args:
        page: address of `PAGE` on the server, without parameters.
        panes: what is shown, from left to right.
        pose, report, title, notices, theme, show: as the parameters of the page.
    """
    fields: list[tuple[str, str]] = []
    for pane in panes:
        fields += [(pane.kind, pane.address), ("label", pane.label)]
    single = (("pose", pose), ("report", report), ("title", title), ("theme", theme), ("show", show))
    fields += [("notice", text) for text in notices] + [(name, value) for name, value in single if value]
    return f"{page}?{urlencode(fields, quote_via=quote)}"
