"""The stages of a run, one method each, with the attributes and methods of the stock `InferencePipeline`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fast_sam3d.model.common import CommonStages, picture_colours
from fast_sam3d.model.config_file import ModelConfig
from fast_sam3d.model.depth import SilhouetteDepth
from fast_sam3d.model.inputs import limit_size, match_size, merge_rgba
from fast_sam3d.model.networks import build_networks
from fast_sam3d.model.pose import PoseDecoder
from fast_sam3d.model.preprocess import CropPreprocessor, infer_focal
from fast_sam3d.model.window import Window

CONDITION_INPUTS = ("image", "mask", "pointmap", "descriptor")
"""Preprocessed inputs that the condition embedders take, in order."""


class Stages(CommonStages):
    """Networks, settings and the stages of a run; `pipeline.Pipeline` chains them.

    Args:
        config: sizes and settings.
        device: where the networks run.
        dtype: float32, or a half type in which autocast runs the networks.
    """

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
        self.set_sampling(config.ss_sampling, config.slat_sampling)
        self.ss_condition_input_mapping = self.slat_condition_input_mapping = CONDITION_INPUTS
        self.slat_mean = torch.tensor(config.slat_mean, device=self.device)
        self.slat_std = torch.tensor(config.slat_std, device=self.device)
        self.solved_ahead = []
        self.decode_formats = list(config.decode_formats)
        self.downsample_ss_dist = config.downsample_ss_dist
        self.resolution = config.ss_decoder.resolution
        self.leaf_shapes = config.ss_flow.leaf_shapes
        self.pose_decoder: Callable[..., dict[str, Tensor]] = PoseDecoder(config.layout_mean, config.layout_std)
        self.depth_model: Callable[..., dict[str, Tensor]] = SilhouetteDepth()
        self.ss_preprocessor = CropPreprocessor(config.ss_embedder.image_size)
        self.slat_preprocessor = CropPreprocessor((config.slat_embedder or config.ss_embedder).image_size)

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
