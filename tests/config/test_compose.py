"""Composing the configuration: overrides, values, and one clear sentence for each mistake."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hydra
import pytest
from hydra.core.global_hydra import GlobalHydra

from fast_sam3d.config.compose import (
    ACCELERATED,
    MODULES,
    PRESET,
    Config,
    check_methods,
    compose,
    group_options,
    load,
)
from fast_sam3d.config.methods import build_methods
from fast_sam3d.errors import ConfigError, FastSam3dError, suggest


def test_defaults():
    config = load()
    assert config.seed == 42
    assert (config.pipeline.ss_steps, config.pipeline.slat_steps) == (25, 25)
    assert config.pipeline.formats == ("mesh", "gaussian")
    assert config.pipeline.tag is None
    assert config.output.dir == Path("outputs")
    assert config.modules == {key: {} for key in MODULES}
    assert config.choices == {"pipeline": "auto", "preset": "off", **dict.fromkeys(MODULES, "off")}


def test_settings_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load().seed = 3  # type: ignore[misc]


def test_group_choice_and_its_overrides_in_any_order():
    config = load(["ss.when.stride=4", "ss=fast_sam3d", "pipeline=mini", "pipeline.formats=[gaussian]"])
    assert config.modules["ss"]["when"] == {"name": "stride", "stride": 4, "warmup": 2}
    assert config.modules["ss"]["predict"]["layout"] == {"name": "anchored", "beta": 0.5}
    assert (config.pipeline.tag, config.pipeline.formats) == ("mini", ("gaussian",))
    assert config.choices["ss"] == "fast_sam3d"


def test_values_are_passed_verbatim():
    path = "odd, {name}=a b/[1]/${x}.png"
    config = load(["seed=1"], {"seed": 7, "input.image_path": "a,b=[c].png", "output.dir": "plain"})
    assert (config.seed, config.input.image_path) == (7, Path("a,b=[c].png"))
    assert load([], {"input.image_path": path}).input.image_path == Path(path)


def test_home_is_expanded():
    assert load([], {"input.image_path": "~/x.png"}).input.image_path == Path.home() / "x.png"


def test_every_option_of_every_group_composes():
    options = group_options()
    assert set(MODULES) <= set(options)
    for group, names in options.items():
        for name in names:
            assert isinstance(load([f"{group}={name}"]), Config)


def test_options_of_the_acceleration_flags_exist():
    for module, option in ACCELERATED.items():
        assert load([f"{module}={option}"]).modules[module]
    assert any(load([f"preset={PRESET}"]).modules.values())
    assert all(load(["preset=fast_sam3d"]).modules.values())


@pytest.mark.parametrize("preset", group_options()["preset"])
def test_every_option_of_every_module_builds_its_class(preset):
    config = load([f"preset={preset}"])
    check_methods(config)
    assert any(config.modules.values()) == (preset != "off")


@pytest.mark.parametrize(("module", "option"), [(m, o) for m in MODULES for o in group_options()[m] if o != "off"])
def test_yaml_files_write_out_every_default(module, option):
    """Every default is written out, so that no file hides a setting."""
    method = build_methods(load([f"{module}={option}"]).modules)[module]
    written = load([f"{module}={option}"]).modules[module]
    groups = {"shape": "shape", "6drotation_normalized": "layout", "feats": "feats"}
    settings = method.settings()
    if module in ("mesh", "exact"):
        assert written == settings
        return
    for part in ("when", "where"):
        assert written[part] == settings[part]
    assert written.get("guide", {"name": "both"}) == settings["guide"]
    for leaf, group in groups.items():
        if leaf in settings["predict"]:
            assert written["predict"].get(group, written["predict"]) == settings["predict"][leaf]


def test_group_override_takes_precedence_over_a_preset():
    for order in (["preset=fast_sam3d", "ss=off"], ["ss=off", "preset=fast_sam3d"]):
        config = load(order)
        assert not config.modules["ss"] and config.modules["slat"]
    assert load(["preset=fast_sam3d", "slat.when.warmup=5"]).modules["slat"]["where"]["warmup"] == 5


def test_plus_adds_a_setting_inside_a_module_only():
    assert load(["ss=fast_sam3d", "+ss.when.extra=1"]).modules["ss"]["when"]["extra"] == 1
    with pytest.raises(ConfigError, match="no configuration key 'extra'"):
        load(["+extra=1"])


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["sed=3"], ["no configuration key 'sed'", "'seed'"]),
        (["pipeline.ss_step=3"], ["'pipeline.ss_step'", "'pipeline.ss_steps'"]),
        (["stride=3", "ss=fast_sam3d"], ["'stride'", "'ss.when.stride'"]),
        (["sss=off"], ["'sss'", "'ss'"]),
        (["ss=fast_sam"], ["no option 'fast_sam'", "'fast_sam3d'"]),
        (["ss=null"], ["ss has no option", "fast_sam3d"]),
        (["ss.when.stride=3"], ["no effect while ss=off", "--enable_acceleration"]),
        (["ss=fast_sam3d", "ss.when.strid=3"], ["'ss.when.strid'", "'ss.when.stride'"]),
        (["hydra.run.dir=x"], ["'hydra.run.dir'"]),
        (["seed"], ["'seed' is not an override", "key=value"]),
        (["a=["], ["is not an override"]),
        (["seed=1,2"], ["several runs"]),
        (["~seed"], ["deletes a key"]),
        (["seed=-1"], ["seed is -1", "0 to 4294967295"]),
        (["seed=1.5"], ["whole number"]),
        (["seed=true"], ["seed is True"]),
        (["seed=${nothing}"], ["cannot be resolved"]),
        (["pipeline.ss_steps=0"], ["pipeline.ss_steps is 0", "1 to 1000"]),
        (["pipeline.formats=[mash]"], ["'mash'", "'mesh'"]),
        (["pipeline.formats=[]"], ["one or more of mesh, gaussian, gaussian_4"]),
        (["pipeline.formats=3"], ["one or more"]),
        (["pipeline.dtype=float3"], ["'float32'"]),
        (["pipeline.tag=[a]"], ["pipeline.tag", "give a text"]),
        (["output.preview=2"], ["true or false"]),
        (["output.formats=[spx]"], ["output.formats holds 'spx'", "spz"]),
        (["output.formats=[]"], ["output.formats is []", "one or more"]),
        (["output.formats=spz", "pipeline.formats=[mesh]"], ["needs gaussian", "decodes mesh", "leave"]),
        (["output.formats=spz", "output.texture=64"], ["--texture", "needs a mesh"]),
        (["pipeline.formats=[gaussian]", "output.faces=64"], ["--faces", "needs a mesh"]),
        (["output.faces=3"], ["output.faces is 3", "from 4"]),
        (["output.texture=1000.5"], ["output.texture is 1000.5", "whole number"]),
        (["output.faces=1e300"], ["output.faces is 1e+300", "whole number from 4 to"]),
        (["output.texture=100000"], ["from 16 to 8192"]),
        (["output.bake.gate=skipgs"], ["needs a texture", "--texture 1024"]),
        (["output.texture=64", "output.bake.gate=skip"], ["'skipgs'"]),
        (["input.mask_index=-1"], ["input.mask_index is -1"]),
        (["input.mask_index=1", "input.mask_path=a.png"], ["both name a mask"]),
        (["pipeline={tag: mini}", "pipeline.tag=null", "+pipeline.extra=1"], ["'pipeline.extra'"]),
        (["input=null"], ["input"]),
        (["+input={extra: 1}"], ["'input.extra'"]),
        (["ss@x=off"], ["'ss@x=off'", "package", "write ss="]),
        (["ss@x="], ["package"]),
        (["seed@x=3"], ["write seed="]),
        (["mesh={a: 1}"], ["mesh.a has no effect while mesh=off"]),
        (["mesh=fast_sam3d", "mesh={threshold_lo: 1}"], ["no key 'mesh.threshold_lo'", "'mesh.threshold_low'"]),
        (["preset={a: 1}"], ["preset=<default|"]),
        (["pipeline={tga: mini}"], ["'pipeline.tga'", "'pipeline.tag'"]),
        (["input.image_path='~nobody-of-that-name/a'"], ["input.image_path", "not known here"]),
        (["output.dir='~nobody-of-that-name/a'"], ["output.dir", "not known here"]),
    ],
)
def test_invalid_overrides(overrides, words):
    with pytest.raises(ConfigError) as caught:
        load(overrides)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def test_unknown_key():
    with pytest.raises(ConfigError, match="did you mean 'output.dir'"):
        load([], {"output.dirs": "x"})


def test_compose_returns_plain_containers():
    tree, choices = compose(["ss=fast_sam3d"])
    assert type(tree) is dict
    assert type(tree["ss"]["when"]) is dict
    assert "hydra" not in tree
    assert choices["ss"] == "fast_sam3d"


def test_initialised_hydra_of_the_caller_is_unaffected(tmp_path):
    (tmp_path / "own.yaml").write_text("answer: 42\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        load(["ss=fast_sam3d"])
        with pytest.raises(ConfigError):
            load(["sed=3"])
        assert hydra.compose("own").answer == 42
    assert not GlobalHydra.instance().is_initialized()


def test_threads_may_compose_at_once():
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda seed: load([f"seed={seed}"]).seed, range(7000, 7012)))
    assert found == [*range(7000, 7012)]


def test_works_from_any_folder(elsewhere):
    assert load().seed == 42
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "valid", "expected"),
    [
        ("sead", ["seed", "steps"], "did you mean 'seed'?"),
        ("stride", ["ss.when.stride", "seed"], "did you mean 'ss.when.stride'?"),
        ("zzz", ["b", "a"], "valid are: a, b"),
        ("x", [], "there is nothing to choose from"),
    ],
)
def test_similar_names_are_suggested(name, valid, expected):
    assert suggest(name, valid) == expected


def test_our_errors_are_value_errors():
    assert issubclass(ConfigError, FastSam3dError)
    assert issubclass(FastSam3dError, ValueError)
