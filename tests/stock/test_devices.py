"""Methods and savings on the stock classes, on a device that is not the host: see `tests.devices`."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, device, nn

import fast_sam3d
from fast_sam3d.exact import passes
from tests.contract import METHODS
from tests.devices import DEVICE, Accelerator, OnDevice, moved, ours
from tests.stock import sparse_convolution
from tests.stock.build import STOCK


def place(pipeline: Any) -> None:
    """Move a stock pipeline to the accelerator, with the tensors that are no parameters (tables of the extractor)."""
    seen: set[int] = set()
    todo = [pipeline, *pipeline.models.values(), *pipeline.condition_embedders.values()]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or not isinstance(attributes := getattr(thing, "__dict__", None), dict):
            continue
        seen.add(id(thing))
        if isinstance(thing, nn.Module):
            moved(thing)
            todo += thing.modules()
        for name, value in list(attributes.items()):
            if isinstance(value, Tensor):
                attributes[name] = value if isinstance(value, OnDevice) else OnDevice(value)
            elif isinstance(value, device) or (name == "device" and value == "cpu"):
                attributes[name] = DEVICE
            elif type(value).__module__.startswith("sam3d_objects"):
                todo.append(value)


@pytest.mark.skipif(sparse_convolution.REAL, reason="spconv reads the memory of tensors, which this device has none of")
def test_the_stock_pipeline_runs_accelerated_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything of ours that acts there, with torch's default device set to the pipeline's, as a stock run has it."""
    monkeypatch.setattr(passes, "PLAIN", (*passes.PLAIN, OnDevice))
    pipeline, accelerator = STOCK.build(), Accelerator()
    with accelerator.on(default=True):
        place(pipeline)
        with fast_sam3d.accelerated(pipeline, METHODS["everything"]) as handle:
            STOCK.run(pipeline, formats=("mesh", "gaussian"))
    assert [ours(lines) for lines in (accelerator.faults, accelerator.silent)] == [[], []]
    waits = [line for line in ours(accelerator.syncs) if " at sampling/" in line]
    assert len(waits) == sum(solve.syncs for solve in handle.report.solves)
    assert all(solve.finite for solve in handle.report.solves)
