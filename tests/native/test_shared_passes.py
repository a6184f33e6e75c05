"""`exact.embedders` and `exact.images` on the native embedders: one image encoder, and each picture encoded once."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fast_sam3d
from fast_sam3d.bench.operations import OFF
from fast_sam3d.native.embedder import ConditionFuser, share_equal
from fast_sam3d.native.plans import PLANS
from fast_sam3d.native.vit import VisionTransformer
from tests.beds import differing
from tests.fakes import FakePipeline
from tests.native.test_embedders import SIZE, random, settings
from tests.native.test_replay import with_plan
from tests.native.tiny import NATIVE, random_native

PICTURES = {"image": 3, "rgb_image": 3, "mask": 1, "rgb_image_mask": 1}


class Embedding(FakePipeline):
    """Both stages embed equal pictures; the weights may leave between the stages."""

    def __init__(self, equal: bool = True, releases: bool = False) -> None:
        super().__init__(steps=2)
        fusers = [random(lambda p=p: ConditionFuser(settings(p)), seed=int(p)) for p in (False, True)]  # type: ignore[misc]
        self.condition_embedders = dict(zip(("ss_condition_embedder", "slat_condition_embedder"), fusers, strict=True))
        self.encoders = [encoder for fuser in fusers for encoder in fuser.image_encoders()]  # type: ignore[operator]
        for encoder in self.encoders[1:] if equal else ():
            encoder.backbone.load_state_dict(self.encoders[0].backbone.state_dict())
        self.networks = share_equal(self.encoders)
        self.weights = {name: fuser.state_dict() for name, fuser in self.condition_embedders.items()}
        self.releases = releases

    @torch.no_grad()
    def run(self, image: Any = None, seed: int | None = None) -> dict[str, Tensor]:
        found = {}
        for name, fuser in self.condition_embedders.items():
            if self.releases:
                copies = {key: value.clone() for key, value in self.weights[name].items()}
                fuser.load_state_dict(copies, assign=True)
                fuser.requires_grad_(False)
            # Preprocessed again for each stage, as the published pipeline does.
            found[name] = fuser(**{key: value.clone() for key, value in pictures(seed or 0).items()})
            if self.releases:
                fuser.to("meta")
        return found


def pictures(seed: int) -> dict[str, Tensor]:
    """The full picture is the same for every seed; crop, masks and points are not."""
    fixed, own = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    found = {"rgb_image": torch.rand(1, 3, SIZE, SIZE, generator=fixed)}
    found |= {key: torch.rand(1, n, SIZE, SIZE, generator=own) for key, n in PICTURES.items() if key != "rgb_image"}
    return found | {key: torch.randn(1, 3, 8, 8, generator=own) for key in ("pointmap", "rgb_pointmap")}


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each pass of an image encoder."""
    ran: list[int] = []
    forward = VisionTransformer.forward

    def counting(self: VisionTransformer, image: Tensor) -> Tensor:
        ran.append(len(image))
        return forward(self, image)

    monkeypatch.setattr(VisionTransformer, "forward", counting)
    return ran


def only(*savings: str) -> dict[str, Any]:
    return {"exact": {**OFF.settings(), **dict.fromkeys(savings, True)}}


@pytest.mark.parametrize("releases", [False, True], ids=["resident", "released"])
def test_a_run_encodes_each_picture_once(releases: bool, encoded: list[int], caplog: pytest.LogCaptureFixture) -> None:
    """Four instead of eight; also where weights leave the device between the stages and come back elsewhere."""
    pipeline = Embedding(releases=releases)
    assert pipeline.networks == 1
    plain = [pipeline.run(seed=seed) for seed in (0, 1)]
    assert len(encoded) == 16
    with caplog.at_level(logging.INFO), fast_sam3d.accelerated(pipeline, only("embedders")):
        for seed in (0, 1):
            encoded.clear()
            found = pipeline.run(seed=seed)
            assert len(encoded) == 4
            assert all(torch.equal(found[name], plain[seed][name]) for name in found)
    assert "saves nothing" not in caplog.text
    assert not any("forward" in vars(part) for part in nn.ModuleList(pipeline.encoders).modules())


def test_the_next_object_of_a_picture_shares_the_pass_of_the_whole(encoded: list[int]) -> None:
    pipeline = Embedding()
    plain = [pipeline.run(seed=seed) for seed in (0, 1)]
    with fast_sam3d.accelerated(pipeline, only("embedders", "images")):
        pipeline.run(seed=0)
        encoded.clear()
        found = pipeline.run(seed=1)
    assert len(encoded) == 3
    assert all(torch.equal(found[name], plain[1][name]) for name in found)


def test_a_run_that_stops_between_the_embedders_does_not_tell_that_none_are_equal(
    encoded: list[int], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = Embedding()

    def stop(**pictures: Tensor) -> None:
        raise KeyboardInterrupt

    with caplog.at_level(logging.INFO), fast_sam3d.accelerated(pipeline, only("embedders")):
        with monkeypatch.context() as patch:
            patch.setattr(pipeline.condition_embedders["slat_condition_embedder"], "forward", stop)
            with pytest.raises(KeyboardInterrupt):
                pipeline.run()
        assert len(encoded) == 4
    assert "saves nothing" not in caplog.text


def test_different_encoders_share_nothing(encoded: list[int], caplog: pytest.LogCaptureFixture) -> None:
    pipeline = Embedding(equal=False)
    assert pipeline.networks == 4
    with caplog.at_level(logging.INFO), fast_sam3d.accelerated(pipeline, only("embedders")):
        pipeline.run()
    assert len(encoded) == 8
    assert "exact.embedders saves nothing" in caplog.text


@pytest.fixture(scope="module")
def native() -> tuple[Any, dict[str, Tensor]]:
    """A pipeline whose embedders have one image encoder, and the result of a run."""
    pipeline = random_native()
    encoders = [encoder for fuser in pipeline.condition_embedders.values() for encoder in fuser.image_encoders()]
    for encoder in encoders[1:]:
        encoder.backbone = encoders[0].backbone
    return pipeline, NATIVE.run(pipeline)


@pytest.mark.parametrize("plan", [None, "8GB", "16GB"])
def test_the_pipeline_encodes_each_picture_once_under_every_memory_plan(
    plan: str | None, native: tuple[Any, dict[str, Tensor]], encoded: list[int]
) -> None:
    pipeline, plain = native
    if plan is not None:
        pipeline, _ = with_plan(pipeline, PLANS[plan])
    with fast_sam3d.accelerated(pipeline, only("embedders")):
        assert differing(NATIVE.run(pipeline), plain) == set()
    assert len(encoded) == 4
