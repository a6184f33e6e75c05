"""Reuse of encoder passes on the stock classes."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fast_sam3d
from tests.beds import differing, tensors
from tests.exact.test_passes import only
from tests.fakes import same_vars, snapshot
from tests.minis import rgba
from tests.stock.build import STOCK, FixedDepth, PictureTokens

INPUTS = 4  # image and mask, of the crop and of the whole picture


def crop(image: Tensor, mask: Tensor, pointmap: Tensor | None = None) -> tuple[Tensor, ...]:
    """To the box of the mask."""
    y, x = torch.nonzero(mask.reshape(mask.shape[-2:])).unbind(1)
    box = (..., slice(y.min(), y.max() + 1), slice(x.min(), x.max() + 1))
    return tuple(thing[box] for thing in (image, mask, pointmap) if thing is not None)


class DepthNetwork(nn.Module):
    """As MoGe: called by another name than `forward`, in inference mode."""

    calls = 0  # of the class: a module that changes is another one

    def __init__(self) -> None:
        super().__init__()
        self.tilt = nn.Parameter(torch.tensor(0.3), requires_grad=False)

    @torch.inference_mode()
    def infer(self, image: Tensor, force_projection: bool = True) -> dict[str, Tensor]:
        DepthNetwork.calls += 1
        result = FixedDepth()(image)
        return {"points": result["pointmaps"] * self.tilt / 0.3, "intrinsics": result["intrinsics"]}


class Depth:
    """As the stock depth model around it."""

    def __init__(self) -> None:
        self.model = DepthNetwork().eval()

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        output = self.model.infer(image, force_projection=False)
        output["pointmaps"] = output["points"]
        return output


@pytest.fixture(scope="module")
def shared() -> Any:
    """With equal encoders, and a depth network."""
    pipeline = STOCK.build()
    pipeline.depth_model = Depth()
    cropping = dataclasses.replace(
        pipeline.ss_preprocessor, img_mask_joint_transform=[crop], img_mask_pointmap_joint_transform=[crop]
    )
    pipeline.ss_preprocessor = pipeline.slat_preprocessor = cropping
    ss, slat = pipeline.condition_embedders.values()
    slat.module_list.load_state_dict(ss.module_list.state_dict())
    STOCK.run(pipeline)
    return pipeline


@pytest.fixture
def pipeline(shared: Any) -> Iterator[Any]:
    before, depth = snapshot(shared), list(vars(shared.depth_model.model))
    yield shared
    assert same_vars(before, snapshot(shared))
    assert list(vars(shared.depth_model.model)) == depth


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The channels of each input of an actual encoder pass."""
    ran: list[int] = []
    forward = PictureTokens.forward

    def counting(self: PictureTokens, image: Tensor) -> Tensor:
        ran.append(image.shape[1])
        return forward(self, image)

    monkeypatch.setattr(PictureTokens, "forward", counting)
    return ran


def scene(pipeline: Any) -> list[dict[str, Tensor]]:
    """Two objects of one picture: the stock one, and a smaller part of it."""
    first = rgba()
    second = first.copy()
    second[:, :28, 3] = 0
    with STOCK.running():
        return [
            tensors(pipeline.run(picture, None, seed=0, stage1_only=False, decode_formats=["gaussian"]))
            for picture in (first, second)
        ]


@pytest.mark.parametrize(
    ("savings", "made", "depth"),
    [
        ((), 16, 2),
        (("embedders",), 8, 2),
        (("images",), 14, 1),  # the whole picture's tokens, of each of two encoders
        (("embedders", "images"), 7, 1),  # three for the second mask
    ],
)
def test_encoder_passes_of_two_masks_of_one_image(
    savings: tuple[str, ...], made: int, depth: int, pipeline: Any, passes: list[int]
) -> None:
    plain = scene(pipeline)
    assert differing(*plain) >= {"shape", "coords"}
    passes.clear()
    DepthNetwork.calls = 0
    with fast_sam3d.accelerated(pipeline, only(*savings)):
        saved = scene(pipeline)
    assert [differing(a, b) for a, b in zip(saved, plain, strict=True)] == [set(), set()]
    assert len(passes) == made
    assert DepthNetwork.calls == depth


def test_changed_weights_of_the_depth_network_are_detected(pipeline: Any) -> None:
    network = pipeline.depth_model.model
    with fast_sam3d.accelerated(pipeline, only("images")):
        before = STOCK.run(pipeline)
        network.tilt.data = torch.tensor(0.6)
        after = STOCK.run(pipeline)
    assert differing(STOCK.run(pipeline), after) == set()
    network.tilt.data = torch.tensor(0.3)
    assert "translation" in differing(after, before)


def test_different_encoders_share_no_passes(shared: Any, passes: list[int], caplog: pytest.LogCaptureFixture) -> None:
    pipeline = copy.deepcopy(shared)
    _, slat = pipeline.condition_embedders.values()
    with torch.no_grad():
        for encoder in slat.module_list:
            encoder.layer.bias.add_(1e-3)
    plain = STOCK.run(pipeline)
    passes.clear()
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, only("embedders")):
        assert differing(STOCK.run(pipeline), plain) == set()
        STOCK.run(pipeline)
    assert len(passes) == 2 * 2 * INPUTS
    assert len([r for r in caplog.records if "no two image encoders have equal" in r.message]) == 1


def test_a_depth_model_without_a_network_is_skipped_with_a_log_message(
    shared: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = copy.deepcopy(shared)
    pipeline.depth_model = FixedDepth()
    plain = STOCK.run(pipeline)
    with caplog.at_level(logging.INFO, "fast_sam3d"), fast_sam3d.accelerated(pipeline, only("images")):
        assert differing(STOCK.run(pipeline), plain) == set()
    assert len([r for r in caplog.records if "exact.images keeps no depth" in r.message]) == 1
