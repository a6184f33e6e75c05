"""Odd YAML and JSON where the project reads files that others wrote."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fast_sam3d.inputs.load import load_object
from tests.field.made import coco, labelme, shape
from tests.fuzz.edits import EDITS, edited
from tests.fuzz.pictures import _whole

_SCALARS = st.sampled_from([
    "1", "-1", "1e400", "0x1F", "1_000", "null", "~", "true", ".inf", ".nan", "a", "''", "?", "-", "<<", "=", "2001-99-99",
    "!!int x", "!!float x", "!!timestamp zz", "!!bool zz", "!!null x", "!!binary zz", "!!set {a}", "!!omap [x]", "!!pairs [x]",
    "!!python/object/apply:os.getcwd []", "!!python/name:os.system", "!!map x", "!!seq {a: 1}", "!!str [a]", "!x y",
    '"\\0"', '"\\ud800"', "&a [*a]", "&a {k: *a}", "*missing", "9" * 5000, "${oc.env:HOME}", "${a}", "${${a}}", "${",
    "1" + "0" * 400, "\u2028", "[", "{", "]", "|", "@", "`", "%", "\t", "---", "...", "a: b: c", '"', "'",
])  # fmt: skip
_KEYS = st.sampled_from([
    "objects", "seeds", "methods", "samplers", "sweeps", "ablation", "about", "rescale_t", "strength", "ss", "slat", "mesh",
    "when", "name", "stride", "ss_flow", "num_blocks", "model_channels", "_target_", "null", "1", "? [a]", "<<", "''", "~",
])  # fmt: skip


def _flow(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    several = st.lists(inner, max_size=4)
    return st.one_of(
        several.map(lambda parts: f"[{', '.join(parts)}]"),
        st.lists(st.tuples(_KEYS, inner), max_size=4).map(
            lambda pairs: "{" + ", ".join(f"{key}: {value}" for key, value in pairs) + "}"
        ),
    )


def _bomb(levels: int, width: int, mapping: bool) -> str:
    """Aliases of aliases: width ** levels nodes."""
    lines = ["a0: &a0 x"]
    for level in range(1, levels + 1):
        parts = ", ".join((f"k{i}: " if mapping else "") + f"*a{level - 1}" for i in range(width))
        lines.append(f"a{level}: &a{level} " + ("{%s}" if mapping else "[%s]") % parts)
    return "\n".join(lines)


_BOMBS = st.builds(_bomb, st.integers(1, 12), st.integers(1, 12), st.booleans())
_DEEP = st.builds(
    lambda signs, depth: signs[0] * depth + "1" + signs[1] * depth,
    st.sampled_from([("[", "]"), ("{a: ", "}"), ("[", ""), ("{a: ", ""), ("- ", ""), ("? ", ""), ("!!seq [", "]")]),
    st.sampled_from([10, 100, 1_000, 20_000]),
)
_BLOCK = st.lists(st.tuples(_KEYS, st.recursive(_SCALARS, _flow, max_leaves=8)), min_size=1, max_size=6).map(
    lambda pairs: "\n".join(f"{key}: {value}" for key, value in pairs)
)
_TEXTS = st.one_of(_BLOCK, _BOMBS, _DEEP, st.text(max_size=60), st.recursive(_SCALARS, _flow, max_leaves=10))

SUITE = """
objects: 2
seeds: [1, 2]
samplers: [own]
methods:
  one: ss=taylorseer
  two: ss=fast_sam3d slat=fast_sam3d
sweeps:
  - {method: two, key: ss.when.stride, values: [2, 3]}
"""
SAMPLER = "rescale_t: 3\nstrength: 7\n"
SETTINGS = """
ss:
  when: {name: stride, stride: 3, warmup: 2}
  where: {name: all}
  predict: {shape: {name: taylor, order: 1}, layout: {name: anchored, beta: .5}}
"""
VALID = {"suite": SUITE, "sampler": SAMPLER, "settings": SETTINGS, "checkpoint": "", "network": ""}

YAML = st.tuples(
    st.sampled_from(sorted(VALID)),
    st.one_of(_TEXTS, EDITS, st.tuples(_KEYS, st.recursive(_SCALARS, _flow, max_leaves=5))),
)
"""(where it is read, a whole text | edits of a valid file | a key and its value after a valid file)."""


def prepare(base: Path) -> None:
    """Valid checkpoints, embedded and native."""
    from tests.fuzz.weights import prepare

    prepare(base)


def read_yaml(case: Any, folder: Path, base: Path) -> None:
    """A suite, a sampler, settings of methods, and the settings of checkpoints."""
    where, change = case
    place = {"checkpoint": "mini/pipeline.yaml", "network": "native/ss_generator.yaml"}.get(where)
    valid = (base / place).read_bytes() if place else VALID[where].encode()
    if isinstance(change, str):
        content = change.encode("utf-8", "surrogatepass")
    elif isinstance(change, tuple):
        content = valid + f"\n{change[0]}: {change[1]}\n".encode("utf-8", "surrogatepass")
    else:
        content = edited(valid, change)
    path = folder / "some.yaml"
    if place is None:
        path.write_bytes(content)
    if where == "suite":
        from fast_sam3d.bench.suite import load_suite

        assert load_suite(str(path)).variants()
    elif where == "sampler":
        from fast_sam3d.bench.samplers import find_samplers

        assert find_samplers([str(path)])
    elif where == "settings":
        from fast_sam3d import accelerate

        accelerate(_pipeline(), str(path)).remove()
    elif where == "checkpoint":
        from tests.fuzz.weights import load

        load(base, folder, "mini", {"pipeline.yaml": content})
    else:
        from tests.fuzz.weights import load

        load(base, folder, "native", {"ss_generator.yaml": content})


@functools.lru_cache(maxsize=1)
def _pipeline() -> Any:
    from tests.minis import random_mini

    return random_mini()


def _value() -> st.SearchStrategy[Any]:
    odd = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.sampled_from([10**30, -1, "9" * 100]),
    )
    return st.recursive(odd, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(
        ["segmentation", "counts", "size", "points", "shapes", "label", "annotations", "images", "categories", "id"]), inner,
        max_size=4)), max_leaves=6)  # fmt: skip


JSON = st.tuples(
    st.sampled_from(["coco", "labelme"]),
    st.one_of(
        EDITS, _value(), st.tuples(st.integers(0, 30), _value()),
        st.sampled_from(["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "NaN", "", "\0", '{"a": 1' + "0" * 5000 + "}"]),
    ),
)  # fmt: skip
"""(which file, edits | another content | a value put at one of its places | a text)."""


def _replaced(tree: Any, place: list[int], value: Any) -> Any:
    """The tree with another value at its node number place[0]."""
    if place[0] == 0:
        place[0] -= 1
        return value
    place[0] -= 1
    if isinstance(tree, dict):
        return {key: _replaced(child, place, value) for key, child in tree.items()}
    return [_replaced(child, place, value) for child in tree] if isinstance(tree, list) else tree


def read_annotations(case: Any, folder: Path, base: Path) -> None:
    """COCO and labelme annotations as masks."""
    which, change = case
    _whole(folder)
    corners = [[8, 12], [49, 12], [49, 39], [8, 39]]
    text = labelme(shape("cup", corners)) if which == "labelme" else coco([[v for corner in corners for v in corner]])
    if isinstance(change, str):
        content = change.encode("utf-8", "surrogatepass")
    elif isinstance(change, list) and change and all(isinstance(edit, tuple) for edit in change):
        content = edited(text.encode(), change)
    elif isinstance(change, tuple):
        content = json.dumps(_replaced(json.loads(text), [change[0]], change[1])).encode()
    else:
        content = json.dumps(change).encode()
    path = folder / "annotations.json"
    path.write_bytes(content)
    found = load_object(folder / "image.png", mask_path=path, mask_label="cup")
    assert found.mask.any() and found.mask.shape == found.image.shape[:2]
