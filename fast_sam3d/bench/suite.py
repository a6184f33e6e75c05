"""Suites: methods, number of objects, seeds, ablation and sweeps, read from YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fast_sam3d.bench.variant import Variant, method_of
from fast_sam3d.bench.yaml_files import as_file, read_yaml
from fast_sam3d.config.compose import SEED_MAX, load
from fast_sam3d.errors import ConfigError, suggest

OFF, OTHER_SEED = "off", "other seed"
"""Names of two runs in every suite: the unaccelerated baseline, and the same with another seed."""
SEED_STEP = 1_000_003
"""Offset from a seed to the other seed."""

MOST_PAIRS = 100_000
"""Pairs of an object and a seed in a suite; each takes seconds."""

_FOLDER = Path(__file__).parent / "suites"
_KEYS = ("about", "objects", "seeds", "samplers", "methods", "ablation", "sweeps")
_SWEEP_KEYS = ("method", "key", "values")


@dataclass(frozen=True)
class Sweep:
    """Several values of one setting of a method.

    Args:
        title: of the plot.
        key: of the setting, such as "ss.when.stride".
        points: value to method name.
    """

    title: str
    key: str
    points: Mapping[float, str]


@dataclass(frozen=True)
class Suite:
    """One suite.

    Args:
        objects: number of objects.
        seeds: of the noise.
        methods: name to overrides, including those of ablation and sweeps.
        ablation: label to method name: modules alone and together.
        main: names of the methods in the main table, without those only in sweeps.
        samplers: names or files, see `fast_sam3d.bench.samplers`; none: the published one, on weights other than the
            embedded ones their own.
    """

    name: str
    objects: int
    seeds: tuple[int, ...]
    methods: Mapping[str, str]
    ablation: Mapping[str, str] = field(default_factory=dict)
    sweeps: tuple[Sweep, ...] = ()
    main: tuple[str, ...] = ()
    samplers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.objects * len(self.seeds) > MOST_PAIRS:
            raise ConfigError(
                f"suite {self.name} has {self.objects} objects with {len(self.seeds)} seeds each: give at most "
                f"{MOST_PAIRS:,} pairs of them"
            )

    def variants(self, model: str = "sam3d") -> tuple[Variant, ...]:
        """The baseline, the baseline with another seed, then the methods, on a model of `config.settings.MODELS`.

        Raises:
            ConfigError: a method is unknown, does not fit its stage, or changes nothing.
        """
        plain = load([], {"pipeline.model": model})
        methods = (method_of(name, overrides, plain) for name, overrides in self.methods.items())
        return (Variant(OFF), Variant(OTHER_SEED), *methods)

    def with_methods(self, overrides: Sequence[str], alone: bool) -> Suite:
        """Add methods named by their overrides; `alone`: remove all others."""
        more = {text: text for text in overrides}
        if alone:
            return replace(self, methods=more, ablation={}, sweeps=(), main=tuple(more))
        return replace(self, methods={**self.methods, **more}, main=tuple(dict.fromkeys([*self.main, *more])))


def suite_names() -> list[str]:
    """Names of the packaged suites."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_suite(name_or_file: str) -> Suite:
    """Read a packaged suite, or a YAML file.

    Raises:
        ConfigError: the suite does not exist or is invalid.
    """
    path = _FOLDER / f"{name_or_file}.yaml"
    if name_or_file not in suite_names():
        path = as_file("suite", name_or_file, suite_names())
    return _read(path.stem, read_yaml("suite", path))


def _read(name: str, tree: Any) -> Suite:
    top = _mapping(f"suite {name}", tree, _KEYS)
    methods: dict[str, str] = {}

    def add(label: str, overrides: Any) -> str:
        if not isinstance(overrides, str):
            raise ConfigError(f"suite {name}: {label} is {overrides!r}: give overrides, such as ss=fast_sam3d")
        if label in (OFF, OTHER_SEED):
            raise ConfigError(f"suite {name}: the name '{label}' is reserved: every suite has that run")
        if methods.setdefault(label, overrides) != overrides:
            raise ConfigError(f"suite {name}: there are two methods '{label}': give one another name")
        return label

    for label, overrides in _mapping(f"suite {name}: methods", top.get("methods") or {}).items():
        add(label, overrides)
    main = tuple(methods)
    # A method with two labels runs once.
    known = {overrides: label for label, overrides in methods.items()}
    ablation = {
        label: (isinstance(overrides, str) and known.get(overrides)) or add(label, overrides)
        for label, overrides in _mapping(f"suite {name}: ablation", top.get("ablation") or {}).items()
    }
    main = tuple(dict.fromkeys([*main, *ablation.values()]))
    known = {overrides: label for label, overrides in methods.items()}
    sweeps = []
    for title, settings in _mapping(f"suite {name}: sweeps", top.get("sweeps") or {}).items():
        sweep = _mapping(f"suite {name}: sweeps: {title}", settings, _SWEEP_KEYS)
        values = sweep.get("values")
        if not isinstance(values, list) or not values or not all(type(value) in (int, float) for value in values):
            raise ConfigError(f"suite {name}: the values of the sweep {title} are {values!r}: give a list of numbers")
        points = {}
        for value in values:
            overrides = f"{sweep.get('method')} {sweep.get('key')}={value}"
            points[value] = known.get(overrides) or add(overrides, overrides)
        sweeps.append(Sweep(title, str(sweep.get("key")), points))
    seeds = top.get("seeds")
    if not isinstance(seeds, list) or not seeds or not all(type(s) is int and 0 <= s <= SEED_MAX for s in seeds):
        raise ConfigError(f"suite {name}: seeds is {seeds!r}: give a list of integers >= 0")
    if type(top.get("objects")) is not int or top["objects"] < 1:
        raise ConfigError(f"suite {name}: objects is {top.get('objects')!r}: give an integer >= 1")
    samplers = top.get("samplers", [])
    if not isinstance(samplers, list) or not all(isinstance(sampler, str) for sampler in samplers):
        raise ConfigError(f"suite {name}: samplers is {samplers!r}: give a list of names, such as [published, own]")
    if not methods:
        raise ConfigError(f"suite {name} has no method: name at least one")
    seeds = tuple(dict.fromkeys(seeds))
    return Suite(name, top["objects"], seeds, methods, ablation, tuple(sweeps), main, tuple(samplers))


def _mapping(what: str, tree: Any, keys: Sequence[str] = ()) -> dict[str, Any]:
    if not isinstance(tree, Mapping) or not all(isinstance(key, str) for key in tree):
        raise ConfigError(f"{what} is {tree!r}: give names and their values")
    for key in tree:
        if keys and key not in keys:
            raise ConfigError(f"{what} has no '{key}': {suggest(key, keys)}")
    return dict(tree)
