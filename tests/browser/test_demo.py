"""The demo in a browser, from a picture to a downloaded file, and what users do wrong."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs Gradio")
from fast_sam3d.demo.engine import Engine
from fast_sam3d.demo.server import serving

TEAPOT = Path("examples/teapot/image.png")
COLOURS = """async () => Promise.all(viewer.panes.map(async (pane, number) => {
    const image = new Image();
    image.src = viewer.picture(number);
    await image.decode();
    const context = new OffscreenCanvas(image.width, image.height).getContext("2d");
    context.drawImage(image, 0, 0);
    return new Set(new Uint32Array(context.getImageData(0, 0, image.width, image.height).data.buffer)).size;
}))"""
"""How many colours each pane of the viewer shows."""


@pytest.fixture(scope="module")
def engine(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    values = {"pipeline.tag": "mini", "pipeline.device": "cpu"}
    with Engine(values, ["output.preview=false"], tmp_path_factory.mktemp("demo") / "jobs") as found:
        yield found


@pytest.fixture(scope="module")
def address(engine: Engine) -> Iterator[str]:
    with serving(engine, port=0) as served:
        yield served.local


@pytest.fixture
def user(address: str, open_page: Callable[..., Any]) -> Callable[..., Any]:
    """A user with the page open."""

    def opened(**options: Any) -> Any:
        page = open_page(address, **options)
        page.set_default_timeout(120_000)  # nothing here is a measurement
        page.locator("#picker .drop").wait_for()
        return page

    return opened


def choose(page: Any, path: Any) -> None:
    page.locator("#picker input[type=file]").set_input_files(path)
    page.locator("#picker canvas").wait_for()


def click(page: Any, x: float, y: float) -> None:
    """A click at a place of the picture, given as shares of its width and height."""
    box = page.locator("#picker canvas").bounding_box()
    page.locator("#picker canvas").click(position={"x": x * box["width"], "y": y * box["height"]})


def note(page: Any, text: str) -> str:
    """The sentence under the picture, once it holds a text."""
    found = page.locator("#picker .note", has_text=text)
    found.wait_for()
    return str(found.inner_text())


def quick(page: Any, steps: int = 6) -> None:
    """Settings of a short run: few steps, plain files."""
    page.locator("#settings > button").click()
    for label in ("steps of the sparse structure", "steps of the structured latent"):
        page.get_by_label(f"number input for {label}").fill(str(steps))
    page.get_by_label("faces of the mesh, at most (0: all)").fill("0")
    page.get_by_label("texture, pixels").click()
    page.get_by_role("option", name="none, vertex colours").click()


def drawn(page: Any, where: str, panes: int) -> None:
    """Waits for the viewer; every pane shows more than one colour."""
    body = page.frame_locator(f"{where} iframe").locator("body[data-state=ready]")
    for number in range(panes):
        body.locator(f"[data-shown='{number}']").click()
        wait_for(lambda number=number: len(found := body.evaluate(COLOURS)) == panes and found[number] > 20)


def wait_for(there: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "nothing came of it"
        time.sleep(0.1)


def test_picture_click_run_viewers_compare_download(user: Callable[..., Any], tmp_path: Path) -> None:
    page = user()
    assert "out of distribution" in page.locator("body").inner_text()
    quick(page)
    choose(page, TEAPOT)
    click(page, 0.55, 0.5)
    assert " % of the picture is selected" in note(page, "selected")
    page.locator("#run").click()
    page.locator("#object-files a", has_text="mesh.glb").wait_for()
    drawn(page, "#object-viewer", 2)
    assert "translation" in page.locator("#object-facts").inner_text()
    assert "skipped" in page.locator("#object-progress").text_content()
    command = page.locator("#object-command textarea").input_value()
    assert command.startswith("fast-sam3d infer --image_path input/image --mask_index 0 --preset default ")
    with page.expect_download() as started:
        page.locator("#object-files a", has_text="mesh.glb").click()
    started.value.save_as(tmp_path / "mesh.glb")
    data = (tmp_path / "mesh.glb").read_bytes()
    assert data[:4] == b"glTF" and json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])["meshes"]
    page.locator("#compare").click()
    page.locator("#object-facts", has_text="as fast").wait_for()
    drawn(page, "#object-viewer", 4)
    assert "voxel IoU" in page.locator("#object-facts").inner_text()
    assert not page.problems


def test_cancel_in_mid_run_and_run_again(user: Callable[..., Any], engine: Engine) -> None:
    page = user()
    page.locator("#examples [data-name=teapot]").click()
    note(page, "mask 0 of the example")
    quick(page, 50)
    page.get_by_label("preset").click()
    page.get_by_role("option", name="off", exact=True).click()
    page.locator("#run").click()
    page.locator("#object-progress .steps .ran").first.wait_for()
    page.locator("#cancel").click()
    page.locator("#object-progress", has_text="Cancelled; nothing was kept.").wait_for()
    assert not any("teapot" in path.name for path in engine.folders.root.iterdir())
    page.locator("#run:enabled").wait_for()
    page.locator("#run").click()
    page.locator("#object-progress .steps .ran").first.wait_for()
    page.context.close()  # the connection is lost: the job ends, the server goes on
    wait_for(lambda: not engine.queue)
    assert not any("teapot" in path.name for path in engine.folders.root.iterdir())


def test_two_users_at_once_get_their_own_results(user: Callable[..., Any]) -> None:
    first, second = user(), user()
    for page, name in ((first, "mug"), (second, "chair")):
        quick(page)
        page.locator(f"#examples [data-name={name}]").click()
        note(page, "mask 0 of the example")
    first.locator("#run").click()
    second.locator("#run").click()
    for page, name in ((first, "mug"), (second, "chair")):
        page.locator("#object-files a", has_text="mesh.glb").wait_for()
        assert f"examples/{name} " in page.locator("#object-command textarea").input_value()


def test_a_scene_of_two_objects(user: Callable[..., Any]) -> None:
    page = user()
    quick(page)
    page.locator("#examples [data-name=scene]").click()
    page.locator("#picker canvas").wait_for()
    page.get_by_role("tab", name="Scene").click()
    page.locator("#run-scene").click()
    assert "no objects yet" in page.locator("#scene-progress .problem").inner_text()
    for number, (x, y) in enumerate(((0.6, 0.7), (0.75, 0.15)), 1):
        click(page, x, y)
        note(page, "of the example")
        page.locator("#add").click()
        page.locator(f"#objects figure:nth-child({number})").wait_for()
    page.locator("#run-scene").click()
    page.locator("#scene-files a", has_text="scene.glb").wait_for()
    drawn(page, "#scene-viewer", 2)
    assert page.locator("#scene-facts").inner_text().count("translation") == 2


def test_wrong_inputs_are_answered_with_a_sentence(user: Callable[..., Any], tmp_path: Path) -> None:
    page = user()
    page.locator("#run").click()
    assert "there is no picture yet" in page.locator("#object-progress .problem").inner_text()
    (tmp_path / "notes.png").write_text("not a picture")
    Image.new("1", (10_000, 10_000)).save(tmp_path / "vast.png")
    send = page.locator("#picker input[type=file]").set_input_files
    send(tmp_path / "notes.png")
    assert note(page, "notes.png is not a picture").endswith("give a PNG or JPEG file")
    send(tmp_path / "vast.png")
    assert "more than 64 megapixels" in note(page, "vast.png has 10000x10000 pixels")
    choose(page, TEAPOT)
    page.locator("#run").click()
    page.locator("#object-progress .problem", has_text="no object is selected").wait_for()
    page.locator("[data-keep='0']").click()
    click(page, 0.5, 0.5)
    assert note(page, "mark the object first")
    assert not page.problems


def test_box_brush_undo_and_clear(user: Callable[..., Any]) -> None:
    page = user()
    choose(page, TEAPOT)
    area = page.locator("#picker canvas").bounding_box()

    def drag(*places: tuple[float, float]) -> None:
        for number, (x, y) in enumerate(places):
            page.mouse.move(area["x"] + x * area["width"], area["y"] + y * area["height"])
            if not number:
                page.mouse.down()
        page.mouse.up()

    page.locator("[data-tool=box]").click()
    drag((0.1, 0.3), (0.9, 0.7))
    box = note(page, "selected")
    page.locator("[data-tool=brush]").click()
    page.locator("[data-keep='0']").click()
    drag((0.3, 0.5), (0.5, 0.5))
    page.wait_for_function("before => document.querySelector('#picker .note').textContent !== before", arg=box)
    page.locator("[data-act=undo]").click()
    note(page, box)
    page.locator("[data-act=clear]").click()
    note(page, "Click on the object")


def test_a_window_of_a_telephone(user: Callable[..., Any]) -> None:
    page = user(viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    page.locator("#examples [data-name=teapot]").tap()
    note(page, "mask 0 of the example")
    quick(page)
    page.locator("#run").tap()
    page.locator("#object-files a", has_text="mesh.glb").wait_for()
    drawn(page, "#object-viewer", 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_nothing_is_read_outside_of_a_jobs_folder(address: str, user: Callable[..., Any]) -> None:
    page = user()
    for path in ("results/0123456789ab/../../x", "results/..%2f..%2fetc/passwd", "viewer/..%2f..%2f__init__.py"):
        assert page.request.get(address + path).status == 404
