"""The machine, the card and what else runs on it; and the tests that need it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final
from xml.etree import ElementTree

import torch

import fast_sam3d
from fast_sam3d.bench.record import code_digest
from fast_sam3d.errors import FastSam3dError

BUSY_PERCENT: Final = 5
BUSY_BYTES: Final = 1 << 30
QUERY: Final = {
    "driver": "driver_version", "power_limit_watts": "power.limit", "busy_percent": "utilization.gpu",
    "used_mebibytes": "memory.used",
}  # fmt: skip
"""Facts of a card by their names in nvidia-smi."""


def device_of(name: str | None, small: bool) -> torch.device:
    """The device to measure on.

    Raises:
        FastSam3dError: there is no such device, or none was named and there is no GPU.
    """
    if name is None and not torch.cuda.is_available():
        if small:
            return torch.device("cpu")
        raise FastSam3dError(
            "torch finds no CUDA GPU here: run this where there is one, try the whole command on a CPU with --small, or"
            " measure the CPU itself with --device cpu, which takes hours (--minutes 600)"
        )
    try:
        there = torch.zeros(1, device=name or "cuda")
        there.item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise FastSam3dError(f"--device {name} cannot be used: {str(error).splitlines()[0].split('. ')[0]}") from error
    return there.device  # with its number


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU; None elsewhere."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else None


def allocated(device: torch.device) -> int:
    """Bytes of tensors on a GPU; 0 elsewhere."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def card(device: torch.device) -> str:
    """The name of the GPU, or the type of another device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def facts(device: torch.device) -> dict[str, Any]:
    """JSON-ready: versions, processor and card."""
    found: dict[str, Any] = {
        "card": card(device),
        "device": device.type,
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "fast_sam3d": fast_sam3d.__version__,
        "code": code_digest(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"capability": f"{properties.major}.{properties.minor}", "total_bytes": properties.total_memory}
        found |= _smi(getattr(properties, "uuid", None))
    return found


def others(found: dict[str, Any]) -> str | None:
    """A sentence where other programs seem to use the card, from `facts` before anything is measured."""
    percent, used = found.get("busy_percent") or 0.0, 2**20 * (found.get("used_mebibytes") or 0.0)
    if percent < BUSY_PERCENT and used < BUSY_BYTES:
        return None
    return f"other programs use this GPU ({percent:.0f} % busy, {used / 1e9:.1f} GB taken): times may be too long"


def _smi(number: Any) -> dict[str, Any]:
    """What nvidia-smi says of the card with this unique number; empty without nvidia-smi."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY.values())}", "--format=csv,noheader,nounits"]
    try:
        which = [] if number is None else [f"--id=GPU-{number}"]
        text = subprocess.run([*command, *which], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values = text.strip().split("\n")[0].split(", ")
    if len(values) != len(QUERY):
        return {}
    return {name: value if name == "driver" else _number(value) for name, value in zip(QUERY, values, strict=True)}


def _number(text: str) -> float | None:
    """A number; None for what is not known, such as [N/A]."""
    try:
        return float(text)
    except ValueError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def run_tests(seconds: float) -> dict[str, Any]:
    """Run the tests marked gpu of the checkout that this package is in.

    Returns:
        JSON-ready: passed, failed, skipped, and the names of the failures; or why none ran.
    """
    root = Path(fast_sam3d.__file__).parents[1]
    if not (root / "tests" / "conftest.py").exists():
        return {"not_run": "this installation has no tests: run from a checkout"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += ["--continue-on-collection-errors", "tests"]  # other tests may need packages that are not here
        try:
            done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=seconds)
        except subprocess.TimeoutExpired:
            return {"not_run": f"the tests did not end in {seconds:.0f} s"}
        if not report.exists():
            return {"not_run": " ".join((done.stderr or done.stdout).split())[-200:]}
        cases = list(ElementTree.parse(report).iter("testcase"))
    bad = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    return {
        "passed": len(cases) - len(bad) - skipped,
        "failed": len(bad),
        "skipped": skipped,
        "failures": [f"{case.get('classname')}::{case.get('name')}" for case in bad],
    }
