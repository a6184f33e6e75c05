"""Where weights are: before, in and after a stage, after errors, and under each kind of plan."""

from __future__ import annotations

import threading

import pytest
import torch

from fast_sam3d.native.plans import PLANS, Plan, smallest
from fast_sam3d.native.residency import Residency
from tests.native.fake_parts import FakePart, fake_parts

CPU = torch.device("cpu")
NOTHING = Plan("nothing stays")


def residency(plan: Plan = NOTHING, half: torch.dtype | None = None) -> tuple[Residency, dict[str, FakePart]]:
    parts = fake_parts("ss_generator", "slat_generator", "ss_decoder")
    return Residency(parts, plan, CPU, half), parts


def test_only_the_stage_that_runs_has_weights() -> None:
    where, parts = residency()
    with where.using("ss_generator"):
        assert where.loaded == ("ss_generator",) and not parts["ss_generator"].on_meta
    with where.using("slat_generator", "ss_decoder"):
        assert where.loaded == ("slat_generator", "ss_decoder") and parts["ss_generator"].on_meta
    with where.using():
        assert where.loaded == () and all(part.on_meta for part in parts.values())


def test_objects_in_one_stage_after_another_share_one_load() -> None:
    where, parts = residency()
    for _ in range(3):
        with where.using("ss_generator"):
            pass
    assert parts["ss_generator"].reads == [None]


def test_what_stays_is_loaded_once_and_at_first_use() -> None:
    where, parts = residency(Plan("all stay", frozenset({"ss_generator", "slat_generator", "ss_decoder"})))
    assert where.loaded == ()
    for name in [*parts, *parts]:
        with where.using(name):
            pass
    assert {name: len(part.reads) for name, part in parts.items()} == dict.fromkeys(parts, 1)


def test_a_stage_inside_a_stage_keeps_the_outer_weights() -> None:
    where, parts = residency()
    with where.using("ss_generator"):
        with where.using("ss_decoder"):
            assert set(where.loaded) == {"ss_generator", "ss_decoder"}
        with where.using("slat_generator"):
            assert set(where.loaded) == {"ss_generator", "slat_generator"}
        assert not parts["ss_generator"].on_meta
    where.release()
    assert where.loaded == ()


def test_the_plan_decides_the_type_of_the_weights() -> None:
    plan = Plan("mixed", float32=frozenset({"ss_decoder"}))
    where, parts = residency(plan, torch.bfloat16)
    with where.using("ss_generator", "ss_decoder"):
        assert parts["ss_generator"].module[0].weight.dtype is torch.bfloat16
        assert parts["ss_decoder"].module[0].weight.dtype is torch.float32


def test_weights_are_those_of_the_file_after_every_reload() -> None:
    where, parts = residency()
    for _ in range(2):
        with where.using("ss_generator"):
            for key, tensor in parts["ss_generator"].module.state_dict().items():
                assert torch.equal(tensor, parts["ss_generator"].file[key])
        with where.using("slat_generator"):
            pass


def test_the_module_stays_the_same_object() -> None:
    where, parts = residency()
    module, layer = parts["ss_generator"].module, parts["ss_generator"].module[0]
    calls = []
    layer.register_forward_hook(lambda *_: calls.append(1))
    for name in ("ss_generator", "slat_generator", "ss_generator"):
        with where.using(name):
            parts[name].module(torch.zeros(1, 8))
    assert parts["ss_generator"].module is module and module[0] is layer and len(calls) == 2


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, RuntimeError])
def test_nothing_is_half_loaded_after_an_error_in_a_load(error: type[BaseException]) -> None:
    where, parts = residency()

    def fail(key: str) -> None:
        if key == "1.weight":
            raise error

    parts["slat_generator"].before = fail
    with where.using("ss_decoder"):
        with pytest.raises(error), where.using("ss_generator", "slat_generator"):
            raise AssertionError("the block must not run")
        assert where.loaded == ("ss_decoder",)
        assert parts["ss_generator"].on_meta and parts["slat_generator"].on_meta
    parts["slat_generator"].before = lambda key: None
    with where.using("ss_generator", "slat_generator"):
        assert not any(parts[name].on_meta for name in where.loaded)


def test_an_error_in_a_stage_leaves_the_weights_usable() -> None:
    where, parts = residency()
    with pytest.raises(ZeroDivisionError), where.using("ss_generator"):
        raise ZeroDivisionError
    with where.using("slat_generator"):
        assert where.loaded == ("slat_generator",) and parts["ss_generator"].on_meta


def test_out_of_memory_falls_to_the_next_smaller_plan() -> None:
    where, parts = residency(PLANS["12GB"])
    for name in parts:
        with where.using(name):
            pass
    assert set(where.loaded) == set(parts)
    smaller = where.shrink()
    assert smaller is smallest() is where.plan and where.loaded == () and where.facts()["did_not_fit"] == ["12GB"]
    assert where.shrink() is None and where.plan is smallest()
    where.clear()
    assert where.facts()["did_not_fit"] == [] and where.facts()["plan"] == "8GB"


def test_another_plan_reloads_what_it_wants_in_another_type() -> None:
    where, parts = residency(PLANS["all"], torch.float16)
    with where.using("ss_generator", "slat_generator"):
        pass
    assert parts["ss_generator"].reads == [None]
    where.change(PLANS["24GB"])
    assert where.loaded == ("slat_generator",)
    with where.using("ss_generator"):
        assert parts["ss_generator"].reads == [None, torch.float16]


def test_counts_loads_and_peaks_by_stage() -> None:
    where, _ = residency()
    with where.using("ss_generator", stage="ss"):
        pass
    with where.using("ss_generator", stage="ss"):
        pass
    stages = where.facts()["stages"]
    assert list(stages) == ["ss"] and stages["ss"]["loads"] == 1 and stages["ss"]["peak_bytes"] > 0
    assert where.peak == stages["ss"]["peak_bytes"]


def test_weights_come_back_from_main_memory_where_the_plan_says() -> None:
    parts = fake_parts("depth_model", "ss_generator")
    where = Residency(parts, Plan("copies", to_host=frozenset({"depth_model"})), CPU, torch.float16, copies=True)
    for _ in range(2):
        for name, part in parts.items():
            with where.using(name):
                for key, tensor in part.module.state_dict().items():
                    assert torch.equal(tensor, part.file[key].half())
    assert parts["depth_model"].reads == [torch.float16] and len(parts["ss_generator"].reads) == 2
    where.change(NOTHING)
    with where.using("depth_model"):
        assert len(parts["depth_model"].reads) == 2  # the copies are gone


def test_no_copies_where_main_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fast_sam3d.native.residency.host_bytes", lambda: 2 << 30)
    parts = fake_parts("depth_model", "ss_generator")
    where = Residency(parts, Plan("copies", to_host=frozenset(parts)), CPU, copies=True)
    for name in [*parts, *parts]:
        with where.using(name):
            pass
    assert [len(part.reads) for part in parts.values()] == [2, 2]


def test_parts_that_a_checkpoint_lacks_are_skipped() -> None:
    where, _ = residency()
    with where.using("ss_decoder", "slat_decoder_gs_4"):
        assert where.loaded == ("ss_decoder",)


def test_a_second_thread_waits_for_the_end_of_a_stage() -> None:
    where, parts = residency()
    inside, seen = threading.Event(), []

    def other() -> None:
        inside.wait()
        with where.using("slat_generator"):
            seen.append(parts["ss_generator"].on_meta)

    thread = threading.Thread(target=other)
    thread.start()
    with where.using("ss_generator"):
        inside.set()
        thread.join(0.1)
        assert not seen and not parts["ss_generator"].on_meta
    thread.join()
    assert seen == [True]
