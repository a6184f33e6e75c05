"""What of the configuration fits which model: a TRELLIS object has no pose, no pointmap, and one kind of gaussians."""

from __future__ import annotations

from dataclasses import replace

from fast_sam3d.config.settings import MEMORY, RUNTIMES, Config
from fast_sam3d.errors import ConfigError

__all__ = ["fitted"]


def fitted(config: Config) -> Config:
    """The configuration with what does not fit the model switched off, where that is only a default.

    Raises:
        ConfigError: what was asked for does not fit the model.
    """
    if config.pipeline.model != "trellis":
        return config
    asked, given = config.pipeline, config.input
    wrong = {
        "input.pointmap": (given.pointmap not in ("auto", "none"), "takes no pointmap"),
        "pipeline.depth_model": (asked.depth_model is not None, "has no depth model"),
        "pipeline.dtype": (asked.dtype is not None, "has the precision of its checkpoint"),
        "pipeline.runtime": (asked.runtime != RUNTIMES[0], "runs by its own package"),
        "pipeline.memory": (asked.memory != MEMORY[0], "has no memory plans"),
        "pipeline.half_cache": (asked.half_cache, "keeps no copy of its weights"),
        "pipeline.formats": ("gaussian_4" in asked.formats, "decodes no gaussian_4, only mesh and gaussian"),
    }
    for key, (is_wrong, why) in wrong.items():
        if is_wrong:
            raise ConfigError(f"{key} does not fit pipeline.model=trellis, which {why}: leave it out", key)
    return replace(config, input=replace(given, pointmap="none"), pipeline=replace(asked, layout_postprocess=False))
