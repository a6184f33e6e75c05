"""The methods that configs/ holds: what each is called, its paper, the stages that it fits, and what it needs.

A method's YAML file describes it under `about`, which is no part of its settings:

    about: {title: TaylorSeer, paper: "2503.06923", needs: []}

so a method is listed as soon as its file is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fast_sam3d.config.packaged import resource
from fast_sam3d.documents import read_yaml
from fast_sam3d.errors import ConfigError, FastSam3dError, suggest

__all__ = ["ABOUT", "NEEDS", "STAGES", "Listing", "listed", "method_named", "without_about"]

STAGES = ("ss", "slat", "mesh")
"""The groups of configs/ that hold methods, in the order in which they run."""

NEEDS: Mapping[str, str] = {
    "voxels": "tokens that are voxels, which it chooses from or merges",
    "guidance": "classifier-free guidance in two distinguishable calls, on a network that is not compiled",
    "calibration": "numbers measured on the model beforehand (fast_sam3d.tune.calibrate)",
    "occupancy": "decodes the sparse structure in mid-solve",
    "picture": "looks at the picture and its mask",
}

ABOUT = "about"
"""The key of a method's file that describes it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """One method.

    Args:
        name: the option of its groups, as in ss=taylorseer.
        title: what its authors call it.
        paper: arXiv number, None without one.
        needs: keys of `NEEDS` by stage; the stages are those that it fits.
        switch: overrides that switch it on, by stage.
    """

    name: str
    title: str
    paper: str | None
    needs: Mapping[str, tuple[str, ...]]
    switch: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def stages(self) -> tuple[str, ...]:
        """See the class."""
        return tuple(self.needs)

    @property
    def all_needs(self) -> tuple[str, ...]:
        """Of all its stages, each one once."""
        return tuple(dict.fromkeys(need for needs in self.needs.values() for need in needs))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "name": self.name,
            "title": self.title,
            "paper": self.paper,
            "stages": list(self.stages),
            "needs": {stage: list(needs) for stage, needs in self.needs.items()},
            "switch_on": {stage: list(overrides) for stage, overrides in self.switch.items()},
        }


FEWER_STEPS = Listing(
    "fewer_steps", "Fewer steps", None, {"ss": (), "slat": ()},
    {"ss": ("pipeline.ss_steps=10",), "slat": ("pipeline.slat_steps=10",)},
)  # fmt: skip
"""Not a file of configs/, because it is no acceleration of a solve but another solve: the sampler's own grid with fewer
points, which no choice among the steps of a finer grid gives."""


def listed(stage: str | None = None, configs: Path | None = None) -> list[Listing]:
    """The methods: first no acceleration, then fewer steps, then the rest by title.

    Args:
        stage: only those that fit it.
        configs: the folder of the groups; None: the project's own.

    Raises:
        ConfigError: there is no such stage.
        FastSam3dError: a malformed `about`, or files of one name that disagree.
    """
    if stage is not None and stage not in STAGES:
        raise ConfigError(f"there is no stage '{stage}' that methods are for: {suggest(stage, STAGES)}")
    root = resource("configs") if configs is None else configs
    found: dict[str, Listing] = {FEWER_STEPS.name: FEWER_STEPS}
    for group in STAGES:
        for path in sorted((root / group).glob("*.yaml")):
            title, paper, needs = _about(path)
            known = found.get(path.stem, Listing(path.stem, title, paper, {}))
            if (known.title, known.paper) != (title, paper):
                raise FastSam3dError(
                    f"{path} is {title!r}, {paper}, another stage's file {known.title!r}, {known.paper}"
                )
            switch = {**known.switch, group: (f"{group}={path.stem}",)}
            found[path.stem] = replace(known, needs={**known.needs, group: needs}, switch=switch)
    rank = {"off": 0, FEWER_STEPS.name: 1}
    order = sorted(found.values(), key=lambda method: (rank.get(method.name, 2), method.title.lower()))
    return [method for method in order if stage is None or stage in method.stages]


def method_named(name: str) -> Listing | None:
    """The method of that name, or None."""
    return next((method for method in listed() if method.name == name), None)


def without_about(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings by module, as in files of configs/, without what describes the files."""
    return {
        name: {key: value for key, value in part.items() if key != ABOUT} if isinstance(part, Mapping) else part
        for name, part in settings.items()
        if name != ABOUT
    }


def _about(path: Path) -> tuple[str, str | None, tuple[str, ...]]:
    """Title, paper and needs of a method's file; without them it is listed by its file's name."""
    about = (read_yaml(path) or {}).get(ABOUT, {})
    keys = ("title", "paper", "needs")
    if not isinstance(about, Mapping) or not about.keys() <= set(keys):
        raise FastSam3dError(f"{path}: {ABOUT} is {about!r}: give a mapping of {', '.join(keys)}")
    needs = about.get("needs") or []
    for need in needs if isinstance(needs, list) else [needs]:
        if need not in NEEDS:
            raise FastSam3dError(f"{path} needs {need!r}: {suggest(str(need), [*NEEDS])}, in a list")
    paper = about.get("paper")
    return str(about.get("title", path.stem)), None if paper is None else str(paper), tuple(needs)


def misplaced(name: str, stage: str, options: Sequence[str]) -> str:
    """The message about a method's name that `stage` has no option for."""
    method = method_named(name) if stage in STAGES else None
    if method is None:
        return f"{stage} has no option '{name}': {suggest(name, options)}"
    ways = [override for overrides in method.switch.values() for override in overrides]
    if stage in method.switch:
        return f"{stage} has no option '{name}', it is switched on by {' '.join(method.switch[stage])}"
    return f"{name} does not fit {stage}, it fits {' and '.join(method.stages)}: {' '.join(ways)}"
