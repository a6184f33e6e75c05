"""YAML and JSON are read by `fast_sam3d.documents` and nowhere else."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

READERS = {
    "json": {"load", "loads", "JSONDecoder", "decoder", "scanner"},
    "yaml": {
        "load", "load_all", "safe_load", "safe_load_all", "full_load", "full_load_all", "unsafe_load", "compose",
        "compose_all", "parse", "scan", "Loader", "SafeLoader", "FullLoader", "UnsafeLoader", "BaseLoader", "CLoader",
        "CSafeLoader", "cyaml",
    },
    "OmegaConf": {"load", "create", "from_dotlist", "from_cli"},
    "hydra": {"compose", "initialize_config_dir", "initialize", "main"},
    "ast": {"literal_eval"},
}  # fmt: skip
OTHER_PARSERS = {"tomllib", "orjson", "ujson", "simplejson", "ruamel", "plistlib", "json5", "tomli"}

ALLOWED = {
    "fast_sam3d/documents/json_text.py: json.loads": "the reader",
    "fast_sam3d/documents/bounded_yaml.py: yaml.SafeLoader": "the reader",
    "fast_sam3d/documents/yaml_text.py: OmegaConf.create": "the reader, of a text that is known to be small",
    "fast_sam3d/config/compose.py: hydra.compose": "of the packaged configs/, with checked overrides",
    "fast_sam3d/config/compose.py: hydra.initialize_config_dir": "of the packaged configs/",
    "fast_sam3d/config/resolve.py: OmegaConf.from_dotlist": "of overrides whose values the reader accepts",
}

_NAMED = re.compile(rf"\b({'|'.join([*READERS, *OTHER_PARSERS, 'omegaconf'])})\b")


def readings(source: str) -> Iterator[str]:
    """Every use of another reader in a Python text."""
    if not _NAMED.search(source):  # parsing takes seconds for the whole project
        return
    tree = ast.parse(source)
    excused = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _of_the_project(node):
            excused.add(id(node.func))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and id(node) not in excused:
            if node.attr in READERS.get(node.value.id, ()):
                yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "json":
            yield ".json()"
        elif isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.split(".")[0]
                if top in OTHER_PARSERS or (top in READERS and alias.asname):
                    yield f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom):
            top = (node.module or "").split(".")[0]
            for alias in node.names:
                if (
                    top in OTHER_PARSERS
                    or alias.name in READERS.get(top, ())
                    or (alias.name in READERS and alias.asname)
                ):
                    yield f"from {node.module} import {alias.name}"


def _of_the_project(call: ast.Call) -> bool:
    """Whether a call reads only what json.dumps or the reader gave, or a mapping that is written out."""
    inner = call.args[0] if call.args else None
    if isinstance(inner, ast.Dict):
        return True
    called = inner.func if isinstance(inner, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
    return name in ("dumps", "read_yaml", "parse_yaml")


def test_nothing_but_the_reader_reads_yaml_and_json():
    files = [*ROOT.glob("fast_sam3d/**/*.py"), *ROOT.glob("docs/figures/**/*.py")]
    found = {f"{path.relative_to(ROOT).as_posix()}: {name}" for path in files for name in readings(path.read_text())}
    assert len(files) > 300
    assert found - ALLOWED.keys() == set(), "use fast_sam3d.documents"
    assert ALLOWED.keys() - found == set(), "no longer needed"


@pytest.mark.parametrize("source", [
    "json.loads(text)", "json.load(file)", "json.JSONDecoder().decode(x)", "read = json.loads", "response.json()",
    "yaml.safe_load(x)", "yaml.load(x, Loader=yaml.FullLoader)", "OmegaConf.load(path)", "OmegaConf.create(text)",
    "from json import loads", "from yaml import safe_load", "import json as j", "import tomllib",
    "from orjson import x", "ast.literal_eval(x)", "OmegaConf.from_dotlist(x)", "from omegaconf import OmegaConf as O",
])  # fmt: skip
def test_another_way_in_is_found(source):
    assert list(readings(source))


@pytest.mark.parametrize("source", [
    "json.dumps(x)", "json.loads(json.dumps(x, default=str))", "yaml.safe_dump(x)", "OmegaConf.create({'a': 1})",
    "OmegaConf.create(read_yaml(path))", "import json", "from omegaconf import OmegaConf", "yaml.YAMLError",
])  # fmt: skip
def test_writing_is_no_reading(source):
    assert not list(readings(source))
