"""Downloads from a local stand-in for the hub: complete, resumed, refused, and never partial."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub.file_download
import pytest
from huggingface_hub import constants

from fast_sam3d.checkpoints import download, remote_file
from fast_sam3d.checkpoints.download import download_weights, unfinished_folder
from fast_sam3d.checkpoints.load import find_checkpoint
from fast_sam3d.config.packaged import checkout
from fast_sam3d.errors import CheckpointError, OutputError
from tests.fake_hub import COMMIT, FakeHub, Raw
from tests.stand_in import run

TARGET = Path("checkpoints/hf")


def refused(error: type[Exception], **options) -> str:
    with pytest.raises(error) as caught:
        download_weights(TARGET, **options)
    assert not TARGET.exists()
    text = str(caught.value)
    assert "\n" not in text
    return text


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def inner(hub: FakeHub) -> dict[str, bytes]:
    start = "checkpoints/"
    return {name.removeprefix(start): content for name, content in hub.files.items() if name.startswith(start)}


# ----------------------------------------------------------------------------------------------------------- whole


def test_only_the_checkpoint_folder_is_downloaded(hub, capsys):
    code, out, err = run(capsys, "download")
    assert code == 0, err
    assert str(TARGET.absolute()) in out
    assert contents(TARGET) == inner(hub)
    assert [p.name for p in Path("checkpoints").iterdir()] == ["hf"]
    assert "ss_generator.ckpt (0.2 MB)" in err
    assert find_checkpoint("hf").kind == "sam3d"


def test_repository_without_the_checkpoint_folder(hub):
    published = inner(hub)
    hub.files = {**published, ".gitattributes": b""}
    download_weights(TARGET)
    assert contents(TARGET) == published


def test_flags(hub, capsys):
    hub.repository = "me/copy"
    arguments = ("--repo", "me/copy", "--revision", COMMIT, "--output_dir", "elsewhere/weights")
    assert run(capsys, "download", *arguments)[0] == 0
    assert contents(Path("elsewhere/weights")) == inner(hub)


def test_a_complete_folder_is_not_changed(hub, caplog):
    caplog.set_level("INFO", "fast_sam3d")
    download_weights(TARGET)
    hub.requests.clear()
    download_weights(TARGET)
    assert hub.requests == []
    assert "is already a complete checkpoint" in caplog.text


def test_an_empty_folder_is_filled(hub):
    TARGET.mkdir(parents=True)
    download_weights(TARGET)
    assert contents(TARGET) == inner(hub)


def test_the_login_is_used_and_never_shown(hub, monkeypatch, capsys):
    hub.tokens = {"hf_secret"}
    assert run(capsys, "download")[0] == 2
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code, out, err = run(capsys, "download")
    assert code == 0
    assert "hf_secret" not in out + err


def test_endpoint_from_the_environment_variable(hub):
    environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HOME": "home", "PYTHONPATH": str(checkout())}
    done = subprocess.run(
        [sys.executable, "-m", "fast_sam3d.cli", "download"], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert contents(TARGET) == inner(hub)


# --------------------------------------------------------------------------------------------------------- resumed


WEIGHTS = "checkpoints/ss_generator.ckpt"


def test_a_dropped_connection_resumes_within_the_file(hub):
    hub.drop_after[WEIGHTS] = 70_000
    download_weights(TARGET)
    assert contents(TARGET) == inner(hub)
    first, second = hub.fetched("ss_generator.ckpt")
    assert first is None and second in ("bytes=65536-", "bytes=70000-")  # what the client passed on of the first part


def test_a_connection_that_brings_little_is_not_tried_again(hub):
    hub.drop_after[WEIGHTS] = 100
    assert "run the command again to resume" in refused(CheckpointError)
    assert hub.fetched("ss_generator.ckpt") == [None]


def test_a_second_call_resumes_within_the_file(hub, monkeypatch, caplog):
    caplog.set_level("INFO", "fast_sam3d")
    append = remote_file._append

    def stopped(listing, file, part):
        if file.path == WEIGHTS:
            part.write_bytes(hub.files[WEIGHTS][:60_000])
            raise KeyboardInterrupt
        append(listing, file, part)

    with monkeypatch.context() as patch:
        patch.setattr(remote_file, "_append", stopped)
        with pytest.raises(KeyboardInterrupt):
            download_weights(TARGET)
    assert not TARGET.exists()
    with pytest.raises(CheckpointError, match="no checkpoint 'hf'"):
        find_checkpoint("hf")
    hub.requests.clear()
    download_weights(TARGET)
    assert "resuming: 1 of 11 files left" in caplog.text
    assert [entry for entry in hub.requests if "/resolve/" in entry[0]] == [
        (f"/facebook/sam-3d-objects/resolve/{COMMIT}/{WEIGHTS}", "bytes=60000-")
    ]
    assert contents(TARGET) == inner(hub)


def partial_file(hub: FakeHub, content: bytes) -> None:
    path = unfinished_folder(TARGET) / COMMIT / (WEIGHTS + ".part")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)


@pytest.mark.parametrize("extra", [0, 1])
def test_a_complete_or_too_long_partial_file(hub, extra):
    partial_file(hub, hub.files[WEIGHTS] + bytes(extra))
    download_weights(TARGET)
    assert hub.fetched("ss_generator.ckpt") == [None] * extra
    assert contents(TARGET) == inner(hub)


def test_a_corrupt_file_is_downloaded_again(hub):
    hub.damage = {WEIGHTS}
    assert "ss_generator.ckpt is corrupt" in refused(CheckpointError)
    hub.damage = set()
    download_weights(TARGET)
    assert contents(TARGET) == inner(hub)


def test_files_of_another_commit_are_removed(hub):
    left = unfinished_folder(TARGET) / ("f" * 40) / "checkpoints" / "other.ckpt"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"old")
    hub.files["checkpoints/ss_decoder.yaml"] = b"_target_: os.system\n"
    refused(CheckpointError)
    assert sorted({p.name for p in unfinished_folder(TARGET).iterdir()} - {".lock"}) == [COMMIT]


def test_an_interrupt_reports_that_the_command_resumes(hub, monkeypatch, capsys):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(remote_file, "_append", interrupted)
    code, _, err = run(capsys, "download")
    assert code == 130
    assert ".hf.partial" in err
    assert "no unfinished file" not in err


# --------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize("status", [401, 403])
def test_gated_repository_without_login(hub, capsys, status):
    hub.refusal = (status, "GatedRepo", "Access to model facebook/sam-3d-objects is restricted.")
    code, _, err = run(capsys, "download")
    assert code == 2
    for word in ("licence", f"{hub.address}/facebook/sam-3d-objects", "hf auth login", "HF_TOKEN", "not logged in"):
        assert word in err
    assert not Path("checkpoints").exists()


def test_gated_repository_without_access(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.refusal = (403, "GatedRepo", "You are not in the authorized list.")
    text = refused(CheckpointError)
    assert "your token has no access" in text
    assert "hf_secret" not in text


def test_gated_repository_on_a_second_call_is_an_error(hub):
    partial_file(hub, hub.files[WEIGHTS][:1000])
    hub.refusal = (403, "GatedRepo", "")
    assert "gated" in refused(CheckpointError)


def test_invalid_token(hub):
    hub.refusal = (401, "Other", "Invalid credentials in Authorization header")
    assert "does not accept your token" in refused(CheckpointError)


def test_forbidden_for_another_reason(hub):
    hub.refusal = (403, "Other", "Please enable access to public gated repositories")
    text = refused(CheckpointError)
    assert "forbids the download" in text
    assert "enable access to public gated repositories" in text


def test_missing_repository(hub, capsys):
    hub.missing = True
    code, _, err = run(capsys, "download", "--repo", "facebook/nothing")
    assert code == 2
    assert "no repository 'facebook/nothing'" in err


def test_an_invalid_name(hub):
    assert "write owner/name" in refused(CheckpointError, repository="a b/c/d")


def test_missing_revision(hub):
    assert "no revision 'v9'" in refused(CheckpointError, revision="v9")


def test_repository_with_other_content(hub):
    hub.files = {"model.safetensors": b"x", "config.json": b"{}"}
    assert "has no pipeline.yaml" in refused(CheckpointError)


def test_no_network(hub, monkeypatch):
    hub.__exit__()
    text = refused(CheckpointError)
    assert "check the network" in text
    assert "run the command again" in text
    assert "--tag PATH" in text
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    text = refused(CheckpointError)
    assert "HF_HUB_OFFLINE" in text and "--tag PATH" in text


def test_untrusted_yaml_is_not_installed(hub):
    hub.files["checkpoints/ss_decoder.yaml"] = b"_target_: os.system\n"
    assert "'os.system'" in refused(CheckpointError)


# ------------------------------------------------------------------------------------------------------------ disk


@pytest.fixture
def logged_in(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens = {"hf_secret"}
    monkeypatch.setenv("HF_TOKEN", "hf_secret")


def test_the_plan_is_printed_before_the_download(hub, logged_in, capsys):
    code, out, _ = run(capsys, "download")
    assert code == 0
    for name, content in inner(hub).items():
        assert re.search(rf"^  {re.escape(name)} +{remote_file.human(len(content))}$", out, re.MULTILINE), name
    total = sum(map(len, inner(hub).values()))
    assert re.search(
        rf"^  {len(inner(hub))} files +{remote_file.human(total)}  {remote_file.human(total)} to download$",
        out,
        re.MULTILINE,
    )
    assert re.search(rf"^into +{re.escape(str(TARGET.absolute()))} \([0-9.]+ GB free\)$", out, re.MULTILINE)
    assert re.search(r"^login +as someone$", out, re.MULTILINE)
    assert re.search(r"^access +granted$", out, re.MULTILINE)


def test_a_dry_run_writes_nothing(hub, logged_in, capsys):
    assert run(capsys, "download", "--dry-run")[0] == 0
    assert list(Path().iterdir()) == []
    assert not any("/resolve/" in path for path, _ in hub.requests)


def test_a_dry_run_shows_what_an_earlier_download_left(hub, logged_in, capsys):
    partial_file(hub, hub.files[WEIGHTS][:100_000])
    (unfinished_folder(TARGET) / COMMIT / "checkpoints" / "pipeline.yaml").write_bytes(
        hub.files["checkpoints/pipeline.yaml"]
    )
    _, out, _ = run(capsys, "download", "--dry-run")
    left = sum(map(len, inner(hub).values())) - 100_000 - len(hub.files["checkpoints/pipeline.yaml"])
    assert f"{remote_file.human(left)} to download" in out
    assert re.search(r"pipeline\.yaml +[0-9.]+ kB +here", out)


@pytest.mark.parametrize(
    ("token", "login", "access"),
    [
        (None, "none (`hf auth login`, or HF_TOKEN)", "is gated and you are not logged in"),
        ("hf_old", "the hub does not accept it", "the account of your token has no access"),
    ],
)
def test_a_dry_run_without_access(hub, monkeypatch, capsys, token, login, access):
    hub.tokens = {"hf_secret"}
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    code, out, _ = run(capsys, "download", "--dry-run")
    assert code == 1
    assert login in out and access in out
    code, out, err = run(capsys, "download")
    assert code == 2
    assert access in err


def test_a_login_that_cannot_be_checked(hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.answers["/api/whoami-v2"] = Raw(b"{}")
    _, out, _ = run(capsys, "download", "--dry-run")
    assert "a token was found, and the hub did not say whose it is" in out
    assert "hf_secret" not in out


def test_a_complete_copy_in_the_clients_cache_is_named(hub, monkeypatch, capsys):
    assert huggingface_hub.hf_hub_download("facebook/sam-3d-objects", "checkpoints/pipeline.yaml")
    assert "cached" not in run(capsys, "download", "--dry-run")[1]
    for name in inner(hub):
        folder = Path(huggingface_hub.hf_hub_download("facebook/sam-3d-objects", f"checkpoints/{name}")).parent
    _, out, _ = run(capsys, "download", "--dry-run")
    assert f"--tag {folder} uses it without a download" in out
    assert find_checkpoint(folder).kind == "sam3d"


def test_too_little_space_is_an_error_before_the_download(hub, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 9, 1000))
    text = refused(OutputError)
    assert "0.2 MB are missing" in text
    assert not any("/resolve/" in path for path, _ in hub.requests)


def test_full_disk(hub, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(remote_file, "_append", full)
    assert "is full" in refused(OutputError)


def test_a_target_with_other_content(hub):
    TARGET.mkdir(parents=True)
    (TARGET / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="move it away"):
        download_weights(TARGET)
    assert contents(TARGET) == {"notes.txt": b"mine"}
    shutil.rmtree(TARGET)
    TARGET.write_text("a file")
    with pytest.raises(OutputError, match="move it away"):
        download_weights(TARGET)
    with pytest.raises(OutputError, match="cannot be written"):
        download_weights(TARGET / "below")


def test_unexpected_errors_are_raised_unchanged(hub, monkeypatch):
    def broken(*arguments, **options):
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(remote_file, "_append", broken)
    with pytest.raises(KeyError):
        download_weights(TARGET)
