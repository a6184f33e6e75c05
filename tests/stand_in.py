"""A fast stand-in pipeline for `fast-sam3d infer`, and helpers of its tests."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fast_sam3d import cli
from fast_sam3d.checkpoints import load as loading
from tests.fakes import FakePipeline


class StandIn(FakePipeline):
    """Solvers of a few numbers, and a box with four gaussians as the result of every run."""

    device = torch.device("cpu")
    loaded = False

    def run(self, image: Any = None, mask: Any = None, seed: int | None = None, **options: Any) -> dict[str, Any]:  # type: ignore[override]
        self.arguments = {"image": image, "mask": mask, "seed": seed, **options}
        for name, steps in (("ss", options["stage1_inference_steps"]), ("slat", options["stage2_inference_steps"])):
            self.models[f"{name}_generator"].inference_steps = steps
        super().run(seed=seed)
        result: dict[str, Any] = {
            "rotation": torch.tensor([[1.0, 0, 0, 0]]),
            "translation": torch.tensor([[0.0, 0, 2]]),
            "scale": torch.ones(1, 3),
        }
        if "mesh" in options["decode_formats"]:
            import trimesh

            box = trimesh.creation.box((0.6, 0.5, 0.4))
            result["mesh"] = [
                SimpleNamespace(
                    vertices=torch.tensor(box.vertices).float(),
                    faces=torch.tensor(box.faces),
                    vertex_attrs=torch.rand(8, 6),
                    success=True,
                )
            ]
        if "gaussian" in options["decode_formats"]:
            result["gaussian"] = [
                SimpleNamespace(
                    get_xyz=torch.rand(4, 3) - 0.5,
                    get_scaling=torch.full((4, 3), 0.1),
                    get_rotation=torch.tensor([[1.0, 0, 0, 0]]).expand(4, 4),
                    get_opacity=torch.full((4, 1), 0.9),
                    _features_dc=torch.zeros(4, 1, 3),
                    sh_degree=0,
                )
            ]
        return result


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    code = cli.main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def files(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}


def replace_checkpoints(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, made: Any) -> None:
    """Let every checkpoint be found, and be this pipeline once it is loaded."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "pipeline.yaml").write_text("{}")
    (folder / "sha256.json").write_text("{}")
    monkeypatch.setattr(loading, "find_checkpoint", lambda *asked: loading.Checkpoint("mini", folder, "mini", "so"))
    monkeypatch.setattr(loading, "load_checkpoint", lambda *asked: made)
