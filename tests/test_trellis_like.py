"""The stand-in pipelines behave as TRELLIS does; `tests/trellis` compares the samplers with the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.trellis_like import picture, random_image, random_second, random_text
from tests.trellis_like.samplers import FlowEulerGuidanceIntervalSampler
from tests.trellis_like.second import FlowEulerGuidanceIntervalSampler as SecondSampler


@contextmanager
def calls(pipeline: Any) -> Iterator[dict[str, list[tuple[float, torch.Tensor]]]]:
    """(time, condition) of every call of every flow network in this block."""
    made: dict[str, list[tuple[float, torch.Tensor]]] = {name: [] for name in pipeline.models if "flow" in name}
    hooks = [
        pipeline.models[name].register_forward_pre_hook(
            lambda module, args, name=name: made[name].append((float(args[1][0]), args[2]))
        )
        for name in made
    ]
    yield made
    for hook in hooks:
        hook.remove()


def test_an_image_takes_a_guided_call_more_where_the_interval_says_so() -> None:
    pipeline = random_image()
    with calls(pipeline) as made:
        result = pipeline.run(picture(), seed=0)
    assert {name: len(some) for name, some in made.items()} == {
        "sparse_structure_flow_model": 15,
        "slat_flow_model": 13,
    }
    times, conds = zip(*made["slat_flow_model"], strict=True)
    assert times[:4] == (1000, 1000, 875, 875) and times[-2:] == (250, 125)
    assert conds[0].count_nonzero() and not conds[1].count_nonzero() and conds[2] is conds[0]
    assert {name: len(some) for name, some in result.items()} == {"mesh": 1, "gaussian": 1, "radiance_field": 1}
    assert result["mesh"][0].success and 50 < len(result["gaussian"][0].get_xyz) < 1000


def test_two_samples_and_a_variant_of_a_mesh() -> None:
    pipeline = random_text()
    other = random_image().run(picture(), num_samples=2, seed=0, formats=["gaussian"])["gaussian"]
    assert len(other) == 2 and other[0].get_xyz.shape != other[1].get_xyz.shape
    trimesh = pytest.importorskip("trimesh")
    with calls(pipeline) as made:
        result = pipeline.run_variant(trimesh.creation.box(), "a box", num_samples=2, formats=["gaussian"])
    assert [len(one.get_xyz) for one in result["gaussian"]] == [8, 8]
    assert not made["sparse_structure_flow_model"] and made["slat_flow_model"][1][1].count_nonzero()


@pytest.mark.parametrize(("mode", "expected"), [("stochastic", 13), ("multidiffusion", 2 * 8 + 5)])
def test_several_images(mode: str, expected: int) -> None:
    pipeline, views = random_image(), [picture(), Image.fromarray(np.asarray(picture())[..., [1, 0, 2, 3]])]
    with calls(pipeline) as made:
        pipeline.run_multi_image(views, seed=0, mode=mode, formats=[])
    conds = [cond for _, cond in made["slat_flow_model"] if cond.count_nonzero()]
    assert len(made["slat_flow_model"]) == expected
    assert not torch.equal(conds[0], conds[1]) and torch.equal(conds[0], conds[2])
    assert not hasattr(pipeline.slat_sampler, "_old_inference_model")


@pytest.mark.parametrize(("kind", "expected"), [("512", (15, 15, 0, 8, 0)), ("1024_cascade", (15, 15, 15, 0, 8))])
def test_the_second_takes_two_networks_in_a_cascade_and_appends_the_shape(kind: str, expected: Any) -> None:
    pipeline = random_second()
    with calls(pipeline) as made:
        meshes, (shape, texture, _) = pipeline.run(picture(), seed=0, pipeline_type=kind, return_latent=True)
    assert tuple(map(len, made.values())) == expected
    assert meshes[0].attrs.shape == (len(shape.feats), 6)
    assert torch.equal(texture.coords, shape.coords) and torch.isfinite(texture.feats).all()


@pytest.mark.parametrize(
    ("sampler", "guidance", "mixed"),
    [
        (FlowEulerGuidanceIntervalSampler, {"cfg_strength": 2.0, "cfg_interval": (0.8, 1.0)}, 3 * 1.0 - 2 * 0.5),
        (SecondSampler, {"guidance_strength": 3.0, "guidance_interval": (0.8, 1.0)}, 3 * 1.0 - 2 * 0.5),
        (SecondSampler, {"guidance_strength": 1.0, "guidance_interval": (0.8, 1.0)}, 1.0),
    ],
)
def test_steps_by_hand(sampler: Any, guidance: dict[str, Any], mixed: float) -> None:
    """Velocity 1 with the condition, 0.5 without; times 1, 0.75 and 0."""
    cond, negative, noise = torch.ones(1, 1), torch.zeros(1, 1), torch.full((1, 1), 10.0)
    answer = sampler(1e-5).sample(
        lambda x, t, c: 0.5 + 0.5 * c, noise, cond, negative, steps=2, rescale_t=3.0, verbose=False, **guidance
    )
    assert float(answer.samples) == pytest.approx(10 - 0.25 * mixed - 0.75)
    assert len(answer.pred_x_t) == len(answer["pred_x_0"]) == 2
