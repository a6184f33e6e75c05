"""A method for one sampling stage: when, where, predict and guide together, built from a configuration mapping."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fast_sam3d.errors import ConfigError, suggest
from fast_sam3d.ranges import build_settings
from fast_sam3d.sampling.guide import GUIDE, Guide
from fast_sam3d.sampling.guide.both import Both
from fast_sam3d.sampling.part import Part
from fast_sam3d.sampling.predict import PREDICT, Predict
from fast_sam3d.sampling.predict.hold import Hold
from fast_sam3d.sampling.predict.live import Live
from fast_sam3d.sampling.when import WHEN, When
from fast_sam3d.sampling.when.always import Always
from fast_sam3d.sampling.where import WHERE, Where
from fast_sam3d.sampling.where.everywhere import All

logger = logging.getLogger(__name__)

PARTS: dict[str, Mapping[str, type[Part]]] = {"when": WHEN, "where": WHERE, "predict": PREDICT, "guide": GUIDE}
"""The four parts of a method, and the classes of each by name."""

ALL = "all"
"""The predict key of a predictor for every leaf that no other key covers."""


@dataclass(frozen=True, slots=True)
class StageMethod:
    """How one stage is sampled.

    Args:
        when: decides at which steps the network runs.
        where: decides on which tokens.
        predict: a predictor by leaf name.
        guide: decides on the unconditional call of guidance.
    """

    when: When
    where: Where
    predict: Mapping[str, Predict]
    guide: Guide = Both()

    @property
    def parts(self) -> tuple[Part, ...]:
        """All of its classes."""
        return (self.when, self.where, *self.predict.values(), self.guide)

    @property
    def depth(self) -> int:
        """Past evaluations that must be kept."""
        return max(part.depth for part in self.parts)

    @property
    def same_for_all_objects(self) -> bool:
        """Whether all objects of a batch take the same steps, so that they can be solved together."""
        return all(part.same_for_all_objects for part in self.parts)

    @property
    def live(self) -> Live | None:
        """The settings of evaluating the layout between the steps at which the whole network runs, None without."""
        return next((predictor for predictor in self.predict.values() if isinstance(predictor, Live)), None)

    def covers(self, leaves: Sequence[str]) -> bool:
        """Whether each of the leaves has a predictor."""
        return all(name in self.predict for name in leaves)

    def settings(self) -> dict[str, Any]:
        """The method as a plain mapping, every default written out."""
        return {
            "when": _settings(self.when),
            "where": _settings(self.where),
            "predict": {leaf: _settings(predictor) for leaf, predictor in self.predict.items()},
            "guide": _settings(self.guide),
        }


def build_stage_method(
    mapping: Mapping[str, Any],
    groups: Mapping[str, Sequence[str]] | None = None,
    path: str = "",
    voxels: bool | None = None,
) -> StageMethod:
    """Build the method that a mapping describes.

    Args:
        mapping: {when: {name, ...}, where: {name, ...}, predict: {name, ...} or {leaf or group: {name, ...}}, guide:
            {name, ...}}; what is missing is `always`, `all`, `hold` and `both`.
        groups: the leaves that a predict key stands for, such as {"shape": ["shape"], "layout": ["scale", ...]}. None:
            each predict key names one leaf.
        path: of the mapping in the configuration ("ss"), for messages.
        voxels: whether the stage's tokens are voxels, which may be chosen from; where they are not, the state is a
            sparse structure, which can be decoded. None: unknown.

    Raises:
        ConfigError: an unknown key, name or leaf, a value out of range, a leaf without a predictor, a predictor with
            settings for more evaluations than there are, or a choice of voxels where there are none.
    """
    mapping = _mapping(mapping, path or "the method")
    _known(mapping, tuple(PARTS), path)
    where = _part(mapping.get("where"), WHERE, All(), _join(path, "where"))
    if (where.needs_tokens and voxels is False) or (where.needs_decoder and voxels is True):
        fits = "slat" if where.needs_tokens else "ss"
        what = "chooses voxels" if where.needs_tokens else "decodes the sparse structure in mid-solve"
        raise ConfigError(f"{_join(path, 'where')}.name is {where.name!r}, which {what}: it fits {fits}, not {path}")
    when = _part(mapping.get("when"), WHEN, Always(), _join(path, "when"))
    predict = _predictors(mapping.get("predict"), groups, _join(path, "predict"))
    for leaf, predictor in predict.items():
        if when.evaluations is not None and predictor.rows > when.evaluations:
            raise ConfigError(
                f"{_join(path, 'predict')} has settings for {predictor.rows} evaluations of '{leaf}', and "
                f"{_join(path, 'when')} has {when.evaluations}: give at most as many"
            )
    return StageMethod(
        when=when,
        where=where,
        predict=predict,
        guide=_part(mapping.get("guide"), GUIDE, Both(), _join(path, "guide")),
    )


def _predictors(value: Any, groups: Mapping[str, Sequence[str]] | None, path: str) -> dict[str, Predict]:
    given = {ALL: {"name": "hold"}} if value is None else _mapping(value, path)
    if "name" in given:
        given = {ALL: given}
    parts = {key: _part(part, PREDICT, Hold(), _join(path, key)) for key, part in given.items()}
    if groups is None:
        return parts
    leaves = [leaf for members in groups.values() for leaf in members]
    _known(parts, [*groups, *leaves, ALL], path)
    predictors: dict[str, Predict] = {}
    for group, members in groups.items():
        if group in parts and not members:
            logger.info("%s.%s is left out: this model has no %s", path, group, group)
        for leaf in members:
            key = next((key for key in (leaf, group, ALL) if key in parts), None)
            if key is None:
                raise ConfigError(f"{path} has no predictor for '{leaf}': add {group} to {', '.join(parts) or 'it'}")
            if (only := parts[key].only) not in (None, group):
                fix = f"give it to {only} alone, and {group} another" if only in groups else "give another"
                raise ConfigError(f"{path}.name is {parts[key].name!r}, which predicts no {group}: {fix}")
            predictors[leaf] = parts[key]
    return predictors


def _part(value: Any, registry: Mapping[str, type], default: Any, path: str) -> Any:
    if value is None:
        return default
    settings = dict(_mapping(value, path))
    name = settings.pop("name", None)
    if name is None:
        raise ConfigError(f"{path} has no name: give one of {', '.join(sorted(registry))}")
    if not isinstance(name, str) or name not in registry:
        raise ConfigError(f"{path}.name is {name!r}: {suggest(str(name), registry)}")
    return build_settings(registry[name], settings, path)


def _known(mapping: Mapping[str, Any], valid: Sequence[str], path: str) -> None:
    for key in mapping:
        if key not in valid:
            raise ConfigError(f"{_join(path, str(key))} is unknown: {suggest(str(key), valid)}")


def _mapping(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{path} is {value!r}: give a mapping, such as {{name: ...}}")
    return value


def _settings(part: Part) -> dict[str, Any]:
    plain = dataclasses.asdict(part)  # type: ignore[call-overload]
    return {"name": part.name, **{key: _plain(value) for key, value in plain.items()}}


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key
