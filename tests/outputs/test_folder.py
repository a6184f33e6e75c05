"""Result folders appear complete or not at all."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from fast_sam3d.errors import OutputError
from fast_sam3d.outputs.folder import check_target, refuse_other_settings, result_folder
from tests.stand_in import files


def test_new_folder_with_its_parents(tmp_path):
    with result_folder(tmp_path / "a" / "b" / "c") as folder:
        (folder / "x").write_text("new")
        assert not (tmp_path / "a" / "b" / "c").exists()
    assert files(tmp_path) == {"a", "a/b", "a/b/c", "a/b/c/x"}


def test_old_results_are_replaced_only_by_complete_ones(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "old").write_text("old")
    with result_folder(tmp_path / "c") as folder:
        (folder / "new").write_text("new")
        assert (tmp_path / "c" / "old").is_file()
    assert files(tmp_path) == {"c", "c/new"}


def test_a_failure_removes_the_new_folder(tmp_path):
    with pytest.raises(ZeroDivisionError), result_folder(tmp_path / "a" / "b" / "c") as folder:
        (folder / "x").write_text("new")
        raise ZeroDivisionError
    assert files(tmp_path) == set()


def test_a_failing_rename_restores_the_old_results(tmp_path, monkeypatch):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "old").write_text("old")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name == "new":
            raise PermissionError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OutputError, match="Permission denied"), result_folder(tmp_path / "c") as folder:
        (folder / "new").write_text("new")
    assert files(tmp_path) == {"c", "c/old"}


def test_other_files_in_a_created_parent_are_kept(tmp_path):
    with pytest.raises(ZeroDivisionError), result_folder(tmp_path / "a" / "c"):
        (tmp_path / "a" / "mine").write_text("mine")
        raise ZeroDivisionError
    assert files(tmp_path) == {"a", "a/mine"}


def taken(folder: Path) -> None:
    shutil.rmtree(folder)


def file_instead(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("mine")


@pytest.mark.parametrize("take", [taken, file_instead])
@pytest.mark.parametrize("place", ["a", "a/c"])
def test_a_folder_that_is_taken_away_ends_with_a_sentence(tmp_path, take: Callable[[Path], None], place):
    (tmp_path / "a" / "c").mkdir(parents=True)
    if (take, place) == (taken, "a/c"):  # there is room for the new one
        with result_folder(tmp_path / "a" / "c") as folder:
            take(tmp_path / place)
            (folder / "new").write_text("new")
        assert files(tmp_path) == {"a", "a/c", "a/c/new"}
        return
    words = "removed or replaced .* run the command again"
    with pytest.raises(OutputError, match=words), result_folder(tmp_path / "a" / "c") as folder:
        take(tmp_path / place)
        (folder / "new").write_text("new")
    left = set() if take is taken else {place, *({"a"} if place == "a/c" else ())}
    assert files(tmp_path) == left
    assert take is taken or (tmp_path / place).read_text() == "mine"


def die_writing(target: Path) -> None:
    with result_folder(target) as folder:
        (folder / "new").write_text("new")
        os._exit(9)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="needs fork")
def test_what_a_killed_run_left_is_removed_by_the_next_but_not_that_of_a_running_one(tmp_path):
    killed = multiprocessing.get_context("fork").Process(target=die_writing, args=(tmp_path / "c",))
    killed.start()
    killed.join(30)
    assert killed.exitcode == 9 and len(list(tmp_path.iterdir())) == 1
    with result_folder(tmp_path / "c") as folder:
        (folder / "new").write_text("new")
        assert len(list(tmp_path.iterdir())) == 1
        with result_folder(tmp_path / "d"):
            pass
        check_target(tmp_path / "e", {"x"})
    assert files(tmp_path) == {"c", "c/new", "d"}


def test_check_target_leaves_no_files(tmp_path):
    check_target(tmp_path / "a" / "b", {"x"})
    assert files(tmp_path) == set()


def test_unwritable_targets(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("")
    (tmp_path / "folder" / "x").mkdir(parents=True)
    for target, word in (
        ("folder", "not results"),
        ("file", "exists and is not a folder"),
        ("file/x", "is a file"),
        ("link", "exists and is not a folder"),
        ("full", "notes"),
    ):
        with pytest.raises(OutputError, match=word):
            check_target(tmp_path / target, {"x"})


def interrupted_rename(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Sends an interrupt just before the `at`-th rename of a folder."""
    rename, seen = Path.rename, []

    def watched(self: Path, target: Path) -> Path:
        seen.append(self)
        if len(seen) == at:
            os.kill(os.getpid(), signal.SIGINT)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", watched)


@pytest.mark.parametrize(("older", "at"), [(False, 1), (True, 1), (True, 2)])
def test_an_interrupt_during_the_replacement_is_deferred_and_reported(tmp_path, monkeypatch, older, at):
    if older:
        (tmp_path / "c").mkdir()
        (tmp_path / "c" / "old").write_text("old")
    interrupted_rename(monkeypatch, at)
    with pytest.raises(KeyboardInterrupt, match="results in .*c are complete"), result_folder(tmp_path / "c") as folder:
        (folder / "new").write_text("new")
    assert files(tmp_path) == {"c", "c/new"}


def test_interrupt_during_creation_leaves_no_files(tmp_path, monkeypatch):
    make = Path.mkdir

    def interrupted(*arguments: object, **options: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        make(*arguments, **options)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Path, "mkdir", interrupted)
    with pytest.raises(KeyboardInterrupt), result_folder(tmp_path / "a" / "c"):
        raise AssertionError
    assert files(tmp_path) == set()
    with pytest.raises(KeyboardInterrupt):
        check_target(tmp_path / "a" / "c", {"x"})
    assert files(tmp_path) == set()


def test_the_longest_valid_file_name_works(tmp_path):
    target = tmp_path / ("n" * 255)
    check_target(target, {"x"})
    with result_folder(target) as folder:
        (folder / "x").write_text("new")
    with result_folder(target) as folder:
        (folder / "y").write_text("new")
    assert files(target) == {"y"}


@pytest.mark.parametrize("name", ["n" * 256, "a/" + "n" * 256, "n" * 256 + "/a", "/".join(["n" * 200] * 21)])
def test_names_that_are_too_long_are_rejected_before_the_work(tmp_path, name):
    with pytest.raises(OutputError, match="too long.*--output_dir") as caught:
        check_target(tmp_path / name, {"x"})
    assert len(str(caught.value)) < 300
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ({"seed": 42}, {"seed": 7}, "seed was 42 and is 7"),
        (
            {"modules": {"ss": {"when": {"name": "stride", "stride": 4}}}},
            {"modules": {"ss": {"when": {"name": "stride", "stride": 5}}}},
            "ss.when.stride was 4 and is 5",
        ),
        ({"modules": {"ss": {"when": 1}}}, {"modules": {"ss": {}}}, "ss was on and is off"),
    ],
)
def test_refusing_other_settings_names_the_first_difference(tmp_path, old, new, says):
    with pytest.raises(OutputError, match=re.escape(f"({says}): add --overwrite")):
        refuse_other_settings(tmp_path, old, new)
    refuse_other_settings(tmp_path, old, old)
