"""Overrides, settings of methods, and flags of commands, from typing errors to nonsense."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.pictures import _whole


@functools.lru_cache(maxsize=1)
def _keys() -> tuple[str, ...]:
    """Every dotted key of the configuration with methods switched on."""
    from fast_sam3d.config.compose import compose
    from fast_sam3d.config.read import dotted_keys

    found: set[str] = set()
    for overrides in ([], ["preset=fast_sam3d"], ["preset=default"], ["ss=easycache", "slat=tome"]):
        found |= set(dotted_keys(compose(overrides)[0]))
    return tuple(sorted(found))


_VALUES = st.one_of(
    st.sampled_from([
        "", "0", "-1", "1", "3", "1e9", "1e400", "nan", "inf", "-inf", "null", "true", "[]", "{}", "[1,2]", "{a:1}", "a,b", "[[1]]",
        "9" * 5000, "[" * 500, "]" * 500, "{" * 500, "[" * 500 + "]" * 500, "(" * 500, "'", '"', "\\", "${seed}", "${oc.env:HOME}",
        "${", "$", "a b", "range(1,10)", "choice(1,2)", "glob(*)", "sort(3,2)", "int(x)", "str(1)", "\0", "\u2028", "😀", "../x",
        "mini", "off", "fast_sam3d", "path", "stride", "taylor", "1" + "0" * 400, "0x10", "1_000", "extend_list(1)", "=", "a=b", "@",
    ]),
    st.text(max_size=8), st.integers().map(str), st.floats().map(str),
)  # fmt: skip
_GROUPS = st.sampled_from(["ss", "slat", "mesh", "exact", "preset", "pipeline"])


def _keyed() -> st.SearchStrategy[str]:
    return st.deferred(lambda: st.sampled_from(_keys()))


OVERRIDES = st.lists(
    st.one_of(
        st.builds(lambda sign, key, value: f"{sign}{key}={value}", st.sampled_from(["", "", "+", "++", "~"]), _keyed(), _VALUES),
        st.builds(lambda key, value: f"{key}={value}", _GROUPS, _VALUES),
        st.text(max_size=12), _keyed(), _keyed().map(lambda key: f"{key}x=1"), _keyed().map(lambda key: f"{key}@here=1"),
    ),
    min_size=1, max_size=3,
)  # fmt: skip


def compose_overrides(case: Any, folder: Path, base: Path) -> None:
    from fast_sam3d.config.compose import check_methods, load

    check_methods(load(case))


_SETTING = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6),
    st.sampled_from([0, 1, 2, 3, -1, 0.5, 1.0, 1e308, 10**30, "all", "taylor", [], {}, [1], [0, 1], {"name": "all"}, {"name": None}]),
)  # fmt: skip


@functools.lru_cache(maxsize=1)
def _methods() -> tuple[tuple[str, str], ...]:
    from fast_sam3d.config.compose import group_options

    return tuple((group, name) for group in ("ss", "slat", "mesh") for name in group_options()[group])


METHODS = st.tuples(
    st.deferred(lambda: st.sampled_from(_methods())),
    st.lists(
        st.tuples(st.integers(0, 50), st.sampled_from(["set", "remove", "add", "deeper"]), _SETTING),
        min_size=1,
        max_size=3,
    ),
)
"""((stage, method), changes of its settings: which, how, value)."""


@functools.lru_cache(maxsize=1)
def _pipeline() -> Any:
    from tests.minis import random_mini

    return random_mini()


def accelerate_oddly(case: Any, folder: Path, base: Path) -> None:
    """Whatever `accelerate` accepts also samples."""
    import copy

    import numpy as np

    from fast_sam3d import accelerate
    from fast_sam3d.config.compose import compose
    from tests.fuzz.weights import _places
    from tests.minis import picture

    (stage, name), changes = case
    settings = copy.deepcopy(compose([f"{stage}={name}"])[0][stage])
    for which, how, value in changes:
        if not (places := list(_places(settings))):
            break
        *parents, last = places[which % len(places)]
        node = settings
        for parent in parents:
            node = node[parent]
        if how == "remove":
            del node[last]
        elif how == "add" and isinstance(node, dict):
            node["another"] = value
        else:
            node[last] = {"name": value} if how == "deeper" else value
    pipeline = _pipeline()
    handle = accelerate(pipeline, {stage: settings})
    try:
        image, mask = picture()
        result = pipeline.run(image, mask, seed=0)
        assert np.isfinite(np.asarray(result["translation"])).all()
    finally:
        handle.remove()


_FLAGS = {
    "infer": ["--image_path", "--mask_path", "--mask_index", "--mask_label", "--mask_threshold", "--click", "--background", "--box",
              "--pointmap", "--pointmap_axes", "--seed", "--formats", "--faces", "--texture", "--preset", "--quality", "--tag",
              "--device", "--dtype", "--memory", "--runtime", "--ss_steps", "--slat_steps", "--enable_acceleration", "--no_pointmap"],
    "scene": ["--image_path", "--mask_index", "--workers", "--seed", "--formats", "--faces", "--texture", "--preset", "--tag",
              "--engine", "--batch", "--mask_threshold", "--enable_acceleration"],
    "bench": ["--suite", "--objects", "--seeds", "--samplers", "--processes", "--methods", "--preset"],
    "tune": ["--minutes", "--objects", "--held_out", "--calls", "--seeds"],
    "compare": ["--image_path", "--preset", "--rounds", "--seed"],
    "profile": ["--image_path", "--preset", "--rounds"],
    "view": ["--port"],
    "doctor": ["--tag", "--device", "--depth_model"],
    "methods": ["--stage"],
    "evaluate-mini": ["--objects", "--seed"],
}  # fmt: skip
_PLAIN = st.one_of(
    _VALUES,
    st.sampled_from(
        [
            "PICTURE",
            "MASK",
            "10,10",
            "-3,5",
            "1e9",
            "2,2 4,4",
            "1,1,9,9",
            "mesh,spz",
            "mesh",
            "cpu",
            "cuda:99",
            "float16",
        ]
    ),
)
COMMANDS = st.sampled_from(sorted(_FLAGS)).flatmap(
    lambda command: st.tuples(
        st.just(command), st.lists(st.tuples(st.sampled_from(_FLAGS[command]), _PLAIN), min_size=1, max_size=3)
    )
)
"""(command, flags with values); PICTURE and MASK stand for files that are there."""


class _ReachedError(BaseException):
    """The command has checked its input and would now load the model."""


def call_command(case: Any, folder: Path, base: Path) -> None:
    """A command as typed: what it refuses it refuses with code 2 before it loads a model."""
    import contextlib
    import io
    import os
    from unittest import mock

    from fast_sam3d.cli import main
    from fast_sam3d.errors import ConfigError

    command, flags = case
    _whole(folder)
    files = {"PICTURE": str(folder / "image.png"), "MASK": str(folder / "0.png")}
    words = [command]
    for flag, value in flags:
        words += [flag] if flag.startswith(("--enable", "--no_")) else [flag, files.get(value, value)]
    if command in ("infer", "scene", "compare", "profile") and "--image_path" not in words:
        words += ["--image_path", str(folder)]
    if command in ("infer", "scene"):
        words += ["--output_dir", str(folder / "output")]
    said = io.StringIO()
    os.chdir(folder)
    with contextlib.ExitStack() as stack:
        for place in ("model.pipeline.Pipeline.from_pretrained", "checkpoints.load.load_native", "checkpoints.load.load_stock",
                      "checkpoints.load.load_synthetic", "viewer.server.ViewerServer.serve_forever", "bench.collect.worker_pool"):  # fmt: skip
            stack.enter_context(mock.patch(f"fast_sam3d.{place}", side_effect=_ReachedError))
        stack.enter_context(contextlib.redirect_stderr(said))
        try:
            code = main(words)
        except _ReachedError:
            return
        except SystemExit as error:
            code = int(error.code or 0)
    if code:
        assert code == 2 or "failed" in said.getvalue() or command == "doctor", f"exit code {code}: {said.getvalue()}"
        lines = said.getvalue().strip().splitlines() or ["nothing said"]
        assert "Traceback" not in said.getvalue()
        raise ConfigError(lines[-1])
