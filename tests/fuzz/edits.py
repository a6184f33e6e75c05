"""Damage to the bytes of a valid file, as short lists of edits that a report can print."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x7FFFFFFFFFFFFFFF, 2**64 - 1)
_PLACE = st.one_of(
    st.floats(0, 1, exclude_max=True), st.integers(0, 64)
)  # a share of the file, or a byte near its start

EDITS = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), _PLACE, st.integers(0, 255)),
        st.tuples(st.just("bit"), _PLACE, st.integers(0, 7)),
        st.tuples(st.just("cut"), _PLACE),
        st.tuples(st.just("number"), _PLACE, st.sampled_from(_EXTREMES), st.sampled_from([1, 2, 4, 8]), st.booleans()),
        st.tuples(st.just("insert"), _PLACE, st.binary(min_size=1, max_size=8)),
        st.tuples(st.just("repeat"), _PLACE, st.integers(1, 64), st.sampled_from([1, 3, 1000, 100_000])),
        st.tuples(st.just("remove"), _PLACE, st.integers(1, 64)),
        st.tuples(st.just("zero"), _PLACE, st.integers(1, 64)),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


def edited(content: bytes, edits: list[tuple[Any, ...]]) -> bytes:
    """The content after all edits."""
    for kind, place, *more in edits:
        at = min(int(place * len(content)) if isinstance(place, float) else place, max(len(content) - 1, 0))
        head, tail = content[:at], content[at:]
        if kind == "cut":
            content = head
        elif kind == "byte":
            content = head + bytes([more[0]]) + tail[1:]
        elif kind == "bit":
            content = head + bytes([(tail[0] if tail else 0) ^ 1 << more[0]]) + tail[1:]
        elif kind == "number":
            value, width, big = more
            content = head + (value % 256**width).to_bytes(width, "big" if big else "little") + tail[width:]
        elif kind == "insert":
            content = head + more[0] + tail
        elif kind == "repeat":
            content = head + tail[: more[0]] * more[1] + tail[more[0] :]
        elif kind == "remove":
            content = head + tail[more[0] :]
        elif kind == "zero":
            content = head + bytes(len(tail[: more[0]])) + tail[more[0] :]
    return content
