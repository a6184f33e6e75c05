"""A local stand-in for the hub that serves a small checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.file_download
import pytest
from huggingface_hub import constants

from tests.checkpoints.test_load import stock_weights, write_stock, write_weights
from tests.fake_hub import FakeHub


def published(folder: Path) -> dict[str, bytes]:
    write_stock(folder)
    write_weights(folder / "ss_generator.ckpt", stock_weights("ss_generator", ballast=50_000))
    inner = {f"checkpoints/{file.name}": file.read_bytes() for file in sorted(folder.iterdir())}
    return {".gitattributes": b"* lfs", "README.md": b"the model card", **inner}


@pytest.fixture
def hub(elsewhere: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with the published layout, a user who is not logged in, and an empty working folder."""
    with FakeHub(published(tmp_path / "published")) as hub:
        # The client reads HF_ENDPOINT and HF_HOME once, when it is imported (huggingface_hub/constants.py).
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        # Versions before 1.0 copy it.
        monkeypatch.setattr(huggingface_hub.file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(elsewhere / "token"))
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(elsewhere / "cache"))
        # Its log handler keeps the stream of the test that imported it.
        monkeypatch.setattr(logging, "raiseExceptions", False)
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub
