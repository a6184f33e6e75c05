"""Whole runs of the native pipeline on a device that is neither the host nor torch's default, in float32 and bfloat16.

`tests.devices` records what CUDA or MPS would refuse, and where the host waits for the device.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.beds import tensors
from tests.devices import DEVICE, Accelerator, place
from tests.minis import rgba
from tests.native.tiny import FakeDepth, random_native


class DepthThere(FakeDepth):
    """A depth model whose results are on the device."""

    def __call__(self, image: Tensor) -> dict[str, Tensor]:
        return {name: value.to(DEVICE) for name, value in super().__call__(image).items()}


def run(pipeline: Any, steps: int) -> dict[str, Tensor]:
    options = {"stage1_inference_steps": steps, "stage2_inference_steps": steps}
    result = pipeline.run(rgba(), seed=0, decode_formats=["mesh", "gaussian"], **options)
    return {name: value.to("cpu") for name, value in tensors(result).items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_run_on_another_device(dtype: torch.dtype) -> None:
    accelerator, pipeline = Accelerator(), random_native()
    expected = run(pipeline, 2)
    waits: list[Counter[str]] = []
    with accelerator.on():
        place(pipeline, DEVICE)
        pipeline.depth_model = DepthThere()
        pipeline.dtype = pipeline.shape_model_dtype = dtype
        for steps in (6, 2):
            accelerator.syncs.clear()
            result = run(pipeline, steps)
            waits.append(Counter(accelerator.syncs))
    assert accelerator.faults == []
    assert [line for line in accelerator.silent if not line.endswith("the test")] == []
    assert waits[0] == waits[1]  # none in a step
    if dtype is torch.float32:
        # Another way to gather rounds otherwise, which turns the diagonal of a quad now and then.
        assert (result["mesh.faces"] != expected["mesh.faces"]).any(1).float().mean() < 1e-3
        for name in result.keys() - {"mesh.faces"}:
            assert torch.allclose(result[name].nan_to_num(), expected[name].nan_to_num(), atol=1e-5), name
