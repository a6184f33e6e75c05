"""The stages of a run, one method each, with the attributes and methods of the stock `InferencePipeline`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fast_sam3d.errors import nothing_found
from fast_sam3d.geometry.poses import Pose
from fast_sam3d.geometry.sparse_grid import surface_voxels
from fast_sam3d.model.config_file import ModelConfig, check_formats
from fast_sam3d.model.depth import SilhouetteDepth
from fast_sam3d.model.extract import y_up
from fast_sam3d.model.flow import FlowMatching
from fast_sam3d.model.inputs import limit_size, match_size, merge_rgba
from fast_sam3d.model.networks import build_networks
from fast_sam3d.model.pose import PoseDecoder
from fast_sam3d.model.preprocess import CropPreprocessor, infer_focal
from fast_sam3d.model.sparse import SparseTensor
from fast_sam3d.model.ss_vae import tokens_to_grid
from fast_sam3d.model.window import Window
from fast_sam3d.refinement.pose import Solid, refine_pose, updated

CONDITION_INPUTS = ("image", "mask", "pointmap", "descriptor")
"""Preprocessed inputs that the condition embedders take, in order."""


class SolvedStructure(Protocol):
    """Latents of a sparse structure that were sampled before its object's own run; see `Stages.solved_ahead`."""

    def latents_for(self, sampler: FlowMatching, condition: Tensor) -> Mapping[str, Tensor] | None:
        """The latents, if sampling now with this condition would give them; else None."""


class Stages:
    """Networks, settings and the stages of a run; `pipeline.Pipeline` chains them.

    Args:
        config: sizes and settings.
        device: where the networks run.
        dtype: float32, or a half type in which autocast runs the networks.
    """

    layout_post_optimization_method = None

    def __init__(
        self, config: ModelConfig, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
    ) -> None:
        self.config = config
        self.device = torch.device(device)
        self.dtype = self.shape_model_dtype = dtype or torch.float32
        # Initialising weights must not advance the caller's random state.
        with torch.random.fork_rng(devices=[]):
            self.models, self.condition_embedders = build_networks(config)
        for network in (self.models, *self.condition_embedders.values()):
            network.eval().requires_grad_(False).to(self.device)
        self.ss_inference_steps, self.slat_inference_steps = _settings(config, "inference_steps")
        self.ss_cfg_strength, self.slat_cfg_strength = _settings(config, "cfg_strength")
        self.ss_cfg_interval, self.slat_cfg_interval = map(list, _settings(config, "cfg_interval"))
        self.ss_rescale_t, self.slat_rescale_t = _settings(config, "rescale_t")
        for stage in ("ss", "slat"):
            generator = self.generator(stage)
            generator.inference_steps = getattr(self, f"{stage}_inference_steps")
            generator.rescale_t = getattr(self, f"{stage}_rescale_t")
            generator.guidance.strength = getattr(self, f"{stage}_cfg_strength")
            generator.guidance.interval = getattr(self, f"{stage}_cfg_interval")
        self.ss_condition_input_mapping = self.slat_condition_input_mapping = CONDITION_INPUTS
        self.slat_mean = torch.tensor(config.slat_mean, device=self.device)
        self.slat_std = torch.tensor(config.slat_std, device=self.device)
        self.solved_ahead: list[SolvedStructure] = []
        """Latents that `sample_sparse_structure` takes instead of sampling, where they match."""
        self.decode_formats = list(config.decode_formats)
        self.downsample_ss_dist = config.downsample_ss_dist
        self.pose_decoder: Callable[..., dict[str, Tensor]] = PoseDecoder(config.layout_mean, config.layout_std)
        self.depth_model: Callable[..., dict[str, Tensor]] = SilhouetteDepth()
        self.ss_preprocessor = CropPreprocessor(config.ss_embedder.image_size)
        self.slat_preprocessor = CropPreprocessor((config.slat_embedder or config.ss_embedder).image_size)

    def generator(self, stage: str) -> FlowMatching:
        """The sampler of "ss" or "slat"."""
        generator = self.models[f"{stage}_generator"]
        if not isinstance(generator, FlowMatching):
            raise TypeError(f"{stage}_generator is a {type(generator).__name__}, not a FlowMatching")
        return generator

    def merge_image_and_mask(self, image: Any, mask: Any = None) -> np.ndarray:
        """[H, W, 4] uint8 with the mask as alpha; see `inputs.merge_rgba`."""
        return merge_rgba(image, mask)

    def _guesses(self, pointmap: Any) -> bool:
        """Whether the pointmap would be guessed from the silhouette."""
        return pointmap is None and isinstance(self.depth_model, SilhouetteDepth)

    def compute_pointmap(self, image: np.ndarray, pointmap: Any = None) -> dict[str, Any]:
        """Pointmap of a picture.

        Args:
            image: [H, W, 4] uint8.
            pointmap: [H, W, 3] metres, PyTorch3D camera frame; None asks the depth model.

        Returns:
            pointmap [3, H, W] (NaN where unknown) and pts_color [3, H, W] in 0..1; intrinsics [3, 3] in units of width
            and height, None if the pointmap does not determine them; guessed: whether it comes from the silhouette.
        """
        height, width = image.shape[:2]
        colours = picture_colours(image)
        guessed = self._guesses(pointmap)
        if pointmap is None:
            pointmap = self.depth_model(colours, torch.from_numpy(image[..., 3]) / 255)["pointmaps"]
        points = match_size(pointmap, height, width)
        focal = infer_focal(points) * max(height, width)
        intrinsics = None
        if focal:
            rows = [[focal / width, 0, 0.5], [0, focal / height, 0.5], [0, 0, 1]]
            intrinsics = torch.tensor(rows, device="cpu")
        return {
            "pointmap": points.permute(2, 0, 1),
            "pts_color": colours,
            "intrinsics": intrinsics,
            "guessed": guessed,
        }

    def see(self, image: Any, mask: Any, pointmap: Any) -> tuple[np.ndarray, Window | None, dict[str, Any], np.ndarray]:
        """Picture [H, W, 4] with mask; the window that is used of it, if any; `compute_pointmap` and picture there."""
        image = limit_size(self.merge_image_and_mask(image, mask))
        # Windows are for guessed depth only: a given pointmap has its own camera.
        window = Window.around(image[..., 3] > 0) if self._guesses(pointmap) else None
        seen = image if window is None else window.see(image)
        return image, window, self.compute_pointmap(seen, pointmap), seen

    def preprocess_image(
        self, image: np.ndarray, preprocessor: CropPreprocessor, pointmap: Tensor | None = None, guessed: bool = False
    ) -> dict[str, Tensor]:
        """Network inputs, each with a batch of 1, on the pipeline's device.

        Args:
            image: [H, W, 4] uint8.
            pointmap: [3, H, W]; None asks the depth model.
            guessed: see `compute_pointmap`.

        Returns:
            The `CONDITION_INPUTS`, pointmap_scale [1] and pointmap_shift [1, 3].
        """
        if pointmap is None:
            estimate = self.compute_pointmap(image)
            pointmap, guessed = estimate["pointmap"], estimate["guessed"]
        crop = preprocessor(image[..., :3], image[..., 3] > 0, pointmap.permute(1, 2, 0), guessed)
        item = {
            "image": crop.image,
            "mask": crop.mask,
            "pointmap": crop.pointmap,
            "descriptor": crop.descriptor,
            "pointmap_scale": crop.scene_scale,
            "pointmap_shift": crop.scene_shift,
        }
        return {name: value[None].to(self.device) for name, value in item.items()}

    def embed_condition(self, condition_embedder: nn.Module, *args: Tensor) -> tuple[Tensor, None, None]:
        """Context tokens [B, L, C]; the two None stand for the stock method's unused arguments."""
        return condition_embedder(*args), None, None

    def get_condition_input(
        self, condition_embedder: nn.Module, input_dict: dict[str, Tensor], input_mapping: Sequence[str]
    ) -> tuple[tuple[Tensor], dict[str, Any]]:
        """Positional and keyword condition of a generator."""
        tokens, _, _ = self.embed_condition(condition_embedder, *(input_dict[name] for name in input_mapping))
        return (tokens,), {}

    @contextlib.contextmanager
    def sampling(self, generator: FlowMatching, steps: int | None, strength: float) -> Iterator[None]:
        """Configure a sampler for one run, as the stock pipeline does; its step count is restored on exit."""
        previous = generator.inference_steps
        if steps is not None and steps < 1:
            raise ValueError(f"inference steps must be at least 1, got {steps}")
        generator.inference_steps = steps or previous
        generator.guidance.strength = strength
        # A null context instead of a disabled autocast, which some devices lack.
        half = self.dtype != torch.float32
        precision = torch.autocast(self.device.type, self.dtype) if half else contextlib.nullcontext()
        try:
            with torch.no_grad(), precision:
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
        with self.sampling(generator, inference_steps, 0.0 if use_distillation else self.ss_cfg_strength):
            batch = ss_input_dict["image"].shape[0]
            shapes = {name: (batch, *shape) for name, shape in self.config.ss_flow.leaf_shapes.items()}
            args, kwargs = self.get_condition_input(
                self.condition_embedders["ss_condition_embedder"], ss_input_dict, self.ss_condition_input_mapping
            )
            ahead = (each.latents_for(generator, *args) for each in self.solved_ahead)
            solved = next((latents for latents in ahead if latents is not None), None)
            result: dict[str, Any] = dict(solved or generator(shapes, self.device, *args, **kwargs))
            logits = self.models["ss_decoder"](tokens_to_grid(result["shape"]))
        coords = torch.argwhere(logits[:, 0] > 0).int()
        if not len(coords):
            raise nothing_found(bool(torch.isfinite(logits).all()))
        result["coords_original"] = coords
        if self.downsample_ss_dist > 0:
            coords = surface_voxels(coords, self.config.ss_decoder.resolution, self.downsample_ss_dist)
        # The stock pipeline coarsens grids of more than 42,000 voxels; a 32^3 grid holds fewer.
        return {**result, "coords": coords, "downsample_factor": 1}

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
            args, kwargs = self.get_condition_input(
                self.condition_embedders["slat_condition_embedder"], slat_input, self.slat_condition_input_mapping
            )
            shape = (slat_input["image"].shape[0], len(coords), self.config.slat_flow.latent_channels)
            feats = generator(shape, self.device, *args, coords.cpu().numpy(), **kwargs)[0]
        return SparseTensor(feats.float() * self.slat_std + self.slat_mean, coords.to(self.device))

    @torch.no_grad()
    def decode_slat(self, slat: SparseTensor, formats: Sequence[str]) -> dict[str, list]:
        """Decode the structured latent to any subset of `FORMATS`: format to one item per object."""
        check_formats(formats)
        names = {"mesh": "slat_decoder_mesh", "gaussian": "slat_decoder_gs", "gaussian_4": "slat_decoder_gs_4"}
        for name in formats:
            if names[name] not in self.models:
                raise ValueError(f"this checkpoint has no decoder for {name!r}")
        return {name: self.models[names[name]](slat) for name in names if name in formats}

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
            mask: [H, W], the object's visible pixels.
            guessed: see `compute_pointmap`.

        Returns:
            layout_refinement, a JSON-ready summary; and the refined rotation, translation and scale, if that pose
            covers the mask better.
        """
        solid = Solid.of(result, self.config.ss_decoder.resolution)
        given = Pose.of(result)
        outcome = refine_pose(solid, given, mask, result["pointmap"].cpu().numpy(), not guessed)
        pose = {} if outcome.pose is None else updated(result, outcome.pose)
        return {"layout_refinement": outcome.facts(given), **pose}


def picture_colours(image: np.ndarray) -> Tensor:
    """[3, H, W] float32 in 0..1 of a picture [H, W, 4] uint8."""
    return torch.from_numpy(image[..., :3]).permute(2, 0, 1).float() / 255


def _settings(config: ModelConfig, name: str) -> tuple[Any, Any]:
    """One setting of the two samplers."""
    return getattr(config.ss_sampling, name), getattr(config.slat_sampling, name)
