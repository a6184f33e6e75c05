"""Atomic writes and JSON."""

import json
import os
import threading

import numpy as np
import pytest
import torch

from fast_sam3d.outputs.files import atomic_write, save_json


def test_atomic_write_replaces_the_file_at_the_end(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with atomic_write(target) as file:
        file.write(b"new")
        file.flush()
        assert target.read_bytes() == b"old"
    assert target.read_bytes() == b"new" and os.listdir(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("existing", [b"old", None])
def test_failed_atomic_write_leaves_no_file(tmp_path, error, existing):
    target = tmp_path / "a.bin"
    if existing:
        target.write_bytes(existing)

    def interrupted():
        with atomic_write(target) as file:
            file.write(b"half")
            raise error

    with pytest.raises(error):
        interrupted()
    assert os.listdir(tmp_path) == (["a.bin"] if existing else [])
    assert not existing or target.read_bytes() == existing


def test_atomic_write_cleans_up_when_the_rename_fails(tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError), atomic_write(tmp_path / "taken") as file:
        file.write(b"x")
    assert os.listdir(tmp_path) == ["taken"]


def test_atomic_write_keeps_the_usual_permissions(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    with atomic_write(tmp_path / "atomic") as file:
        file.write(b"")
    assert os.stat(tmp_path / "atomic").st_mode == os.stat(tmp_path / "plain").st_mode


def test_concurrent_atomic_writes_give_one_complete_file(tmp_path):
    def write(letter):
        with atomic_write(tmp_path / "a") as file:
            for _ in range(200):
                file.write(letter * 100)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    content = (tmp_path / "a").read_bytes()
    assert len(content) == 20_000 and len(set(content)) == 1 and os.listdir(tmp_path) == ["a"]


def test_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError):
        save_json(tmp_path / "missing" / "a.json", {})


def test_json_types(tmp_path):
    content = {
        "tensor": torch.tensor([1.5, float("nan")]),
        "array": np.arange(2),
        "number": np.float32(0.5),
        "path": tmp_path,
        "text": "größer",
        1: (True, None, float("inf")),
    }
    save_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "größer" in text and "NaN" not in text and text.endswith("}\n")
    loaded = json.loads(text)
    assert loaded["tensor"] == [1.5, None] and loaded["array"] == [0, 1] and loaded["number"] == 0.5
    assert loaded["1"] == [True, None, None] and loaded["path"] == str(tmp_path)
    with pytest.raises(TypeError, match="object"):
        save_json(tmp_path / "b.json", {"x": object()})
    assert os.listdir(tmp_path) == ["a.json"]


def test_path_that_is_not_utf8_round_trips_through_json(tmp_path):
    name = os.fsdecode(b"pict\xffure")
    save_json(tmp_path / "a.json", {"image": name})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"image": name}
