"""A hub whose answers are damaged, odd or hostile."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from unittest import mock

from hypothesis import strategies as st

from tests.fuzz.child import AcceptedDamageError
from tests.fuzz.edits import EDITS, edited

_NAMES = st.sampled_from([
    "../outside", "/outside", "checkpoints/../../outside", "checkpoints/a\0b", "checkpoints/a\nb", "checkpoints//x", "C:\\outside",
    "checkpoints/\u202e", "checkpoints/" + "x" * 300, "", ".", "..", "checkpoints", "checkpoints/pipeline.yaml/", "checkpoints\\x",
    "checkpoints/.hidden", "checkpoints/con", "checkpoints/x " , "checkpoints/😀",
])  # fmt: skip
_ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-1, 3), st.floats(), st.text(max_size=4), _NAMES,
    st.sampled_from([10**15, 10**30, -(10**9), "many", [], {}, [[]], {"size": "many"}, {"sha256": "zz", "size": 1}, "0" * 64, "../" * 9]),
)  # fmt: skip
_PLACES = ("sam-3d-objects", "revision/main", "pipeline.yaml", "ss_generator.yaml", "ss_generator.ckpt", "whoami-v2")
_HEADERS = st.dictionaries(
    st.sampled_from(["Content-Type", "Content-Encoding", "Location", "X-Repo-Commit", "ETag", "Content-Range", "X-Error-Code", "Retry-After"]),
    st.sampled_from(["gzip", "deflate", "text/html", "application/json", "bytes 0-9/10", "bytes x", "../../x", "/", "GatedRepo", "9999999", ""]),
    max_size=2,
)  # fmt: skip
_BODIES = st.one_of(
    st.sampled_from(["html", "empty", "zeros", "gzip of zeros", "[" * 100_000, "null", "1", "NaN", "{}", "[]", '{"siblings": 1}', '{"sha": 7}']),
    st.binary(max_size=20), st.tuples(st.just("listing"), EDITS),
)  # fmt: skip
CASES = st.one_of(
    st.tuples(st.just("listing"), st.sampled_from(["sha", "siblings", "id", "gated", "private"]), _ODD),
    st.tuples(st.just("entry"), st.sampled_from(["rfilename", "size", "lfs", "blobId"]), _ODD),
    st.tuples(st.just("answer"), st.sampled_from(_PLACES), _BODIES, st.sampled_from([200, 200, 200, 206, 302, 401, 404, 416, 429, 500]), _HEADERS, st.booleans()),
    st.tuples(st.just("cut"), st.integers(0, 30), st.integers(0, 3000)),
    st.tuples(st.just("damage"), st.integers(0, 30)),
)  # fmt: skip
"""(what is odd, where, how)."""


def prepare(base: Path) -> None:
    """A checkpoint that the hub serves, and a hub client without a login that asks this machine."""
    import logging

    import huggingface_hub.file_download
    from huggingface_hub import constants

    from tests.native.checkpoint import write_checkpoint

    (base / "served").mkdir(parents=True)
    write_checkpoint(base / "served")
    for name in ("HF_TOKEN_PATH", "HF_HUB_CACHE"):
        setattr(constants, name, str(base / name))
    logging.raiseExceptions = False
    logging.disable(logging.CRITICAL)
    assert huggingface_hub.file_download


def download_from_it(case: Any, folder: Path, base: Path) -> None:
    """The download is complete and equal, or refused with nothing outside of its own folder."""
    from huggingface_hub import constants

    from fast_sam3d.checkpoints.download import download_weights
    from tests.fake_hub import FakeHub

    served = {path.name: path.read_bytes() for path in sorted((base / "served").iterdir())}
    hub = FakeHub({f"checkpoints/{name}": content for name, content in served.items()} | {"README.md": b"card"})
    what, *how = case
    names = sorted(hub.files)
    if what == "listing":
        hub.listing = {how[0]: how[1]}
    elif what == "entry":
        hub.entry = {how[0]: how[1]}
    elif what == "answer":
        hub.answers = {how[0]: _answer(hub, *how[1:])}
    elif what == "cut":
        hub.drop_after = {names[how[0] % len(names)]: how[1]}
    else:
        hub.damage = {names[how[0] % len(names)]}
    target = folder / "inside" / "hf"
    target.parent.mkdir()
    before = set(folder.parent.rglob("*"))
    try:
        with hub:
            template = hub.address + "/{repo_id}/resolve/{revision}/{filename}"
            with mock.patch.object(constants, "ENDPOINT", hub.address), mock.patch.object(
                constants, "HUGGINGFACE_CO_URL_TEMPLATE", template
            ), mock.patch("huggingface_hub.file_download.HUGGINGFACE_CO_URL_TEMPLATE", template, create=True):  # fmt: skip
                download_weights(target)
    except BaseException:
        assert not target.exists(), "a refused download left its folder"
        raise
    finally:
        new = set(folder.parent.rglob("*")) - before
        outside = [path for path in new if folder / "inside" not in path.parents and base not in path.parents]
        assert not outside, f"written outside of the folder: {outside}"
    for name, content in served.items():
        if (target / name).read_bytes() != content:
            raise AcceptedDamageError(f"{name} is another file than the hub's")


def _answer(hub: Any, body: Any, status: int, headers: dict[str, str], close: bool) -> Any:
    from tests.fake_hub import COMMIT, Raw

    if isinstance(body, tuple):
        listing = {
            "id": hub.repository,
            "sha": COMMIT,
            "siblings": [{"rfilename": name, "size": 1} for name in hub.files],
        }
        body = edited(json.dumps(listing).encode(), body[1])
    elif isinstance(body, str):
        body = {
            "html": b"<!doctype html><title>Sign in to the network</title>" * 20, "empty": b"",
            "zeros": (bytes(2**20) for _ in range(4000)), "gzip of zeros": gzip.compress(bytes(2**28), 9),
        }.get(body, body.encode() if isinstance(body, str) else body)  # fmt: skip
        if isinstance(body, bytes) and body[:2] == b"\x1f\x8b":
            headers = {**headers, "Content-Encoding": "gzip"}
    return Raw(body, status, headers, close or not isinstance(body, bytes))
