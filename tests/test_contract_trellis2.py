"""TRELLIS.2 has the same adapter with other names: three stages, a cascade of two networks, another mix of guidance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.config.compose import compose
from fast_sam3d.errors import FastSam3dError
from tests.beds import differing
from tests.contract import EXACT, merging, method
from tests.contract_trellis import distance
from tests.trellis_like import picture, random_second
from tests.trellis_like.second import SHAPE_512, SHAPE_1024, TEX_1024

SAMPLERS = ("sparse_structure", "shape_slat", "tex_slat")
STRONG = {"guidance_strength": 3.0, "guidance_rescale": 0.0, "guidance_interval": [0.0, 1.0]}
KINDS = ("512", "1024_cascade")
HOLD = {**method("ss", 2, name="hold"), **method("slat", 2, name="taylor")}


@cache
def shared() -> Any:
    return random_second()


@pytest.fixture
def pipeline() -> Iterator[Any]:
    """One that must be restored."""
    owners = [
        shared(),
        *(getattr(shared(), f"{name}_sampler") for name in ("sparse_structure", "shape_slat", "tex_slat")),
    ]
    owners += [part for model in shared().models.values() for part in model.modules()]
    before = [dict(vars(owner)) for owner in owners]
    yield shared()
    assert [list(one) for one in before] == [list(vars(owner)) for owner in owners]


def run(pipeline: Any, **options: Any) -> dict[str, Tensor]:
    ((mesh,), (shape, texture, _)) = pipeline.run(picture(), seed=0, return_latent=True, **options)
    return {
        "vertices": mesh.vertices, "attrs": mesh.attrs, "coords": shape.coords, "shape": shape.feats,
        "texture": texture.feats,
    }  # fmt: skip


@cache
def known(kind: str) -> dict[str, Tensor]:
    """A plain run."""
    return run(shared(), pipeline_type=kind)


@contextmanager
def counted(pipeline: Any) -> Iterator[dict[str, int]]:
    """Calls of every network."""
    counts = {name: 0 for name in pipeline.models if "flow" in name}
    hooks = [
        pipeline.models[name]
        .blocks[0]
        .register_forward_pre_hook(lambda module, args, name=name: counts.__setitem__(name, counts[name] + 1))
        for name in counts
    ]
    yield counts
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("kind", KINDS)
def test_observing_and_limits_are_bit_identical(kind: str, pipeline: Any) -> None:
    plain = known(kind)
    with counted(pipeline) as counts, fast_sam3d.observe(pipeline) as report:
        assert differing(run(pipeline, pipeline_type=kind), plain) == set()
    stages = ["ss", "slat", "slat", "texture"] if kind == "1024_cascade" else ["ss", "slat", "texture"]
    assert [solve.stage for solve in report.solves] == stages
    assert [solve.calls for solve in report.solves] == [count for count in counts.values() if count]
    assert [sum(adapt(pipeline).network_calls(stage)) for stage in stages] == [solve.calls for solve in report.solves]
    if kind == "512":
        always = {"ss": {"when": {"name": "always"}}, "slat": {"when": {"name": "always"}}}
        with fast_sam3d.accelerated(pipeline, always):
            assert differing(run(pipeline, pipeline_type=kind), plain) == set()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "guided", [{}, {"guidance_strength": 3.0, "guidance_rescale": 0.0, "guidance_interval": [0.0, 1.0]}]
)
def test_steps_are_saved_and_removed_exactly(kind: str, guided: dict[str, Any], pipeline: Any) -> None:
    """Texture follows the settings of the shape."""
    given = {f"{name}_sampler_params": guided for name in SAMPLERS}
    with counted(pipeline) as before:
        plain = run(pipeline, pipeline_type=kind, **given)
    with fast_sam3d.accelerated(pipeline, HOLD) as handle, counted(pipeline) as made:
        fast = run(pipeline, pipeline_type=kind, **given)
    assert {"shape", "texture"} <= differing(fast, plain)
    solves = handle.report.solves
    assert [solve.calls for solve in solves] == [count for count in made.values() if count]
    assert [solve.calls + solve.saved for solve in solves] == [count for count in before.values() if count]
    assert all(solve.saved > 0 for solve in solves)
    assert all(np.isfinite(value.numpy()).all() for value in fast.values())
    assert differing(run(pipeline, pipeline_type=kind, **given), plain) == set()


def test_texture_has_settings_of_its_own(pipeline: Any) -> None:
    plain = known("1024_cascade")
    with fast_sam3d.accelerated(pipeline, method("texture", 3, name="hold")) as handle:
        fast = run(pipeline)
    assert differing(fast, plain) == {"texture", "attrs"}
    assert [solve.saved > 0 for solve in handle.report.solves] == [False, False, False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_exact_savings_are_within_rounding(kind: str, pipeline: Any) -> None:
    plain = known(kind)
    with fast_sam3d.accelerated(pipeline, EXACT) as handle:
        fast = run(pipeline, pipeline_type=kind)
    assert handle.report.network_calls_saved == 0
    assert torch.equal(fast["coords"], plain["coords"])
    assert all(distance(fast[name], plain[name]) < 1e-5 for name in ("shape", "texture", "attrs"))


@pytest.mark.parametrize("preset", ["default", "fast", "fast_sam3d", "fast_trellis"])
def test_presets_are_removed_exactly_or_refused(preset: str, pipeline: Any) -> None:
    plain = known("512")
    shipped = adapt(pipeline).presets.get(preset, preset)
    if compose([f"preset={shipped}"])[0]["mesh"]:
        with pytest.raises(FastSam3dError, match=r"mesh\.where="):
            fast_sam3d.accelerate(pipeline, preset=preset)
    else:
        with fast_sam3d.accelerated(pipeline, preset=preset) as handle:
            run(pipeline, pipeline_type="512")
        assert handle.methods.keys() <= {"ss", "slat", "texture", "exact"}
    assert differing(run(pipeline, pipeline_type="512"), plain) == set()


def test_nothing_is_merged_in_its_decoder(pipeline: Any) -> None:
    with pytest.raises(FastSam3dError, match=r"mesh\.where=decoder cannot act on this pipeline"):
        fast_sam3d.accelerate(pipeline, merging("decoder"))


def test_voxels_are_left_out_of_both_networks_of_a_cascade(pipeline: Any) -> None:
    carve = {"slat": {"where": {"name": "saliency", "keep": 0.5, "warmup": 1}}}
    rows: dict[str, list[int]] = {name: [] for name in (SHAPE_512, SHAPE_1024, TEX_1024)}
    hooks = [
        pipeline.models[name].out_layer.register_forward_pre_hook(
            lambda module, args, name=name: rows[name].append(len(args[0].feats))
        )
        for name in rows
    ]
    with fast_sam3d.accelerated(pipeline, carve):
        run(pipeline)
    for hook in hooks:
        hook.remove()
    assert all(min(some) < max(some) for some in rows.values()), rows
