"""Ports, hosts, and what is there to read from outside."""

from __future__ import annotations

import socket
import sys
from types import SimpleNamespace

import pytest

from fast_sam3d.cli import main
from fast_sam3d.demo.server import PORT, check_gradio, file_of, free_port
from fast_sam3d.errors import ConfigError


@pytest.fixture
def taken():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


def test_a_port_in_use_is_named(taken, capsys):
    assert main(["demo", "--port", str(taken)]) == 2
    assert capsys.readouterr().err == (
        f"fast-sam3d: port {taken} is in use: end the other program, or give another --port\n"
    )


def test_a_port_that_another_program_takes_meanwhile_is_named(monkeypatch, taken, capsys):
    pytest.importorskip("gradio")
    monkeypatch.setattr("fast_sam3d.cli.demo.free_port", lambda host, port: taken)
    monkeypatch.setattr("fast_sam3d.demo.server.free_port", lambda host, port: taken)
    assert main(["demo", "--tag", "mini"]) == 2
    assert f"port {taken} has just been taken" in capsys.readouterr().err


def test_the_next_port_is_taken_where_none_is_named(monkeypatch, taken):
    monkeypatch.setattr("fast_sam3d.demo.server.PORT", taken)
    assert free_port("127.0.0.1") > taken
    assert PORT == 7860


@pytest.mark.parametrize("host", ["no.such.host.invalid", "203.0.113.7", "a" * 300])
def test_a_host_that_is_not_here_is_named(host):
    with pytest.raises(ConfigError, match="--host"):
        free_port(host)


@pytest.mark.parametrize("port", [-1, 65536, 99999999])
def test_a_port_out_of_range(port):
    with pytest.raises(ConfigError, match="between 1 and 65535"):
        free_port("127.0.0.1", port)


def test_gradio_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(ConfigError, match=r'pip install "fast-sam3d\[demo\]"'):
        check_gradio()
    monkeypatch.setitem(sys.modules, "gradio", SimpleNamespace(__version__="5.49.1"))
    with pytest.raises(ConfigError, match="needs Gradio 6"):
        check_gradio()


def test_only_files_of_known_jobs_are_served(tmp_path):
    known = "0123456789ab"
    folder = tmp_path / f"mug-{known}"
    (folder / "result").mkdir(parents=True)
    (folder / "result" / "mesh.glb").write_bytes(b"glTF")
    (tmp_path / "secret").write_text("other")
    (folder / "link").symlink_to(tmp_path / "secret")
    jobs = {known: SimpleNamespace(results=None)}
    engine = SimpleNamespace(job=jobs.get, folders=SimpleNamespace(root=tmp_path))
    assert file_of(engine, known, "result/mesh.glb") == folder / "result" / "mesh.glb"
    for inside in ("../secret", "link", "", "all.zip", "\0", "a" * 300):
        assert file_of(engine, known, inside) is None
    for name in ("*", "mug-" + known, "ffffffffffff"):
        assert file_of(engine, name, "result/mesh.glb") is None
