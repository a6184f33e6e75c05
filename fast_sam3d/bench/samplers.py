"""Samplers of the sparse structure under which methods are compared.

How a method ranks depends on the time grid and on the guidance: how long the first steps are, and in how many steps
guidance acts. The embedded model's own sampler differs from the published one in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from fast_sam3d.adapters import adapt
from fast_sam3d.bench.yaml_files import as_file, read_yaml
from fast_sam3d.errors import ConfigError

SETTINGS = ("rescale_t", "strength")
LARGEST = 1e6
"""Value of a setting."""


@dataclass(frozen=True)
class Sampler:
    """Settings of the sparse structure's sampler; None: the pipeline's own. The structured latent's is not changed.

    Args:
        name: in tables.
        rescale_t: of the time grid, above 0: above 1 the first steps are the shortest, below 1 the longest.
        strength: of the guidance, 0 or more.

    Raises:
        ConfigError: a value out of its range.
    """

    name: str
    rescale_t: float | None = None
    strength: float | None = None

    def __post_init__(self) -> None:
        for setting, least in (("rescale_t", "a number above 0"), ("strength", "0 or more")):
            value = getattr(self, setting)
            if value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= LARGEST or (setting == "rescale_t" and value == 0):
                raise ConfigError(f"sampler '{self.name}': {setting} is {value!r}: give {least}, at most {LARGEST:g}")

    @property
    def label(self) -> str:
        """The name with the settings, such as "published (rescale_t 3, strength 7)"."""
        set_here = [f"{key} {value:g}" for key, value in asdict(self).items() if key in SETTINGS and value is not None]
        return f"{self.name} ({', '.join(set_here)})" if set_here else self.name

    @contextmanager
    def on(self, pipeline: Any) -> Iterator[None]:
        """Sample with these settings inside of the context; on exit the pipeline's earlier ones are restored.

        Args:
            pipeline: stock, native or embedded; to be accelerated inside of the context, so that a method that reads
                the sampler when it is installed reads this one.

        Raises:
            NotAPipelineError: it is not a SAM 3D pipeline.
        """
        with adapt(pipeline).sampler_set("ss", self.rescale_t, self.strength):
            yield


PUBLISHED = Sampler("published", 3.0, 7.0)
"""That of SAM 3D Objects (sam3d_objects/pipeline/inference_pipeline.py): guidance in 19 of 25 steps."""
MILD = Sampler("mild", 3.0, 3.0)
"""The published time grid with weaker guidance."""
OWN = Sampler("own")
"""The pipeline's own, unchanged. That of the embedded model: guidance in 6 of 25 steps."""

SAMPLERS = {sampler.name: sampler for sampler in (PUBLISHED, MILD, OWN)}


def find_samplers(names: Sequence[str]) -> tuple[Sampler, ...]:
    """Samplers by name or YAML file, each once.

    Args:
        names: of `SAMPLERS`, or files with `rescale_t` and `strength`; a file's name is the sampler's.

    Raises:
        ConfigError: an unknown name, a file that cannot be read or has other settings, or two samplers of one name.
    """
    found: dict[str, Sampler] = {}
    for name in names:
        sampler = SAMPLERS[name] if name in SAMPLERS else _read(name)
        if found.setdefault(sampler.name, sampler) != sampler:
            raise ConfigError(f"there are two samplers '{sampler.name}': rename the file {name}")
    if not found:
        raise ConfigError(f"no sampler: give at least one of {', '.join(SAMPLERS)}, or a .yaml")
    return tuple(found.values())


def samplers_for(kind: str, tag: str, names: Sequence[str]) -> tuple[Sampler, ...]:
    """The samplers of a bench.

    The settings of SAM 3D Objects' weights are those of their pipeline.yaml, so their own sampler is the published one,
    and `MILD` is a sampler that nobody uses with them.

    Args:
        kind, tag: of the checkpoint.
        names: see `find_samplers`; none: the published one for the embedded model, and their own for other weights.

    Raises:
        ConfigError: as there; a name that is for the embedded model alone.
    """
    found = find_samplers(names or [PUBLISHED.name if kind == "mini" else OWN.name])
    for sampler in found:
        if kind != "mini" and sampler in (PUBLISHED, MILD):
            raise ConfigError(
                f"the sampler '{sampler.name}' is for the embedded model, and the weights {tag} have their own,"
                " which is measured: leave it out, or give a .yaml with rescale_t and strength"
            )
    return found


def _read(name: str) -> Sampler:
    path = as_file("sampler", name, list(SAMPLERS))
    tree = read_yaml("sampler", path)
    if not isinstance(tree, dict) or not tree or not set(tree) <= set(SETTINGS):
        raise ConfigError(f"the sampler {path} holds {tree!r}: give rescale_t, strength or both")
    return Sampler(path.stem.replace(" ", "_"), **tree)  # blanks separate the parts of a key of the bench
