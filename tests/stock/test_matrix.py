"""Every method on every preset, in float32 and in float16 autocast, decoding meshes, gaussians and both.

One part of a method at a time is replaced in the preset's stages. A run decodes both; then each is decoded alone, in a
run that is given the same sampled latents. Results must be finite, and the pipeline must be as before.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.config.compose import compose, group_options
from fast_sam3d.config.methods import build_methods
from fast_sam3d.sampling.method import PARTS, StageMethod
from tests.beds import Bed, differing, tensors
from tests.contract import short
from tests.fakes import same_vars, snapshot
from tests.stock.build import HALF, STOCK

STEPS = 5
BOTH = ("mesh", "gaussian")
BEDS = {"float32": STOCK, "float16": HALF}
PRESETS = [name for name in group_options()["preset"] if not name.endswith("fast")]  # which differ in numbers alone
MESH = ("off", "decoder", "voxels")
BEFORE_DECODING = ("ss_generator", "ss_decoder", "slat_generator")
STAGES = {"pointmap", "preprocess", "condition", "ss", "ss_decoder", "slat", "mesh", "gaussian", "postprocess"}


def replaced(preset: str, part: str, name: str) -> dict[str, Any]:
    """A preset with one part of its methods replaced in both samplers, or where that part fits."""
    tree = compose([f"preset={preset}"])[0]
    config = {module: dict(tree[module] or {}) for module in ("ss", "slat", "mesh", "exact")}
    if part == "mesh":
        config["mesh"] = {} if name == "off" else {**config["mesh"], "where": name}
    else:
        kind = PARTS[part][name]
        only, given = getattr(kind, "only", None), {"name": name, **NEEDED.get(name, {})}
        refused = {"ss": getattr(kind, "needs_tokens", False), "slat": only or getattr(kind, "needs_decoder", False)}
        for stage in ("ss", "slat"):
            if not refused[stage]:
                config[stage] = {
                    "when": {"name": "stride"},
                    **config[stage],
                    part: {"shape": {"name": "hold"}, only: given} if only else given,
                }
                if part == "when" and "weights" in str(config[stage].get("predict")):
                    del config[stage]["predict"]  # which has weights for the nodes of the preset's path
    if config["mesh"]:
        config["mesh"]["min_voxels"] = 0
    methods = build_methods(config)
    return {
        module: short(method.settings()) if isinstance(method, StageMethod) else config[module]
        for module, method in methods.items()
    }


NEEDED: dict[str, dict[str, Any]] = {
    "magnitude": {"ratios": [1.0, 0.9, 0.95, 1.05, 1.0]},
    "aligned": {"levels": [14.6, 1.9, 0.4, 0.03]},
}
"""Settings without a default, by method."""
CASES = {part: tuple(kinds) for part, kinds in PARTS.items()} | {"mesh": MESH}


@functools.cache
def shared(precision: str) -> tuple[Any, dict[str, Tensor], Any]:
    """A pipeline, its unaccelerated result, and its attributes."""
    pipeline = BEDS[precision].build()
    plain = run(BEDS[precision], pipeline, BOTH)
    return pipeline, plain, snapshot(pipeline)


def run(bed: Bed, pipeline: Any, formats: tuple[str, ...]) -> dict[str, Tensor]:
    options = {"stage1_inference_steps": STEPS, "stage2_inference_steps": STEPS}
    return tensors(bed.raw(pipeline, decode_formats=list(formats), **options))


@contextmanager
def kept(pipeline: Any) -> Iterator[dict[str, Any]]:
    """What the samplers return in this block, by name."""
    results: dict[str, Any] = {}

    def keep(name: str) -> Any:
        return lambda module, args, result: results.__setitem__(name, copy.copy(result))  # a run adds to it

    hooks = [pipeline.models[name].register_forward_hook(keep(name)) for name in BEFORE_DECODING]
    try:
        yield results
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def given(pipeline: Any, results: Mapping[str, Any]) -> Iterator[None]:
    """Networks return these in this block; patched are their classes, because a method patches the instances."""
    with ExitStack() as stack:
        for name, result in results.items():
            forward = lambda *_, result=result, **__: copy.copy(result)  # noqa: E731
            stack.enter_context(mock.patch.object(type(pipeline.models[name]), "forward", forward))
        yield


def faults(bed: Bed, pipeline: Any, config: dict[str, Any]) -> set[str]:
    """What a method gets wrong."""
    merges = config.get("mesh", {}).get("where") == "voxels"
    grid = bed.whole_grid(pipeline) if merges else nullcontext()
    with grid, fast_sam3d.accelerated(pipeline, config) as handle:
        with kept(pipeline) as results:
            result = run(bed, pipeline, BOTH)
        report = handle.report
        wrong = STAGES - report.seconds.keys()
        wrong |= {"solves"} if [solve.stage for solve in report.solves] != ["ss", "slat"] else set()
        with given(pipeline, results):
            for name in BOTH:
                alone = run(bed, pipeline, (name,))
                wrong |= differing(alone, {key: result[key] for key in alone})
    wrong |= {name for name, value in result.items() if not name.startswith("pointmap") and not value.isfinite().all()}
    return wrong


@pytest.mark.parametrize("precision", BEDS)
@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("part", CASES)
def test_every_method_on_every_preset(part: str, preset: str, precision: str) -> None:
    bed, (pipeline, plain, before) = BEDS[precision], shared(precision)
    wrong: dict[str, Any] = {}
    for name in CASES[part]:
        config = replaced(preset, part, name)
        if not config:
            continue
        try:
            found = faults(bed, pipeline, config)
        except Exception as error:
            found = {repr(error)}
        if found:
            wrong[name] = found
        assert same_vars(before, snapshot(pipeline)), name
    assert wrong == {}
    assert differing(run(bed, pipeline, BOTH), plain) == set()


def test_float16_reaches_samplers_and_decoders() -> None:
    pipeline, types = shared("float16")[0], dict[str, torch.dtype]()
    hooks = []
    for name in ("ss_generator", "slat_generator", "slat_decoder_mesh", "slat_decoder_gs"):
        network = pipeline.models[name]
        blocks = network.blocks if name.startswith("slat_decoder") else network.reverse_fn.backbone.blocks
        layer = next(part for part in blocks.modules() if isinstance(part, nn.Linear))
        hooks.append(layer.register_forward_hook(functools.partial(_note, types, name)))
    run(HALF, pipeline, BOTH)
    for hook in hooks:
        hook.remove()
    assert set(types.values()) == {torch.float16} and len(types) == 4


def _note(types: dict[str, torch.dtype], name: str, module: nn.Module, given: Any, output: Any) -> None:
    types[name] = getattr(output, "feats", output).dtype
