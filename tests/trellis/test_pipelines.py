"""The bed runs, and the stand-ins of `tests/trellis_like` have the surface of the real classes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests import trellis_like
from tests.test_trellis_like import calls
from tests.trellis.build import random_image, random_text
from tests.trellis.stand_ins import importable, on_cpu
from tests.trellis_like import picture, samplers

SAMPLERS = ("FlowEulerSampler", "FlowEulerCfgSampler", "FlowEulerGuidanceIntervalSampler")


@cache
def image() -> Any:
    return random_image()


def test_an_image_and_two_samples_of_it() -> None:
    with on_cpu(), calls(image()) as made:
        result = image().run(picture(), num_samples=2, seed=0, formats=["mesh", "gaussian"])
    assert {name: len(some) for name, some in made.items()} == {
        "sparse_structure_flow_model": 15,
        "slat_flow_model": 13,
    }
    meshes, gaussians = result["mesh"], result["gaussian"]
    assert all(mesh.success and torch.isfinite(mesh.vertices).all() for mesh in meshes)
    assert len(meshes) == 2 and all(50 < len(one.get_xyz) < 1000 for one in gaussians)
    assert not torch.equal(gaussians[0].get_xyz, gaussians[1].get_xyz)


@pytest.mark.parametrize(("mode", "expected"), [("stochastic", 13), ("multidiffusion", 2 * 8 + 5)])
def test_several_images(mode: str, expected: int) -> None:
    views = [picture(), Image.fromarray(np.asarray(picture())[..., [1, 0, 2, 3]])]
    with on_cpu(), calls(image()) as made:
        image().run_multi_image(views, seed=0, mode=mode, formats=["gaussian"])
    assert len(made["slat_flow_model"]) == expected


def test_a_text_and_a_variant_of_a_mesh() -> None:
    trimesh = pytest.importorskip("trimesh")
    pipeline = random_text()
    with on_cpu(), calls(pipeline) as made:
        pipeline.run("a blue chair", seed=0, formats=["gaussian"])
        pipeline.run_variant(trimesh.creation.icosphere(), "a blue chair", formats=["gaussian"])
    assert len(made["slat_flow_model"]) == 26 and len(made["sparse_structure_flow_model"]) == 15
    assert made["slat_flow_model"][1][1].count_nonzero()  # the negative condition is a text, too


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_stand_ins_samplers_give_the_same_bits(name: str) -> None:
    network, guided = image().models["slat_flow_model"], {"cfg_strength": 3.0}
    if name.endswith("IntervalSampler"):
        guided["cfg_interval"] = (0.4, 0.9)
    with importable(), on_cpu():
        from trellis.modules.sparse import SparseTensor
        from trellis.pipelines import samplers as real

        torch.manual_seed(0)
        coords = torch.cartesian_prod(torch.arange(2), *[torch.arange(4)] * 3).int()
        noise = SparseTensor(feats=torch.randn(len(coords), network.in_channels), coords=coords)
        cond = torch.randn(1, 9, network.cond_channels)
        given = {} if name == "FlowEulerSampler" else {"neg_cond": torch.zeros_like(cond), **guided}
        ends = [
            getattr(of, name)(sigma_min=1e-5).sample(
                network, noise, cond=cond, steps=5, rescale_t=3.0, verbose=False, **given
            )
            for of in (real, samplers)
        ]
    assert torch.equal(ends[0].samples.feats, ends[1].samples.feats)
    assert all(torch.equal(a.feats, b.feats) for a, b in zip(ends[0].pred_x_0, ends[1].pred_x_0, strict=True))


def test_the_stand_ins_have_the_same_signatures() -> None:
    with importable():
        from trellis import pipelines
        from trellis.pipelines import samplers as real

    kinds = [(getattr(real, name), getattr(samplers, name)) for name in SAMPLERS]
    kinds += [
        (getattr(pipelines, f"Trellis{k}To3DPipeline"), getattr(trellis_like, f"Trellis{k}To3DPipeline"))
        for k in ("Image", "Text")
    ]
    for theirs, ours in kinds:
        methods = [name for name in vars(ours) if callable(getattr(ours, name)) and hasattr(theirs, name)]
        methods = [name for name in methods if not name.startswith("__")]
        assert methods
        for name in methods:
            assert shape(getattr(ours, name)) == shape(getattr(theirs, name)), (ours, name)


def shape(method: Callable[..., Any]) -> list[tuple[str, Any]]:
    """(name, default) of every argument."""
    found = inspect.signature(method).parameters.values()
    return [(one.name, list(one.default) if isinstance(one.default, (list, tuple)) else one.default) for one in found]
