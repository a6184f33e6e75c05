"""accelerate, restore and accelerated on a pipeline of a few numbers."""

from __future__ import annotations

import copy
import gc
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import fast_sam3d
from fast_sam3d import install
from fast_sam3d.adapters import NotAPipelineError
from fast_sam3d.errors import ConfigError
from fast_sam3d.patch import Seam
from fast_sam3d.sampling.driver import SolverError
from tests.fakes import FakeInference, FakePipeline, equal, same_vars, snapshot

PAPER: dict[str, Any] = {
    "ss": {
        "when": {"name": "stride", "stride": 3, "warmup": 2},
        "where": {"name": "all"},
        "predict": {"shape": {"name": "taylor", "order": 1}, "layout": {"name": "anchored", "beta": 0.5}},
    }
}
LAYOUT = ("6drotation_normalized", "scale", "translation", "translation_scale")


def stride(stage: str, stride: int, predict: str = "hold") -> dict[str, Any]:
    return {stage: {"when": {"name": "stride", "stride": stride}, "predict": {"name": predict}}}


def beta(value: float) -> dict[str, Any]:
    config = copy.deepcopy(PAPER)
    config["ss"]["predict"]["layout"]["beta"] = value
    return config


@pytest.fixture
def pipeline() -> FakePipeline:
    return FakePipeline()


@pytest.fixture
def plain() -> dict[str, Tensor]:
    """The result of a pipeline that was never patched."""
    return FakePipeline().run(seed=0)


def test_the_default_caches_steps_in_both_samplers(pipeline: FakePipeline) -> None:
    handle = fast_sam3d.accelerate(pipeline)
    assert set(handle.methods) == {"ss", "slat", "exact"}
    pipeline.run(seed=0)
    ss, slat = handle.report.solves
    assert ss.evaluated == handle.methods["ss"]["when"]["nodes"]
    assert slat.evaluated == handle.methods["slat"]["when"]["nodes"]


@pytest.mark.parametrize(("preset", "calls"), [("guided_stride", [17, 8]), ("guided_stride_fast", [16, 5])])
def test_the_presets_before_the_paths_are_kept(pipeline: FakePipeline, preset: str, calls: list[int]) -> None:
    handle = fast_sam3d.accelerate(pipeline, preset=preset)
    pipeline.run(seed=0)
    assert [solve.calls for solve in handle.report.solves] == calls


def test_fast_makes_fewer_calls_than_the_default(pipeline: FakePipeline) -> None:
    made = {}
    for preset in ("default", "fast"):
        with fast_sam3d.accelerated(pipeline, preset=preset) as handle:
            pipeline.run(seed=0)
        made[preset] = [solve.calls for solve in handle.report.solves]
    assert all(fast < default for fast, default in zip(made["fast"], made["default"], strict=True))


def test_method_of_the_paper_is_a_preset(pipeline: FakePipeline) -> None:
    handle = fast_sam3d.accelerate(pipeline, preset="fast_sam3d")
    assert handle.methods["ss"]["when"] == {"name": "stride", "stride": 3, "warmup": 2}
    assert handle.methods["ss"]["predict"]["shape"] == {"name": "taylor", "order": 1}
    for leaf in LAYOUT:
        assert handle.methods["ss"]["predict"][leaf] == {"name": "anchored", "beta": 0.5}
    pipeline.run(seed=0)
    assert handle.report.solves[0].evaluated == [0, 1, 4, 7, 10, 13, 16, 19, 22, 24]


def test_saved_calls_are_counted(pipeline: FakePipeline, plain: dict[str, Tensor]) -> None:
    handle = fast_sam3d.accelerate(pipeline, PAPER)
    result = pipeline.run(seed=0)
    ss, slat = handle.report.solves
    assert (ss.stage, ss.calls, ss.calls + ss.saved) == (
        "ss",
        pipeline.models["ss_generator"].reverse_fn.backbone.calls,
        44,
    )
    assert (slat.calls, slat.saved) == (pipeline.models["slat_generator"].reverse_fn.backbone.calls, 0)
    assert slat.calls == 38
    assert ss.calls == 17  # 10 steps, of which 0, 1, 4, 7, 10, 13 and 16 are guided
    assert not torch.equal(result["shape"], plain["shape"])
    torch.testing.assert_close(result["shape"], plain["shape"], atol=0.5, rtol=0)


@pytest.mark.parametrize(
    "config",
    [
        stride("ss", 1),
        stride("slat", 1),
        {**stride("ss", 1), **stride("slat", 1)},
        {"ss": {"when": {"name": "always"}}},
    ],
)
def test_every_step_evaluated_is_bit_identical(
    config: dict[str, Any], pipeline: FakePipeline, plain: dict[str, Tensor]
) -> None:
    with fast_sam3d.accelerated(pipeline, config) as handle:
        assert equal(pipeline.run(seed=0), plain)
    assert handle.report.network_calls == 44 + 38


def test_slat_stage_is_accelerated_too(pipeline: FakePipeline, plain: dict[str, Tensor]) -> None:
    with fast_sam3d.accelerated(pipeline, stride("slat", 3, "taylor")) as handle:
        result = pipeline.run(seed=0)
    assert torch.equal(result["shape"], plain["shape"])
    assert not torch.equal(result["slat"], plain["slat"])
    assert [len(solve.evaluated) for solve in handle.report.solves] == [25, 10]


def test_beta_changes_layout_and_only_layout(pipeline: FakePipeline) -> None:
    with fast_sam3d.accelerated(pipeline, beta(0.2)):
        low = pipeline.run(seed=0)
    with fast_sam3d.accelerated(pipeline, beta(0.8)):
        high = pipeline.run(seed=0)
    differ = {name for name in low if not torch.equal(low[name], high[name])}
    assert differ == set(LAYOUT)


# Removal


def test_remove_restores_every_attribute(pipeline: FakePipeline, plain: dict[str, Tensor]) -> None:
    before, keys = snapshot(pipeline), list(pipeline.models.state_dict())
    handle = fast_sam3d.accelerate(pipeline, PAPER)
    assert list(pipeline.models.state_dict()) == keys
    assert not same_vars(before, snapshot(pipeline))
    pipeline.run(seed=0)
    assert (handle.active, repr(handle)) == (True, "<fast_sam3d.Handle active, stages: ss>")
    handle.remove()
    handle.remove()
    assert (handle.active, repr(handle)) == (False, "<fast_sam3d.Handle removed, stages: ss>")
    assert same_vars(before, snapshot(pipeline))
    assert list(pipeline.models.state_dict()) == keys
    assert equal(pipeline.run(seed=0), plain)
    assert len(handle.report.solves) == 2


def test_restore_and_accelerated_restore_every_attribute(pipeline: FakePipeline) -> None:
    before = snapshot(pipeline)
    fast_sam3d.restore(pipeline)
    fast_sam3d.accelerate(pipeline, PAPER)
    fast_sam3d.restore(pipeline)
    assert same_vars(before, snapshot(pipeline))
    with pytest.raises(KeyboardInterrupt), fast_sam3d.accelerated(pipeline, PAPER):
        raise KeyboardInterrupt
    assert same_vars(before, snapshot(pipeline))


@pytest.mark.parametrize("config", [{}, {"ss": {}}, {"ss": None}, "off"])
def test_off_patches_nothing(config: Any, pipeline: FakePipeline, plain: dict[str, Tensor]) -> None:
    before = snapshot(pipeline)
    handle = fast_sam3d.accelerate(pipeline, config)
    assert same_vars(before, snapshot(pipeline))
    assert (handle.active, dict(handle.methods)) == (False, {})
    assert equal(pipeline.run(seed=0), plain)


def test_acceleration_draws_no_random_numbers(pipeline: FakePipeline) -> None:
    pipeline.run(seed=0)
    unaccelerated = torch.get_rng_state()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    handle = fast_sam3d.accelerate(pipeline, PAPER)
    assert torch.equal(before, torch.get_rng_state())
    pipeline.run(seed=0)
    assert torch.equal(unaccelerated, torch.get_rng_state())
    handle.remove()
    assert torch.equal(unaccelerated, torch.get_rng_state())


def test_a_second_acceleration_replaces_the_first(pipeline: FakePipeline) -> None:
    before = snapshot(pipeline)
    first = fast_sam3d.accelerate(pipeline, PAPER)
    second = fast_sam3d.accelerate(pipeline, stride("slat", 5))
    pipeline.run(seed=0)
    assert (first.active, second.active) == (False, True)
    assert first.report.solves == []
    assert [len(solve.evaluated) for solve in second.report.solves] == [25, 7]
    first.remove()
    assert second.active
    second.remove()
    assert same_vars(before, snapshot(pipeline))


def test_off_removes_a_previous_acceleration(pipeline: FakePipeline) -> None:
    before = snapshot(pipeline)
    fast_sam3d.accelerate(pipeline, PAPER)
    fast_sam3d.accelerate(pipeline, preset="off")
    assert same_vars(before, snapshot(pipeline))


def test_failed_installation_restores_the_previous_one(pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fast_sam3d.accelerate(pipeline, PAPER)
    first_result = pipeline.run(seed=0)
    before, layers = snapshot(pipeline), [list(s.layers) for s in seams(pipeline)]

    take_off = install.Patch.take_off

    def failing(*args: Any) -> None:
        take_off(*args)
        raise MemoryError

    monkeypatch.setattr(install.Patch, "take_off", failing)
    with pytest.raises(MemoryError):
        fast_sam3d.accelerate(pipeline, stride("ss", 5))
    monkeypatch.undo()
    assert first.active
    assert same_vars(before, snapshot(pipeline))
    assert [list(s.layers) for s in seams(pipeline)] == layers
    assert equal(pipeline.run(seed=0), first_result)
    first.remove()
    assert not seams(pipeline)


def test_failed_first_installation_leaves_no_trace(pipeline: FakePipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(pipeline)

    class Failing(install.SolveSeam):
        def __init__(self, *args: Any) -> None:
            assert seams(pipeline)  # the stage timers are installed already
            raise MemoryError

    monkeypatch.setattr(install, "SolveSeam", Failing)
    with pytest.raises(MemoryError):
        fast_sam3d.accelerate(pipeline, PAPER)
    assert same_vars(before, snapshot(pipeline))


def seams(pipeline: FakePipeline) -> list[Seam]:
    return [value for thing in snapshot(pipeline).values() for value in thing.values() if isinstance(value, Seam)]


# Several pipelines and accelerations


def test_two_pipelines_with_different_settings(plain: dict[str, Tensor]) -> None:
    first, second, third = FakePipeline(), FakePipeline(), FakePipeline()
    one, two = fast_sam3d.accelerate(first, stride("ss", 2)), fast_sam3d.accelerate(second, stride("ss", 6))
    first.run(seed=0), second.run(seed=0)
    assert [len(handle.report.solves[0].evaluated) for handle in (one, two)] == [14, 6]
    assert equal(third.run(seed=0), plain)


def test_deep_copy_is_accelerated_independently(pipeline: FakePipeline) -> None:
    before = snapshot(pipeline)
    handle = fast_sam3d.accelerate(pipeline, PAPER)
    expected = pipeline.run(seed=0)
    twin = copy.deepcopy(pipeline)
    assert equal(twin.run(seed=0), expected)
    with torch.no_grad():
        for parameter in twin.models["ss_generator"].parameters():
            parameter.zero_()
    assert not equal(twin.run(seed=0), expected)  # its own weights
    assert len(handle.report.solves) == 2  # its own report
    handle.remove()
    assert same_vars(before, snapshot(pipeline))
    assert seams(twin)
    fast_sam3d.restore(twin)
    assert not seams(twin)
    assert vars(twin).keys() == vars(FakePipeline()).keys()


def test_a_patched_pipeline_can_be_pickled(pipeline: FakePipeline) -> None:
    handle = fast_sam3d.accelerate(pipeline, PAPER)
    handle.report.progress = lambda stage, done, total: None  # cannot be pickled, and is dropped
    again = pickle.loads(pickle.dumps(pipeline))
    assert equal(again.run(seed=0), pipeline.run(seed=0))
    fast_sam3d.restore(again)
    assert not seams(again)


def test_a_handle_does_not_keep_the_pipeline(pipeline: FakePipeline) -> None:
    thing = FakePipeline()
    handle = fast_sam3d.accelerate(thing, PAPER)
    thing.run(seed=0)
    alive = weakref.ref(thing)
    gc.disable()
    try:
        del thing
        assert alive() is None
    finally:
        gc.enable()
    handle.remove()


def test_the_notebooks_wrapper_is_unwrapped(pipeline: FakePipeline) -> None:
    before = snapshot(pipeline)
    wrapper = FakeInference(pipeline)
    fast_sam3d.accelerate(wrapper, PAPER)
    assert seams(pipeline)
    assert list(vars(wrapper)) == ["_pipeline"]
    fast_sam3d.restore(wrapper)
    assert same_vars(before, snapshot(pipeline))


def test_the_notebooks_inference_is_accelerated_in_place(pipeline: FakePipeline) -> None:
    inference, image, mask = FakeInference(pipeline), torch.linspace(0, 1, 7), torch.ones(7)
    plain = inference(image, mask, seed=42)
    handle = fast_sam3d.accelerate(inference)
    output = inference(image, mask, seed=42)
    assert output.keys() == plain.keys() and not equal(output, plain)
    assert handle.report.network_calls_saved > 0
    handle.remove()
    assert equal(inference(image, mask, seed=42), plain)


def test_a_compiled_forward_keeps_working_and_is_restored(pipeline: FakePipeline, plain: dict[str, Tensor]) -> None:
    """The stock pipeline's compile_model=True sets such attributes on reverse_fn and on the decoder."""
    ran: list[str] = []
    guidance, decoder = pipeline.models["ss_generator"].reverse_fn, pipeline.models["ss_decoder"]
    inner, forward = guidance.inner_forward, decoder.forward
    vars(guidance)["inner_forward"] = lambda *args, **kwargs: ran.append("inner") or inner(*args, **kwargs)
    vars(decoder)["forward"] = lambda *args, **kwargs: ran.append("decoder") or forward(*args, **kwargs)
    before = snapshot(pipeline)
    with fast_sam3d.accelerated(pipeline, stride("ss", 1)):
        assert equal(pipeline.run(seed=0), plain)
    assert ran == ["inner"] * 25 + ["decoder"]
    assert same_vars(before, snapshot(pipeline))


# Configurations and errors


def test_configurations_of_every_kind(pipeline: FakePipeline, tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    from fast_sam3d.config.compose import compose, load

    file = tmp_path / "mine.yaml"
    OmegaConf.save(OmegaConf.create(PAPER), file)
    whole = ["ss=fast_sam3d"]
    for config in [
        PAPER, OmegaConf.create(PAPER), file, str(file), "fast_sam3d", compose(whole)[0], load(whole)
    ]:  # fmt: skip
        handle = fast_sam3d.accelerate(pipeline, config)
        assert handle.methods["ss"]["when"]["stride"] == 3
        assert handle.methods["ss"]["predict"]["scale"] == {"name": "anchored", "beta": 0.5}
    assert fast_sam3d.accelerate(pipeline).methods == fast_sam3d.accelerate(pipeline, "default").methods


@pytest.mark.parametrize("config", [PAPER, "guided_stride", "fast_sam3d"])
def test_overrides(config: Any, pipeline: FakePipeline) -> None:
    given = copy.deepcopy(config)
    overrides = ["ss.when.stride=5", "ss.predict.layout.beta=0.25"]
    handle = fast_sam3d.accelerate(pipeline, config, overrides=overrides)
    assert handle.methods["ss"]["when"]["stride"] == 5
    assert handle.methods["ss"]["predict"]["translation"]["beta"] == 0.25
    assert config == given


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({"sss": {}}, {}, "there is no stage 'sss' to accelerate: did you mean 'ss'"),
        ({"preset": "fast"}, {}, "a preset is given by its name"),
        ("fast", {"overrides": ["preset=default"]}, "the preset is fast, and the override preset=default asks"),
        ("fast", {"overrides": ["pipeline.ss_steps=3"]}, "pipeline.ss_steps=3 is no setting of an acceleration"),
        ({"ss": {"when": {"name": "strides"}}}, {}, r"ss\.when\.name is 'strides': did you mean 'stride'"),
        (
            {"ss": {"predict": {"scales": {"name": "hold"}}}},
            {},
            r"ss\.predict\.scales is unknown: did you mean 'scale'",
        ),
        (
            {"ss": {"predict": {"shape": {"name": "hold"}}}},
            {},
            r"ss\.predict has no predictor for '6drotation_normalized'",
        ),
        ({"slat": {"predict": {"shape": {"name": "hold"}}}}, {}, r"slat\.predict\.shape is unknown"),
        (stride("ss", 0), {}, r"ss\.when\.stride is 0"),
        ({"ss": 3}, {}, "ss is 3: give a mapping"),
        (3, {}, "config is a int"),
        ("fast_sam4d", {}, "there is no preset 'fast_sam4d', nor a file of that name: did you mean 'fast_sam3d'"),
        ("nowhere.yaml", {}, r"nowhere\.yaml cannot be read \(No such file or directory\)"),
        (None, {"preset": "fastest"}, "there is no preset 'fastest'"),
        (PAPER, {"preset": "fast_sam3d"}, "config and preset"),
        (None, {"overrides": ["ss.when.step=4"]}, "did you mean 'ss.when.steps'"),
        (PAPER, {"overrides": ["ss.when.strid=4"]}, r"ss\.when\.strid is unknown: did you mean 'stride'"),
        (PAPER, {"overrides": "ss.when.stride=4"}, "overrides is the text"),
        (PAPER, {"overrides": ["ss.when"]}, r"'ss\.when' is not an override: write key=value"),
        (PAPER, {"overrides": [4]}, "4 is not an override"),
        (None, {"overrides": [3]}, "3 is not an override"),
        (PAPER, {"overrides": ["ss.when={name: ["]}, "is not YAML .line 1, column 9"),
        (None, {"preset": 5}, "preset is 5: give a name"),
        ("configs/preset/default.yaml", {}, "no stage 'defaults' .* `fast-sam3d config"),
        ("configs/ss/fast_sam3d.yaml", {}, "no stage 'when' .* `fast-sam3d config"),
    ],
)
def test_invalid_configurations_are_refused_before_patching(
    config: Any, options: dict[str, Any], message: str, pipeline: FakePipeline
) -> None:
    before = snapshot(pipeline)
    with pytest.raises(ConfigError, match=message):
        fast_sam3d.accelerate(pipeline, config, **options)
    assert same_vars(before, snapshot(pipeline))


@pytest.mark.parametrize("content", ["", "null", "{}", "# nothing"])
def test_an_empty_file_is_refused(pipeline: FakePipeline, tmp_path: Path, content: str) -> None:
    (tmp_path / "cut.yaml").write_text(content)
    with pytest.raises(ConfigError, match=r"cut\.yaml is empty"):
        fast_sam3d.accelerate(pipeline, tmp_path / "cut.yaml")


def test_file_that_is_not_yaml_is_refused(pipeline: FakePipeline, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    for content in (b"ss: [", b"\xff\xfe\x00"):
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"bad\.yaml is not (YAML|text in UTF-8)"):
            fast_sam3d.accelerate(pipeline, file)
    file.write_text("[1, 2]")
    with pytest.raises(ConfigError, match="config is a ListConfig: give a mapping"):
        fast_sam3d.accelerate(pipeline, file)
    with pytest.raises(ConfigError, match="cannot be read"):
        fast_sam3d.accelerate(pipeline, tmp_path)


@pytest.mark.parametrize("thing", [None, 3, object(), torch.nn.Linear(1, 1), FakeInference(None)])  # type: ignore[arg-type]
def test_an_object_that_is_no_pipeline_is_refused(thing: Any) -> None:
    for call in (fast_sam3d.accelerate, fast_sam3d.restore):
        with pytest.raises(NotAPipelineError, match=r"is not a pipeline of SAM 3D .* looked for models"):
            call(thing)
    with pytest.raises(TypeError):
        fast_sam3d.accelerate(thing)


def test_pipeline_without_generators_is_refused(pipeline: FakePipeline) -> None:
    del pipeline.models["slat_generator"]
    with pytest.raises(NotAPipelineError, match=r"looked for models\['slat_generator'\]"):
        fast_sam3d.accelerate(pipeline)


def test_pipeline_of_the_fork_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = FakePipeline()
    before = snapshot(pipeline)
    home = sys.modules[type(pipeline.models["ss_generator"]._solver).__module__]
    monkeypatch.setattr(home, "Euler_end_slat", object, raising=False)
    for wrapped in (pipeline, FakeInference(pipeline)):
        with pytest.raises(NotAPipelineError, match=r"Pipeline is of the Fast-SAM3D fork.* install facebookresearch"):
            fast_sam3d.accelerate(wrapped)
    assert same_vars(before, snapshot(pipeline))


def test_solver_that_is_not_euler_is_refused() -> None:
    pipeline = FakePipeline(ss_solver="midpoint")
    before = snapshot(pipeline)
    with pytest.raises(SolverError, match="ss: the solver is Midpoint, and step caching needs Euler"):
        fast_sam3d.accelerate(pipeline, PAPER)
    assert same_vars(before, snapshot(pipeline))
    with fast_sam3d.accelerated(pipeline, stride("slat", 3)) as handle:  # a stage that is left alone may have any
        pipeline.run(seed=0)
    assert [solve.calls + solve.saved for solve in handle.report.solves] == [88, 38]


# The public module


def test_public_names_are_importable() -> None:
    assert set(fast_sam3d.__all__) <= set(dir(fast_sam3d))
    assert all(callable(getattr(fast_sam3d, name)) for name in set(fast_sam3d.__all__) - {"__version__", "report"})
    assert fast_sam3d.report.observe is fast_sam3d.observe
    with pytest.raises(AttributeError, match="no attribute 'acelerate'"):
        fast_sam3d.acelerate  # noqa: B018


def test_version_equals_that_of_pyproject() -> None:
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'version = "{fast_sam3d.__version__}"' in text


def test_import_loads_no_optional_package() -> None:
    loaded = loaded_after("import fast_sam3d")
    heavy = {"torch", "hydra", "omegaconf", "trimesh", "skimage", "scipy", "pytorch3d", "kaolin", "moge", "rich"}
    assert not {module.split(".")[0] for module in loaded} & heavy


def test_accelerate_loads_neither_model_nor_mini() -> None:
    stock = """
import importlib.util, sys
from types import SimpleNamespace as Part
from torch import nn
import fast_sam3d

class Euler:
    def solve_iter(self, dynamics, x, times, *args, **kwargs):
        for t0, t1 in zip(times, times[1:]):
            x = x + (t1 - t0) * dynamics(x, t0, *args, **kwargs)
            yield x, t0

class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.reverse_fn, self._solver = nn.Module(), Euler()
        self.reverse_fn.backbone = nn.Linear(1, 1)

pipeline = Part(models=nn.ModuleDict({"ss_generator": Generator(), "slat_generator": Generator()}))
for preset in ("default", "fast_sam3d"):
    assert fast_sam3d.accelerate(pipeline, preset=preset).active
with fast_sam3d.observe(pipeline):
    pass
fast_sam3d.restore(pipeline)
"""
    loaded = loaded_after(stock)
    assert "fast_sam3d.exact.places" in loaded
    assert [m for m in loaded if m.startswith(("fast_sam3d.model", "fast_sam3d.mini"))] == []


def loaded_after(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after some code."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
    return set(done.stdout.split())
