"""The surface of a SAM 3D pipeline around networks of a few numbers; generators, guidance and solvers are real."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fast_sam3d.model.flow import ClassifierFreeGuidance, FlowMatching, ShortCut

SS_SHAPES = {
    "shape": (1, 6, 4),
    "6drotation_normalized": (1, 1, 6),
    "scale": (1, 1, 3),
    "translation": (1, 1, 3),
    "translation_scale": (1, 1, 1),
}
VOXELS = 5


class CurvedNetwork(nn.Module):
    """A velocity that bends with t, x and the condition; counts its calls."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(width, width, generator=generator) / width**0.5)
        self.calls = 0

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, cfg: bool = False) -> Tensor:
        self.calls += 1
        context = cond * (0.0 if cfg else 1.0)
        return torch.tanh(x @ self.weight + context.mean()) + (t / 1000) ** 2


class SSNetwork(nn.Module):
    """One `CurvedNetwork` per leaf."""

    def __init__(self) -> None:
        super().__init__()
        self.latent_mapping = nn.ModuleDict(
            {name: CurvedNetwork(shape[-1], i) for i, (name, shape) in enumerate(SS_SHAPES.items())}
        )
        self.calls = 0

    def forward(self, x: dict[str, Tensor], t: Tensor, cond: Tensor, d: Tensor, cfg: bool = False) -> dict[str, Tensor]:
        self.calls += 1
        return {name: self.latent_mapping[name](leaf, t, cond, cfg) for name, leaf in x.items()}


class SLatNetwork(CurvedNetwork):
    """A `CurvedNetwork` that also takes coordinates, as the last positional argument."""

    def forward(self, x: Tensor, t: Tensor, cond: Tensor, coords: Any, cfg: bool = False) -> Tensor:
        return super().forward(x, t, cond + float(coords.sum()) * 1e-3, cfg)


class Scale(nn.Module):
    """A decoder."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


class FakePipeline:
    """`run` draws noise from torch's own generator, as the stock pipeline does."""

    def __init__(self, steps: int = 25, ss_solver: str = "euler", slat_solver: str = "euler") -> None:
        ss = ShortCut(
            ClassifierFreeGuidance(SSNetwork(), strength=7.0, interval=(0, 500)),
            inference_steps=steps,
            rescale_t=3.0,
            solver_method=ss_solver,
        )
        slat = FlowMatching(
            ClassifierFreeGuidance(SLatNetwork(8, 9), strength=1.0, interval=(0, 500)),
            inference_steps=steps,
            solver_method=slat_solver,
        )
        self.models = nn.ModuleDict(
            {
                "ss_generator": ss,
                "slat_generator": slat,
                "ss_decoder": Scale(2.0),
                "slat_decoder_mesh": Scale(3.0),
                "slat_decoder_gs": Scale(4.0),
                "slat_decoder_gs_4": None,
            }
        ).eval()

    def preprocess_image(self, image: Tensor) -> Tensor:
        return image * 2 - 1

    def sample_sparse_structure(self, cond: Tensor) -> dict[str, Tensor]:
        result = self.models["ss_generator"](SS_SHAPES, "cpu", cond)
        return {**result, "logits": self.models["ss_decoder"](result["shape"])}

    def sample_slat(self, cond: Tensor) -> Tensor:
        coords = torch.arange(VOXELS * 4, dtype=torch.int32).reshape(VOXELS, 4).numpy()
        return self.models["slat_generator"]((1, VOXELS, 8), "cpu", cond, coords)

    @torch.no_grad()
    def run(self, image: Tensor | None = None, seed: int | None = None) -> dict[str, Tensor]:
        cond = self.preprocess_image(torch.linspace(0, 1, 7) if image is None else image)
        if seed is not None:
            torch.manual_seed(seed)
        result = self.sample_sparse_structure(cond)
        slat = self.sample_slat(cond)
        return {
            **result,
            "slat": slat,
            "mesh": self.models["slat_decoder_mesh"](slat),
            "gaussian": self.models["slat_decoder_gs"](slat),
        }


class FakeInference:
    """Holds a pipeline as the stock notebook's `Inference` does."""

    def __init__(self, pipeline: FakePipeline) -> None:
        self._pipeline = pipeline

    def __call__(self, image: Tensor, mask: Tensor, seed: int | None = None) -> dict[str, Tensor]:
        return self._pipeline.run(image * mask, seed=seed)


def snapshot(pipeline: Any) -> dict[str, dict[str, Any]]:
    """vars() of every live object that could have been patched: the pipeline, its modules, its solvers."""
    objects = {"": pipeline, **{f"models.{name}": module for name, module in pipeline.models.named_modules()}}
    for name, embedder in getattr(pipeline, "condition_embedders", {}).items():
        objects |= {f"{name}.{part}": module for part, module in embedder.named_modules()}
    for name in ("ss_generator", "slat_generator"):
        objects[f"{name}._solver"] = pipeline.models[name]._solver
    return {name: dict(vars(thing)) for name, thing in objects.items()}


def same_vars(before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]]) -> bool:
    """Whether every object has identical attributes, in the same order."""
    return before.keys() == after.keys() and all(
        list(before[name]) == list(after[name])
        and all(before[name][key] is after[name][key] for key in before[name] if key != "calls")
        for name in before
    )


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    """Bit-equality of two results."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
