"""The demo as an API, called by Gradio's own client."""

from __future__ import annotations

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
