"""The viewer page in a real browser: both viewers draw the result, and nothing is loaded from elsewhere."""

from __future__ import annotations

import base64
import contextlib
import io
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import binary_erosion

from fast_sam3d.geometry.camera import Camera
from fast_sam3d.geometry.gaussians import GaussianCloud
from fast_sam3d.outputs.gaussians import save_gaussians_ply
from fast_sam3d.outputs.meshes import save_glb
from fast_sam3d.outputs.splats import save_splats
from fast_sam3d.render.renderer import MeshRenderer, render_gaussians
from fast_sam3d.viewer.server import ViewerServer, result_page

SMALL = {"width": 640, "height": 400}
SIDES = ((0.9, 0.1, 0.1), (0.1, 0.6, 0.2), (0.15, 0.25, 0.8))  # colours of a box's top, front and right side


class Box:
    """A box of 0.8 x 0.4 x 0.6, +z up, whose sides have one colour each; as a decoded mesh."""

    def __init__(self) -> None:
        half, vertices, faces, colours = np.array([0.4, 0.2, 0.3]), [], [], []
        for axis, sign, colour in ((2, 1, 0), (1, -1, 1), (0, 1, 2), (2, -1, 0), (1, 1, 1), (0, -1, 2)):
            u, v = np.eye(3)[(axis + 1) % 3] * sign, np.eye(3)[(axis + 2) % 3]
            corners = [np.eye(3)[axis] * sign + a * u + b * v for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            start = len(vertices)
            vertices += [corner * half for corner in corners]
            faces += [[start, start + 1, start + 2], [start, start + 2, start + 3]]
            colours += [SIDES[colour]] * 4
        self.vertices, self.faces, self.vertex_attrs = np.array(vertices), np.array(faces), np.array(colours)


def gaussians_of(mesh: Box, per_face: int = 2000) -> GaussianCloud:
    """Small opaque gaussians all over a mesh's faces, in its colours."""
    weight = np.random.default_rng(0).dirichlet((1, 1, 1), (len(mesh.faces), per_face))
    points = np.einsum("fnk,fkc->fnc", weight, mesh.vertices[mesh.faces]).reshape(-1, 3).astype(np.float32)
    rgb = np.repeat(mesh.vertex_attrs[mesh.faces[:, 0]], per_face, axis=0)
    count = len(points)
    return GaussianCloud(
        get_xyz=points,
        get_scaling=np.full((count, 3), 0.008, np.float32),
        get_rotation=np.tile(np.float32([1, 0, 0, 0]), (count, 1)),
        get_opacity=np.full((count, 1), 0.99, np.float32),
        _features_dc=((rgb - 0.5) / 0.28209479177387814)[:, None].astype(np.float32),
    )


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("viewer") / "box & co_0"
    folder.mkdir()
    save_glb(folder / "mesh.glb", Box())
    save_gaussians_ply(folder / "gaussians.ply", gaussians_of(Box()))
    return folder


@contextlib.contextmanager
def served(result: Path) -> Iterator[str]:
    """The address of a result's page."""
    folder, page = result_page(result)
    with ViewerServer(folder) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server.address + page
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="module")
def address(result: Path) -> Iterator[str]:
    with served(result) as page:
        yield page


def loaded(page: Any, state: str = "ready") -> Any:
    page.wait_for_selector(f"body[data-state={state}]", timeout=30_000)
    return page


def pixels(page: Any, number: int) -> np.ndarray:
    """[H, W, 4] uint8 of a pane, transparent where nothing was drawn."""
    content = page.evaluate("number => window.viewer.picture(number)", number).split(",")[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGBA"))


def look(page: Any, azimuth: float = 0.0) -> None:
    """Both panes, from 30 degrees above; azimuth 0 is the front, 90 the right side."""
    x, z = (2.2 * part * np.cos(np.radians(30)) for part in (np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))))
    page.evaluate("view => window.viewer.look(view)", {"eye": [x, 1.1, z], "target": [0, 0, 0], "fov": 35})
    page.evaluate("() => window.viewer.settled()")  # gaussians are sorted for the new direction in a worker


@pytest.mark.parametrize("kind", ["ply", "spz", "sog"])
def test_mesh_and_gaussians_are_drawn_alike(open_page: Callable[..., Any], result: Path, address: str, kind: str):
    if kind != "ply":
        pytest.importorskip("gaussforge", reason="needs gaussforge")
        save_splats(result / f"gaussians.{kind}", gaussians_of(Box()))
    page = loaded(open_page(address.replace(".ply", f".{kind}"), viewport=SMALL))
    look(page, 35)
    mesh, splats = pixels(page, 0), pixels(page, 1)
    inside = np.zeros(mesh.shape[:2], bool)
    for colour in SIDES:  # top, front and right: upright, not mirrored, and in their own colours
        side = np.abs(mesh[..., :3] - np.multiply(colour, 255)).max(axis=2) <= 3
        assert side.mean() > 0.01
        inside |= binary_erosion(side & (mesh[..., 3] > 250), iterations=4)  # gaussians blur edges
    assert np.abs(mesh[..., :3].astype(float) - splats[..., :3])[inside].mean() <= 3
    both, either = (
        ((mesh[..., 3] > 127) & (splats[..., 3] > 127)).sum(),
        (mesh[..., 3] + 0.0 + splats[..., 3] > 127).sum(),
    )
    assert both / either > 0.9
    assert page.problems == []


def test_the_renderer_of_previews_agrees_in_colour(open_page: Callable[..., Any], address: str):
    page = loaded(open_page(address, viewport={"width": 760, "height": 340}))
    look(page, 35)
    drawn = [pixels(page, number) for number in (0, 1)]
    height = drawn[0].shape[0]
    left = (drawn[0].shape[1] - height) // 2
    squares = [view[:, left : left + height].astype(float) for view in drawn]
    x, z = (2.2 * np.cos(np.radians(30)) * part for part in (np.sin(np.radians(35)), np.cos(np.radians(35))))
    camera, box = Camera.look_at((x, -z, 1.1), fov_deg=35, size=height), Box()
    mesh = MeshRenderer(box.vertices, box.faces, box.vertex_attrs)(camera, background=0.0, lit=False)
    splats = render_gaussians(gaussians_of(box), camera, background=0.0)
    inside = binary_erosion(mesh.mask & (splats.alpha > 0.98) & (squares[1][..., 3] > 250), iterations=2)
    assert inside.mean() > 0.05
    for own, theirs in zip((mesh.rgb, splats.rgb), squares, strict=True):
        assert np.abs(own * 255 - theirs[..., :3])[inside].mean() <= 3


def test_views_are_linked_and_can_be_reset(open_page: Callable[..., Any], address: str):
    page = loaded(open_page(address, viewport=SMALL))
    place = "pane => window.viewer.panes[pane].camera.position.toArray().map(value => Math.round(value * 1000))"
    first = [page.evaluate(place, pane) for pane in (0, 1)]
    box = page.locator("canvas").first.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 120, middle[1] + 20, steps=4)
    page.mouse.up()
    turned = [page.evaluate(place, pane) for pane in (0, 1)]
    assert turned[0] != first[0] and turned[0] == turned[1]
    page.click("#reset")
    assert [page.evaluate(place, pane) for pane in (0, 1)] == first


def test_what_is_shown_and_how_can_be_chosen(open_page: Callable[..., Any], address: str):
    page = loaded(open_page(address, viewport=SMALL))
    assert page.locator(".pane:visible").count() == 2
    page.get_by_role("button", name="gaussians").click()
    assert page.locator(".pane:visible").count() == 1 and page.locator("#shading").is_hidden()
    page.get_by_role("button", name="mesh").click()
    colours = pixels(page, 0)
    page.get_by_role("button", name="shaded").click()
    shaded = pixels(page, 0)
    seen = colours[..., 3] > 250
    assert shaded[seen].mean() < colours[seen].mean() - 5
    page.get_by_role("button", name="normals").click()
    assert np.abs(pixels(page, 0)[seen] - shaded[seen].astype(float)).mean() > 20


def test_a_narrow_window_shows_one_pane_without_scrolling_sideways(open_page: Callable[..., Any], address: str):
    page = loaded(open_page(address, viewport={"width": 360, "height": 640}))
    assert page.locator(".pane:visible").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert (pixels(page, 0)[..., 3] > 250).mean() > 0.05


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [("mesh.glb", b"not a mesh", "mesh.glb is not a glTF file"), ("gaussians.ply", b"ply\n", "not a file of gaussians"),
     ("mesh.glb", None, "could not be loaded (404")],
)  # fmt: skip
def test_a_broken_file_is_named_and_the_other_is_shown(
    open_page: Callable[..., Any], result: Path, tmp_path: Path, name: str, content: bytes | None, says: str
):
    folder = Path(shutil.copytree(result, tmp_path / "broken"))
    with served(folder) as address:
        (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
        page = loaded(open_page(address), "failed")
        assert says in page.locator(".pane.failed").inner_text()
        other = page.locator(".pane:not(.failed)")
        other.and_(page.locator("[data-state=ready]")).wait_for()
        assert (pixels(page, 1 if name.endswith("glb") else 0)[..., 3] > 250).mean() > 0.01


def test_addresses_elsewhere_are_not_loaded(open_page: Callable[..., Any], address: str):
    page = loaded(open_page(address.split("?")[0] + "?mesh=http://elsewhere.example/a.glb"), "failed")
    assert "is not on this server" in page.locator(".pane.failed").inner_text()
    page = loaded(open_page(address.split("?")[0]), "failed")
    assert "Nothing to show" in page.locator("main").inner_text()


def test_facts_and_notices_are_shown(open_page: Callable[..., Any], result: Path, tmp_path: Path):
    folder = Path(shutil.copytree(result, tmp_path / "facts"))
    (folder / "pose.json").write_text(
        '{"rotation": [1, 0, 0, 0], "translation": [0.5, 0, 2], "scale": [0.25, 0.25, 0.25], "object_to_camera":'
        "[[0, -0.25, 0, 0], [0, 0, 0.25, 0], [-0.25, 0, 0, 2], [0, 0, 0, 1]]}"
    )
    (folder / "report.json").write_text(
        '{"notices": ["<b>beyond</b> the model"], "seed": 7, "network_calls": {"ss": {"made": 4, "saved": 21}}}'
    )
    with served(folder) as address:
        page = loaded(open_page(address, viewport=SMALL))
        assert page.locator("#notices").inner_text() == "<b>beyond</b> the model"
        facts = page.locator("#facts").inner_text()
        assert "0.500 0.000 2.000" in " ".join(facts.split()) and "4 made, 21 saved" in facts
        # The picture's camera is on +x of the object: the right side is what it sees.
        right = np.abs(pixels(page, 0)[..., :3] - np.multiply(SIDES[2], 255)).max(axis=2) <= 3
        assert right.mean() > 0.05
    (folder / "pose.json").unlink()
    (folder / "report.json").unlink()
    (folder / "0").mkdir()
    (folder / "scene.json").write_text('{"objects": [{"name": "0", "notices": ["covers its mask badly"]}]}')
    (folder / "0/report.json").write_text(
        '{"notices": ["a model", "covers its mask badly"], "preset": "fast", "seed": 7, "total_seconds": 3}'
    )
    with served(folder) as address:
        page = loaded(open_page(address, viewport=SMALL))
        assert page.locator("#notices li").all_inner_texts() == ["a model", "object 0: covers its mask badly"]
        assert page.locator("#facts dt").all_inner_texts() == ["objects", "preset", "seed"]


def test_facts_that_cannot_be_read_are_named_and_the_result_is_shown(
    open_page: Callable[..., Any], result: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(result, tmp_path / "broken facts"))
    (folder / "pose.json").write_text('{"rotation": 5}')
    (folder / "report.json").write_text("[" * 10)
    with served(folder) as address:
        page = loaded(open_page(address, viewport=SMALL))
        notices = page.locator("#notices").inner_text()
        assert "pose.json could not be read" in notices and "report.json could not be read" in notices
        assert page.problems == []
