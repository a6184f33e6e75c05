"""Seconds, calls and memory, measured without changing the result."""

from __future__ import annotations

import copy
import json

import pytest
import torch

import fast_sam3d
from fast_sam3d.adapters import NotAPipelineError
from fast_sam3d.adapters.samplers import count_calls
from fast_sam3d.report import observe
from fast_sam3d.telemetry import Report, StepRecord, peak_device_bytes, peak_host_bytes
from tests.fakes import FakePipeline, equal, same_vars, snapshot

CONFIG = {"ss": {"when": {"name": "stride", "stride": 3}, "predict": {"name": "taylor"}}}


def test_observing_is_bit_identical() -> None:
    pipeline, plain = FakePipeline(), FakePipeline().run(seed=0)
    before, rng = snapshot(pipeline), torch.get_rng_state()
    with observe(pipeline) as report:
        assert equal(pipeline.run(seed=0), plain)
    assert same_vars(before, snapshot(pipeline))
    assert torch.equal(rng, torch.get_rng_state())
    assert [(solve.stage, solve.calls, solve.saved) for solve in report.solves] == [("ss", 44, 0), ("slat", 38, 0)]
    pipeline.run(seed=0)
    assert len(report.solves) == 2


@pytest.mark.parametrize("steps", [1, 4, 20, 25, 40])
@pytest.mark.parametrize(
    ("strength", "interval"),
    [(7.0, (0, 500)), (0.0, (0, 500)), (2.0, None), (3.0, (100, 300)), (3.0, (500, 500)), (1.0, (0, 1000))],
)
def test_reported_calls_equal_actual_calls(steps: int, strength: float, interval: tuple[int, int] | None) -> None:
    pipeline = FakePipeline(steps)
    networks = [pipeline.models[name].reverse_fn for name in ("ss_generator", "slat_generator")]
    for guidance in networks:
        guidance.strength, guidance.interval = strength, interval
    with observe(pipeline) as report:
        pipeline.run(seed=0)
    assert [solve.calls for solve in report.solves] == [guidance.backbone.calls for guidance in networks]


def test_end_of_the_interval_is_classified_as_by_the_network() -> None:
    """The stock structured-latent grid is float32, where 0.3 is a little more and 1000 * 0.3 is 300 all the same."""
    generator = FakePipeline().models["slat_generator"]
    generator.reverse_fn.interval = (0, 300)
    assert count_calls(generator._generate_dynamics, torch.tensor(0.3).item()) == 2
    assert count_calls(generator._generate_dynamics, torch.tensor(0.30001).item()) == 1


def test_unknown_dynamics_count_one_call() -> None:
    assert count_calls(lambda x, t: x, 0.1) == 1


def test_calls_of_per_leaf_and_pointmap_guidance() -> None:
    generator = FakePipeline().models["ss_generator"]
    generator.reverse_fn.strength = {"shape": 0.0, "scale": 2.0}
    generator.reverse_fn.interval = {"shape": (0, 1000), "scale": (0, 100)}
    assert [count_calls(generator._generate_dynamics, t) for t in (0.1, 0.2)] == [2, 1]
    generator.reverse_fn.__class__ = type("PointmapCFG", (type(generator.reverse_fn),), {})
    assert [count_calls(generator._generate_dynamics, t) for t in (0.1, 0.2)] == [3, 1]


@pytest.mark.parametrize("observer_first", [True, False])
@pytest.mark.parametrize("observer_leaves_first", [True, False])
def test_observers_and_accelerations_are_removed_in_any_order(
    observer_first: bool, observer_leaves_first: bool
) -> None:
    pipeline = FakePipeline()
    before, plain = snapshot(pipeline), FakePipeline().run(seed=0)
    watch = observe(pipeline)
    if observer_first:
        report = watch.__enter__()
        handle = fast_sam3d.accelerate(pipeline, CONFIG)
    else:
        handle = fast_sam3d.accelerate(pipeline, CONFIG)
        report = watch.__enter__()
    pipeline.run(seed=0)
    assert [s.to_dict() for s in report.solves] == [s.to_dict() for s in handle.report.solves]
    assert report.network_calls_saved > 0
    assert report.seconds.keys() == handle.report.seconds.keys()
    if observer_leaves_first:
        watch.__exit__(None, None, None)
        assert handle.active
        pipeline.run(seed=0)
        assert (len(report.solves), len(handle.report.solves)) == (2, 4)
        handle.remove()
    else:
        handle.remove()
        assert equal(pipeline.run(seed=0), plain)
        assert (len(report.solves), len(handle.report.solves)) == (4, 2)
        watch.__exit__(None, None, None)
    assert same_vars(before, snapshot(pipeline))


def test_restore_leaves_observers() -> None:
    pipeline = FakePipeline()
    with observe(pipeline) as report:
        fast_sam3d.accelerate(pipeline, CONFIG)
        fast_sam3d.restore(pipeline)
        pipeline.run(seed=0)
    assert (report.network_calls, report.network_calls_saved) == (82, 0)


class Clock:
    """A clock that the test advances."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("fast_sam3d.telemetry.report.time.perf_counter", lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def test_seconds_of_a_stage_exclude_nested_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    report, clock = Report(), Clock(monkeypatch)
    with report.stage("outer"):
        clock.sleep(1)
        with report.stage("inner"):
            clock.sleep(10)
        with report.stage("inner"):
            clock.sleep(20)
        clock.sleep(2)
    clock.sleep(100)
    with report.stage("outer"):
        clock.sleep(4)
    assert report.seconds == {"outer": 7.0, "inner": 30.0}
    assert report.total_seconds == 37.0


def test_failed_stage_stops_its_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    report, clock = Report(), Clock(monkeypatch)
    with pytest.raises(RuntimeError), report.stage("outer"):
        clock.sleep(1)
        with report.stage("inner"):
            clock.sleep(2)
            raise RuntimeError
    clock.sleep(100)
    with report.stage("next"):
        clock.sleep(4)
    assert report.seconds == {"outer": 1.0, "inner": 2.0, "next": 4.0}


def test_stages_add_up_to_the_run() -> None:
    pipeline = FakePipeline()
    with observe(pipeline) as report:
        pipeline.run(seed=0)
    assert list(report.to_dict()["seconds"]) == ["preprocess", "ss", "ss_decoder", "slat", "mesh", "gaussian", "other"]
    assert min(report.seconds.values()) > 0
    assert report.total_seconds == sum(report.seconds.values())


def test_progress_is_called_for_every_step() -> None:
    pipeline, events = FakePipeline(4), []
    with observe(pipeline, progress=lambda *event: events.append(event)):
        pipeline.run(seed=0)
    assert [event for event in events if event[0] == "ss"] == [("ss", done, 4) for done in range(5)]
    assert [event for event in events if event[0] == "mesh"] == [("mesh", 0, 1), ("mesh", 1, 1)]


def test_report_as_json() -> None:
    pipeline = FakePipeline()
    handle = fast_sam3d.accelerate(pipeline, CONFIG)
    pipeline.run(seed=0)
    data = json.loads(json.dumps(handle.report.to_dict(), allow_nan=False))
    assert data["network_calls"]["ss"] == {
        "solves": 1, "steps": 25, "steps_evaluated": 10, "made": 17, "saved": 27, "fallbacks": 0
    }  # fmt: skip
    assert data["network_calls"]["slat"]["made"] == 38
    assert data["methods"]["ss"]["when"] == {"name": "stride", "stride": 3, "warmup": 2}
    steps = data["solves"][0]["steps"]
    assert [step["step"] for step in steps] == list(range(25))
    assert [step["t"] for step in steps] == pytest.approx([s / (3 - 2 * s) for s in (i / 25 for i in range(25))])
    assert [step["step"] for step in steps if step["evaluated"]] == [0, 1, 4, 7, 10, 13, 16, 19, 22, 24]
    assert {step["tokens"] for step in steps} == {0, 10}
    assert data["peak_memory_bytes"]["host"] > 10_000_000


def test_report_as_table() -> None:
    pipeline = FakePipeline()
    handle = fast_sam3d.accelerate(pipeline, CONFIG)
    pipeline.run(seed=0)
    lines = handle.report.table().splitlines()
    assert lines[0].split() == ["stage", "seconds", "share", "steps", "run", "network", "calls", "saved"]
    ss = next(line for line in lines if line.startswith("ss "))
    assert ss.split()[-3:] == ["10/25", "17", "27"]
    assert next(line for line in lines if line.startswith("total")).split()[-2:] == ["55", "27"]
    assert "peak memory of the process: host" in lines[-1]


def test_table_without_runs_and_with_fallbacks() -> None:
    report = Report()
    assert report.table().splitlines()[-1].split() == ["total", "0.00", "0", "0"]
    log = report.begin_solve("ss", [0.0, 1.0])
    log.step(StepRecord(0, 0.0, True, 2, 0, 10, fallback=True))
    assert report.table().splitlines()[-1] == "1 predictions were not finite, and the last velocity was held instead"
    assert report.to_dict()["solves"][0]["complete"] is False


def test_a_result_that_was_decoded_again_is_in_the_report() -> None:
    pipeline = FakePipeline()
    decoder = pipeline.models["slat_decoder_mesh"] = torch.nn.Identity()
    with observe(pipeline) as report:
        decoder(1)
        assert report.remarks() == []
        decoder.redecoded = True
        decoder(1), decoder(2)
    said = "mesh: the result was not finite in half precision, and was decoded again in float32"
    assert report.remarks() == [said] and said in report.table() and said in report.to_dict()["remarks"]
    report.clear()
    assert report.remarks() == []


def test_clear_and_copy() -> None:
    pipeline = FakePipeline()
    with observe(pipeline, progress=lambda *event: None) as report:
        pipeline.run(seed=0)
        twin = copy.deepcopy(report)
        report.clear()
        assert (report.solves, report.seconds) == ([], {})
        pipeline.run(seed=0)
    assert len(report.solves) == len(twin.solves) == 2
    assert twin.progress is None


def test_observing_other_objects_is_refused() -> None:
    with pytest.raises(NotAPipelineError), observe(object()):
        pass


def test_peak_memory() -> None:
    before = peak_host_bytes()
    assert before is None or before > 10_000_000
    assert (peak_device_bytes() is None) == (not torch.cuda.is_initialized())


def test_stages_wait_for_mps_too(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[str] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waits.append("wait"))
    with Report().stage("ss"):
        pass
    assert len(waits) == 2
