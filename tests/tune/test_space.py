"""The search space: every method, its settings and their values."""

from __future__ import annotations

import optuna
import pytest

from fast_sam3d.bench.variant import variant_of
from fast_sam3d.config.compose import group_options, load
from fast_sam3d.decode import MeshMethod
from fast_sam3d.ranges import tuned
from fast_sam3d.tune.sampler import import_optuna
from fast_sam3d.tune.space import EXACT, STAGES, Candidate, Method, ask, methods


@pytest.fixture(scope="module")
def known():
    import_optuna()
    return {stage: methods(stage) for stage in STAGES}


@pytest.mark.parametrize("stage", STAGES)
def test_every_method_of_a_stage_has_tunable_settings(known, stage):
    options = [method.option for method in known[stage]]
    assert sorted(options) == [name for name in group_options()[stage] if name != "off"]
    assert options.index("fast_sam3d") <= 4, "methods named by presets are tried first"
    assert all(method.knobs for method in known[stage] if not method.option.startswith("path"))


@pytest.mark.parametrize("stage", STAGES)
def test_first_trial_of_a_method_has_the_settings_of_its_file(known, stage):
    for method in known[stage]:
        candidate = Candidate({stage: method.ask(optuna.trial.FixedTrial(method.first()))})
        unset = [knob.key for knob in method.knobs if not knob.range.holds(knob.default)]
        assert not unset, f"the file's own value of {unset} is outside of its range"
        assert candidate.name == f"{stage}={method.option} {EXACT}"


@pytest.mark.parametrize("stage", STAGES)
def test_every_sampled_candidate_is_a_valid_method(known, stage):
    for method in known[stage]:
        trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1)).ask()
        candidate = Candidate({stage: ask(trial, [method])})
        variant = variant_of(candidate.name)
        assert variant.config is not None and variant.config["exact"] and variant.config[stage]


def test_one_setting_has_one_name_in_every_method(known):
    names = {knob.name for method in known["ss"] for knob in method.knobs if knob.key == "ss.when.stride"}
    assert {"when.stride.stride"} <= names
    taylor = next(method for method in known["ss"] if method.option == "fast_sam3d")
    assert {knob.key for knob in taylor.knobs} >= {"ss.predict.shape.order", "ss.predict.layout.beta"}


def test_methods_calibrated_on_the_embedded_model_are_excluded_for_others(known):
    others = [method.option for method in methods("ss", embedded=False)]
    assert "magcache" in [method.option for method in known["ss"]] and "magcache" not in others
    assert "taylorseer" in others


def test_candidate_name_is_a_valid_command_line():
    candidate = Candidate({"slat": ("slat=step_cache", "slat.when.stride=4"), "ss": ("ss=step_cache",)})
    assert candidate.name == "ss=step_cache slat=step_cache slat.when.stride=4 exact=all"
    assert load(candidate.name.split()).modules["slat"]["when"]["stride"] == 4
    assert Candidate({}).name == EXACT


def test_default_settings_are_omitted_from_the_name():
    assert tuned(MeshMethod)["factors"].holds([2.0, 1.5, 1.25])
    method = next(m for m in methods("mesh") if m.option == "fast_sam3d")
    assert isinstance(method, Method)
    chosen = {**method.first(), "mesh.threshold_low": 0.2512}
    assert method.ask(optuna.trial.FixedTrial(chosen)) == ("mesh=fast_sam3d", "mesh.threshold_low=0.25")
