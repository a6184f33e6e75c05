"""The engine on a fake Ray: replies, deaths and errors of workers."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fast_sam3d import __version__
from fast_sam3d.checkpoints.load import Checkpoint
from fast_sam3d.cluster import engine as module
from fast_sam3d.cluster.actor import Reply
from fast_sam3d.cluster.engine import MAX_DEATHS_IN_A_ROW, ClusterEngine
from fast_sam3d.cluster.job import SceneJob
from fast_sam3d.cluster.settings import ClusterSettings
from fast_sam3d.config.compose import load
from fast_sam3d.config.settings import InputConfig
from fast_sam3d.errors import ConfigError, FastSam3dError, OutputError
from fast_sam3d.run.progress import ObjectsProgress
from fast_sam3d.scene.worker import ObjectOutcome, ObjectTask
from tests.cluster.fake_ray import Crash, FakeRay

CORES = ({"CPU": 4.0},)


class Stub:
    """A worker that finishes everything at once. `deadly`: how often an object or scene ends its process."""

    made: list[tuple[int, str, int]]
    deadly: Counter[str]
    started = 0
    unfit: frozenset[int] = frozenset()
    unloadable: frozenset[int] = frozenset()
    full: str = ""
    version = __version__

    def __init__(self, config: Any, checkpoint: Any, identity: Any, threads: int, cwd: str) -> None:
        self.number, self.config, self.threads = Stub.started, config, threads
        Stub.started += 1

    def info(self) -> tuple[str, int, str, str]:
        return "host", 100 + self.number, Stub.version, "node0"

    def load(self) -> Reply:
        return Reply(unfit="it cannot load the pipeline: corrupt weights" * (self.number in Stub.unloadable))

    def process(self, task: ObjectTask) -> Reply:
        name = f"{task.folder.name}/{task.number}"
        self._die_if_deadly(name)
        if self.number in Stub.unfit:
            return Reply(unfit="the folder is not there")
        if task.folder.name == Stub.full:
            return Reply(error="the disk is full")
        Stub.made.append((self.number, task.folder.name, task.number))
        return Reply(ObjectOutcome(task.number, "complete"), warnings=("careful",) if task.number == 99 else ())

    def compose(self, folder: Path, pointmap: str, target: Path, identities: Any, outcomes: Any) -> Reply:
        self._die_if_deadly(folder.name)
        return Reply({"complete": len(outcomes), "failed": 0})

    def _die_if_deadly(self, name: str) -> None:
        if Stub.deadly[name]:
            Stub.deadly[name] -= 1
            raise Crash


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> type[Stub]:
    monkeypatch.setattr(module, "SceneActor", Stub)
    Stub.made, Stub.deadly, Stub.started = [], Counter(), 0
    Stub.unfit = Stub.unloadable = frozenset()
    Stub.full, Stub.version = "", __version__
    return Stub


class Bench:
    """An engine on a fake Ray, and scenes for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.patch, self.folder = monkeypatch, folder
        self.open = self.most_open = 0

    def scenes(self, **counts: int) -> Iterator[SceneJob]:
        for name, count in counts.items():
            yield self.scene(name, range(count))

    def scene(self, name: str, numbers: Any) -> SceneJob:
        target = self.folder / name
        target.mkdir()
        tasks = [ObjectTask(Path(name), InputConfig(), number, target / str(number), {}) for number in numbers]
        job = SceneJob(name, Path(name), InputConfig(), target, tasks, {}, {})
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        job._lock.callback(self._closed)
        return job

    def _closed(self) -> None:
        self.open -= 1

    def run(self, jobs: Iterator[SceneJob], *nodes: dict[str, float], **settings: Any) -> dict[str, SceneJob]:
        self.ray = FakeRay(*(nodes or CORES))
        self.patch.setattr(module, "connected", lambda settings: contextlib.nullcontext(self.ray))
        checkpoint = Checkpoint("mini", self.folder, "mini", "")
        config = load([f"pipeline.device={settings.pop('device', 'null')}"])
        self.engine = ClusterEngine(
            config, checkpoint, {}, ClusterSettings(**settings), ObjectsProgress(1000, bar=False), self.folder
        )
        done = {}
        for job in self.engine.run(jobs):
            job.close()
            done[job.name] = job
        return done


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Bench:
    return Bench(monkeypatch, tmp_path)


def statuses(job: SceneJob) -> list[str]:
    return [job.outcomes[number].status for number in sorted(job.outcomes)]


def test_every_object_is_processed_once(bench, stub):
    done = bench.run(bench.scenes(a=5, b=1, c=3), workers=2)
    assert {name: job.summary["complete"] for name, job in done.items()} == {"a": 5, "b": 1, "c": 3}
    assert sorted((scene, n) for _, scene, n in stub.made) == [
        (scene, n) for scene, count in (("a", 5), ("b", 1), ("c", 3)) for n in range(count)
    ]
    assert stub.started == 2
    assert all(actor.dead for actor in bench.ray.actors)
    assert bench.open == 0


def test_a_scene_stays_on_one_worker(bench, stub):
    bench.run(bench.scenes(**{f"s{n}": 4 for n in range(20)}), workers=4)
    at = {scene: {worker for worker, name, _ in stub.made if name == scene} for _, scene, _ in stub.made}
    # Only the last scenes are shared, by workers without other work.
    assert sum(len(workers) > 1 for workers in at.values()) <= 4
    assert len({worker for worker, *_ in stub.made}) == 4


def test_one_scene_is_shared(bench, stub):
    bench.run(bench.scenes(a=40), workers=4)
    assert min(Counter(worker for worker, *_ in stub.made).values()) >= 5


def test_a_group_stays_on_one_worker(bench, stub):
    groups = [tuple(range(start, start + 4)) for start in range(0, 16, 4)]
    job = bench.scene("a", ())
    job.waiting.extend(
        ObjectTask(Path("a"), InputConfig(), n, job.folder / str(n), {}, group) for group in groups for n in group
    )
    bench.run(iter([job]), workers=2)
    at = [{worker for worker, _, number in stub.made if number in group} for group in groups]
    assert len(stub.made) == 16 and sorted(map(len, at))[:3] == [1, 1, 1]  # the last group may be shared


def test_a_worker_takes_one_object_at_a_time(bench, stub):
    # The second worker is ready soon: the first must not take both.
    bench.run(bench.scenes(a=2), workers=2)
    assert sorted(worker for worker, *_ in stub.made) == [0, 1]


def test_submitted_and_planned_work_is_bounded(bench, stub):
    done = bench.run(bench.scenes(**{f"s{n:03}": 3 for n in range(200)}), workers=3)
    assert len(done) == 200
    assert bench.ray.longest <= 2 * 3  # `info` and `load` of three workers, then one object each
    assert bench.most_open <= 3 + 3


def test_as_many_workers_as_fit(bench, stub):
    bench.run(bench.scenes(a=100), {"CPU": 5.0}, {"CPU": 3.0, "GPU": 0.0}, cpus_per_worker=2)
    assert stub.started == 3
    assert {(actor.options["num_cpus"], actor.options["num_gpus"]) for actor in bench.ray.actors} == {(2, 0.0)}
    assert {actor.inner.config.pipeline.device for actor in bench.ray.actors} == {"cpu"}
    assert {actor.inner.threads for actor in bench.ray.actors} == {2}


@pytest.mark.parametrize(("share", "workers"), [(None, 3), (0.5, 6), (0.0, 16)])
def test_workers_per_gpu(bench, stub, share, workers):
    bench.run(bench.scenes(a=100), {"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0}, gpus_per_worker=share)
    assert stub.started == workers
    assert {actor.inner.config.pipeline.device for actor in bench.ray.actors} == {"cpu" if share == 0 else "cuda"}


def test_no_more_workers_than_objects(bench, stub, monkeypatch):
    monkeypatch.setattr(ObjectsProgress, "left", 2)
    bench.run(bench.scenes(a=2))
    assert stub.started == 2


def test_a_complete_scene_needs_no_cluster(bench, stub):
    job = bench.scene("a", ())
    job.summary = {"complete": 3, "failed": 0}
    assert set(bench.run(iter([job]))) == {"a"}
    assert stub.started == 0


def test_a_dead_worker_is_replaced_and_its_object_retried(bench, stub, caplog):
    stub.deadly = Counter({"a/2": 1, "b/0": 2, "a": 1})
    with caplog.at_level(logging.INFO):
        done = bench.run(bench.scenes(a=5, b=3), workers=2)
    assert statuses(done["a"]) == ["complete"] * 5
    assert statuses(done["b"]) == ["complete"] * 3
    assert stub.started == 2 + 4
    assert Counter((scene, n) for _, scene, n in stub.made).most_common(1)[0][1] == 1
    assert caplog.text.count("died; another worker continues its work") == 4


def test_object_that_kills_every_worker_fails_without_stopping_the_others(bench, stub):
    stub.deadly = Counter({"a/1": 99})
    done = bench.run(bench.scenes(a=4, b=2), workers=2, max_retries=1)
    assert statuses(done["a"]) == ["complete", "failed", "complete", "complete"]
    assert "died 2 times" in done["a"].outcomes[1].message
    assert stub.deadly["a/1"] == 99 - 2
    assert done["b"].summary is not None


def test_a_scene_that_cannot_be_composed(bench, stub):
    stub.deadly = Counter({"a": 99})
    done = bench.run(bench.scenes(a=2, b=2), workers=1, max_retries=2)
    assert "could not be composed: its worker died 3 times" in str(done["a"].error)
    assert done["b"].summary is not None


def test_an_object_completed_before_its_worker_died_is_kept(bench, stub, monkeypatch):
    stub.deadly = Counter({"a/1": 1})
    monkeypatch.setattr(module, "completed_on_disk", lambda task: ObjectOutcome(task.number, "complete"))
    done = bench.run(bench.scenes(a=3), workers=1)
    assert statuses(done["a"]) == ["complete"] * 3
    assert ("a", 1) not in [(scene, n) for _, scene, n in stub.made]


def test_too_many_deaths_in_a_row_end_the_run(bench, stub):
    stub.deadly = Counter({f"a/{n}": 99 for n in range(50)})
    with pytest.raises(FastSam3dError, match="workers in a row died"):
        bench.run(bench.scenes(a=50), workers=2)
    assert stub.started <= MAX_DEATHS_IN_A_ROW + 2 * 2
    assert bench.open == 0
    assert all(actor.dead for actor in bench.ray.actors)


def test_run_ends_if_no_worker_can_load(bench, stub):
    stub.unloadable = frozenset(range(99))
    with pytest.raises(FastSam3dError, match="no worker can be used.*load the pipeline: corrupt weights"):
        bench.run(bench.scenes(a=3), workers=2)
    assert stub.started == 2
    assert bench.open == 0


@pytest.mark.parametrize("fault", ["unloadable", "unfit"])
def test_an_unusable_worker_is_not_used(bench, stub, caplog, fault):
    setattr(stub, fault, frozenset({1}))
    done = bench.run(bench.scenes(a=3, b=4), workers=2)
    assert statuses(done["a"]) + statuses(done["b"]) == ["complete"] * 7
    assert stub.started == 2
    assert "worker 1 (process 101 on host) is not used" in caplog.text


def test_another_version_is_not_used(bench, stub):
    stub.version = "0.0.1"
    with pytest.raises(FastSam3dError, match=f"it has fast-sam3d 0.0.1, and this is {__version__}"):
        bench.run(bench.scenes(a=1), workers=1)


def test_a_worker_that_dies_while_it_loads_is_not_replaced(bench, stub, monkeypatch):
    def load(self: Stub) -> Reply:
        raise Crash

    monkeypatch.setattr(stub, "load", load)
    with pytest.raises(FastSam3dError, match="its process ended before the pipeline was loaded"):
        bench.run(bench.scenes(a=3), workers=3)
    assert stub.started == 3


def test_full_disk_stops_only_its_scene(bench, stub):
    stub.full = "b"
    done = bench.run(bench.scenes(a=3, b=9, c=3), workers=2)
    assert isinstance(done["b"].error, OutputError)
    assert "the disk is full" in str(done["b"].error)
    assert done["a"].summary is not None
    assert done["c"].summary is not None
    assert bench.open == 0


def test_warnings_of_workers_are_logged(bench, stub, caplog):
    bench.run(iter([bench.scene("a", [99])]), workers=1)
    assert "a: careful" in caplog.text


def test_run_ends_if_no_machine_has_room(bench, stub):
    with pytest.raises(ConfigError, match=r"no machine of the Ray cluster has 8 core\(s\) and 0 GPU\(s\)"):
        bench.run(bench.scenes(a=1), cpus_per_worker=8)
    assert bench.open == 0


def test_a_worker_of_a_lost_node_is_replaced(bench, stub, caplog, monkeypatch):
    """Ray reports its death only after its own, longer wait."""
    silent = []

    def process(self: Stub, task: ObjectTask) -> Reply:
        if self.number == 0:
            silent.append(task.number)
            bench.ray.actors[0].running = False
            monkeypatch.setattr(module.ClusterWatch, "lost_nodes", lambda watch: frozenset({"node0"}))
            return Reply(ObjectOutcome(task.number, "failed", "of the lost node"))
        return Reply(ObjectOutcome(task.number, "complete"))

    monkeypatch.setattr(stub, "process", process)
    monkeypatch.setattr(stub, "info", lambda self: ("host", 100, __version__, f"node{self.number}"))
    monkeypatch.setattr(FakeRay, "wait", _without_answers_of_the_first)
    done = bench.run(bench.scenes(a=3), workers=1)
    assert silent == [0]
    assert {outcome.status for outcome in done["a"].outcomes.values()} == {"complete"}
    assert "worker 0 (process 100 on host): its node host of the cluster is lost" in caplog.text
    assert bench.open == 0


def _without_answers_of_the_first(ray: FakeRay, refs: Any, num_returns: int, timeout: float) -> Any:
    done, rest = WAIT(ray, refs, num_returns, timeout)
    lost = [ref for ref in done if not ray.actors[0].running and not ray.actors[0].dead and ref.done]
    return [ref for ref in done if ref not in lost], [*lost, *rest]


WAIT = FakeRay.wait


def test_a_dead_cluster_ends_the_run(bench, stub, monkeypatch):
    def lost_nodes(watch: Any) -> frozenset[str]:
        if stub.made:
            raise FastSam3dError("the Ray cluster does not answer")
        return frozenset()

    monkeypatch.setattr(module.ClusterWatch, "lost_nodes", lost_nodes)
    monkeypatch.setattr(module.ClusterWatch, "dead", True)
    with pytest.raises(FastSam3dError, match="does not answer"):
        bench.run(bench.scenes(a=3))
    assert bench.open == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_never_reach_the_compiled_code_of_ray(bench, stub, monkeypatch, number):
    """It makes a SystemError of whatever a handler raises."""

    class Received(BaseException): ...

    def handler(*received: object) -> None:
        raise Received

    def wait(ray: FakeRay, *given: Any, **options: Any) -> Any:
        try:
            os.kill(os.getpid(), number)
            time.sleep(0.01)
            return WAIT(ray, *given, **options)
        except BaseException as error:
            raise SystemError("returned a result with an exception set") from error

    before = signal.signal(number, handler)
    try:
        monkeypatch.setattr(FakeRay, "wait", wait)
        with pytest.raises(Received):
            bench.run(bench.scenes(a=3))
    finally:
        signal.signal(number, before)
    assert bench.open == 0
    assert all(actor.dead for actor in bench.ray.actors)


def test_waiting_for_room_has_a_limit(bench, stub, caplog):
    with pytest.raises(FastSam3dError, match="had no room for a worker in"):
        bench.run(bench.scenes(a=1), workers=1, cpus_per_worker=8, wait_seconds=0.05)
    assert "has room for 0 now" in caplog.text


@pytest.mark.parametrize(
    ("device", "gpus", "words"),
    [
        ("cuda:1", None, "give cuda without the number"),
        ("cuda", 0.0, "give each worker a GPU"),
        ("cpu", 1.0, "leave one"),
    ],
)
def test_devices_that_workers_cannot_use(bench, stub, device, gpus, words):
    with pytest.raises(ConfigError, match=words):
        bench.run(bench.scenes(a=1), device=device, gpus_per_worker=gpus)
