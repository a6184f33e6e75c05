"""Measures the demo in a browser, and takes the pictures of docs/demo.md: python docs/figures/demo.py [--pictures]

Needs `pip install "fast-sam3d[demo]" playwright` and Chromium. Prints seconds from the start of the command to a page
that can be used, from a click to its mask in a picture of 12 megapixels, and from "Reconstruct" to a viewer that draws.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

ROUNDS = 5
GPU = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def click(page: Any, x: float, y: float) -> None:
    box = page.locator("#picker canvas").bounding_box()
    page.locator("#picker canvas").click(position={"x": x * box["width"], "y": y * box["height"]})


def example(page: Any, name: str) -> None:
    page.locator("#examples").get_by_text(name, exact=name != "scene").first.click()
    page.locator("#picker canvas").wait_for()
    page.wait_for_timeout(2000)  # an earlier picture has a canvas, too


def ready(page: Any, where: str) -> None:
    page.frame_locator(f"{where} iframe").locator("body[data-state=ready]").wait_for()


def report(text: str, seconds: list[float]) -> None:
    sys.stdout.write(f"{text}: median {statistics.median(seconds):.2f} s, {min(seconds):.2f} to {max(seconds):.2f}\n")


def measure(page: Any, picture: Path) -> None:
    found = []
    for number in range(ROUNDS):
        page.reload()
        page.locator("#picker .drop").wait_for()
        page.locator("#picker input[type=file]").set_input_files(picture)
        page.locator("#picker canvas").wait_for()
        page.wait_for_timeout(1000)
        before = page.locator("#picker .note").inner_text()
        begin = time.perf_counter()
        click(page, 0.5 + 0.01 * number, 0.5)
        page.wait_for_function("text => document.querySelector('#picker .note').innerText !== text", arg=before)
        found.append(time.perf_counter() - begin)
    report("click to mask, 12 megapixels", found)
    found = []
    for _ in range(ROUNDS):
        page.reload()
        page.locator("#picker .drop").wait_for()
        example(page, "teapot")
        page.wait_for_timeout(1000)
        begin = time.perf_counter()
        page.locator("#run").click()
        ready(page, "#object-viewer")
        found.append(time.perf_counter() - begin)
        page.locator("#object-files a", has_text="mesh.glb").wait_for()
    report("Reconstruct to viewer, examples/teapot", found)


def pictures(page: Any) -> None:
    example(page, "mug")
    page.locator("#compare").click()
    page.locator("#object-files a", has_text="mesh.glb").wait_for()
    ready(page, "#object-viewer")
    page.wait_for_timeout(2000)
    shot(page, "docs/demo.png")
    page.get_by_role("tab", name="Scene").click()
    example(page, "scene")
    page.locator("#add-all").click()
    page.wait_for_timeout(1000)
    page.locator("#run-scene").click()
    page.locator("#scene-files a", has_text="scene.glb").wait_for()
    ready(page, "#scene-viewer")
    page.wait_for_timeout(2000)
    shot(page, "docs/demo-scene.png")


def shot(page: Any, path: str) -> None:
    page.screenshot(path=path, full_page=True)
    with Image.open(path) as picture:
        small = picture.convert("RGB").resize(
            (900, round(picture.height * 900 / picture.width)), Image.Resampling.LANCZOS
        )
    small.quantize(128).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", action="store_true", help="take docs/demo.png and docs/demo-scene.png instead")
    parser.add_argument("--chromium", default="/usr/bin/chromium", metavar="FILE", help="the browser")
    asked = parser.parse_args()
    begin = time.perf_counter()
    command = [sys.executable, "-m", "fast_sam3d.cli", "demo", "--tag", "mini"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo, sync_playwright() as playwright:
        assert demo.stdout is not None
        address = next(m[0] for line in demo.stdout if (m := re.search(r"http://[^\s]+", line)))
        started = time.perf_counter() - begin
        browser = playwright.chromium.launch(executable_path=asked.chromium, args=GPU)
        page = browser.new_page(viewport={"width": 1300, "height": 900})
        page.set_default_timeout(180_000)
        begin = time.perf_counter()
        page.goto(address)
        page.locator("#picker .drop").wait_for()
        usable = started + time.perf_counter() - begin
        sys.stdout.write(f"page usable {usable:.2f} s after the start of the command\n")
        with tempfile.TemporaryDirectory() as folder:
            if asked.pictures:
                pictures(page)
            else:
                large = Path(folder) / "large.png"
                with Image.open("examples/teapot/image.png") as picture:
                    picture.convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC).save(large)
                measure(page, large)
        browser.close()
        demo.terminate()


if __name__ == "__main__":
    main()
