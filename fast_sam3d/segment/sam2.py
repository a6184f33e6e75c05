"""SAM 2 by the package transformers, where that is installed: masks from clicks and a box."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.errors import CheckpointError, first_line
from fast_sam3d.segment.marks import Marks

__all__ = ["MODEL", "Sam2"]

MODEL = "facebook/sam2.1-hiera-tiny"


class Sam2:
    """A loaded SAM 2; one may serve many pictures.

    Args:
        model: name on the Hugging Face hub, from where it is downloaded once, or a folder.
        device: "cpu", "cuda" ...

    Raises:
        CheckpointError: transformers is missing or too old, or the model cannot be loaded.
    """

    def __init__(self, model: str = MODEL, device: str = "cpu") -> None:
        try:
            from transformers import Sam2Model, Sam2Processor
        except ImportError as error:
            raise CheckpointError('SAM 2 needs transformers: pip install "transformers>=4.56"') from error
        try:
            self._processor: Any = Sam2Processor.from_pretrained(model)
            self._model: Any = Sam2Model.from_pretrained(model).to(device).eval()
        except (OSError, ValueError) as error:
            raise CheckpointError(f"SAM 2 cannot be loaded from {model} ({first_line(error).rstrip('.')})") from error
        self._device = device

    def mask(self, image: NDArray[np.uint8], marks: Marks) -> NDArray[np.bool_]:
        """[H, W] bool of the clicks and the box in a picture [H, W, 3]; `Selector` adds the strokes."""
        import torch

        given: dict[str, Any] = {}
        if marks.clicks:
            given["input_points"] = [[[[click.x, click.y] for click in marks.clicks]]]
            given["input_labels"] = [[[int(click.positive) for click in marks.clicks]]]
        if marks.box is not None:
            given["input_boxes"] = [[list(marks.box)]]
        inputs = self._processor(images=image, return_tensors="pt", **given).to(self._device)
        with torch.inference_mode():
            found = self._model(**inputs, multimask_output=False)
        masks = self._processor.post_process_masks(found.pred_masks.cpu(), inputs["original_sizes"].cpu())[0]
        return np.asarray(masks.reshape(-1, *masks.shape[-2:])[0] > 0)
