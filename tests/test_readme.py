"""The README's snippets run, and its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from fast_sam3d.cli import COMMANDS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def infer_commands() -> list[list[str]]:
    """The commands that run a pipeline: `infer` or `scene`, and what follows."""
    lines = [line.split("#")[0] for block in blocks("bash") for line in block.splitlines()]
    words = [shlex.split(line) for line in lines if re.search(r"infer|fast-sam3d scene", line)]
    names = {"infer_scene.py": "scene", "infer.py": "infer"}
    return [[names.get(w[1], w[1]), *w[2:]] for w in words]


@pytest.mark.parametrize("code", blocks("python"))
def test_python_snippets(code, tmp_path, monkeypatch, capsys):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out
    if "chair.ply" in code:
        assert (tmp_path / "chair.ply").stat().st_size > 10_000
        assert (tmp_path / "chair.json").exists()


@pytest.mark.parametrize("arguments", infer_commands(), ids=" ".join)
def test_infer_commands_parse(arguments):
    import importlib

    from fast_sam3d.cli.arguments import Parser
    from fast_sam3d.cli.flags import config_from

    name, *arguments = arguments
    parser = Parser(prog=name)
    importlib.import_module(COMMANDS[name][0]).add_arguments(parser)
    args, rest = parser.parse_known_args(arguments)
    args.overrides = rest
    assert config_from(args).input.image_path


def test_named_commands_and_files_exist():
    for name in re.findall(r"fast-sam3d ([a-z-]+)", TEXT):
        assert name in COMMANDS
    for target in re.findall(r"\]\((?!http)([^)]+)\)", TEXT):
        assert (ROOT / target).exists(), target
    for target in re.findall(r"examples/[a-z_]+", TEXT):
        assert (ROOT / target / "image.png").exists(), target
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z]+)`?(?=[ \n:`])", TEXT):
        assert f"\n{target}:" in makefile or target in ("and",), target


def test_every_table_flag_exists():
    from fast_sam3d.cli.flags import AGGREGATION, CARVING, INPUT, RUN, STEP_CACHE

    known = {flag.name for flag in (*INPUT, *RUN, *STEP_CACHE, *CARVING, *AGGREGATION)}
    known |= {
        "enable_acceleration",
        "enable_ss_cache",
        "enable_slat_carving",
        "enable_mesh_aggregation",
        "enable_exact",
        "no_pointmap",
        "image_dir",
        "overwrite",
        "help",
    }
    table = TEXT[TEXT.index("| flag | meaning |") : TEXT.index("Every flag is a key")]
    assert set(re.findall(r"--([a-z_]+)", table)) <= known


def test_nothing_is_left_to_fill_in():
    assert "<!--" not in TEXT and "@@" not in TEXT
