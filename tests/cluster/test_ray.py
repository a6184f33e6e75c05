"""`--engine ray` on a real local cluster with a tiny pipeline: equal files, dying workers, errors."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fast_sam3d.cli import scene_ray as scene_cluster
from fast_sam3d.cluster.connect import import_ray
from fast_sam3d.cluster.engine import ClusterEngine
from fast_sam3d.config.packaged import checkout
from fast_sam3d.errors import ConfigError
from fast_sam3d.run.progress import ObjectsProgress
from tests.minis import random_mini
from tests.stand_in import files, run

try:
    import_ray()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

QUICK = (
    "pipeline.ss_steps=2", "pipeline.slat_steps=2", "pipeline.formats=[gaussian]", "scene.turntable=false",
    "output.preview=false", "--enable_exact",
)  # fmt: skip
RAY = ("--engine", "ray", "--workers", 2)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As in the workers, because results depend on the number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for all tests: the command uses an initialised Ray and does not stop it."""
    ray = import_ray()
    before = signal.getsignal(signal.SIGTERM)
    ray.init(
        address="local", num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, log_to_driver=False,
        logging_level=logging.ERROR,
    )  # fmt: skip
    yield
    ray.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny embedded checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    random_mini().save_pretrained(folder)
    return folder


@pytest.fixture
def rooms(elsewhere: Path, picture: np.ndarray, disc: np.ndarray) -> Path:
    """Two scenes: "kitchen" with five objects and an empty mask, "bath" with two."""
    folder = elsewhere / "rooms"
    for name, numbers in (("kitchen", (0, 1, 2, 5, 11)), ("bath", (0, 3))):
        (folder / name).mkdir(parents=True)
        Image.fromarray(np.roll(picture, len(name), axis=1)).save(folder / name / "image.png")
        for number in numbers:
            save(folder / name / f"{number}.png", np.roll(disc, number - 5, axis=1))
    save(folder / "kitchen" / "4.png", np.zeros_like(disc))
    return Path("rooms")  # as the reports name it


def save(path: Path, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8) * 255).save(path)


def contents(folder: Path) -> dict[str, str]:
    """Digest of every file; of reports without times and process-dependent fields."""
    found = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        content = path.read_bytes()
        if path.name == "report.json":
            report = json.loads(content)
            for key in ("load_seconds", "total_seconds", "seconds", "peak_memory_bytes", "seal"):
                del report[key]
            # The first object of a process also checks that savings act.
            for entry in (part for solve in report["solves"] for part in (solve, *solve["steps"])):
                del entry["syncs"]
            content = json.dumps(report).encode()
        found[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return found


def scene(capsys: Any, tiny: Path, folder: Path, out: str, *arguments: object) -> tuple[int, str, str]:
    return run(capsys, "scene", "--image_dir", folder, "--output_dir", out, "--tag", tiny, *QUICK, *arguments)


@pytest.fixture
def plain(rooms: Path, tiny: Path, capsys: pytest.CaptureFixture[str], once: dict[str, str]) -> dict[str, str]:
    """Files of the plain engine, the same for every test."""
    if not once:
        code, *_ = scene(capsys, tiny, rooms, "plain")
        assert code == 1  # because of the empty mask
        once.update(contents(Path("plain")))
    return once


@pytest.fixture(scope="module")
def once() -> dict[str, str]:
    return {}


def test_files_equal_those_of_the_plain_engine(cluster, rooms, tiny, plain, capsys):
    code, out, err = scene(capsys, tiny, rooms, "ray", *RAY)
    assert code == 1, err
    assert contents(Path("ray")) == plain
    assert not [name for name in files(Path("ray")) if "/." in name]
    assert "kitchen: 5 of 6 objects" in out and "bath: 2 of 2 objects" in out and "2 scenes" in out
    assert "kitchen, object 4 failed: the mask in rooms/kitchen/4.png is empty" in err
    assert "2 worker(s) with 1 core(s) and 0 GPU(s) each" in err
    assert "7 of 7" in err


def test_killed_workers_lose_no_results(cluster, rooms, tiny, plain, capsys, monkeypatch):
    engines, killed = [], []

    class Known(ClusterEngine):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            engines.append(self)

    done = ObjectsProgress.object_done

    def object_done(progress: ObjectsProgress, name: str, status: str) -> None:
        done(progress, name, status)
        if len(killed) < 2:  # one of the first two workers, then another one
            killed.append([worker.pid for worker in engines[0]._workers if worker.pid][len(killed) - 1])
            os.kill(killed[-1], signal.SIGKILL)

    monkeypatch.setattr(scene_cluster, "ClusterEngine", Known)
    monkeypatch.setattr(ObjectsProgress, "object_done", object_done)
    code, _, err = scene(capsys, tiny, rooms, "ray", *RAY)
    assert code == 1, err
    assert len(set(killed)) == 2
    assert err.count("died; another worker continues its work") >= 1
    assert contents(Path("ray")) == plain
    assert not [name for name in files(Path("ray")) if "/." in name]


def test_either_engine_resumes_runs_of_the_other(cluster, rooms, tiny, plain, capsys, monkeypatch):
    counted = []
    done = ObjectsProgress.object_done

    def stopped(progress: ObjectsProgress, name: str, status: str) -> None:
        done(progress, name, status)
        counted.append(name)
        if len(counted) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(ObjectsProgress, "object_done", stopped)
        code, _, err = scene(capsys, tiny, rooms, "mixed", *RAY)
    assert code == 130
    assert "the same command resumes" in err
    left = files(Path("mixed"))
    assert not [name for name in left if "/." in name], "locks and unfinished folders"
    made = [name for name in left if name.endswith("done.json")]
    assert 3 <= len(made) < 7

    # The plain engine finishes one scene, and Ray the rest.
    code, _, err = scene(capsys, tiny, rooms / "bath", "mixed")
    assert code == 0, err
    kept = sum(name.startswith("kitchen") for name in made)
    code, _, err = scene(capsys, tiny, rooms, "mixed", *RAY)
    assert code == 1, err
    assert f"{5 - kept} of {5 - kept}" in err or kept == 5
    assert contents(Path("mixed")) == plain
    # Nothing is left for either engine.
    for engine in ((), RAY):
        code, _, err = scene(capsys, tiny, rooms, "mixed", *engine)
        assert code == 1
        assert "is ready" not in err and "loaded" not in err
    assert contents(Path("mixed")) == plain


def test_a_checkpoint_that_no_worker_can_load(cluster, rooms, tiny, capsys, elsewhere):
    broken = elsewhere / "broken"
    shutil.copytree(tiny, broken)
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-8] + b"12345678")
    code, _, err = scene(capsys, broken, rooms, "ray", *RAY)
    assert code == 2
    assert err.count("is not used: it cannot load the pipeline") == 2
    assert "fast-sam3d: no worker can be used, and finished objects are kept: it cannot load the pipeline" in err
    assert files(Path("ray")) == set()


def test_temporary_cluster_gives_equal_files_and_no_messages_of_ray(rooms, tiny, capsys):
    """In a separate process."""
    assert scene(capsys, tiny, rooms / "bath", "plain")[0] == 0
    arguments = ["--image_dir", rooms / "bath", "--output_dir", "ray", "--tag", tiny, *QUICK, *RAY]
    done = subprocess.run(
        [sys.executable, "-m", "fast_sam3d.cli", "scene", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "PYTHONPATH": str(checkout() or ""), "RAY_ADDRESS": ""},
    )
    assert done.returncode == 0, done.stderr
    assert contents(Path("ray")) == contents(Path("plain"))
    # No messages of Ray.
    others = ("the workers are to have", "using ", "bath: ")
    messages = [line for line in done.stderr.splitlines() if not line.startswith(others)]
    assert len(messages) == 4 + 2 + 2, done.stderr
    assert "ray" not in done.stdout.replace("results in ray/bath", "").lower()


def test_a_terminated_command_ends_cleanly_and_resumes(rooms, tiny, capsys):
    arguments = ["--image_dir", rooms, "--output_dir", "ray", "--tag", tiny, *QUICK, *RAY]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "fast_sam3d.cli", "scene", *map(str, arguments)],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(checkout() or ""), "RAY_ADDRESS": ""},
    ) as command:
        assert command.stderr is not None
        lines = []
        for line in command.stderr:
            lines.append(line)
            if "complete:" in line:
                break
        command.terminate()
        lines += command.stderr
    assert command.returncode == 143, lines
    assert "Traceback" not in "".join(lines)
    assert not [name for name in files(Path("ray")) if "/." in name], "locks and unfinished folders"
    code, _, err = scene(capsys, tiny, rooms, "ray")
    assert code == 1, err
    assert "7 of 7" not in err
