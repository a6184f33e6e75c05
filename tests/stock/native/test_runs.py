"""Whole runs of the native pipeline and of the stock one, with the same weights, from one checkpoint folder."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.beds import STEPS, tensors
from tests.minis import picture
from tests.stock.native import bed

pytestmark = bed.needs_dinov2

ALL = ("mesh", "gaussian", "gaussian_4")
LIMITS = {"mesh.vertices": 5e-5, "mesh.vertex_attrs": 5e-5, "shape": 2e-5}
"""Largest absolute differences; of all other results 1e-5."""
EQUAL = {"coords", "coords_original", "downsample_factor", "pointmap", "pointmap_colors", "mesh.faces"}


@cache
def pipelines(weights: int, half: bool = False) -> tuple[Any, Any]:
    """The stock pipeline, and the native one."""
    folder = bed.checkpoint(weights)
    return bed.from_checkpoint(folder, half), bed.native_from(folder, half)


def object_at(border: bool) -> np.ndarray:
    """[48, 64, 4] uint8; the mask in the middle, with soft edges, or cut by the left and top border, of odd sizes."""
    image, mask = picture()
    alpha = mask.astype(np.uint8) * 255
    if border:
        alpha[:] = 0
        alpha[:17, :12] = 255
    else:
        alpha[30:40] //= 2
    return np.dstack([image, alpha])


def run(pipeline: Any, **options: Any) -> dict[str, Any]:
    """The raw result, without the processing of meshes that needs other packages."""
    with bed.running():
        return dict(
            pipeline.run(with_mesh_postprocess=False, with_texture_baking=False, use_vertex_color=True, **options)
        )


def differences(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> dict[str, float]:
    """The largest of each tensor; points are unknown in the same places."""
    assert a.keys() == b.keys()
    assert {name: value.shape for name, value in a.items()} == {name: value.shape for name, value in b.items()}
    assert all(torch.equal(a[name].isnan(), b[name].isnan()) for name in a)
    return {name: float((a[name].nan_to_num() - b[name].nan_to_num()).abs().max()) for name in a}


@pytest.mark.parametrize(
    ("weights", "seed", "border", "given"),
    [(0, 0, False, False), (0, 1, True, True), (1, 0, True, False), (1, 1, False, True)],
)
def test_whole_runs_are_equal(weights: int, seed: int, border: bool, given: bool) -> None:
    stock, native = pipelines(weights)
    formats = ALL if seed == weights else ALL[1:]
    options = {"image": object_at(border), "seed": seed, "decode_formats": formats}
    if given:
        options["pointmap"] = bed.given_points()
    expected, result = run(stock, **options), run(native, **options)
    assert expected.keys() == result.keys()
    found = differences(tensors(expected), tensors(result))
    wrong = {name: value for name, value in found.items() if value > (0 if name in EQUAL else LIMITS.get(name, 1e-5))}
    assert not wrong
    if "mesh" in formats:
        assert len(result["mesh"][0].faces) > 1000
        assert np.abs(result["glb"].vertices - expected["glb"].vertices).max() < 5e-5


def test_voxels_inside_are_dropped_and_the_first_stage_is_the_same() -> None:
    options = {"image": object_at(False), "seed": 0, "stage1_only": True}
    results = []
    for pipeline in pipelines(0):
        # Thirty-two of thirty-three cells are occupied.
        hook = pipeline.models["ss_decoder"].register_forward_hook(
            lambda module, args, logits: logits - logits.flatten().sort().values[1000]
        )
        results.append(run(pipeline, **options))
        hook.remove()
    found = differences(*map(tensors, results))
    assert found["coords"] == found["coords_original"] == 0
    assert len(results[0]["coords"]) < 0.7 * len(results[0]["coords_original"])
    # The stock pipeline divides by 64, whatever the grid of its decoder is.
    assert torch.equal(2 * (results[0]["voxel"] + 0.5) - 0.5, results[1]["voxel"])


def test_distillation_is_the_same() -> None:
    options = {
        "image": object_at(False), "seed": 3, "decode_formats": ["gaussian"], "stage1_inference_steps": 3,
        "stage2_inference_steps": 2, "use_stage1_distillation": True, "use_stage2_distillation": True,
    }  # fmt: skip
    stock, native = (tensors(run(pipeline, **options)) for pipeline in pipelines(0))
    found = differences(stock, native)
    assert found["coords"] == 0
    assert max(found.values()) < 2e-5


def test_half_precision_differs_no_more_than_in_stock() -> None:
    """Stage by stage, each with the input of stock in float32; root mean square of the difference to it."""
    stock, _ = pipelines(0)
    others = {"stock": pipelines(0, half=True)[0], "native": pipelines(0, half=True)[1]}
    image = object_at(False)
    with bed.running(), torch.no_grad():
        points = stock.compute_pointmap(image)["pointmap"]
        first = stock.preprocess_image(image, stock.ss_preprocessor, points)
        second = stock.preprocess_image(image, stock.slat_preprocessor)

        def structure(pipeline: Any) -> dict[str, Tensor]:
            torch.manual_seed(0)
            found = pipeline.sample_sparse_structure(first)
            layout = [found[name].flatten() for name in ("translation", "scale", "6drotation_normalized")]
            return {"shape": found["shape"], "layout": torch.cat(layout)}

        torch.manual_seed(0)
        coords = stock.sample_sparse_structure(first)["coords"]

        def latent(pipeline: Any) -> Any:
            torch.manual_seed(1)
            return pipeline.sample_slat(second, coords, STEPS)

        given = latent(stock)

        def everything(pipeline: Any) -> dict[str, Tensor]:
            own = given if pipeline is not others["native"] else latent(pipeline).replace(given.feats)
            decoder = pipeline.models["slat_decoder_mesh"]
            cells: list[Tensor] = []
            hook = decoder.out_layer.register_forward_hook(lambda module, args, out: cells.append(_feats(out)))
            decoded = pipeline.decode_slat(own, ["gaussian", "mesh"])
            hook.remove()
            cloud = decoded["gaussian"][0]
            return {
                **structure(pipeline),
                "slat": latent(pipeline).feats,
                "cells": torch.cat(cells),
                "xyz": cloud.get_xyz,
                "colour": cloud._features_dc,
            }

        expected = everything(stock)
        errors = {
            name: {key: rms(value - expected[key]) for key, value in everything(pipeline).items()}
            for name, pipeline in others.items()
        }
    worse = {
        key: (error, errors["stock"][key])
        for key, error in errors["native"].items()
        if error > 1.2 * errors["stock"][key]
    }
    assert not worse
    assert min(errors["native"].values()) > 0


def rms(value: Tensor) -> float:
    return float(value.double().square().mean().sqrt())


def _feats(value: Any) -> Tensor:
    return (value if isinstance(value, Tensor) else value.feats).float()
