"""Rows of an evaluation on disk, written object by object, so that interrupted runs resume."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.documents import parse_json
from fast_sam3d.documents.files import read_bytes
from fast_sam3d.errors import OutputError
from fast_sam3d.model.weights import weights_digest
from fast_sam3d.outputs.digests import file_digest, folder_identity, text_digest
from fast_sam3d.outputs.files import atomic_write
from fast_sam3d.outputs.folder import clear_unfinished, writing

if TYPE_CHECKING:
    from fast_sam3d.bench.objects import Identified
    from fast_sam3d.checkpoints.load import Checkpoint

log = logging.getLogger(__name__)

Rows = list[dict[str, Any]]
Key = int | str
"""One measured unit: the seed of a held-out object, or an object's name with a seed."""


MOST_BYTES = 1 << 30
"""Of a record that is read; the largest so far has 1 MB."""


class Record:
    """A JSON-lines file with one line per unit: its key, its rows, and a digest of both.

    Args:
        folder: of the evaluation.
        settings: what the rows depend on; hashed into the file name.
        fresh: discard existing rows, also those of other settings.

    Attributes:
        path: of the file.
        rows: by key, existing and added ones.

    Raises:
        OutputError: the folder holds rows of other settings; the file cannot be written.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any], fresh: bool = False) -> None:
        text = json.dumps(settings, sort_keys=True, allow_nan=False)
        self.path = folder / f"rows-{hashlib.sha256(text.encode()).hexdigest()[:12]}.jsonl"
        self.rows: dict[Key, Rows] = {}
        others = [path for path in folder.glob("rows-*.jsonl") if path != self.path and path.lstat().st_size]
        if others and not fresh and not self.path.exists():
            raise OutputError(
                f"{folder} holds measurements of other settings, weights, pictures or code: add --overwrite to replace"
                " them, or choose another --output_dir"
            )
        if not fresh and self.path.exists():
            self.rows = dict(_read(self.path))
        # After a kill there may be unfinished files, and an incomplete last line.
        clear_unfinished(folder)
        write_text(self.path, "".join(_line(key, rows) for key, rows in self.rows.items()))
        with writing(folder):
            for path in others if fresh else ():
                path.unlink()

    def add(self, key: Key, rows: Rows) -> None:
        """Write the rows of one unit to disk; they replace earlier rows of the same key.

        Raises:
            OutputError: the disk is full, or the file was removed in the meantime.
        """
        # Not mode "a", which would create a file without the earlier rows.
        with writing(self.path), self.path.open("r+", encoding="utf-8") as file:
            file.seek(0, io.SEEK_END)
            file.write(_line(key, rows))
        self.rows[key] = rows


def open_record(
    folder: Path, checkpoint: Checkpoint, objects: Identified, settings: Mapping[str, Any], fresh: bool
) -> Record:
    """The rows that weights, this code, objects and `settings`, which default=str makes JSON, gave earlier."""
    import torch

    weights = checkpoint.folder
    known = {
        "checkpoint": weights_digest(weights) if checkpoint.kind == "mini" else folder_identity(weights),
        **({"model": str(weights)} if checkpoint.kind == "trellis" else {}),
        "code": code_digest(),
        "torch": torch.__version__,
        "objects": objects.identity(),
        **settings,
    }
    return Record(folder, json.loads(json.dumps(known, default=str)), fresh)


def without_nan(tree: Any) -> Any:
    """Convert to strict JSON types: None for numbers that are not finite, lists for tuples."""
    if isinstance(tree, Mapping):
        return {key: without_nan(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [without_nan(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


def code_digest() -> str:
    """SHA-256 of this package's code."""
    import fast_sam3d

    package = Path(fast_sam3d.__file__).parent
    return file_digest(package.rglob("*.py"), package)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, with the union of their columns; atomic."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file; atomic.

    Raises:
        OutputError: the disk is full, or the folder was removed in the meantime.
    """
    with writing(path), atomic_write(path) as file:
        file.write(text.encode())


def _line(key: Key, rows: Rows) -> str:
    plain = json.loads(json.dumps([key, without_nan(rows)], allow_nan=False))
    return json.dumps([*plain, text_digest(json.dumps(plain))]) + "\n"


def _read(path: Path) -> Iterable[tuple[Key, Rows]]:
    damaged = 0
    content = read_bytes(path, MOST_BYTES, str(path), OutputError, "add --overwrite to measure again")
    for line in content.splitlines():
        try:
            key, rows, digest = parse_json(line, str(path))
            whole = digest == text_digest(json.dumps([key, rows]))
        except (ValueError, TypeError):
            whole = False
        if not whole:
            damaged += 1
            continue
        # Only numbers can be null, see `without_nan`.
        yield key, [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]
    if damaged:
        log.warning("%d of the lines of %s are incomplete or have been changed, and are measured again", damaged, path)
