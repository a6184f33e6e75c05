"""Signals are deferred to the end of a block."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from fast_sam3d.config.packaged import checkout
from fast_sam3d.outputs.interrupts import interrupts_deferred


def test_an_interrupt_is_deferred_to_the_end_of_the_block():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    done = []
    with pytest.raises(KeyboardInterrupt):
        with interrupts_deferred():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("block")
        done.append("after")
    assert done == ["block"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_an_interrupt_takes_precedence_over_an_error():
    with pytest.raises(KeyboardInterrupt), interrupts_deferred():
        os.kill(os.getpid(), signal.SIGINT)
        raise ZeroDivisionError


def test_sigterm_is_passed_to_the_previous_handler(monkeypatch):
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with interrupts_deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            assert received == []
        assert received == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_ignored_interrupts_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts_deferred():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_not_affected():
    entered = []

    def work() -> None:
        with interrupts_deferred():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [True]


# Interrupts itself when trimesh, half imported, asks for scipy's sparse matrices; its `except BaseException` is there.
SCRIPT = """
import builtins, os, signal
from types import SimpleNamespace
from fast_sam3d.outputs.meshes import mesh_to_trimesh
real, sent = builtins.__import__, []
def watched(name, globals=None, *rest):
    if not sent and (globals or {}).get("__name__", "").startswith("trimesh") and name.startswith("scipy"):
        sent.append(name)
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, globals, *rest)
builtins.__import__ = watched
mesh = SimpleNamespace(vertices=[[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], faces=[[0, 1, 2]], success=True)
try:
    mesh_to_trimesh(mesh)
except KeyboardInterrupt:
    print("stopped")
else:
    print("swallowed" if sent else "never sent")
import trimesh.base
assert trimesh.base.Trimesh
"""


def test_an_interrupt_during_the_import_of_trimesh_is_not_lost():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=checkout())
    assert (done.stdout, done.returncode) == ("stopped\n", 0), done.stderr
