"""Requests that `train-mini` refuses before any work."""

from __future__ import annotations

import argparse
import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fast_sam3d.cli import train_mini
from fast_sam3d.errors import ConfigError, OutputError
from fast_sam3d.mini.train.loop import save_whole
from fast_sam3d.mini.train.run import LEAVES


def arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    train_mini.add_arguments(parser)
    return parser.parse_args(words)


@pytest.fixture
def worked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The stages that the command started."""
    got: list[Any] = []
    monkeypatch.setattr(train_mini, "_work", lambda run, asked, args: got.append(asked))
    return got


def test_a_stale_result_is_reported_before_any_work(tmp_path: Path, worked: list[Any]) -> None:
    args = arguments("--run_dir", str(tmp_path), "--stages", "data", "ss_vae")
    save_whole({"origin": {"recipe": "another"}}, tmp_path / "ss_latents.pt")
    with pytest.raises(ConfigError, match=r"ss_latents\.pt was trained with another seed or recipe"):
        train_mini.main(args)
    assert not worked
    (tmp_path / "ss_latents.pt").unlink()
    assert train_mini.main(args) == 0
    assert worked == [["data", "ss_vae"]]


def test_weights_of_another_run_are_reported_before_any_work(tmp_path: Path, worked: list[Any]) -> None:
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    (checkpoint / "pipeline.yaml").write_text("{}")
    for name in LEAVES.values():
        save_whole({}, tmp_path / f"{name}.pt")
    args = arguments("--run_dir", str(tmp_path), "--stages", "evaluate")
    assert train_mini.main(args) == 0
    (tmp_path / "exported.json").write_text(json.dumps({"checkpoint": "of something else"}))
    with pytest.raises(ConfigError, match="add export to"):
        train_mini.main(args)
    assert worked == [["evaluate"]]


def test_a_run_folder_that_cannot_be_created_is_reported(tmp_path: Path, worked: list[Any]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="choose another --run_dir"):
        train_mini.main(arguments("--run_dir", str(tmp_path / "file" / "run")))
    assert not worked


def test_advice_on_matplotlib_works_in_a_clone(monkeypatch: pytest.MonkeyPatch, worked: list[Any]) -> None:
    monkeypatch.setattr(train_mini.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install matplotlib, or leave evaluate out"):
        train_mini.main(arguments())
    assert not worked


@pytest.mark.parametrize("error", [None, KeyboardInterrupt, RuntimeError])
def test_torch_thread_count_is_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    before, at_work = torch.get_num_threads(), []

    def work(*given: Any) -> None:
        at_work.append(torch.get_num_threads())
        if error:
            raise error

    monkeypatch.setattr(train_mini, "_work", work)
    args = arguments("--run_dir", str(tmp_path), "--stages", "data", "--threads", str(before + 1))
    with pytest.raises(error) if error else contextlib.nullcontext():
        assert train_mini.main(args) == 0
    assert (at_work, torch.get_num_threads()) == ([before + 1], before)
