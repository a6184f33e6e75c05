"""The README and the pages of docs/: their snippets run, their commands parse, their links and numbers are right."""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import runpy
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fast_sam3d.bench.suite import OTHER_SEED
from fast_sam3d.cli import COMMANDS, main

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted(DOCS.glob("*.md")),
    ROOT / "examples" / "README.md",
    ROOT / "checkpoints" / "README.md",
    ROOT / "checkpoints" / "mini" / "MODEL_CARD.md",
]
# Its code adds a method to the project: tests/test_adding_a_method.py does that in a copy.
OWN_TEST = DOCS / "adding-a-method.md"

# The stock sam-3d-objects repository's notebook/inference.py, as far as the README's snippet meets it: the real one
# needs a GPU, gated weights and a dozen packages. tests/stock runs the snippet on the stock classes.
STOCK_MODULE = """
import numpy as np
from PIL import Image
import fast_sam3d

class Inference:
    def __init__(self, config_file, compile=False):
        self._pipeline = fast_sam3d.load_pipeline("mini")

    def __call__(self, image, mask, seed=None, pointmap=None):
        image = np.concatenate([image[..., :3], mask[..., None].astype(np.uint8) * 255], axis=-1)
        return self._pipeline.run(
            image, None, seed, stage1_only=False, with_mesh_postprocess=False, with_texture_baking=False,
            with_layout_postprocess=True, use_vertex_color=True, stage1_inference_steps=None, pointmap=pointmap,
        )

def load_image(path):
    return np.array(Image.open(path)).astype(np.uint8)

def load_single_mask(folder_path, index=0, extension=".png"):
    return load_image(f"{folder_path}/{index}{extension}")[..., -1] > 0
"""


class Block(NamedTuple):
    """One fenced block of a page."""

    page: Path
    language: str
    text: str


def blocks(page: Path, language: str) -> list[Block]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", page.read_text(), re.DOTALL | re.MULTILINE)
    return [Block(page, language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE)) for indent, text in found]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def command_lines() -> list[tuple[str, list[str]]]:
    """(page, words) of every line of the bash blocks, and of every command with arguments inside a sentence."""
    lines = []
    for page in PAGES:
        if page == OWN_TEST:
            continue
        texts = [block.text.replace("\\\n", " ") for block in blocks(page, "bash")]
        texts += re.findall(r"`((?:\w+=\S+ )?fast-sam3d [a-z-]+ [^`]*)`", prose(page).replace("\n", " "))
        words = [w for text in texts for line in text.splitlines() if (w := shlex.split(line, comments=True))]
        lines += [(str(page.relative_to(ROOT)), w) for w in words if not {"COMMAND", "NAME", "..."} & set(w)]
    return lines


def ours() -> list[tuple[str, list[str]]]:
    """The commands of this project: (page, arguments of `fast-sam3d`)."""
    found = []
    for page, words in command_lines():
        while re.fullmatch(r"[A-Z_]+=\S*", words[0]):  # environment variables
            words = words[1:]
        if words[0] == "fast-sam3d":
            found.append((page, words[1:]))
        elif words[:2] in (["python", "infer.py"], ["python", "infer_scene.py"]):
            found.append((page, ["infer" if words[1] == "infer.py" else "scene", *words[2:]]))
    return found


def named(case: tuple[str, list[str]]) -> str:
    return f"{case[0]}: {' '.join(case[1])}"


OURS = list({named(case): case for case in ours()}.values())


# ---------------------------------------------------------------------------------------------------------- python


@pytest.fixture
def folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder with what the README assumes: the stock notebook module, a picture, own weights."""
    import fast_sam3d
    from fast_sam3d.checkpoints import load

    (elsewhere / "notebook").mkdir()
    (elsewhere / "notebook" / "inference.py").write_text(STOCK_MODULE)
    shutil.copytree(ROOT / "examples" / "chair", elsewhere / "my_picture")
    real = load.load_pipeline

    def load_pipeline(tag: str | None = None, **options: Any) -> Any:
        """The embedded model in place of gated weights and a GPU; the options must exist."""
        return real(tag, **options) if tag == "mini" else real("mini", **dict.fromkeys(options))

    monkeypatch.setattr(fast_sam3d, "load_pipeline", load_pipeline)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield elsewhere
    sys.modules.pop("inference", None)


@pytest.mark.parametrize("page", [p for p in PAGES[1:] if p != OWN_TEST and blocks(p, "python")], ids=lambda p: p.name)
def test_python_snippets_run(page: Path, folder: Path) -> None:
    for block in blocks(page, "python"):
        exec(compile(block.text, page.name, "exec"), {"__name__": "snippet"})


def test_the_second_snippet_accelerates_the_stock_notebooks_inference(folder: Path) -> None:
    from fast_sam3d import observe

    _, second = blocks(README, "python")  # tests/test_packaging.py runs the first one
    snippet: dict[str, Any] = {}
    exec(compile(second.text, "README.md", "exec"), snippet)
    assert {"mesh", "gs", "translation"} <= snippet["output"].keys()
    inference = snippet["inference"]
    with observe(inference) as report:
        inference(snippet["load_image"]("my_picture/image.png"), snippet["load_single_mask"]("my_picture"), seed=42)
    assert report.network_calls < 69


# -------------------------------------------------------------------------------------------------------- commands


def parsed(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Namespace:
    """The arguments as the command would get them."""
    name = arguments[0]
    assert name in COMMANDS, f"there is no command {name}"
    caught: list[Namespace] = []
    monkeypatch.setattr(importlib.import_module(COMMANDS[name][0]), "main", lambda args: caught.append(args))
    assert main(arguments) == 0
    return caught[0]


@pytest.mark.parametrize("case", OURS, ids=named)
def test_commands_parse(case: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    from fast_sam3d.cli.configuration import config_from
    from fast_sam3d.config.compose import load

    if "--help" in case[1]:
        assert main(case[1]) == 0
        return
    args = parsed(case[1], monkeypatch)
    if hasattr(args, "enable_ss_cache"):
        config_from(args)
    for overrides in getattr(args, "accelerate", None) or []:
        assert load(shlex.split(overrides))


def test_every_command_is_documented() -> None:
    text = (DOCS / "command-line.md").read_text()
    assert [name for name in COMMANDS if f"`{name}`" not in text] == []


CHEAP = ("methods", "config", "doctor")


@pytest.mark.parametrize("case", [c for c in OURS if c[1][0] in CHEAP and "--help" not in c[1]], ids=named)
def test_cheap_commands_run(case: tuple[str, list[str]], elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(case[1]) == (1 if case[1][0] == "doctor" else 0)  # SAM 3D Objects cannot run here
    assert capsys.readouterr().out


def test_the_readmes_command_runs_in_an_empty_folder(elsewhere: Path) -> None:
    (arguments,) = [words for page, words in OURS if page == "README.md" and words[0] == "infer"]
    assert main(arguments) == 0
    assert (elsewhere / "outputs" / "teapot_0" / "mesh.glb").is_file()


EXAMPLES = [c for c in OURS if c[0] == "docs/command-line.md" and c[1][0] in ("infer", "compare")]


@pytest.mark.parametrize("case", EXAMPLES, ids=named)
def test_commands_on_examples_run(case: tuple[str, list[str]], elsewhere: Path) -> None:
    """With fewer steps and rounds than on the page."""
    (elsewhere / "examples").symlink_to(ROOT / "examples")
    name, *words = case[1]
    few = ["--rounds", "1"] if name == "compare" else []
    assert main([name, *words, *few, "pipeline.ss_steps=6", "pipeline.slat_steps=3"]) == 0
    assert list(elsewhere.glob("outputs/*/*"))


def test_make_pip_and_python_commands_exist() -> None:
    makefile, pyproject = (ROOT / "Makefile").read_text(), (ROOT / "pyproject.toml").read_text()
    for page, words in command_lines():
        line = f"{page}: {' '.join(words)}"
        if words[0] == "make":
            assert f"\n{words[1]}:" in makefile, line
        elif words[:2] == ["pip", "install"]:
            for extra in re.findall(r"fast-sam3d\[(\w+)\]", " ".join(words)):
                assert f"\n{extra} = [" in pyproject, line
        elif words[0] == "python" and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), line
        else:
            assert words[0] in ("fast-sam3d", "ray", "hf") or re.fullmatch(r"[A-Z_]+=\S*", words[0]), line


# ------------------------------------------------------------------------------------------------- flags, settings


def test_every_flag_exists() -> None:
    from fast_sam3d.cli.arguments import Parser

    known = {"--help"}
    for module, _ in COMMANDS.values():
        parser = Parser()
        importlib.import_module(module).add_arguments(parser)
        known |= set(parser._option_string_actions)
    foreign = {"--head", "--port", "--address", "--index-url"}  # of ray and pip
    foreign |= {"--cpu", "--at_once", "--calibrated", "--cache", "--strength"}  # of docs/figures
    for page in PAGES:
        flags = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", page.read_text()))
        assert flags <= known | foreign, (page.name, flags - known - foreign)


@pytest.mark.parametrize("script", sorted((DOCS / "figures").glob("*.py")), ids=lambda path: path.name)
def test_the_scripts_of_figures_find_what_they_import(script: Path) -> None:
    pytest.importorskip("matplotlib")
    assert callable(runpy.run_path(str(script), run_name="imported")["main"])


def test_the_page_of_methods_names_every_class_and_preset() -> None:
    from fast_sam3d.sampling.guide import GUIDE
    from fast_sam3d.sampling.predict import PREDICT
    from fast_sam3d.sampling.when import WHEN
    from fast_sam3d.sampling.where import WHERE

    table = rows(DOCS / "methods.md", "| part | decides | classes |")
    for part, registry in {"when": WHEN, "where": WHERE, "predict": PREDICT, "guide": GUIDE}.items():
        assert set(re.findall(r"`(\w+)`", table[part][1])) == registry.keys()
    presets = {path.stem for path in (ROOT / "configs" / "preset").glob("*.yaml")}
    assert rows(DOCS / "methods.md", "| preset | what it is |").keys() == presets


def test_the_page_of_exact_savings_names_every_saving() -> None:
    from fast_sam3d.exact.settings import Exact

    table = rows(DOCS / "exact-savings.md", "| saving (`exact.…`) | what is saved | result |")
    assert table.keys() == {field.name for field in dataclasses.fields(Exact)}


OVERRIDE = re.compile(r"`((?:(?:ss|slat|mesh|exact|preset|pipeline|scene)[\w.]*=[^`…]+))`")


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p != OWN_TEST and OVERRIDE.search(p.read_text())], ids=lambda p: p.name
)
def test_overrides_in_sentences_compose(page: Path) -> None:
    from fast_sam3d.config.compose import load

    needs = {"ss.": ["ss=fast_sam3d"], "slat.": ["slat=fast_sam3d"], "exact.": ["exact=all"]}
    for text in OVERRIDE.findall(page.read_text()):
        words = text.split()
        before = next((more for start, more in needs.items() if words[0].startswith(start)), [])
        load([*before, *words])


@pytest.mark.parametrize(
    "block", [b for p in PAGES if p != OWN_TEST for b in blocks(p, "yaml")], ids=lambda b: b.page.name
)
def test_yaml_blocks_load(block: Block, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(block.text)
    if block.text.startswith("objects:"):
        from fast_sam3d.bench.suite import load_suite

        assert load_suite(str(path)).variants()
    else:
        import fast_sam3d
        from tests.fakes import FakePipeline

        assert fast_sam3d.accelerate(FakePipeline(), path).methods


# ------------------------------------------------------------------------------------------------- links, numbers


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    text = prose(page)
    for target in re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", text):
        assert (page.parent / target).exists(), target
    for name in re.findall(r"`fast-sam3d ([a-z-]+)", text):
        assert name in COMMANDS, name
    for example in re.findall(r"(?<![\w/])examples/[a-z_]+", text):
        assert (ROOT / example / "image.png").is_file(), example
    for path in re.findall(r"`((?:tests|docs|fast_sam3d|configs)/[\w/.-]+)`", text):
        assert (ROOT / path).exists() or page == OWN_TEST or page.name == "CHANGELOG.md", path


def test_every_page_and_picture_is_linked() -> None:
    text = "".join(page.read_text() for page in PAGES)
    assert [p.name for p in (*DOCS.glob("*.png"), *DOCS.glob("*.svg")) if f"{p.name})" not in text] == []
    assert [p.name for p in DOCS.glob("*.md") if f"docs/{p.name})" not in README.read_text()] == []


def test_the_readme_is_short_and_complete() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 150
    assert "<!--" not in text and "@@" not in text


def rows(page: Path, header: str) -> dict[str, list[str]]:
    """The table of a page that has this header: first cell -> the others."""
    _, _, table = page.read_text().partition(f"{header}\n")
    assert table, header
    lines = table.split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    return {re.sub(r"[*`]", "", first): rest for first, *rest in cells if first.strip("-")}


def close(cell: str, value: float, error: float | None = None) -> bool:
    """Whether a cell is a number of the measurement, rounded to the cell's digits."""
    number, _, spread = re.sub(r"[×%+ ]", "", cell).partition("±")
    places = len(number.partition(".")[2])
    return round(value, places) == float(number) and (error is None or not spread or close(spread, error))


def test_main_tables_equal_the_measurements() -> None:
    standings = json.loads((DOCS / "measured" / "full.json").read_text())["standings"]
    keys = {row.get("name", name): name for name, row in standings.items()}
    table = rows(
        DOCS / "results.md",
        "| | speed-up | network calls | operations | voxel IoU | box IoU | SSIM | Δ F1@.05 | Δ box IoU |",
    )
    assert len(table) == len(standings) - 1  # all but the baseline itself
    then = {"guided_stride": "default", "guided_stride_fast": "fast"}
    for name, cells in table.items():
        row = standings[keys[then.get(name, name).replace(" (seed noise)", "")]]
        expected = [
            row["speedup"][:1], row["network_calls"][:1], [row["operations"][0] * 100], row["plain"]["voxel_iou"],
            row["plain"]["box_iou"], row["plain"]["ssim"], row["gain"]["f1@0.05"], row["gain"]["box_iou"],
        ]  # fmt: skip
        assert all(close(cell, *numbers) for cell, numbers in zip(cells, expected, strict=True)), name


def test_the_table_of_the_readme_equals_the_measurement() -> None:
    standings = json.loads((DOCS / "measured" / "headline.json").read_text())["standings"]
    short = rows(README, "| | speed-up | network calls | voxel IoU | box IoU | Δ box IoU |")
    names = {"fast_sam3d, the paper": "fast_sam3d", "exact savings only": "exact", "other seed": OTHER_SEED}
    names |= {name.removesuffix(", exact"): name for name in standings if name.endswith(", exact")}
    assert len(short) == len(standings)
    for label, cells in short.items():
        if label != "off":
            row = standings[names.get(label, label)]
            expected = [row["speedup"][:1], row["network_calls"][:1], row["plain"]["voxel_iou"],
                        row["plain"]["box_iou"], row["gain"]["box_iou"]]  # fmt: skip
            assert all(close(cell, *numbers) for cell, numbers in zip(cells, expected, strict=True)), label
    assert f"**{short['default'][0]} faster**" in README.read_text()


@pytest.mark.parametrize(
    ("file", "header", "columns"),
    [
        (
            "presets.json",
            "| | speed-up | network calls | voxel IoU | F1@.01 | Δ F1@.05 | Δ F1@.01 | Δ box IoU |",
            "speedup network_calls base_voxel_iou base_f1@0.01 f1@0.05 f1@0.01 box_iou",
        ),
        (
            "stiffness.json",
            "| instead of 25 + 25 steps | speed-up | Δ F1@.01 | Δ box IoU | voxel IoU |",
            "speedup f1@0.01 box_iou base_voxel_iou",
        ),
    ],
)
def test_other_tables_equal_the_measurements(file: str, header: str, columns: str) -> None:
    variants = list(json.loads((DOCS / "measured" / file).read_text())["variants"].values())
    table = rows(DOCS / "results.md", header)
    assert len(table) == len(variants)
    for name, cells in table.items():
        matches = [v for v in variants if close(cells[0], v["against_base"]["speedup"][0])]
        assert any(
            all(
                close(cell, *(v[key] if key in v and key not in v["against_base"] else v["against_base"][key]))
                for cell, key in zip(cells, columns.split(), strict=True)
            )
            for v in matches
        ), name
