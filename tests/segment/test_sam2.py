"""SAM 2, by stand-ins for its classes."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from fast_sam3d.errors import CheckpointError, InputError
from fast_sam3d.segment.sam2 import Sam2
from fast_sam3d.segment.select import Click, Marks, Selector

IMAGE = np.zeros((40, 60, 3), np.uint8)


class Inputs(dict):
    def to(self, device: str) -> Inputs:
        return self


class Processor:
    @classmethod
    def from_pretrained(cls, name: str) -> Processor:
        if name == "missing":
            raise OSError("missing is no folder")
        return cls()

    def __call__(self, **given: Any) -> Inputs:
        self.given = given
        return Inputs(original_sizes=torch.tensor([[40, 60]]))

    def post_process_masks(self, masks: torch.Tensor, sizes: torch.Tensor) -> list[torch.Tensor]:
        return [masks[0] > 0]


class Model(torch.nn.Module):
    value = 1.0

    @classmethod
    def from_pretrained(cls, name: str) -> Model:
        return cls()

    def forward(self, original_sizes: torch.Tensor, multimask_output: bool) -> SimpleNamespace:
        logits = torch.full((1, 1, 1, 40, 60), -1.0)
        logits[..., 10:20, 10:30] = self.value
        return SimpleNamespace(pred_masks=logits)


@pytest.fixture
def sam2(monkeypatch: pytest.MonkeyPatch) -> Sam2:
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(Sam2Model=Model, Sam2Processor=Processor))
    return Sam2()


def test_clicks_and_box_reach_sam2(sam2: Sam2):
    found = Selector(IMAGE, sam2).select(Marks([Click(15, 15), Click(50, 35, False)], box=(5, 5, 60, 39)))
    assert found.method == "sam2" and found.mask.sum() == 200 + 0 and found.mask[15, 15]
    given = sam2._processor.given
    assert given["input_points"] == [[[[15, 15], [50, 35]]]] and given["input_labels"] == [[[1, 0]]]
    assert given["input_boxes"] == [[[5, 5, 60, 39]]]


def test_nothing_found_is_refused(sam2: Sam2, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Model, "value", -1.0)
    with pytest.raises(InputError, match="nothing was selected"):
        Selector(IMAGE, sam2).select(Marks(box=(5, 5, 50, 39)))


def test_missing_package_and_model_get_a_sentence(sam2: Sam2, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(CheckpointError, match="cannot be loaded from missing"):
        Sam2("missing")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CheckpointError, match="pip install"):
        Sam2()
