"""The viewer's server: what it serves, to whom, and what it refuses."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest

from fast_sam3d.errors import InputError, OutputError
from fast_sam3d.viewer import PAGE, Pane, page_address
from fast_sam3d.viewer.server import HOST, ViewerServer, result_page


@pytest.fixture
def result(tmp_path: Path) -> Path:
    folder = tmp_path / "chair & täble_0"
    folder.mkdir()
    for name in ("mesh.glb", "gaussians.ply", "pose.json", "report.json"):
        (folder / name).write_bytes(name.encode())
    (tmp_path / "secret.txt").write_text("secret")
    return folder


@pytest.fixture
def server(result: Path) -> Iterator[ViewerServer]:
    with ViewerServer(result) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def get(server: ViewerServer, path: str, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=10)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, answer.read(), answer.headers


def test_serves_the_page_and_the_results_files(server: ViewerServer):
    status, page, headers = get(server, "/")
    assert status == 200 and page == PAGE.read_bytes() and headers["Content-Type"].startswith("text/html")
    assert get(server, "/viewer.js")[2]["Content-Type"].startswith("text/javascript")
    assert get(server, "/result/mesh.glb?again=1")[:2] == (200, b"mesh.glb")
    assert server.address.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "path",
    ["/result/../secret.txt", "/result/..%2Fsecret.txt", "/result/%2e%2e/secret.txt", "/../server.py", "/result/",
     "/result//etc/passwd", "/vendor/", "/nowhere", "/result/a%00b", "/result/link", "/result/" + "n" * 300],
)  # fmt: skip
def test_nothing_else_is_served(server: ViewerServer, result: Path, path: str):
    (result / "link").symlink_to(result.parent / "secret.txt")
    status, content, _ = get(server, path)
    assert status == 404 and b"secret" not in content.replace(b"secret.txt", b"")


def test_requests_under_another_name_are_refused(server: ViewerServer):
    assert get(server, "/result/mesh.glb", Host="elsewhere.example")[0] == 403
    assert get(server, "/result/mesh.glb", Host="localhost:80")[0] == 200


def test_a_page_shows_what_a_folder_holds(result: Path):
    folder, address = result_page(result)
    assert folder == result
    fields = dict(parse_qsl(urlsplit(address).query))
    assert fields == {
        "mesh": "/result/mesh.glb", "splats": "/result/gaussians.ply", "pose": "/result/pose.json",
        "report": "/result/report.json", "title": "chair & täble_0",
    }  # fmt: skip


def test_one_file_can_be_shown(result: Path):
    folder, address = result_page(result / "gaussians.ply")
    assert folder == result and dict(parse_qsl(urlsplit(address).query))["splats"] == "/result/gaussians.ply"


def test_gaussians_in_gltf_are_shown_where_there_are_no_others(result: Path):
    (result / "gaussians.glb").write_bytes(b"")
    assert "gaussians.glb" not in result_page(result)[1]
    (result / "gaussians.ply").unlink()
    assert "mesh=%2Fresult%2Fgaussians.glb&label=gaussians" in result_page(result)[1]


def test_a_scene_has_the_report_of_its_first_object(tmp_path: Path):
    for name in ("scene.glb", "scene.json", "2/report.json", "11/report.json", "extra/report.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    fields = dict(parse_qsl(urlsplit(result_page(tmp_path)[1]).query))
    assert (fields["pose"], fields["report"]) == ("/result/scene.json", "/result/2/report.json")


def test_what_cannot_be_shown_is_refused_with_a_sentence(result: Path):
    with pytest.raises(InputError, match="is no folder or file"):
        result_page(result / "nowhere")
    with pytest.raises(InputError, match=r"cannot be shown.*\.glb"):
        result_page(result / "pose.json")
    with pytest.raises(InputError, match="name one of the results in it, chair & täble_0"):
        result_page(result.parent)
    (empty := result / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no file that can be shown \(mesh.glb"):
        result_page(empty)


def test_a_port_in_use_is_refused_with_a_sentence(result: Path):
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OutputError, match=f"port {port} cannot be used.*--port"):
            ViewerServer(result, port)
    with pytest.raises(OutputError, match="70000 is not a port"):
        ViewerServer(result, 70000)


def test_addresses_keep_order_labels_and_special_characters():
    address = page_address(
        "/v/index.html", [Pane("mesh", "/a b.glb", "baseline"), Pane("mesh", "/c&d.glb", "accelerated")],
        notices=["50 % & more"], show="0",
    )  # fmt: skip
    assert parse_qsl(urlsplit(address).query) == [
        ("mesh", "/a b.glb"), ("label", "baseline"), ("mesh", "/c&d.glb"), ("label", "accelerated"),
        ("notice", "50 % & more"), ("show", "0"),
    ]  # fmt: skip


def test_the_vendored_file_is_used_with_its_licences():
    vendor = PAGE.parent / "vendor"
    assert b"three-spark.min.js" in (PAGE.parent / "viewer.js").read_bytes()
    assert (vendor / "three-spark.min.js").stat().st_size > 1e6
    for name in ("three", "spark", "fflate"):
        assert name in (vendor / "LICENSES.txt").read_text()
