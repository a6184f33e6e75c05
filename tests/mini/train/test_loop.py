"""The training loop: an interruption loses at most one interval, and a resumed run equals an uninterrupted one."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from fast_sam3d.errors import CheckpointError
from fast_sam3d.mini.train import loop
from fast_sam3d.mini.train.loop import Trainer, TrainingSchedule, hash_seed, load_whole, save_whole, step_generator

SCHEDULE = TrainingSchedule(steps=130, batch=4, warmup=10, checkpoint=30, average=0.9)
CPU = torch.device("cpu")


class Stopped(Exception):
    pass


def trainer(folder: Path, width: int = 3, schedule: TrainingSchedule = SCHEDULE) -> Trainer:
    torch.manual_seed(0)
    return Trainer("fit", {"net": nn.Linear(width, 2)}, schedule, folder, seed=5, device=CPU)


def train(folder: Path, stop_at: int | None = None, schedule: TrainingSchedule = SCHEDULE) -> tuple[Trainer, list[int]]:
    """Regress noise; raises `Stopped` in the update `stop_at`. Returns the trainer and its updates."""
    made = trainer(folder, schedule=schedule)
    steps = []

    def loss(generator: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
        if made.step == stop_at:
            raise Stopped
        steps.append(made.step)
        x = torch.randn(batch, 3, generator=generator)
        got = made.modules["net"](x).float()
        return {"fit": (got - x[:, :2]).square().mean(), "size": 0.01 * got.square().mean()}

    if stop_at is None:
        made.run(loss)
    else:
        with pytest.raises(Stopped):
            made.run(loss)
    return made, steps


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "fit.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds_per_step"} for row in csv.DictReader(file)]


@pytest.fixture
def unbroken(tmp_path: Path) -> tuple[Trainer, list[dict[str, str]]]:
    folder = tmp_path / "unbroken"
    folder.mkdir()
    return train(folder)[0], curve(folder)


@pytest.mark.parametrize("stop_at", [0, 29, 30, 31, 77, 129])
def test_interrupted_run_equals_an_uninterrupted_one(tmp_path, unbroken, stop_at):
    whole, rows = unbroken
    train(tmp_path, stop_at)
    again, steps = train(tmp_path)
    first = stop_at // SCHEDULE.checkpoint * SCHEDULE.checkpoint
    assert steps == list(range(first, SCHEDULE.steps)), "no more than one interval is done twice"
    for name, value in whole.modules.state_dict().items():
        assert torch.equal(value, again.modules.state_dict()[name])
    assert curve(tmp_path) == rows
    assert [row["step"] for row in rows] == ["50", "100", "130"]


def test_two_interruptions_in_one_checkpoint_interval(tmp_path, unbroken):
    for stop_at in (40, 50, 99):
        train(tmp_path, stop_at)
    again, _ = train(tmp_path)
    assert torch.equal(again.modules["net"].weight, unbroken[0].modules["net"].weight)
    assert curve(tmp_path) == unbroken[1]


def test_a_finished_run_is_not_repeated(tmp_path, unbroken):
    train(tmp_path)
    again, steps = train(tmp_path)
    assert steps == []
    assert torch.equal(again.modules["net"].weight, unbroken[0].modules["net"].weight)
    assert curve(tmp_path) == unbroken[1]


def test_training_continues_with_more_steps(tmp_path):
    train(tmp_path, schedule=dataclasses.replace(SCHEDULE, steps=45))
    _, steps = train(tmp_path)
    assert steps == list(range(45, 130))


def test_training_reduces_the_loss_and_averages_weights(tmp_path):
    made, _ = train(tmp_path)
    rows = curve(tmp_path)
    assert float(rows[-1]["fit"]) < 0.9 * float(rows[0]["fit"])
    raw = load_whole(tmp_path / "fit.pt")["modules"]["net.weight"]
    average = made.modules["net"].weight
    assert not torch.equal(raw, average)
    torch.testing.assert_close(raw, average, atol=0.1, rtol=0)
    assert not made.modules["net"].training


def test_results_depend_on_the_seed(tmp_path, unbroken):
    torch.manual_seed(0)
    other = Trainer("fit", {"net": nn.Linear(3, 2)}, SCHEDULE, tmp_path, seed=6, device=CPU)

    def loss(generator: torch.Generator, batch: int) -> dict[str, torch.Tensor]:
        x = torch.randn(batch, 3, generator=generator)
        return {"fit": (other.modules["net"](x).float() - x[:, :2]).square().mean()}

    other.run(loss)
    assert not torch.equal(other.modules["net"].weight, unbroken[0].modules["net"].weight)


def test_truncated_csv_row_is_dropped(tmp_path, unbroken):
    train(tmp_path, 77)
    with (tmp_path / "fit.csv").open("a") as file:
        file.write("10")
    train(tmp_path)
    assert curve(tmp_path) == unbroken[1]


def test_older_checkpoint_without_the_curve_resumes(tmp_path):
    train(tmp_path, 77)
    state = load_whole(tmp_path / "fit.pt")
    del state["unplotted"]
    save_whole(state, tmp_path / "fit.pt")
    _, steps = train(tmp_path)
    assert steps[0] == 60


@pytest.mark.parametrize("damage", ["cut", "text", "empty", "list"])
def test_damaged_checkpoint_is_refused(tmp_path, damage):
    train(tmp_path, 40)
    path = tmp_path / "fit.pt"
    if damage == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes({"cut": path.read_bytes()[:500], "text": b"not a checkpoint", "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=r"fit\.pt is damaged: delete it"):
        trainer(tmp_path)


def test_checkpoint_of_other_sizes_is_refused(tmp_path):
    train(tmp_path, 40)
    with pytest.raises(CheckpointError, match=r"fit\.pt is of networks with other sizes"):
        trainer(tmp_path, width=4)


def test_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_whole({"step": 1}, path)

    def half(value: object, aside: Path) -> None:
        aside.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(loop.torch, "save", half)
    with pytest.raises(OSError, match="no space"):
        save_whole({"step": 2}, path)
    assert load_whole(path) == {"step": 1}


def test_learning_rate_warms_up_stays_constant_and_decays():
    schedule = TrainingSchedule(steps=1000, batch=1, rate=2.0, warmup=100, flat=0.4, floor=0.1)
    assert schedule.rate_at(0) == pytest.approx(0.02)
    assert schedule.rate_at(49) == pytest.approx(1.0)
    assert schedule.rate_at(99) == schedule.rate_at(100) == schedule.rate_at(400) == 2.0
    assert schedule.rate_at(700) == pytest.approx(2.0 * 0.55)
    assert schedule.rate_at(1000) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("field", "value"), [("steps", 0), ("batch", 0), ("rate", 0.0), ("checkpoint", 0), ("average", 1.0), ("flat", 1.0)]
)
def test_invalid_schedules_are_refused(field, value):
    with pytest.raises(ValueError, match=rf"TrainingSchedule\.{field}"):
        TrainingSchedule(**{"steps": 1, "batch": 1, field: value})


def test_random_numbers_depend_on_seed_stage_and_step_only():
    def draw(*key: object) -> torch.Tensor:
        return torch.rand(3, generator=step_generator(*key))

    torch.manual_seed(1)
    first = draw(0, "ss_flow", 7)
    torch.manual_seed(2)
    assert torch.equal(first, draw(0, "ss_flow", 7))
    for other in ((1, "ss_flow", 7), (0, "slat_flow", 7), (0, "ss_flow", 8)):
        assert not torch.equal(first, draw(*other))


def test_seeds_are_the_same_on_every_machine():
    assert hash_seed(0, "ss_flow", 0) == 282651515705894456
    assert 0 <= hash_seed("x") < 2**63
