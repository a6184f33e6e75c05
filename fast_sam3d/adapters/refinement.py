"""The pose refinement that a stock pipeline may be configured with; the published pipeline.yaml names none.

Names match sam3d_objects/pipeline/inference_pipeline_pointmap.py (`InferencePipelinePointMap`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_METHOD = "layout_post_optimization_method"


@contextmanager
def own_refinement(pipeline: Any) -> Iterator[list[dict[str, Any]] | None]:
    """Collect the poses that a pipeline's own pose refinement is given while it runs.

    The list stays empty where the method is not reached: it needs a mesh, and intrinsics, which `compute_pointmap`
    loses where the depth model has them. `run` logs such failures and keeps the pose.

    Args:
        pipeline: stock or embedded, not wrapped.

    Yields:
        rotation, translation and scale of each call; None where no method is configured.
    """
    method = getattr(pipeline, _METHOD, None)
    if method is None:
        yield None
        return
    given: list[dict[str, Any]] = []

    def recorded(mesh: Any, rotation: Any, translation: Any, scale: Any, *args: Any, **kwargs: Any) -> Any:
        given.append({"rotation": rotation, "translation": translation, "scale": scale})
        return method(mesh, rotation, translation, scale, *args, **kwargs)

    setattr(pipeline, _METHOD, recorded)
    try:
        yield given
    finally:
        setattr(pipeline, _METHOD, method)
