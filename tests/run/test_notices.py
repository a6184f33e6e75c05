"""What a person has to know of a result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from fast_sam3d.checkpoints.load import Checkpoint, locate_checkpoint
from fast_sam3d.run.notices import KNOWN_OBJECTS, RANDOM_WEIGHTS, checkpoint_notices, log_checkpoint, notices_of


def test_the_embedded_model_is_announced_where_it_is_chosen_by_default(caplog, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    chosen = Checkpoint("mini", Path("mini"), "mini", "so", by_default=True)
    (notice,) = checkpoint_notices(chosen)
    assert KNOWN_OBJECTS in notice and "embedded model" in notice
    log_checkpoint(chosen)
    assert notice in caplog.text
    assert checkpoint_notices(locate_checkpoint("mini")) == ()
    assert checkpoint_notices(Checkpoint("synthetic", Path("s"), "synthetic", "so", "native")) == (RANDOM_WEIGHTS,)


def test_notices_of_input_follow_those_of_the_checkpoint():
    given = SimpleNamespace(name="cup_0", notices=("much of the alpha is faint",))
    assert notices_of(given, None, ("about",)) == ("about", "much of the alpha is faint")
