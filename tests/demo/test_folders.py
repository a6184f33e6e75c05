"""Folders of jobs: the newest are kept."""

from __future__ import annotations

import pytest

from fast_sam3d.demo.folders import JobFolders
from fast_sam3d.errors import OutputError


def test_the_oldest_folders_are_removed(tmp_path):
    kept = JobFolders(tmp_path / "jobs", keep=2)
    for name in ("a", "b", "c"):
        (kept.create(name) / "file").write_text(name)
    assert sorted(path.name for path in kept.root.iterdir()) == ["b", "c"]
    kept.remove("c")
    kept.remove("c")
    assert "c" not in kept and "b" in kept
    kept.close()
    assert (kept.root / "b").is_dir()


def test_a_temporary_folder_is_removed_at_the_end():
    kept = JobFolders()
    kept.create("a")
    kept.close()
    assert not kept.root.exists()


def test_other_files_in_a_given_folder_stay(tmp_path):
    (tmp_path / "mine").mkdir()
    kept = JobFolders(tmp_path, keep=1)
    for name in ("a", "b"):
        kept.create(name)
    assert (tmp_path / "mine").is_dir()
    with pytest.raises(OutputError):
        kept.create("mine")


def test_a_file_as_folder_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="--output_dir"):
        JobFolders(tmp_path / "file")
