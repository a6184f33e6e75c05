"""The commands: help, errors, and the output of the small ones."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fast_sam3d import cli
from fast_sam3d.cli.arguments import Parser
from fast_sam3d.config.compose import MODULES, group_options, load
from fast_sam3d.config.packaged import checkout
from fast_sam3d.errors import ConfigError
from tests.inputs.test_selected import config_of
from tests.stand_in import run


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_every_command_has_help(capsys, name):
    code, out, _ = run(capsys, name, "--help")
    assert code == 0
    assert out.startswith(f"usage: fast-sam3d {name}")


@pytest.mark.parametrize("name", sorted(cli.COMMANDS))
def test_help_shows_the_default_of_every_flag_with_a_value(name):
    module = importlib.import_module(cli.COMMANDS[name].module)
    parser = Parser(prog=name)
    module.add_arguments(parser)
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.nargs == 0 or action.required:
            continue
        text = formatter._get_help_string(action) % {**vars(action), "prog": name}
        assert "default" in text and "('" not in text, f"{name} {action.option_strings}"
        assert action.metavar or action.choices, f"{name} {action.option_strings}: no word for its value"


MODEL_COMMANDS = ("infer", "scene", "compare", "profile", "profile-scene", "bench", "tune")


@pytest.mark.parametrize("name", MODEL_COMMANDS)
def test_commands_that_run_a_model_share_their_flags(capsys, name):
    out = run(capsys, name, "--help")[1]
    for flag in ("--image_path", "--image_dir", "--tag", "--device", "--dtype {float32,float16,bfloat16}", "--seed"):
        assert flag in out, flag
    if name != "tune":
        assert "--preset" in out and "default, fast, fast_sam3d" in " ".join(out.split())


@pytest.mark.parametrize("name", MODEL_COMMANDS)
def test_examples_are_found_from_any_folder(elsewhere, name):
    parser = Parser(prog=name)
    importlib.import_module(cli.COMMANDS[name].module).add_arguments(parser)
    given = parser.parse(["--image_path", "examples/teapot"], overrides=False).image_path
    assert Path(given).is_dir()
    (elsewhere / "examples" / "teapot").mkdir(parents=True)
    assert parser.parse(["--image_path", "examples/teapot"], overrides=False).image_path == "examples/teapot"


@pytest.mark.parametrize("name", ["infer", "scene"])
def test_flags_of_other_releases_are_one_group_of_the_help(capsys, name):
    out = run(capsys, name, "--help")[1]
    group = " ".join(out[out.index("flags of Fast-SAM3D") :].split("\n\n")[0].split())
    for flags, setting in (
        ("--enable_ss_cache, --enable_ss_faster", "ss=fast_sam3d"),
        ("--ss_cache_stride K, --ss_faster_stride K", "ss.when.stride"),
        ("--enable_slat_carving, --enable_slat_token", "slat=fast_sam3d"),
        ("--slat_token_ratio SHARE", "1 - slat.where.keep"),
        ("--mesh_spectral_threshold_high H", "mesh.threshold_high"),
    ):
        assert f"{flags} {setting}:" in group
    assert "--enable_acceleration the same as --preset default" in group


@pytest.mark.parametrize(
    ("flags", "faces", "seed"),
    [
        (["--faces", "20000", "--seed", "7"], 20_000, 7),
        (["--faces=2e4", "--seed", "1e3"], 20_000, 1000),
        (["--faces", "20_000"], 20_000, 42),
        (["output.faces=2e4"], 20_000, 42),
    ],
)
def test_counts_may_be_written_with_an_exponent_or_underscores(flags, faces, seed):
    config = config_of(*flags)
    assert (config.output.faces, config.seed) == (faces, seed) and isinstance(config.output.faces, int)


@pytest.mark.parametrize("text", ["1e9", "-5", "2.5", "many", "inf", "nan", "1e300"])
def test_other_counts_are_refused_with_their_range(text):
    with pytest.raises(ConfigError, match="--faces: output.faces is .*: give a whole number from 4 to 100000000"):
        config_of("--faces", text)


def test_defaults_in_help_are_those_of_the_configuration(capsys):
    out = " ".join(run(capsys, "infer", "--help")[1].split())
    config = load()
    assert f"(default: {config.seed})" in out and f"(default: {config.output.dir})" in out
    method = load(["ss=fast_sam3d"]).modules["ss"]
    assert f"(default of ss=fast_sam3d: {method['when']['stride']})" in out


def test_presets_are_listed_with_their_options(capsys):
    code, out, _ = run(capsys, "methods")
    assert code == 0
    for name, choices in ((name, load([f"preset={name}"]).choices) for name in group_options()["preset"]):
        (line,) = (line for line in out.splitlines() if line.startswith(f"--preset {name} "))
        on = [f"{module}={choices[module]}" for module in MODULES if choices[module] != "off"]
        assert all(pick in line for pick in on)


def test_help_lists_every_command(capsys):
    for arguments in ([], ["--help"]):
        code, out, _ = run(capsys, *arguments)
        assert code == 0
        for name in cli.COMMANDS:
            assert name in out


def test_version(capsys):
    from fast_sam3d import __version__

    assert run(capsys, "--version")[:2] == (0, __version__ + "\n")


@pytest.mark.parametrize(
    ("name", "near"), [("infr", "'infer'"), ("train_mini", "'train-mini'"), ("--bogus", "valid are")]
)
def test_unknown_commands(capsys, name, near):
    code, _, err = run(capsys, name)
    assert code == 2
    assert near in err


def test_config_prints_the_composed_tree(capsys):
    import yaml

    code, out, _ = run(capsys, "config", "--preset", "guided_stride", "--ss_cache_stride", "5", "seed=3")
    assert code == 0
    tree = yaml.safe_load(out)
    assert tree["seed"] == 3
    assert tree["ss"]["when"] == {"name": "guided_stride", "stride": 5, "late": 4, "end": None, "warmup": 4}
    assert out.startswith("# picked: ")


def test_config_checks_methods(capsys):
    code, _, err = run(capsys, "config", "ss=fast_sam3d", "ss.when=3")
    assert code == 2
    assert "ss.when is 3" in err


@pytest.mark.parametrize("buffered", [True, False])
def test_closed_pipe_is_not_an_error(buffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    command = f"{sys.executable} -m fast_sam3d.cli config | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=checkout(), env=environment)
    assert done.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
def test_full_output_ends_with_a_sentence(buffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    command = f"{sys.executable} -m fast_sam3d.cli config > /dev/full"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=checkout(), env=environment)
    assert done.returncode == 1
    assert done.stderr == "fast-sam3d: the output cannot be written (No space left on device): free some space\n"


def test_commands_without_overrides_refuse_them(capsys):
    parser = Parser(prog="x")
    parser.add_argument("--steps-per-run", type=int)
    assert parser.parse(["--steps_per_run", "3"], overrides=False).steps_per_run == 3
    with pytest.raises(ValueError, match="'seed=3' is not expected"):
        parser.parse(["seed=3"], overrides=False)


@pytest.mark.parametrize("closed", [">&-", "2>&-"])
def test_closed_output_streams_are_not_an_error(closed):
    command = f"{sys.executable} -m fast_sam3d.cli methods {closed}"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("bench", "--objects", "1e12"), "--objects is 1e12: give at most 1000000"),
        (("bench", "--processes", "5000"), "--processes is 5000: give at most 1024"),
        (("scene", "--workers", "1000000"), "--workers is 1000000: give at most 1024"),
        (("compare", "--rounds", "1e9"), "--rounds is 1e9: give at most 1000000"),
        (("tune", "--minutes", "1e300"), "--minutes is 1e300: give at most 1000000"),
    ],
)
def test_counts_over_a_limit_are_refused(capsys, flags, words):
    assert cli.main(list(flags)) == 2
    assert words in capsys.readouterr().err
