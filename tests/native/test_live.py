"""The layout evaluated alone on the native pipeline."""

from __future__ import annotations

from typing import Any

import torch

import fast_sam3d
from tests.native.tiny import NATIVE

METHOD: dict[str, Any] = {
    "ss": {
        "when": {"name": "stride", "stride": 2},
        "predict": {"shape": {"name": "hold"}, "layout": {"name": "live"}},
    }
}


def test_with_and_without_the_layouts_keys_of_the_context() -> None:
    pipeline = NATIVE.build()
    plain = NATIVE.raw(pipeline, stage1_only=True)
    found = []
    for streams in (True, {"shape"}):  # all plans but the smallest keep those of both streams
        pipeline.models["ss_generator"].reverse_fn.backbone.keep_context = streams
        with fast_sam3d.accelerated(pipeline, METHOD) as handle:
            found.append(NATIVE.raw(pipeline, stage1_only=True))
        (record,) = handle.report.solves
        assert record.layout_evaluations == len(record.steps) - len(record.evaluated) > 0
        assert record.layout_bytes and record.fallbacks == 0
    with fast_sam3d.accelerated(pipeline, {"ss": {**METHOD["ss"], "predict": {"name": "hold"}}}):
        hold = NATIVE.raw(pipeline, stage1_only=True)
    both, shape = found
    assert torch.equal(both["shape"], hold["shape"])
    for name in ("rotation", "translation"):
        assert torch.allclose(both[name], shape[name], atol=1e-5)
        off, other = (float((got[name] - plain[name]).norm()) for got in (both, hold))
        assert off < other
