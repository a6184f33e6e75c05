"""The pipelines of TRELLIS that the contract is checked on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

from torch import Tensor

from tests.beds import Bed, tensors
from tests.trellis_like.pipelines import picture, random_image, random_text

SAMPLERS = {"ss": "sparse_structure_sampler", "slat": "slat_sampler"}
NETWORKS = {"ss": "sparse_structure_flow_model", "slat": "slat_flow_model"}


@dataclass(frozen=True)
class TrellisBed(Bed):
    """A kind of image pipeline.

    Args:
        text: a new pipeline for texts.
    """

    text: Callable[[], Any] = random_text

    pose: ClassVar[frozenset[str]] = frozenset()

    def raw(self, pipeline: Any, seed: int | None = 0, **options: Any) -> dict[str, Any]:
        """A run of the picture; gaussians without `formats`. Beside its result "shape" and "slat", the latents.

        Args:
            options: of the pipeline's `run`; "call": another method of it, with all its arguments in the options.
        """
        given = {"formats": ["gaussian"], "image": picture(), **options}
        if call := given.pop("call", None):
            del given["image"]
        with self.running(), kept(pipeline) as latents:
            result = getattr(pipeline, call or "run")(seed=seed, **given)
        return {**result, **latents}

    def run(self, pipeline: Any, seed: int = 0, formats: tuple[str, ...] = ("gaussian",)) -> dict[str, Tensor]:
        """See `Bed`."""
        return tensors(self.raw(pipeline, seed, formats=list(formats)))

    def takes(self, config: Mapping[str, Any]) -> bool:
        """See `Bed`."""
        return config.get("mesh", {}).get("where") != "voxels"

    def structure(self, pipeline: Any) -> None:
        """See `Bed`."""
        with self.running():
            cond = pipeline.get_cond([pipeline.preprocess_image(picture())])
            pipeline.sample_sparse_structure(cond)

    def networks(self, pipeline: Any) -> dict[str, Any]:
        """See `Bed`."""
        return {stage: pipeline.models[name] for stage, name in NETWORKS.items()}

    def snapshot(self, pipeline: Any) -> dict[str, dict[str, Any]]:
        """See `Bed`."""
        objects = {"": pipeline, **{stage: getattr(pipeline, name) for stage, name in SAMPLERS.items()}}
        for name, model in pipeline.models.items():
            objects |= {f"{name}.{part}": module for part, module in model.named_modules()}
        return {name: dict(vars(thing)) for name, thing in objects.items()}

    def parameters(self, pipeline: Any) -> list[str]:
        """See `Bed`."""
        return [f"{name}.{part}" for name, model in pipeline.models.items() for part in model.state_dict()]

    @contextmanager
    def latents(self, pipeline: Any, stage: str) -> Iterator[list[Any]]:
        """See `Bed`; the pipeline is accelerated in this block."""
        sampler, found = getattr(pipeline, SAMPLERS[stage]), []
        sample = sampler.sample

        def kept(*args: Any, **kwargs: Any) -> Any:
            answer = sample(*args, **kwargs)
            found.append(answer.samples)
            return answer

        with mock.patch.object(sampler, "sample", kept):
            yield found


@contextmanager
def kept(pipeline: Any) -> Iterator[dict[str, Tensor]]:
    """The latents of both stages of a run, and the voxels."""
    found: dict[str, Tensor] = {}
    decode = pipeline.decode_slat

    def decode_slat(slat: Any, *args: Any, **kwargs: Any) -> Any:
        found.update(slat=slat.feats, coords=slat.coords)
        return decode(slat, *args, **kwargs)

    hook = pipeline.models["sparse_structure_decoder"].register_forward_pre_hook(
        lambda module, args: found.__setitem__("shape", args[0])
    )
    try:
        with mock.patch.object(pipeline, "decode_slat", decode_slat):
            yield found
    finally:
        hook.remove()


STAND_IN = TrellisBed("trellis stand-in", random_image)
