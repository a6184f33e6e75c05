"""Fixtures of several tests of the native runtime."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.native.checkpoint import write_checkpoint


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder that the tests of a file only read."""
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def folder(tmp_path: Path, shared: Path) -> Path:
    """A copy of it, without copies of weights in half precision, to change."""
    for file in shared.iterdir():
        if file.suffix != ".cache":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path
