"""What the stock code fetches itself when its pipeline is built for the first time, and where it looks for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Fetched", "first_load"]

# torch.hub keeps the code of a repository and the weights apart (embedder/dino.py loads dinov2_vitl14_reg).
_DINO = ("facebookresearch_dinov2_main", "checkpoints/dinov2_vitl14_reg4_pretrain.pth")
_DEPTH_FILE = "model.pt"  # moge/model/v1.py, `from_pretrained`


@dataclass(frozen=True, slots=True)
class Fetched:
    """A model beside the weights. `missing`: what is not in `place` yet, so that the first load needs a network."""

    name: str
    place: str
    missing: tuple[str, ...]


def first_load(settings: dict[str, Any]) -> tuple[Fetched, ...]:
    """The image encoder, and the depth model if it is named on the hub (a file is checked with the weights).

    Args:
        settings: of pipeline.yaml.
    """
    import torch
    from huggingface_hub import constants, try_to_load_from_cache

    home = Path(torch.hub.get_dir())
    found = [Fetched("DINOv2", str(home), tuple(name for name in _DINO if not (home / name).exists()))]
    node: Any = settings
    for key in ("depth_model", "model", "pretrained_model_name_or_path"):
        node = node.get(key) if isinstance(node, dict) else None
    if isinstance(node, str) and not Path(node).expanduser().exists():
        there = isinstance(try_to_load_from_cache(node, _DEPTH_FILE), str)
        found.append(Fetched(f"MoGe ({node})", constants.HF_HUB_CACHE, () if there else (_DEPTH_FILE,)))
    return tuple(found)
