"""Behaviour on the stock classes that the embedded ones cannot show."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

import fast_sam3d
from fast_sam3d.bench.samplers import Sampler
from fast_sam3d.decode.spectrum import picture_ratio
from fast_sam3d.report import observe
from fast_sam3d.sampling.driver import SolverError
from tests.beds import STEPS, differing, tensors
from tests.contract import METHODS, PLAIN_CALLS
from tests.fakes import FakeInference, same_vars, snapshot
from tests.minis import picture, rgba
from tests.stock.build import CORNER, STOCK


@pytest.fixture(scope="module")
def shared() -> Any:
    pipeline = STOCK.build()
    STOCK.run(pipeline)
    return pipeline


@pytest.fixture
def pipeline(shared: Any) -> Iterator[Any]:
    before = snapshot(shared)
    yield shared
    assert same_vars(before, snapshot(shared))


def test_pipeline_under_test_is_the_stock_class(pipeline: Any) -> None:
    kinds = {base.__module__.split(".")[0] for base in type(pipeline).__mro__[1:-1]}
    kinds |= {type(pipeline.models[name]).__module__.split(".")[0] for name in pipeline.models if pipeline.models[name]}
    assert kinds == {"sam3d_objects"}


def test_report_names_every_stage(pipeline: Any) -> None:
    with observe(pipeline) as report:
        STOCK.run(pipeline, formats=("mesh", "gaussian", "gaussian_4"))
    stages = {"pointmap", "preprocess", "condition", "ss", "ss_decoder", "slat", "mesh", "gaussian", "postprocess"}
    assert report.seconds.keys() == stages | {"other"}
    assert [solve.stage for solve in report.solves] == ["ss", "slat"]


def test_another_sampler_has_other_calls_and_is_restored(pipeline: Any) -> None:
    with Sampler("mine", 0.25, 2.0).on(FakeInference(pipeline)), observe(pipeline) as report:
        STOCK.run(pipeline)
        strength = pipeline.models["ss_generator"].reverse_fn.strength
    with observe(pipeline) as plain:
        STOCK.run(pipeline)
    assert strength == 2.0, "the pipeline sets the strength in every run"
    first, later = (solve.steps[1].t for found in (report, plain) for solve in found.solves if solve.stage == "ss")
    assert first > later and report.network_calls < plain.network_calls


def test_notebook_wrapper_is_unwrapped(pipeline: Any) -> None:
    with fast_sam3d.accelerated(FakeInference(pipeline), METHODS["all"]) as handle:
        STOCK.run(pipeline)
    assert handle.report.network_calls_saved > 0


def test_merged_mesh_is_scaled_back(pipeline: Any) -> None:
    def bounds(result: dict[str, Any]) -> torch.Tensor:
        vertices = result["mesh"][0].vertices
        turned = torch.as_tensor(result["glb"].vertices)[:, [0, 2, 1]] * torch.tensor([1.0, -1.0, 1.0])
        torch.testing.assert_close(turned.float(), vertices, atol=1e-6, rtol=0)  # the glb has the same mesh
        return torch.stack([vertices.amin(0), vertices.amax(0)])

    plain = STOCK.raw(pipeline, decode_formats=["mesh", "gaussian"])
    with fast_sam3d.accelerated(pipeline, METHODS["mesh"]):
        merged = STOCK.raw(pipeline, decode_formats=["mesh", "gaussian"])
    # A bin of two voxels is a quarter of this cube, and a mesh that was not scaled back half as large.
    assert (bounds(merged) - bounds(plain)).abs().max() < 3 / CORNER
    assert len(merged["mesh"][0].faces) < len(plain["mesh"][0].faces)


def test_the_image_ratio_affects_merging(pipeline: Any) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (48, 64, 4), dtype=np.uint8)
    noise[..., 3] = rgba()[..., 3]
    expected = picture_ratio(torch.from_numpy(noise[..., :3]), torch.from_numpy(noise[..., 3]))
    with fast_sam3d.accelerated(pipeline, METHODS["voxels"]) as handle, STOCK.running():
        pipeline.run(noise, None, seed=0, stage1_only=True)
    (record,) = handle.report.aggregations
    assert record.picture == expected is not None


def test_compiled_model_is_accelerated(pipeline: Any) -> None:
    """The constructor's own `_compile`, with its wrappers; its warm-up calls a method that does not exist."""
    before, plain, passed = snapshot(pipeline), STOCK.run(pipeline), []

    def not_compiled(function: Any, **options: Any) -> Any:
        return lambda *args, **kwargs: passed.append(function) or function(*args, **kwargs)

    models = pipeline.models
    embedders = [part for part, _ in pipeline.condition_embedders["ss_condition_embedder"].embedder_list]
    with mock.patch("torch.compile", not_compiled), mock.patch.object(type(pipeline), "_warmup"):
        pipeline._compile()
    try:
        compiled = snapshot(pipeline)
        assert differing(STOCK.run(pipeline), plain) == set()
        passed.clear()
        with fast_sam3d.accelerated(pipeline, METHODS["all"]) as handle, STOCK.counted_calls(pipeline) as counts:
            accelerated = STOCK.run(pipeline)
        assert same_vars(compiled, snapshot(pipeline))
        assert {solve.stage: solve.calls for solve in handle.report.solves} == counts
        # Four tokens of conditions, the steps that are evaluated, one decoding.
        assert len(passed) == 4 + len(handle.report.solves[0].evaluated) + 1
        # Savings inside the network stay off: they would be traced, or never called.
        with fast_sam3d.accelerated(pipeline, METHODS["everything"]):
            assert "forward" not in vars(models["ss_generator"].reverse_fn.backbone)
            assert torch.equal(STOCK.raw(pipeline, stage1_only=True)["shape"], accelerated["shape"])
        assert differing(STOCK.run(pipeline), plain) == set()
    finally:
        for module, name in [
            *((embedder, "forward") for embedder in embedders),
            (models["ss_generator"].reverse_fn, "inner_forward"),
            (models["ss_decoder"], "forward"),
        ]:
            del vars(module)[name]
    assert same_vars(before, snapshot(pipeline))
    with fast_sam3d.accelerated(pipeline, METHODS["all"]):
        assert differing(STOCK.run(pipeline), accelerated) == set()


@pytest.mark.parametrize("kind", ["Midpoint", "RungeKutta4", "SDE"])
def test_other_solvers_are_refused_before_patching(kind: str, pipeline: Any) -> None:
    from sam3d_objects.model.backbone.generator.flow_matching import solver

    generator = pipeline.models["ss_generator"]
    with mock.patch.object(generator, "_solver", getattr(solver, kind)()):
        before = snapshot(pipeline)
        with pytest.raises(SolverError, match=f"ss: the solver is {kind}, and step caching needs Euler"):
            fast_sam3d.accelerate(pipeline, METHODS["all"])
        assert same_vars(before, snapshot(pipeline))


def test_other_solves_on_the_same_solver_are_unaffected(pipeline: Any) -> None:
    """`log_likelihood` solves for {"x", "log_p"} through `solve`, which calls the patched `solve_iter`."""
    solver = pipeline.models["slat_generator"]._solver
    state, grid = {"x": torch.ones(1, 3, 8), "log_p": torch.zeros(1)}, torch.linspace(1, 0, 6)

    def dynamics(x: Any, t: Any) -> Any:
        return {"x": x["x"] * t, "log_p": x["x"].sum().reshape(1)}

    expected = solver.solve(dynamics, state, grid)
    with fast_sam3d.accelerated(pipeline, METHODS["both"]):
        got = solver.solve(dynamics, state, grid)
    assert all(torch.equal(got[name], expected[name]) for name in expected)


def test_pointmap_guidance_takes_three_calls(pipeline: Any) -> None:
    from sam3d_objects.model.backbone.generator.classifier_free_guidance import PointmapCFG

    guidance = pipeline.models["ss_generator"].reverse_fn
    kind, embedder = type(guidance), guidance.backbone.condition_embedder
    guidance.__class__, embedder.force_drop_modalities = PointmapCFG, None
    try:
        with STOCK.counted_calls(pipeline) as counts, fast_sam3d.accelerated(pipeline, METHODS["paper"]) as handle:
            STOCK.run(pipeline)
    finally:
        guidance.__class__ = kind
        del embedder.force_drop_modalities
    (ss, _) = handle.report.solves
    assert ss.calls == counts["ss"]
    assert ss.calls + ss.saved == PLAIN_CALLS["ss"] + 7  # steps 0 to 6 are guided


def test_disabled_and_short_guidance(pipeline: Any) -> None:
    """The third guided step lies on the end of its interval, t = 0.1."""
    guidance = pipeline.models["ss_generator"].reverse_fn
    for strength, interval, calls in ((0, [0, 500], STEPS), (7, [0, 100], STEPS + 3), (7, None, STEPS)):
        with (
            mock.patch.object(pipeline, "ss_cfg_strength", strength),
            mock.patch.object(guidance, "interval", interval),
            STOCK.counted_calls(pipeline) as counts,
            observe(pipeline) as report,
        ):
            STOCK.raw(pipeline, stage1_only=True)
        assert report.solves[0].calls == counts["ss"] == calls


def test_the_notebooks_inference_is_accelerated_in_place(shared: Any) -> None:
    """The stock `Inference` of notebook/inference.py holds its pipeline like this, and calls `run` like this."""

    class Inference:
        def __init__(self) -> None:
            self._pipeline = copy.deepcopy(shared)

        def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int | None = None) -> dict[str, Any]:
            rgba = np.concatenate([image[..., :3], mask[..., None].astype(np.uint8) * 255], axis=-1)
            with STOCK.running():
                return self._pipeline.run(
                    rgba, None, seed, stage1_only=False, with_mesh_postprocess=False, with_texture_baking=False,
                    with_layout_postprocess=False, use_vertex_color=True, decode_formats=["gaussian"],
                )  # fmt: skip

    inference = Inference()
    image, mask = picture()
    plain = tensors(inference(image, mask, seed=42))
    before = snapshot(inference._pipeline)
    handle = fast_sam3d.accelerate(inference)
    output = inference(image, mask, seed=42)
    assert {"gs", "rotation", "translation", "scale"} <= output.keys()
    assert sum(solve.saved for solve in handle.report.solves) > 0
    handle.remove()
    assert same_vars(before, snapshot(inference._pipeline))
    assert differing(tensors(inference(image, mask, seed=42)), plain) == set()
