"""Prints the drift of presets on TRELLIS's own classes with small random weights, for docs/trellis.md.

PYTHONPATH=.:<a clone of microsoft/TRELLIS with its submodules> python -m tests.trellis.drift [pipelines]
"""

from __future__ import annotations

import sys
from typing import Any

from fast_sam3d.config.compose import load
from tests.config.test_trellis_presets import PUBLISHED, drift, sampled
from tests.trellis.build import random_image
from tests.trellis.stand_ins import on_cpu

ROWS = {
    "trellis": ["preset=trellis"],
    "trellis_fast": ["preset=trellis_fast"],
    "fast_trellis": ["preset=fast_trellis"],
    "fast_trellis, more calls": ["preset=fast_trellis", "ss.when.stride=3", "slat.when.threshold=0.5"],
}
STEPS = (9, 5)
"""Of plain solves."""
DEMO = {"steps": 12, "cfg_interval": [0.5, 1.0], "rescale_t": 3.0}
SAMPLERS = {
    "published": (PUBLISHED, PUBLISHED),
    "demo": ({**DEMO, "cfg_strength": 7.5}, {**DEMO, "cfg_strength": 3.0}),
}


def rows(pipeline: Any, samplers: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, tuple[Any, Any]]:
    """Network calls and drift of each row, by stage."""

    def with_steps(steps: int | None) -> None:
        both = [{**own, **({} if steps is None else {"steps": steps})} for own in samplers]
        pipeline.sparse_structure_sampler_params, pipeline.slat_sampler_params = both

    with_steps(None)
    base, calls = sampled(pipeline)
    found: dict[str, tuple[Any, Any]] = {"every step": (calls, drift(base, base))}
    for name, overrides in ROWS.items():
        modules = load(overrides).modules
        states, calls = sampled(pipeline, {stage: modules[stage] for stage in ("ss", "slat")})
        found[name] = calls, drift(states, base)
    for steps in STEPS:
        with_steps(steps)
        states, calls = sampled(pipeline)
        found[f"{steps} steps"] = calls, drift(states, base)
    return found


def main(count: int) -> None:
    with on_cpu():
        for title, samplers in SAMPLERS.items():
            tables = [rows(random_image(seed), samplers) for seed in range(count)]
            print(f"{title}, mean of {count}")
            for name in tables[0]:
                cells = []
                for stage in ("ss", "slat"):
                    calls, away = ([table[name][i][stage] for table in tables] for i in (0, 1))
                    cells.append(f"{stage} {sum(calls) / count:5.1f} calls {sum(away) / count:.3f}")
                print(f"  {name:26}{'   '.join(cells)}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
