"""The classes of malformed input: what is tried, and on which reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from hypothesis import strategies as st

from tests.fuzz import hub, pictures, settings, shapes, texts, weights


def _nothing(base: Path) -> None:
    base.mkdir()


class Class(NamedTuple):
    """One class.

    Args:
        cases: literals, which a report can print and read again.
        run: reads a case, in a folder of its own, beside one that is shared; raises FastSam3dError where the project
            refuses it, and anything else, or AcceptedDamageError, where it fails. What is below folder / "output" after
            a refusal counts as partial output.
        prepare: fills the shared folder.
        short: number of cases in the test suite.
    """

    cases: st.SearchStrategy[Any]
    run: Callable[[Any, Path, Path], None]
    prepare: Callable[[Path], None] = _nothing
    short: int = 60


CLASSES = {
    "pictures": Class(pictures.files(pictures.PICTURES), pictures.read_damaged_picture),
    "masks": Class(pictures.files(pictures.MASKS), pictures.read_damaged_mask),
    "pointmaps": Class(pictures.files(pictures.POINTMAPS), pictures.read_damaged_pointmap),
    "arrays": Class(pictures.ARRAYS, pictures.read_odd_array),
    "shapes": Class(shapes.CASES, shapes.run_shape, short=6),
    "annotations": Class(texts.JSON, texts.read_annotations),
    "yaml": Class(texts.YAML, texts.read_yaml, texts.prepare),
    "checkpoints": Class(weights.CASES, weights.load_damaged, weights.prepare, short=24),
    "hub": Class(hub.CASES, hub.download_from_it, hub.prepare, short=30),
    "overrides": Class(settings.OVERRIDES, settings.compose_overrides, short=30),
    "methods": Class(settings.METHODS, settings.accelerate_oddly, short=10),
    "commands": Class(settings.COMMANDS, settings.call_command, short=30),
}
