"""A package named trellis whose image pipeline is the stand-in, and a folder of weights for it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trellis_like import random_image

__all__ = ["install", "weights"]

_CODE = """
from {maker} import made

class TrellisImageTo3DPipeline:
    @staticmethod
    def from_pretrained(path):
        return made(path)
"""


class Loaded:
    """What the package was asked to load, and the pipelines that it made."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.pipelines: list[Any] = []

    def __call__(self, path: str) -> Any:
        self.paths.append(path)
        self.pipelines.append(random_image())
        return self.pipelines[-1]


def install(patch: pytest.MonkeyPatch, folder: Path, code: str | None = None) -> Loaded:
    """Put the package in front of all others; `code`: of trellis.pipelines."""
    loaded = Loaded()
    package = folder / "site" / "trellis"
    (package / "pipelines").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "pipelines" / "__init__.py").write_text(_CODE.format(maker=__name__) if code is None else code)
    for name in [name for name in sys.modules if name.split(".")[0] == "trellis"]:
        patch.delitem(sys.modules, name)
    patch.syspath_prepend(str(folder / "site"))
    patch.setattr(sys.modules[__name__], "made", loaded, raising=False)
    return loaded


def made(path: str) -> Any:
    """Replaced by `install`."""
    raise AssertionError(path)


def weights(folder: Path, name: str = "TrellisImageTo3DPipeline") -> Path:
    """A folder whose files are there, and empty."""
    (folder / "ckpts").mkdir(parents=True)
    models = {"slat_flow_model": "ckpts/flow", "slat_decoder_gs": "ckpts/gs"}
    for place in models.values():
        for suffix in (".json", ".safetensors"):
            (folder / f"{place}{suffix}").write_bytes(b"")
    settings = {"name": name, "args": {"models": models, "image_cond_model": "dinov2_vitl14_reg"}}
    (folder / "pipeline.json").write_text(json.dumps(settings))
    return folder
