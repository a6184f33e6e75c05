"""What a person has to know of a result."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

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
    run = SimpleNamespace(
        runtime="stock", result={"layout_refinement": {"mask_iou_before": 0.9, "mask_iou_after": None}}
    )
    assert notices_of(given, run, ("about",)) == ("about", "much of the alpha is faint")


@pytest.mark.parametrize(("after", "remarks"), [(0.32, 1), (0.8, 0), (None, 1)])
def test_a_badly_covered_mask_is_remarked(after, remarks, caplog):
    given = SimpleNamespace(name="cup_0", notices=())
    facts = {"mask_iou_before": 0.3, "mask_iou_after": after}
    found = notices_of(given, SimpleNamespace(runtime="native", result={"layout_refinement": facts}))
    assert len(found) == remarks and all("covers the mask badly (IoU 0.3" in notice for notice in found)
    assert caplog.text.count("cup_0: its silhouette") == remarks


@pytest.mark.parametrize(("distance", "known"), [(0.0, True), (0.2, False)])
def test_the_embedded_model_is_out_of_distribution_where_picture_or_points_say_so(distance, known):
    """A wall in flat colours, reconstructed as a wall at some distance."""
    y, x = np.mgrid[1:-1:64j, 1:-1:64j]
    wall = np.stack([x, y, np.full_like(x, 4)], -1).astype(np.float32)
    mask = (np.abs(x) < 0.6) & (np.abs(y) < 0.7)
    image = np.where(mask[..., None], (100 + 80 * x)[..., None] * [1, 0.4, 0.2], 200).astype(np.uint8)
    vertices = wall[mask] + [0, 0, distance] - [0, 0, 4]
    result = {
        "mesh": [SimpleNamespace(vertices=vertices, faces=np.zeros((1, 3), int))],
        "rotation": [[1, 0, 0, 0]], "translation": [[0, 0, 4]], "scale": [[1, 1, 1]],
    }  # fmt: skip
    run = SimpleNamespace(runtime="embedded", result=result)
    given = SimpleNamespace(name="wall", image=image, mask=mask, pointmap=wall, notices=())
    found = notices_of(given, run)
    assert [("off the pointmap by 20%" in notice) for notice in found] == ([] if known else [True])
    grey = SimpleNamespace(name="wall", image=image.mean(-1, keepdims=True).repeat(3, -1).astype(np.uint8), mask=mask,
                           pointmap=None, notices=())  # fmt: skip
    assert "no colours" in notices_of(grey, run)[0]
    assert notices_of(grey, SimpleNamespace(runtime="native", result=result)) == ()
