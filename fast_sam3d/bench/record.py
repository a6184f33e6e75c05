"""Rows of an evaluation on disk, written object by object, so that interrupted runs resume."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fast_sam3d.documents import parse_json
from fast_sam3d.errors import OutputError
from fast_sam3d.model.weights import weights_digest
from fast_sam3d.outputs.digests import file_digest, folder_identity

if TYPE_CHECKING:
    from fast_sam3d.bench.objects import Identified
    from fast_sam3d.checkpoints.load import Checkpoint

Rows = list[dict[str, Any]]
Key = int | str
"""One measured unit: the seed of a held-out object, or an object's name with a seed."""


class Record:
    """A JSON-lines file with one line per unit.

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
        others = [path for path in folder.glob("rows-*.jsonl") if path != self.path]
        if others and not fresh and not self.path.exists():
            raise OutputError(
                f"{folder} holds measurements of other settings, weights, pictures or code: add --overwrite to replace"
                " them, or choose another --output_dir"
            )
        if not fresh and self.path.exists():
            self.rows = dict(_read(self.path))
        # Rewrite it, because the last line may be incomplete after a kill.
        temporary = self.path.with_suffix(".tmp")
        try:
            temporary.write_text("".join(_line(key, rows) for key, rows in self.rows.items()))
            temporary.replace(self.path)
            for path in others if fresh else ():
                path.unlink()
        except OSError as error:
            raise OutputError(f"{self.path} cannot be written ({error.strerror}): choose another folder") from error

    def add(self, key: Key, rows: Rows) -> None:
        """Write the rows of one unit to disk; they replace earlier rows of the same key."""
        with self.path.open("a") as file:
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
    """Write a text file atomically."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _line(key: Key, rows: Rows) -> str:
    return json.dumps([key, without_nan(rows)], allow_nan=False) + "\n"


def _read(path: Path) -> Iterable[tuple[Key, Rows]]:
    """The complete lines; an incomplete or a damaged one is measured again."""
    for line in path.read_bytes().splitlines():
        with suppress(ValueError, TypeError, AttributeError):
            key, rows = parse_json(line, str(path))
            # Only numbers can be null, see `without_nan`.
            hash(key)
            yield key, [{k: math.nan if v is None else v for k, v in row.items()} for row in rows]
