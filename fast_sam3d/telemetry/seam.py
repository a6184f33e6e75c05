"""The seam that measures a stage of the pipeline."""

from __future__ import annotations

from functools import partial
from typing import Any

from fast_sam3d.patch import Seam
from fast_sam3d.serial import one_at_a_time


class StageSeam(Seam):
    """Replaces a method that is timed, and that an acceleration may wrap. One thread at a time is in any of them.

    A layer's method is called as `method(scene, call, *args, **kwargs)` with the wrapped `call`, and its result is
    returned.
    """

    def __init__(self, owner: object, name: str, stage: str) -> None:
        super().__init__(owner, name)
        self.stage = stage

    @one_at_a_time()
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = self.original()
        layers = self.layers
        for layer in layers:
            if layer.method is not None:
                call = partial(layer.method, layer.scene, call)
            call = layer.report.stage(self.stage)(call)
        result = call(*args, **kwargs)
        records = [record for layer in layers if layer.scene is not None for record in layer.scene.take()]
        for layer in layers:  # observers also receive these
            layer.report.aggregations += records
            if getattr(self.owner(), "redecoded", False):  # `fast_sam3d.native.trunk`
                layer.report.redecoded.append(self.stage)
        return result
