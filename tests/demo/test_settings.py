"""Settings of a job: the same as configuration and as command line."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fast_sam3d.cli import infer, scene
from fast_sam3d.cli.arguments import Parser
from fast_sam3d.cli.configuration import config_from
from fast_sam3d.config.compose import Config
from fast_sam3d.demo.inputs import JobInput
from fast_sam3d.demo.settings import JobSettings, command_line, configuration
from fast_sam3d.errors import ConfigError

GIVEN = JobInput(np.zeros((4, 4, 3), np.uint8), (np.eye(4, dtype=bool),), "a b")


def parsed(command: str) -> Config:
    """The configuration that the command line composes."""
    program, name, *words = shlex.split(command)
    module = {"infer": infer, "scene": scene}[name]
    parser = Parser(prog=f"{program} {name}")
    module.add_arguments(parser)
    return config_from(parser.parse(words, True))


@pytest.mark.parametrize(
    ("settings", "values", "overrides"),
    [
        (JobSettings(), {}, ()),
        (JobSettings("off", 7, 12, 9, ("gaussian",), None, None), {"pipeline.tag": "mini"}, ()),
        (JobSettings("fast"), {"pipeline.device": "cpu", "pipeline.dtype": "bfloat16"}, ("scene.batch=2",)),
        (JobSettings(overrides=("ss=fast_sam3d", "ss.when.stride=4")), {"pipeline.tag": "my weights' folder"}, ()),
        (JobSettings(formats=("spz", "gaussian")), {}, ()),
        (JobSettings(formats=("obj",), texture=None), {}, ()),
        (JobSettings(faces=None), {"pipeline.depth_model": "a/$b"}, ("pipeline.layout_postprocess=false",)),
    ],
)
@pytest.mark.parametrize("number", [0, None])
def test_the_command_line_composes_the_same_configuration(settings, values, overrides, number):
    path = Path("input/a b")
    own = configuration(settings, path, values, overrides)
    found = parsed(command_line(settings, GIVEN, path, number, values, overrides))
    assert replace(found, input=replace(found.input, mask_index=None)) == own
    assert found.input.mask_index == number


@pytest.mark.parametrize("wrong", [{"preset": "quick"}, {"seed": -1}, {"ss_steps": 0}, {"overrides": ("x=1",)}])
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError):
        configuration(JobSettings(**wrong), Path("x"))
