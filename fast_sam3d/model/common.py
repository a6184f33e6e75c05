"""Stages that are the same in the embedded and the native pipeline, as methods with the stock names.

Names follow sam3d_objects/pipeline/inference_pipeline.py (`InferencePipeline`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fast_sam3d.errors import nothing_found
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.geometry.sparse_grid import limited_voxels, surface_voxels
from fast_sam3d.model.config_file import SamplingConfig, check_formats
from fast_sam3d.model.extract import y_up
from fast_sam3d.model.flow import FlowMatching
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.model.ss_vae import tokens_to_grid
from fast_sam3d.refinement.pose import Solid, refine_pose, updated

__all__ = ["DECODERS", "CommonStages", "SolvedStructure"]

DECODERS: Final = {"mesh": "slat_decoder_mesh", "gaussian": "slat_decoder_gs", "gaussian_4": "slat_decoder_gs_4"}
"""Name of each format's decoder, in the order in which they run."""


class SolvedStructure(Protocol):
    """Latents of a sparse structure that were sampled before its object's own run; see `CommonStages.solved_ahead`."""

    def latents_for(self, sampler: FlowMatching, condition: Tensor) -> Mapping[str, Tensor] | None:
        """The latents, if sampling now with this condition would give them; else None."""


class CommonStages:
    """What both pipelines do alike; subclasses set the attributes.

    Attributes:
        models, condition_embedders: the networks by their stock names.
        device: where they run.
        dtype, shape_model_dtype: float32, or the half type in which autocast runs the structured latent's sampler, and
            the sparse structure's.
        resolution: voxels per side.
        leaf_shapes: (tokens, channels) of the sparse structure's leaves.
        slat_mean, slat_std: [C] of the structured latent, on the device.
        decode_formats: decoded by default.
        downsample_ss_dist: reach within which a voxel needs an empty one to be kept; 0 keeps all.
        solved_ahead: latents that `sample_sparse_structure` takes instead of sampling, where they match.
    """

    models: nn.ModuleDict
    condition_embedders: Mapping[str, nn.Module]
    device: torch.device
    dtype: torch.dtype
    shape_model_dtype: torch.dtype
    resolution: int
    leaf_shapes: Mapping[str, tuple[int, int]]
    slat_mean: Tensor
    slat_std: Tensor
    decode_formats: Sequence[str]
    downsample_ss_dist: int
    ss_condition_input_mapping: Sequence[str]
    slat_condition_input_mapping: Sequence[str]
    solved_ahead: list[SolvedStructure]
    ss_cfg_strength: float
    slat_cfg_strength: float

    layout_post_optimization_method = None

    def set_sampling(self, ss: SamplingConfig, slat: SamplingConfig) -> None:
        """Set both samplers, and the stock pipeline's attributes for them."""
        for stage, config in (("ss", ss), ("slat", slat)):
            for name in ("inference_steps", "cfg_strength", "rescale_t"):
                setattr(self, f"{stage}_{name}", getattr(config, name))
            setattr(self, f"{stage}_cfg_interval", list(config.cfg_interval))
            generator = self.generator(stage)
            generator.inference_steps, generator.rescale_t = config.inference_steps, config.rescale_t
            generator.guidance.strength = config.cfg_strength
            generator.guidance.interval = list(config.cfg_interval)

    def generator(self, stage: str) -> FlowMatching:
        """The sampler of "ss" or "slat"."""
        generator = self.models[f"{stage}_generator"]
        if not isinstance(generator, FlowMatching):
            raise TypeError(f"{stage}_generator is a {type(generator).__name__}, not a FlowMatching")
        return generator

    def compute(self, part: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call what runs the network of that name."""
        return call(*args, **kwargs)

    def _condition(
        self, part: str, inputs: dict[str, Tensor], mapping: Sequence[str]
    ) -> tuple[tuple[Tensor], dict[str, Any]]:
        # Looked up inside, so that the call is seen by what replaces the method.
        return self.compute(part, self.get_condition_input, self.condition_embedders[part], inputs, mapping)

    def get_condition_input(
        self, condition_embedder: nn.Module, input_dict: dict[str, Tensor], input_mapping: Sequence[str]
    ) -> tuple[tuple[Tensor], dict[str, Any]]:
        """Positional and keyword condition of a generator."""
        raise NotImplementedError

    def precision(self, dtype: torch.dtype) -> contextlib.AbstractContextManager[Any]:
        """Autocast to a half type; a null context for float32, instead of a disabled autocast, which some devices
        lack."""
        half = dtype != torch.float32
        return torch.autocast(self.device.type, dtype) if half else contextlib.nullcontext()

    @contextlib.contextmanager
    def sampling(
        self, generator: FlowMatching, steps: int | None, strength: float, dtype: torch.dtype | None = None
    ) -> Iterator[None]:
        """Configure a sampler for one run, as the stock pipeline does; its step count is restored on exit.

        Args:
            dtype: of the autocast; None takes the pipeline's.
        """
        previous = generator.inference_steps
        if steps is not None and steps < 1:
            raise ValueError(f"inference steps must be at least 1, got {steps}")
        generator.inference_steps = steps or previous
        generator.guidance.strength = strength
        try:
            with torch.no_grad(), self.precision(dtype or self.dtype):
                yield
        finally:
            generator.inference_steps = previous

    def sample_sparse_structure(
        self, ss_input_dict: dict[str, Tensor], inference_steps: int | None = None, use_distillation: bool = False
    ) -> dict[str, Any]:
        """Sample the latents of shape and layout, and decode the shape to voxels.

        Args:
            ss_input_dict: see `preprocess_image`.
            inference_steps: None takes the sampler's own.
            use_distillation: no guidance, and the step size is an input of the network. The embedded weights are not
                distilled, so few steps still lose quality.

        Returns:
            The latent leaves, coords_original and coords [N, 4] int32 (batch, x, y, z), downsample_factor.

        Raises:
            FastSam3dError: no voxel is occupied.
        """
        generator = self.generator("ss")
        generator.no_shortcut = not use_distillation
        strength = 0.0 if use_distillation else self.ss_cfg_strength
        with self.sampling(generator, inference_steps, strength, self.shape_model_dtype):
            batch = ss_input_dict["image"].shape[0]
            shapes = {name: (batch, *shape) for name, shape in self.leaf_shapes.items()}
            args, kwargs = self._condition("ss_condition_embedder", ss_input_dict, self.ss_condition_input_mapping)
            ahead = (each.latents_for(generator, *args) for each in self.solved_ahead)
            solved = next((latents for latents in ahead if latents is not None), None)
            if solved is None:
                solved = self.compute("ss_generator", generator, shapes, self.device, *args, **kwargs)
            result: dict[str, Any] = dict(solved)
            logits = self.compute("ss_decoder", self.models["ss_decoder"], tokens_to_grid(result["shape"]))
        coords = torch.argwhere(logits[:, 0] > 0).int()
        if not len(coords):
            raise nothing_found(bool(torch.isfinite(logits).all()))
        result["coords_original"] = coords
        if self.downsample_ss_dist > 0:
            coords = surface_voxels(coords, self.resolution, self.downsample_ss_dist)
        coords, factor = limited_voxels(coords)
        return {**result, "coords": coords, "downsample_factor": factor}

    def sample_slat(
        self,
        slat_input: dict[str, Tensor],
        coords: Tensor,
        inference_steps: int | None = None,
        use_distillation: bool = False,
    ) -> SparseTensor:
        """Sample the structured latent of some voxels.

        Args:
            slat_input: see `preprocess_image`.
            coords: [N, 4] int32 (batch, x, y, z).
            inference_steps: None takes the sampler's own.
            use_distillation: no guidance.

        Returns:
            N voxels with latent channels, in the decoders' scale.
        """
        generator = self.generator("slat")
        with self.sampling(generator, inference_steps, 0.0 if use_distillation else self.slat_cfg_strength):
            args, kwargs = self._condition("slat_condition_embedder", slat_input, self.slat_condition_input_mapping)
            shape = (slat_input["image"].shape[0], len(coords), len(self.slat_mean))
            places = coords.cpu().numpy()
            feats = self.compute("slat_generator", generator, shape, self.device, *args, places, **kwargs)[0]
        return SparseTensor(feats.float() * self.slat_std + self.slat_mean, coords.to(self.device))

    @torch.no_grad()
    def decode_slat(self, slat: SparseTensor, formats: Sequence[str]) -> dict[str, list]:
        """Decode the structured latent to any subset of `FORMATS`: format to one item per object."""
        check_formats(formats)
        for name in formats:
            if DECODERS[name] not in self.models:
                raise ValueError(f"this checkpoint has no decoder for {name!r}")
        decoded = {}
        for name, decoder in DECODERS.items():
            if name in formats:
                decoded[name] = self.compute(decoder, self.models[decoder], slat)
        return decoded

    def postprocess_slat_output(
        self, outputs: dict[str, Any], with_mesh_postprocess: bool, with_texture_baking: bool, use_vertex_color: bool
    ) -> dict[str, Any]:
        """Add glb (a trimesh.Trimesh, +y up as the stock one, or None), gs and gs_4, each the first object's, in place.

        The three options exist for the stock signature and have no effect.
        """
        outputs["glb"] = y_up(outputs["mesh"][0]) if "mesh" in outputs else None
        for name, short in (("gaussian", "gs"), ("gaussian_4", "gs_4")):
            if name in outputs:
                outputs[short] = outputs[name][0]
        return outputs

    def refine_layout(self, result: Mapping[str, Any], mask: NDArray[np.bool_], guessed: bool) -> dict[str, Any]:
        """Fit a decoded object's pose to its mask and pointmap; see `fast_sam3d.refinement`.

        Corresponds to the stock pipeline's `run_post_optimization`.

        Args:
            result: of the run so far.
            mask: [H, W], the object's visible pixels, at the size of the result's pointmap.
            guessed: whether the pointmap is a guess from the silhouette.

        Returns:
            layout_refinement, a JSON-ready summary; and the refined rotation, translation and scale, if that pose
            covers the mask better.
        """
        solid = Solid.of(result, self.resolution)
        given = Pose.of(result)
        outcome = refine_pose(solid, given, mask, result["pointmap"].cpu().numpy(), not guessed)
        pose = {} if outcome.pose is None else updated(result, outcome.pose)
        return {"layout_refinement": outcome.facts(given), **pose}


def picture_colours(image: NDArray[np.uint8]) -> Tensor:
    """[3, H, W] float32 in 0..1 of a picture [H, W, 3 or 4] uint8."""
    return torch.from_numpy(image[..., :3]).permute(2, 0, 1).float() / 255
