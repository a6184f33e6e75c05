"""The demo as an API, called by Gradio's own client."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

pytest.importorskip("gradio", reason="needs Gradio")
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from fast_sam3d.demo.server import serving

QUICK = {"ss_steps": 8, "slat_steps": 5, "faces": None, "texture": None}


@pytest.fixture(scope="module")
def client(engine):
    with serving(engine, port=0) as served:
        yield Client(served.local, verbose=False)


def fetched(client, address):
    with urllib.request.urlopen(client.src.rstrip("/") + address) as answer:
        return answer.read()


def test_a_call_reconstructs_an_example(client):
    found = client.predict(picture="teapot", settings=QUICK, api_name="/reconstruct")
    assert found["status"] == "done" and found["network_calls_saved"] > 0 and found["pose"]["translation"]
    assert fetched(client, found["files"]["mesh.glb"])[:4] == b"glTF"
    assert fetched(client, found["archive"])[:2] == b"PK"
    assert found["command"].startswith("fast-sam3d infer --image_path examples/teapot ")


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "LOCALHOST", "[::1]:7860"])
def test_names_of_this_computer_are_answered(client, host):
    with urllib.request.urlopen(urllib.request.Request(client.src, headers={"Host": host})) as answer:
        assert answer.status == 200


@pytest.mark.parametrize("host", ["elsewhere.example:7860", "127.0.0.1.elsewhere.example"])
def test_a_name_of_another_host_is_refused(client, host):
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(urllib.request.Request(client.src, headers={"Host": host}))


def test_a_job_can_be_followed_and_cancelled(client):
    files = [handle_file(f"examples/scene/{number}.png") for number in (0, 1)]
    picture = handle_file("examples/scene/image.png")
    job = client.predict(picture=picture, masks=files, settings=QUICK, api_name="/submit")
    assert client.predict(job=job, api_name="/state")["status"] in ("waiting", "started")
    assert client.predict(job=job, api_name="/cancel")["job"] == job
    for _ in range(100):
        if (state := client.predict(job=job, api_name="/state"))["status"] == "cancelled":
            break
    assert "files" not in state


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ({"picture": {"path": "/etc/passwd"}}, "was not sent"),
        ({"picture": handle_file("README.md")}, "not a picture"),
        ({"picture": "teapot", "clicks": [["a"]]}, "give clicks as"),
        ({"picture": "teapot", "masks": [7]}, "no mask 7"),
        ({"picture": "teapot", "settings": {"presets": "off"}}, "did you mean 'preset'"),
        ({"picture": "teapot", "settings": {"overrides": ["output.dir=/"]}}, "cannot be set here"),
    ],
)
def test_wrong_calls_are_answered_by_a_sentence(client, call, said):
    with pytest.raises(AppError, match=said):
        client.predict(**call, api_name="/reconstruct")
