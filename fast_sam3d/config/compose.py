"""The single Hydra configuration: composed from configs/, checked, and turned into frozen settings.

Every error names the bad key or value and the nearest valid ones, and is raised before anything else happens.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from fast_sam3d.config.catalogue import ABOUT, misplaced
from fast_sam3d.config.models import fitted
from fast_sam3d.config.overrides import check_overrides, shown
from fast_sam3d.config.packaged import resource
from fast_sam3d.config.read import Reader, dotted_keys
from fast_sam3d.config.settings import (
    ACCELERATED,
    ALIASES,
    DTYPES,
    FILES,
    FORMATS,
    GATES,
    MEMORY,
    MODELS,
    MODULES,
    POINTMAP_AXES,
    PRESET,
    RUNTIMES,
    SEED_MAX,
    BakeConfig,
    Config,
    InputConfig,
    Loading,
    OutputConfig,
    PipelineConfig,
    SceneConfig,
)
from fast_sam3d.errors import ConfigError, suggest

__all__ = [
    "ACCELERATED",
    "DTYPES",
    "FILES",
    "FORMATS",
    "MEMORY",
    "MODELS",
    "MODULES",
    "POINTMAP_AXES",
    "PRESET",
    "RUNTIMES",
    "SEED_MAX",
    "BakeConfig",
    "Config",
    "InputConfig",
    "Loading",
    "OutputConfig",
    "PipelineConfig",
    "SceneConfig",
    "check_methods",
    "compose",
    "group_options",
    "load",
]

_HYDRA_VERSION = "1.3"
DECODED = {"mesh", "gaussian"}
"""The default of pipeline.formats."""
_ONE_THREAD = threading.Lock()


def load(overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> Config:
    """Composes and checks the configuration.

    Args:
        overrides: Hydra overrides, such as "ss=fast_sam3d" and "ss.when.stride=4".
        values: dotted key to value, set after the overrides and not parsed (a path may hold any character).

    Raises:
        ConfigError: an unknown key or option, a malformed override, a value of the wrong type or out of range.
    """
    return _validate(*compose(overrides, values))


def check_methods(config: Config) -> None:
    """Refuse wrong methods before a pipeline is loaded; `accelerate` checks them again against the live one.

    Raises:
        ConfigError: an unknown method or setting, or a value out of range.
    """
    from fast_sam3d.config.methods import build_methods

    build_methods(config.modules)


def group_options() -> dict[str, list[str]]:
    """Returns the groups of configs/ and the options of each, sorted."""
    root = resource("configs")
    return {d.name: sorted(f.stem for f in d.glob("*.yaml")) for d in sorted(root.iterdir()) if any(d.glob("*.yaml"))}


def compose(
    overrides: Sequence[str] = (), values: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Composes the configuration without checking its values.

    Args, Raises: as `load`, but for the values.

    Returns:
        The configuration as plain containers, and the option picked in each group.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    groups = group_options()
    picks, edits = _split(overrides, groups)
    configs = resource("configs")
    tree, choices = _hydra(configs, tuple(picks))
    for keys, override in edits:
        for key in keys:
            _check_key(key, override, tree, choices, groups)
    if edits:
        tree, choices = _hydra(configs, (*picks, *(override for _, override in edits)))
    try:
        plain: dict[str, Any] = OmegaConf.to_container(tree, resolve=True)  # type: ignore[assignment]
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration cannot be resolved: {_first_line(error)}") from error
    for key, value in (values or {}).items():
        _check_key(key, key, plain, choices, groups)
        # Set in plain containers: to OmegaConf a path with ${...} in it would be an interpolation.
        *parents, last = key.split(".")
        node = plain
        for parent in parents:
            node = node[parent]
        node[last] = value
    return plain, dict(choices)


def _split(overrides: Sequence[str], groups: Mapping[str, list[str]]) -> tuple[list[str], list[tuple[list[str], str]]]:
    """Sorts overrides into those that pick a group's option and those that edit values, as (keys, override)."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    from fast_sam3d.exact.settings import retired

    check_overrides(overrides)
    parser = OverridesParser.create()
    picks: list[str] = []
    edits: list[tuple[list[str], str]] = []
    for override in overrides:
        try:
            parsed = parser.parse_override(override)
        except (HydraException, RecursionError, ValueError, OverflowError) as error:
            raise ConfigError(f"{shown(override)} is not an override: write key=value, such as seed=7") from error
        if parsed.is_sweep_override():
            raise ConfigError(f"'{override}' asks for several runs: give one value, or quote it, key='a,b'")
        if parsed.is_delete():
            raise ConfigError(f"'{override}' deletes a key, and every key is needed: set it to a value instead")
        key = parsed.key_or_group
        if retired(key):
            continue
        if "@" in override.split("=", 1)[0]:
            raise ConfigError(f"'{override}' names a package with @, and every group has one place: write {key}=...")
        if key in groups and not isinstance(parsed.value(), dict):
            option = str(parsed.value()).removesuffix(".yaml")
            if option not in groups[key]:
                raise ConfigError(misplaced(option, key, groups[key]))
            picks.append(f"{key}={option}")
        else:
            # What is added with a plus sign is checked when the whole is read.
            value = parsed.value()
            inside = dotted_keys(value) if isinstance(value, dict) and not parsed.is_add() else ()
            edits.append(([key, *(f"{key}.{name}" for name in inside)], override))
    return picks, edits


@lru_cache(maxsize=64)
def _hydra(configs: Path, overrides: tuple[str, ...]) -> tuple[Any, Mapping[str, str]]:
    """Runs Hydra's own compose, once for the same overrides; callers change nothing of what it returns."""
    with _ONE_THREAD:  # Hydra's state is of the process
        return _composed(configs, overrides)


def _composed(configs: Path, overrides: tuple[str, ...]) -> tuple[Any, Mapping[str, str]]:
    import hydra
    from hydra import version
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    # Hydra is a singleton of the process, which an application may be using.
    theirs, their_version = GlobalHydra.instance().hydra, version.VersionBase.instance().version_base
    GlobalHydra.instance().hydra = None
    try:
        with hydra.initialize_config_dir(str(configs), version_base=_HYDRA_VERSION):
            tree = hydra.compose("config", overrides=list(overrides), return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"the configuration does not compose: {_first_line(error)}") from error
    finally:
        # Asked for again: Hydra's own initialize replaces the instance by a copy.
        GlobalHydra.instance().hydra = theirs
        version.VersionBase.instance().version_base = their_version
    choices = {k: str(v) for k, v in tree.hydra.runtime.choices.items() if not k.startswith("hydra/")}
    with open_dict(tree):
        del tree["hydra"]
        for module in MODULES:
            (tree[module] or {}).pop(ABOUT, None)
    OmegaConf.set_struct(tree, False)
    return tree, choices


def _check_key(key: str, override: str, tree: Any, choices: Mapping[str, str], groups: Mapping[str, list[str]]) -> None:
    """Refuses a key that the composed configuration does not have."""
    known = set(dotted_keys(tree))
    if key in known:
        return
    if key in groups:
        raise ConfigError(f"'{override}' gives {key} settings, and it picks a file: {key}=<{'|'.join(groups[key])}>")
    head = key.split(".", 1)[0]
    if head in MODULES:
        if not tree.get(head):
            raise ConfigError(
                f"{key} has no effect while {head}={choices.get(head, 'off')}: "
                f"add --enable_acceleration, or {head}=<{'|'.join(groups[head])}>"
            )
        # A method may know settings that its file leaves at their defaults; the module's own check decides.
        if override.startswith("+"):
            return
        inside = [k for k in known if k.startswith(head + ".")]
        raise ConfigError(f"{head}={choices.get(head)} has no key '{key}': {suggest(key, inside)}")
    raise ConfigError(f"there is no configuration key '{key}': {suggest(key, known | set(groups))}")


def _validate(tree: Mapping[str, Any], choices: Mapping[str, str]) -> Config:
    read = Reader(tree)
    output = _output(read)
    config = Config(
        seed=read.integer("seed", 0, SEED_MAX),
        input=InputConfig(
            image_path=read.path("input.image_path"),
            mask_index=read.optional("input.mask_index", lambda key: read.integer(key, 0, 10**9)),
            mask_path=read.path("input.mask_path"),
            pointmap=read.text("input.pointmap"),
            mask_label=read.optional("input.mask_label", read.text),
            mask_threshold=read.optional("input.mask_threshold", read.share),
            clicks=cast(Any, read.pixels("input.click", 2)),
            background=cast(Any, read.pixels("input.background", 2)),
            box=_box(read),
            pointmap_axes=read.choice("input.pointmap_axes", POINTMAP_AXES),
            rembg=read.boolean("input.rembg"),
        ),
        output=output,
        pipeline=PipelineConfig(
            tag=read.optional("pipeline.tag", read.text),
            device=read.optional("pipeline.device", read.text),
            dtype=read.optional("pipeline.dtype", lambda key: read.choice(key, DTYPES)),
            depth_model=read.optional("pipeline.depth_model", read.text),
            runtime=read.choice("pipeline.runtime", RUNTIMES),
            memory=read.choice("pipeline.memory", MEMORY),
            half_cache=read.boolean("pipeline.half_cache"),
            ss_steps=read.integer("pipeline.ss_steps", 1, 1000),
            slat_steps=read.integer("pipeline.slat_steps", 1, 1000),
            formats=_decoded(read, output),
            layout_postprocess=read.boolean("pipeline.layout_postprocess"),
            model=read.choice("pipeline.model", MODELS),
        ),
        scene=SceneConfig(
            smaller=read.sets("scene.smaller", FORMATS),
            turntable=read.boolean("scene.turntable"),
            batch=read.integer("scene.batch", 1, 1024),
        ),
        modules={name: read.mapping(name, f"{name}={option}") for name, option in ACCELERATED.items()},
        choices=choices,
        use_calibrated=read.boolean("use_calibrated"),
        quality=read.optional("quality", read.share),
    )
    read.refuse_unread()
    if config.input.mask_index is not None and config.input.mask_path is not None:
        raise ConfigError(
            "input.mask_index (--mask_index) and input.mask_path (--mask_path) both name a mask: give one of them"
        )
    others = ("mask_index", "mask_path", "mask_label")
    if config.input.marked and (named := [name for name in others if getattr(config.input, name) is not None]):
        raise ConfigError(
            f"input.{named[0]} (--{named[0]}) names a mask, and --click, --background and --box select one: give one"
        )
    return fitted(config)


def _box(read: Reader) -> tuple[float, float, float, float] | None:
    found = read.pixels("input.box", 4)
    if len(found) > 1:
        raise ConfigError(f"input.box holds {len(found)} boxes: give one", "input.box")
    return cast(Any, found[0]) if found else None


def _output(read: Reader) -> OutputConfig:
    formats = read.optional("output.formats", lambda key: read.choices(key, (*FILES, *ALIASES)))
    return OutputConfig(
        dir=read.file("output.dir"),
        preview=read.boolean("output.preview"),
        turntable=read.boolean("output.turntable"),
        formats=formats and tuple(dict.fromkeys(ALIASES.get(name, name) for name in formats)),
        faces=read.optional("output.faces", lambda key: read.integer(key, 4, 10**8)),
        texture=read.optional("output.texture", lambda key: read.integer(key, 16, 8192)),
        bake=BakeConfig(gate=read.optional("output.bake.gate", lambda key: read.choice(key, GATES))),
    )


def _decoded(read: Reader, output: OutputConfig) -> tuple[str, ...]:
    """What is to be decoded: for the files that are asked for, else as pipeline.formats says."""
    key = "pipeline.formats"
    decoded = read.choices(key, FORMATS)
    if output.formats is not None:
        needed = {FILES[name] for name in output.formats}
        if output.bake.gate is not None:
            needed.add("gaussian")
        if set(decoded) != DECODED and not needed <= set(decoded):
            raise ConfigError(
                f"output.formats (--formats) needs {', '.join(sorted(needed))} and {key} decodes {', '.join(decoded)}: "
                f"leave {key} out",
                "output.formats",
            )
        decoded = tuple(name for name in FORMATS if name in needed)
    for name in ("faces", "texture"):
        if getattr(output, name) is not None and "mesh" not in decoded:
            raise ConfigError(f"output.{name} (--{name}) needs a mesh, and none is decoded: ask for one")
    if output.bake.gate is not None and output.texture is None:
        raise ConfigError("output.bake.gate needs a texture to bake: add output.texture=1024 (--texture 1024)")
    if output.bake.gate is not None and not {"gaussian", "gaussian_4"} & set(decoded):
        raise ConfigError(f"output.bake.gate needs gaussians, and {key} decodes none: add gaussian to it", key)
    return decoded


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n", 1)[0]
