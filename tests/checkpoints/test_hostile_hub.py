"""Answers that no hub gives: captive portals, names and hashes of other forms, endless and compressed bodies."""

from __future__ import annotations

import gzip
import itertools
import json
import time
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from fast_sam3d.checkpoints import transfer
from fast_sam3d.checkpoints.download import download_weights, unfinished_folder
from fast_sam3d.errors import CheckpointError, OutputError
from tests.checkpoints.test_download import TARGET, WEIGHTS, contents, inner, partial_file, refused
from tests.fake_hub import COMMIT, FakeHub, Raw
from tests.stand_in import files, run

LISTING = "/api/models/facebook/sam-3d-objects"
PAGE = b"<!DOCTYPE html><html>Please log in</html>"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "ANSWER_SECONDS", 0.5)


def slowly(*pieces: bytes) -> Iterator[bytes]:
    for piece in pieces:
        yield piece
        time.sleep(0.1)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Raw(PAGE, headers={"Content-Type": "text/html"}), "a web page .* log in to the network in a browser"),
        (Raw(b""), "something that is no JSON"),
        (Raw(b"\xff\xfe\x00"), "something that is no JSON"),
        (Raw(DEEP), "something that is no JSON"),
        (Raw(b"9" * 10_000), "JSON"),
        (Raw(b"null"), "not that of a hub"),
        (Raw(b"[]"), "not that of a hub"),
        (Raw(b"{}"), "not that of a hub"),
        (Raw(json.dumps({"sha": COMMIT, "siblings": None}).encode()), "not that of a hub"),
        (Raw(json.dumps({"sha": COMMIT, "siblings": ["a", 1]}).encode()), "not that of a hub"),
        (Raw(itertools.repeat(b" " * 2**16)), "more than 4 MB"),
        (Raw(gzip.compress(b" " * 2**20), headers={"Content-Encoding": "gzip"}), "compressed form"),
        (Raw(b"{}", status=204), "status 204"),
        (Raw(b"{}", status=300), "status 300"),
        (Raw(b"", status=302, headers={"Location": LISTING}), "redirects in a circle"),
        (Raw(b"", status=302, headers={"Location": "http://[::1"}), "redirects to no address"),
        (Raw(b"", status=302, headers={"Location": "file:///etc/passwd"}), "without encryption"),
        (Raw(b"", status=404), "answered with status 404"),
        (Raw(b"", status=511), "the network wants a login"),
        (Raw(itertools.repeat(b"x" * 2**16), status=500), "unavailable"),
        (Raw(b"", status=403, headers={"X-Error-Message": "no\x1b[2J" + "o" * 9000}), r"no\?\[2Jo{1,200}\)"),
        (Raw(b"{}", pause=1.5), "sent too little in 0.5 seconds"),
        (Raw(slowly(*[b" "] * 20)), "sent too little in 0.5 seconds"),
    ],
)
def test_answers_instead_of_the_listing(hub, answer, words):
    hub.answers[LISTING] = answer
    with pytest.raises(CheckpointError, match=words) as caught:
        download_weights(TARGET)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert files(Path()) == set()


@pytest.mark.parametrize(
    "commit", ["../../../outside", "/tmp", "main", "", None, 7, COMMIT.upper(), COMMIT + "\n", COMMIT[:-1], [COMMIT]]
)
def test_a_commit_that_is_no_hash(hub, commit):
    hub.listing["sha"] = commit
    assert "is not of the form [0-9a-f]{40}" in refused(CheckpointError)
    assert files(Path()) == set()


@pytest.mark.parametrize(
    "entry",
    [
        *({"size": size} for size in (None, "2 MB", -1, 2**43, 10**400, 1.5, True, float("inf"), [])),
        *({"lfs": {"sha256": value}} for value in (None, "", "a" * 63, "../x", 5)),
        *({"lfs": value} for value in (5, [1], "x", {})),
        *({"lfs": None, "blobId": value} for value in ("", 5, "z" * 40)),
        {"rfilename": None},
    ],
)
def test_an_entry_of_another_form(hub, entry):
    hub.entry = entry
    refused(CheckpointError)
    assert files(Path()) == set()


@pytest.mark.parametrize(
    "name",
    [
        "../up", "../../../up", "a/../../b", "/abs", "a//b", "a/", "./b", "nul\0l",
        "line\nfeed", "esc\x1b[2J", "back\\slash",
        "C:\\x", "c:x", "x" * 300, "a/" * 30 + "b", "pipeline.yaml/below", "PIPELINE.YAML", "ss_generator.ckpt.part",
        "\ud800", "\u202eabc", "dot.", "space ",
    ],
)  # fmt: skip
def test_a_name_that_is_no_file_in_the_folder(hub, name):
    hub.files["checkpoints/" + name] = b"a: 1"
    refused(CheckpointError)
    assert files(Path()) == set()


def test_only_bounded_requests_are_sent(hub):
    download_weights(TARGET)
    others = [path for path, _ in hub.requests if "/resolve/" not in path and path != LISTING]
    assert others == []


def test_more_files_than_a_checkpoint_has(hub):
    hub.files |= {f"checkpoints/{number}": b"" for number in range(1000)}
    assert "files" in refused(CheckpointError)


# --------------------------------------------------------------------------------------------------- a file's answer


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Raw(PAGE), "maybe a page of the network"),
        (Raw(PAGE, close=True), "only a part"),
        (Raw(itertools.repeat(b"x" * 2**16)), "more than the .* bytes"),
        (Raw(gzip.compress(bytes(2**20)), headers={"Content-Encoding": "gzip"}), "compressed form"),
        (Raw(b"x", status=206, headers={"Content-Range": "bytes 5-9/10"}), "something else"),
        (Raw(b"", status=416), "status 416"),
        (Raw(itertools.chain([b"x" * 900], slowly(*[b"x"] * 20))), "sent too little in 0.5 seconds"),
    ],
)
def test_answers_instead_of_a_file(hub, answer, words):
    # Access is asked for by the smallest file.
    hub.answers[WEIGHTS] = answer
    with pytest.raises(CheckpointError, match=words):
        download_weights(TARGET)
    assert not TARGET.exists()
    part = unfinished_folder(TARGET) / COMMIT / (WEIGHTS + ".part")
    assert not part.exists() or part.stat().st_size <= len(hub.files[WEIGHTS])
    del hub.answers[WEIGHTS]
    if part.exists():
        with pytest.raises(CheckpointError, match="is corrupt"):
            download_weights(TARGET)
    download_weights(TARGET)
    assert contents(TARGET) == inner(hub)


@pytest.mark.parametrize("answer", [Raw(PAGE), Raw(PAGE, close=True), Raw(PAGE, status=206)])
def test_a_page_of_the_network_leaves_the_incomplete_file(hub, answer):
    partial_file(hub, hub.files[WEIGHTS][:60_000])
    hub.answers[WEIGHTS] = answer
    assert "something else than ss_generator.ckpt" in refused(CheckpointError)
    del hub.answers[WEIGHTS]
    hub.requests.clear()
    download_weights(TARGET)
    assert hub.fetched("ss_generator.ckpt") == ["bytes=60000-"]
    assert contents(TARGET) == inner(hub)


def test_the_login_is_not_sent_to_another_server(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.tokens = {"hf_secret"}
    with FakeHub({}) as other:
        other.answers[WEIGHTS] = Raw(hub.files[WEIGHTS])
        hub.answers[WEIGHTS] = Raw(status=302, headers={"Location": f"{other.address}/{WEIGHTS}"})
        download_weights(TARGET)
    assert contents(TARGET) == inner(hub)
    assert other.logins == {None}
    assert hub.logins == {"Bearer hf_secret"}


def test_a_small_file_is_compared_with_its_hash(hub):
    hub.damage = {"checkpoints/ss_decoder.yaml"}
    assert "ss_decoder.yaml is corrupt" in refused(CheckpointError)


def test_complete_files_are_compared_again_and_others_removed(hub, caplog):
    hub.damage = {WEIGHTS}
    refused(CheckpointError)
    hub.damage = set()
    folder = unfinished_folder(TARGET) / COMMIT / "checkpoints"
    damaged = folder / "ss_decoder.yaml"
    damaged.write_bytes(damaged.read_bytes()[::-1])
    (folder / "more").mkdir()
    (folder / "more" / "planted.yaml").write_bytes(b"a: 1")
    outside = Path("outside")
    outside.mkdir()
    (folder / "link").symlink_to(outside.absolute())
    (unfinished_folder(TARGET) / "file").write_bytes(b"")
    download_weights(TARGET)
    assert "ss_decoder.yaml is damaged: downloading it again" in caplog.text
    assert contents(TARGET) == inner(hub)
    assert not (TARGET / "link").exists() and outside.is_dir()


# --------------------------------------------------------------------------------------------------- the user's values


@pytest.mark.parametrize("target", ["", ".", "..", "/", "a\0b", "x" * 300, "~nobody-of-that-name/x"])
def test_targets_that_are_no_new_folder(hub, capsys, target):
    code, _, err = run(capsys, "download", "--output_dir", target)
    assert code == 2
    assert "--output_dir" in err and "Traceback" not in err
    assert hub.requests == [] and files(Path()) == set()


def test_a_link_as_the_target_is_filled_where_it_leads(hub):
    Path("disk").mkdir()
    TARGET.parent.mkdir()
    TARGET.symlink_to(Path("disk").absolute())
    download_weights(TARGET)
    assert contents(Path("disk")) == inner(hub)
    assert TARGET.is_symlink()


def test_a_circle_of_links_as_the_target(hub):
    Path("loop").symlink_to("loop")
    with pytest.raises(OutputError):
        download_weights(Path("loop"))


@pytest.mark.parametrize("revision", ["", "../..", "a\0b", "a b", "-x", "x" * 300, "a\nb", "/etc"])
def test_revisions_of_another_form(hub, revision):
    assert "is not a revision" in refused(CheckpointError, revision=revision)
    assert hub.requests == []


@pytest.mark.parametrize("token", ["hf_\u00fc", "hf_a\x00b"])
def test_a_token_of_other_characters(hub, monkeypatch, token):
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    assert "characters that no token has" in refused(CheckpointError)


def test_the_owner_of_a_token_is_a_name(hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.answers["/api/whoami-v2"] = Raw(b'{"name": "\\u001b[2Jroot"}')
    assert "did not say whose it is" in run(capsys, "download", "--dry-run")[1]


def test_two_downloads_at_once(hub):
    from filelock import FileLock

    unfinished_folder(TARGET).mkdir(parents=True)
    with FileLock(unfinished_folder(TARGET) / ".lock"):
        assert "another process" in refused(OutputError)
    download_weights(TARGET)


def test_sessions_of_older_clients(hub, monkeypatch):
    """Those of huggingface-hub below 1.0 are of requests."""
    requests = pytest.importorskip("requests")
    monkeypatch.setattr("huggingface_hub.utils.get_session", requests.Session)
    hub.drop_after[WEIGHTS] = 70_000
    download_weights(TARGET)
    assert contents(TARGET) == inner(hub)
    assert len(hub.fetched("ss_generator.ckpt")) == 2
