"""`fast-sam3d view`: prints an address that answers, and ends on Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from fast_sam3d.cli import USER_ERROR, main

ROOT = Path(__file__).parents[2]


def test_serves_a_result_until_ctrl_c(tmp_path: Path):
    (folder := tmp_path / "täble_0").mkdir()
    (folder / "mesh.glb").write_bytes(b"content")
    command = [sys.executable, "-m", "fast_sam3d.cli", "view", str(folder), "--no_browser"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout is not None and run.stderr is not None
        address = run.stdout.readline().strip()
        assert "mesh=%2Fresult%2Fmesh.glb" in address and "title=t%C3%A4ble_0" in address
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"viewer.js" in answer.read()
        run.send_signal(signal.SIGINT)
        assert run.wait(20) == 0
        assert run.stderr.read() == ""


@pytest.mark.parametrize("wrong", [["nowhere"], ["."], [".", "--port", "-1"]])
def test_bad_requests_are_one_sentence(elsewhere: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]):
    if "--port" in wrong:
        (elsewhere / "mesh.glb").write_bytes(b"")
    assert main(["view", *wrong, "--no_browser"]) == USER_ERROR
    assert capsys.readouterr().err.count("\n") == 1
