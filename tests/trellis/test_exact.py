"""The exact savings act on TRELLIS's own classes, in float32 and in the published float16."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest
import torch

import fast_sam3d
from fast_sam3d.adapters import adapt
from fast_sam3d.exact.context import CrossAttentionSeam
from fast_sam3d.exact.extraction import ExtractionSeam
from fast_sam3d.exact.subdivision import SubdivisionSeam
from tests.beds import differing, tensors
from tests.contract import BOTH, EXACT, METHODS
from tests.contract_trellis import distance
from tests.trellis.build import random_image
from tests.trellis.stand_ins import on_cpu
from tests.trellis_like.beds import NETWORKS, TrellisBed

BED = TrellisBed("trellis", random_image, on_cpu)


def test_every_saving_passes_its_trial(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = BED.build()
    projections = Counter[str]()
    for stage, name in NETWORKS.items():
        keys = pipeline.models[name].blocks[0].cross_attn.to_kv
        keys.forward = counting(keys.forward, projections, stage)
    with caplog.at_level(logging.INFO), fast_sam3d.accelerated(pipeline, EXACT):
        BED.raw(pipeline, formats=list(BOTH))
        seams = adapt(pipeline).seams()
    found = {
        kind: [seam for seam in seams if isinstance(seam, kind)]
        for kind in (CrossAttentionSeam, SubdivisionSeam, ExtractionSeam)
    }
    assert {kind.__name__: len(some) for kind, some in found.items()} == {
        "CrossAttentionSeam": 4, "SubdivisionSeam": 2, "ExtractionSeam": 1
    }  # fmt: skip
    assert all(seam.constant for seam in found[CrossAttentionSeam])
    assert all(seam.works and all(seam.works.values()) for seam in found[SubdivisionSeam])
    assert all(seam.result for seam in found[ExtractionSeam])
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    # Of the condition once, of one token of zeros for the constant, and of the zeros for its probes.
    assert projections == {"ss": 3, "slat": 3}


def counting(call: Any, counts: Counter[str], name: str) -> Any:
    def counted(*args: Any) -> Any:
        counts[name] += 1
        return call(*args)

    return counted


@pytest.mark.parametrize("used", ["exact", "everything"])
def test_float16_as_published(used: str) -> None:
    pipeline = random_image(half=True)
    assert pipeline.models["slat_flow_model"].blocks[0].mlp.mlp[0].weight.dtype == torch.float16
    plain = tensors(BED.raw(pipeline, formats=list(BOTH)))
    with fast_sam3d.accelerated(pipeline, METHODS[used]):
        fast = tensors(BED.raw(pipeline, formats=list(BOTH)))
    assert {name: value.dtype for name, value in fast.items()} == {name: value.dtype for name, value in plain.items()}
    if used == "exact":
        assert distance(fast["shape"], plain["shape"]) < 1e-2
    assert differing(tensors(BED.raw(pipeline, formats=list(BOTH))), plain) == set()
