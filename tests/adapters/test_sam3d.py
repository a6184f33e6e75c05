"""What the adapter finds in a pipeline, and what it does where a part is missing or of another kind."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from fast_sam3d.adapters import NotAPipelineError, adapt
from fast_sam3d.adapters.base import compiled
from fast_sam3d.adapters.sam3d import Sam3d
from fast_sam3d.adapters.samplers import LAYOUT, decode_structure, guidance_of, only_voxels, voxels_of
from tests.fakes import FakeInference, FakePipeline


def test_leaves_of_the_layout_are_those_of_the_network() -> None:
    pipeline = FakePipeline()
    network = pipeline.models["ss_generator"].reverse_fn.backbone
    network.latent_mapping = nn.ModuleDict({name: nn.Identity() for name in ("scale", "shape", "zoom")})
    assert adapt(pipeline).stages["ss"].groups == {"shape": ("shape",), "layout": ("scale", "zoom")}
    del network.latent_mapping  # of another kind
    assert adapt(pipeline).stages["ss"].groups == {"shape": ("shape",), "layout": tuple(LAYOUT)}
    network.latent_mapping = {"shape": nn.Identity()}
    assert adapt(pipeline).stages["ss"].groups == {"shape": ("shape",)}


@pytest.mark.parametrize(
    ("module", "runtime"),
    [
        ("fast_sam3d.native.pipeline", "native"),
        ("fast_sam3d.native", "native"),
        ("fast_sam3d.model.pipeline", "embedded"),
        ("fast_sam3d.models.other", "stock"),
        ("sam3d_objects.pipeline.inference_pipeline", "stock"),
        ("fast_sam3d", "stock"),
    ],
)
def test_the_runtime_follows_from_the_class(module: str, runtime: str) -> None:
    assert Sam3d(type("Pipeline", (), {"__module__": module})()).runtime == runtime


def test_formats_are_those_with_a_decoder() -> None:
    pipeline = FakePipeline()
    assert adapt(pipeline).formats == {"mesh", "gaussian"}
    assert adapt(pipeline).decoder("gaussian_4") is None
    pipeline.models["slat_decoder_gs_4"] = nn.Identity()
    del pipeline.models["slat_decoder_mesh"]
    assert adapt(pipeline).formats == {"gaussian", "gaussian_4"} and adapt(pipeline).mesh_decoder() is None
    assert [name for name, _, _ in adapt(pipeline).sparse_networks()] == [
        "slat",
        "gaussian decoder",
        "gaussian_4 decoder",
    ]


def broken(key: str, **parts: Any) -> Any:
    """A pipeline without what `parts` sets to None in one of its generators."""
    whole = {"_solver": SimpleNamespace(solve_iter=print), "reverse_fn": print}
    kept = {name: part for name, part in {**whole, **parts}.items() if part is not None}
    generators = {f"{stage}_generator": SimpleNamespace(**whole) for stage in ("ss", "slat")}
    return SimpleNamespace(models={**generators, key: SimpleNamespace(**kept)})


@pytest.mark.parametrize(
    ("pipeline", "says"),
    [
        (SimpleNamespace(models=3), "looked for models;"),
        (SimpleNamespace(models={}), r"looked for models\['ss_generator'\], models\['slat_generator'\];"),
        (broken("ss_generator", _solver=None), r"looked for models\['ss_generator'\]._solver.solve_iter;"),
        (broken("slat_generator", _solver=SimpleNamespace(solve_iter=3)), r"models\['slat_generator'\]._solver.solve"),
        (broken("slat_generator", reverse_fn=None), r"looked for models\['slat_generator'\].reverse_fn;"),
    ],
)
def test_what_is_missing_is_named(pipeline: Any, says: str) -> None:
    for given in (pipeline, SimpleNamespace(_pipeline=pipeline)):
        with pytest.raises(NotAPipelineError, match=says):
            adapt(given)


def test_a_pipeline_is_adapted_as_it_is_and_in_what_holds_it() -> None:
    pipeline = FakePipeline()
    assert adapt(pipeline).pipeline is pipeline is adapt(FakeInference(pipeline)).pipeline
    assert isinstance(adapt(broken("ss_generator")), Sam3d)


@pytest.mark.parametrize("inside", [False, True], ids=["guidance", "network"])
@pytest.mark.parametrize("way", ["compiled in place", "forward", "wrapped", "closure"])
def test_a_compiled_network_is_recognised_in_each_place(way: str, inside: bool) -> None:
    pipeline = FakePipeline()
    assert not adapt(pipeline).compiled("ss") and not adapt(pipeline).compiled("slat")
    part = pipeline.models["ss_generator"].reverse_fn
    part = part.backbone if inside else part
    if way == "compiled in place":
        part._compiled_call_impl = print
    elif way == "forward":
        part.forward = SimpleNamespace(_torchdynamo_orig_callable=print)
    elif way == "wrapped":
        vars(part)["_orig_mod"] = part.forward
    else:
        vars(pipeline.models["ss_generator"].reverse_fn)["inner_forward"] = print
    assert adapt(pipeline).compiled("ss") and not adapt(pipeline).compiled("slat")


def test_a_plain_module_is_not_compiled() -> None:
    assert not compiled(nn.Linear(2, 2)) and not compiled(None)


def test_a_sampler_is_set_for_a_while() -> None:
    pipeline = FakePipeline()
    pipeline.ss_cfg_strength = 7.0
    adapter, generator = adapt(pipeline), pipeline.models["ss_generator"]

    def now() -> tuple[float, float, float]:
        return generator.rescale_t, generator.reverse_fn.strength, pipeline.ss_cfg_strength

    with pytest.raises(KeyError), adapter.sampler_set("ss", rescale_t=1.5, strength=2.0):
        assert now() == (1.5, 2.0, 2.0) and not hasattr(pipeline, "ss_rescale_t")
        raise KeyError
    assert now() == (3.0, 7.0, 7.0)
    with adapter.sampler_set("ss"), adapter.steps_set({"ss": 4}):
        assert now() == (3.0, 7.0, 7.0) and generator.inference_steps == 4
        assert pipeline.models["slat_generator"].inference_steps == 25
    assert generator.inference_steps == 25


def test_network_calls_of_a_solve() -> None:
    """Guidance acts up to time 500 of 1000: on 10 even steps at the first six, and nowhere without strength."""
    pipeline = FakePipeline(10)
    pipeline.models["ss_generator"].rescale_t = 1.0
    assert adapt(pipeline).network_calls("ss") == (10, 6)
    assert adapt(pipeline).network_calls("ss", 4) == (4, 3)
    pipeline.models["ss_generator"].reverse_fn.strength = 0.0
    assert adapt(pipeline).network_calls("ss") == (10, 0)


def test_guidance_with_a_pointmap_has_three_calls() -> None:
    pipeline = FakePipeline()
    generator = pipeline.models["ss_generator"]
    plain = guidance_of(generator._generate_dynamics)
    assert plain is not None and (plain.calls, plain.strength, plain.intervals) == (2, 7.0, ((0, 500),))
    kind = type(generator.reverse_fn)
    generator.reverse_fn.__class__ = type("Own", (type("PointmapCFG", (kind,), {}),), {})
    with_pointmap = guidance_of(generator._generate_dynamics)
    assert with_pointmap is not None and with_pointmap.calls == 3
    assert "Own with" in (adapt(pipeline).unguidable("ss") or "")
    generator.reverse_fn.__class__ = type("ZeroCFG", (kind,), {})
    assert guidance_of(generator._generate_dynamics) == plain
    generator.reverse_fn.training = True
    assert guidance_of(generator._generate_dynamics) is None


def test_voxels_are_the_last_argument_or_the_keyword() -> None:
    x, rows, other = torch.arange(10.0).reshape(1, 5, 2), torch.arange(20).reshape(5, 4), torch.zeros(5, 3)
    assert voxels_of(x, (other, rows), {}) is rows and voxels_of(x, (other,), {"coords": rows}) is rows
    assert all(voxels_of(x, args, {}) is None for args in ((other,), (), (rows[None],)))
    index = torch.tensor([0, 3])
    few, args, kwargs = only_voxels(x, (other, rows), {"d": 1}, index, index)
    assert few.tolist() == x[:, index].tolist() and kwargs == {"d": 1}
    assert args[0] is other and args[1].tolist() == rows[index].tolist()
    few, args, kwargs = only_voxels(x, (other,), {"coords": rows.numpy()}, index, index)
    assert few.tolist() == x[:, index].tolist()
    assert args == (other,) and kwargs["coords"].tolist() == rows[index].tolist()


def test_a_structure_is_decoded_as_a_cube_of_channels() -> None:
    latent = torch.randn(2, 27, 5)
    cube = decode_structure(lambda x: x, latent)
    assert cube.shape == (2, 5, 3, 3, 3) and torch.equal(cube[1, :, 2, 0, 1], latent[1, 2 * 9 + 1])
