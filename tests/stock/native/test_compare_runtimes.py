"""`fast-sam3d compare-runtimes` on the stock classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fast_sam3d.bench.runtimes import compare_stages, run_stages
from fast_sam3d.checkpoints import load
from fast_sam3d.cli import main
from tests.minis import picture, rgba
from tests.stock.native import bed

pytestmark = bed.needs_dinov2


def test_every_stage_is_compared_with_the_inputs_of_stock() -> None:
    folder = bed.checkpoint(0)
    with bed.running():
        stock = run_stages(bed.from_checkpoint(folder), rgba(), seed=1, steps=(4, 4))
        native = bed.native_from(folder)
        rows = compare_stages(stock, run_stages(native, rgba(), seed=1, steps=(4, 4), given=stock))
        assert [
            row.stage for row in rows if row.name in ("pointmap_scale", "shape", "rotation", "feats", "faces", "xyz")
        ]
        assert all(row.within(1e-4) for row in rows)
        assert {"pointmap", "inputs of ss", "sparse structure", "pose", "structured latent", "mesh", "gaussian"} <= {
            row.stage for row in rows
        }
        weight = native.models["slat_decoder_gs"].out_layer.weight
        weight.mul_(1.1)
        rows = compare_stages(stock, run_stages(native, rgba(), seed=1, steps=(4, 4), given=stock))
        assert {row.stage for row in rows if not row.within(1e-3)} == {"gaussian"}


def test_the_command_prints_a_table_and_its_exit_code_is_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    image, mask = picture()
    Image.fromarray(image).save(tmp_path / "image.png")
    Image.fromarray(mask).save(tmp_path / "0.png")
    np.save(tmp_path / "points.npy", bed.given_points().numpy())
    folder = bed.checkpoint(0)
    spoilt: list[bool] = []

    def built(checkpoint: Any, *loading: Any) -> Any:
        if checkpoint.runtime == "stock":
            return bed.from_checkpoint(checkpoint.folder)
        native = bed.native_from(checkpoint.folder)
        if spoilt:
            native.models["ss_decoder"].out_layer[-1].bias.add_(0.5)
        return native

    monkeypatch.setattr(load, "load_checkpoint", built)
    request = ["compare-runtimes", "--tag", str(folder), "--image_path", str(tmp_path), "--device", "cpu"]
    request += ["--pointmap", str(tmp_path / "points.npy"), "pipeline.ss_steps=3", "pipeline.slat_steps=3"]
    with bed.running():
        assert main(request) == 0
        printed = capsys.readouterr().out
        assert "structured latent" in printed and "LARGER" not in printed
        assert "float32; limit of the relative difference 0.001: no difference is larger" in printed
        spoilt.append(True)
        assert main([*request, "--json"]) == 1
    rows = json.loads(capsys.readouterr().out)["differences"]
    assert {row["name"] for row in rows if not row["relative"] <= 1e-3} == {"coords", "coords_original"}
