"""Devices and number types that cannot be used here."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch

from fast_sam3d.checkpoints import native
from fast_sam3d.checkpoints.devices import half_problem, torch_device
from fast_sam3d.checkpoints.load import load_pipeline
from fast_sam3d.errors import CheckpointError
from fast_sam3d.native.settings import PUBLISHED

MPS, CPU = torch.device("mps"), torch.device("cpu")


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Call it with a version of macOS, on whose MPS tensors are made on the CPU."""
    make = torch.zeros

    def become(version: str) -> None:
        monkeypatch.setattr(platform, "mac_ver", lambda: (version, ("", "", ""), "arm64"))
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        monkeypatch.setattr(torch, "zeros", lambda *size, **kind: make(*size, **{**kind, "device": "cpu"}))

    return become


@pytest.mark.parametrize("version", ["12.7.6", "13.1", "13.2.1"])
def test_an_old_macos_is_refused(version: str, mac: Any) -> None:
    mac(version)
    with pytest.raises(CheckpointError, match=rf"mps of macOS {version}.*13\.3 or later"):
        torch_device("mps")
    assert torch_device("cpu") == CPU


@pytest.mark.parametrize("version", ["13.3", "14", "26.0.1", ""])
def test_a_newer_macos_is_used(version: str, mac: Any) -> None:
    mac(version)
    assert torch_device("mps") == MPS


def test_bfloat16_needs_a_newer_macos(mac: Any) -> None:
    mac("13.6")
    problem = half_problem(MPS, torch.bfloat16)
    assert problem == "bfloat16 on MPS needs macOS 14, and this is macOS 13.6"
    with pytest.raises(CheckpointError, match="needs macOS 14, and this is macOS 13.6: give float32"):
        load_pipeline("mini", device="mps", dtype="bfloat16")
    mac("14.0")
    since_2_5 = torch.amp.autocast_mode.is_autocast_available("mps")
    assert (half_problem(MPS, torch.float16) is None) == since_2_5


def test_half_precision_of_a_device_without_autocast_is_refused_or_replaced(
    mac: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As MPS before torch 2.5."""
    mac("14.0")
    monkeypatch.setattr(torch.amp.autocast_mode, "is_autocast_available", lambda kind: kind != "mps")
    assert native._half("float16", CPU, torch.float16) is torch.float16
    assert native._half("float16", MPS, None) is None
    with pytest.raises(CheckpointError, match="has no autocast to float16 on device mps: give float32"):
        load_pipeline("mini", device="mps", dtype="float16")


def test_a_type_that_autocast_does_not_take_is_a_problem() -> None:
    """Torch itself only warns and switches autocast off, as 2.5 does for bfloat16 on MPS."""
    assert half_problem(CPU, torch.float64) is not None
    assert half_problem(CPU, torch.bfloat16) is None
    assert half_problem(torch.device("cuda", 0), torch.float16) is None


def test_on_a_cpu_the_published_half_precision_becomes_float32() -> None:
    assert PUBLISHED.dtype == "float16"
    assert native._half(PUBLISHED.dtype, CPU, None) is None
