"""A demo's engine on the embedded model, shared by the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fast_sam3d.demo.engine import Engine
from fast_sam3d.demo.inputs import JobInput
from fast_sam3d.demo.settings import JobSettings

MINI = {"pipeline.tag": "mini", "pipeline.device": "cpu"}


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Loaded; keeps the results of its last four jobs."""
    with Engine(MINI, folder=tmp_path_factory.mktemp("demo") / "jobs", keep=4) as found:
        assert found.wait_until_loaded(60)
        yield found


@pytest.fixture
def teapot() -> JobInput:
    return JobInput.load("examples/teapot")


@pytest.fixture
def quick() -> JobSettings:
    """A job of a second: few steps, plain files, no preview."""
    return JobSettings(ss_steps=8, slat_steps=5, faces=None, texture=None, overrides=("output.preview=false",))
