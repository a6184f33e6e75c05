"""Accelerate a live pipeline, and bring it back exactly."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

from fast_sam3d.adapters import Sam3d, find
from fast_sam3d.decode.aggregate import MeshMethod
from fast_sam3d.decode.aggregate import build as build_mesh
from fast_sam3d.decode.around import AggregateInDecoder, AggregateVoxels, KeepPicture, MeshAlone
from fast_sam3d.errors import ConfigError, suggest
from fast_sam3d.exact import Exact
from fast_sam3d.exact import build as build_exact
from fast_sam3d.exact.context import BackboneSeam
from fast_sam3d.exact.passes import OneRun
from fast_sam3d.exact.seams import places as exact_places
from fast_sam3d.patch import Layer, Patch, seam_at
from fast_sam3d.report import Report, StageSeam
from fast_sam3d.solve.driver import SolveSeam, require_euler
from fast_sam3d.solve.guide import Both
from fast_sam3d.solve.method import StageMethod, build
from fast_sam3d.solve.scene import Begin, Chain, KeepOccupancy, KeepScale, RequireVoxels, Scene

Method: TypeAlias = StageMethod | MeshMethod | Exact


class Handle:
    """One acceleration of one pipeline.

    Attributes:
        report: what the accelerated runs cost.
        methods: the settings in force, by stage, every default written out.
    """

    def __init__(self, patch: Patch, report: Report) -> None:
        self._patch = patch
        self.report = report

    @property
    def methods(self) -> Mapping[str, Any]:
        """See the class."""
        return self.report.methods

    @property
    def active(self) -> bool:
        """False once removed, or replaced by another `accelerate`."""
        return self._patch.active

    def remove(self) -> None:
        """Bring the pipeline back. Does nothing when that has happened already."""
        self._patch.remove()

    def __repr__(self) -> str:
        state = "active" if self.active else "removed"
        return f"<fast_sam3d.Handle {state}, stages: {', '.join(self.methods) or 'none'}>"


def accelerate(
    pipeline: Any, config: Any = None, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> Handle:
    """Make a loaded pipeline faster, in place.

    Everything is checked before anything is touched, and a failing installation is undone whole. A pipeline that is
    accelerated already gets the new settings in place of the old. Not thread-safe: one thread per pipeline, as for
    the stock pipeline itself.

    Args:
        pipeline: a SAM 3D pipeline, or an object that holds one in `_pipeline`.
        config: a mapping {"ss": {when, where, predict, guide}, "slat": {...}, "mesh": {...}, "exact": {...}} (what is
            missing, null or empty is left alone), the whole project configuration, the path of a YAML file with
            either, or the name of a preset. None: the default preset. Where nothing is accelerated the pipeline stays
            untouched; `report.observe` watches it.
        preset: the name of a preset, in place of `config`.
        overrides: Hydra overrides on top, such as "ss.when.stride=4".

    Returns:
        a handle that reports and removes.

    Raises:
        ConfigError: an unknown preset, module, method, key or leaf, or a value out of range.
        NotAPipelineError: `pipeline` is not one.
        SolverError: a stage to be accelerated does not use the Euler solver.
    """
    adapter = find(pipeline)
    methods = plan(adapter, config, preset=preset, overrides=overrides)
    for stage in adapter.stages.keys() & methods.keys():
        require_euler(adapter.solver(stage), stage)
    report = Report({stage: method.settings() for stage, method in methods.items()})
    return Handle(install(adapter, report, methods), report)


def restore(pipeline: Any) -> None:
    """Take every acceleration off a pipeline, or off a deep copy of an accelerated one.

    Raises:
        NotAPipelineError: `pipeline` is not one.
    """
    Patch().take_off(_places(find(pipeline)), lambda layer: layer.accelerates)


@contextmanager
def accelerated(
    pipeline: Any, config: Any = None, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> Iterator[Handle]:
    """`accelerate` for the length of a `with` block. Arguments and errors as there.

    An acceleration that was on before is replaced, and does not come back at the end of the block.
    """
    handle = accelerate(pipeline, config, preset=preset, overrides=overrides)
    try:
        yield handle
    finally:
        handle.remove()


def plan(
    adapter: Sam3d, config: Any = None, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> dict[str, Method]:
    """The methods that a configuration asks for, by module, checked against the pipeline; installs nothing.

    Args, Raises: as `accelerate`.
    """
    stages = adapter.stages
    settings = _settings(config, preset, overrides)
    _refuse_unknown(settings, [*stages, "mesh", "exact"])
    methods: dict[str, Method] = {
        name: build(settings[name], stage.groups, path=name, voxels=stage.coords is not None)
        for name, stage in stages.items()
        if settings.get(name)
    }
    for name, method in methods.items():
        reason = adapter.unguidable(name) if _guides(method) else None
        if reason:
            raise ConfigError(f"{name}.guide cannot act on this pipeline, because {reason}: leave it out, or use both")
    if settings.get("mesh"):
        methods["mesh"] = build_mesh(settings["mesh"])
    if settings.get("exact") and (exact := build_exact(settings["exact"])).any:
        methods["exact"] = exact
    return methods


def install(adapter: Sam3d, report: Report, methods: Mapping[str, Method] | None = None) -> Patch:
    """Put a report on a pipeline, and methods where there are any; all or nothing.

    Args:
        adapter: the pipeline.
        report: collects from now on.
        methods: by stage. None only watches. A mapping is an acceleration and replaces the last; an empty one takes
            the last off and installs nothing.

    Returns:
        the undo log.
    """
    patch = Patch()
    accelerates = methods is not None
    scene = Scene()
    around = _around(methods or {})
    try:
        # With nothing to accelerate the pipeline stays as its author made it, without a report, too.
        if methods or not accelerates:
            for owner, name, stage in adapter.timed():
                layer = Layer(report, accelerates, around.get(stage), scene)
                patch.add(owner, name, layer, partial(StageSeam, owner, name, stage))
            for name, solve_stage in adapter.stages.items():
                solver = adapter.solver(name)
                method = (methods or {}).get(name)
                layer = Layer(report, accelerates, method, scene)
                patch.add(solver, "solve_iter", layer, partial(SolveSeam, solver, solve_stage))
                if _guides(method):
                    backbone = adapter.backbone(name)
                    patch.add(backbone, "forward", layer, partial(BackboneSeam, backbone))
                if isinstance(method, StageMethod) and method.where.needs_decoder:
                    scene.decoder = seam_at(adapter.structure_decoder(), "forward")
            exact = (methods or {}).get("exact")
            if isinstance(exact, Exact):
                for owner, name, make in exact_places(adapter, exact):
                    patch.add(owner, name, Layer(report, accelerates, exact, scene), make)
        # The last acceleration goes when the new one is in place, so that the seams they share stay where they are.
        if accelerates:
            patch.take_off(_places(adapter), lambda layer: layer.accelerates and layer.report is not report)
    except BaseException:
        patch.rollback()
        raise
    return patch


def _around(methods: Mapping[str, Method]) -> dict[str, Chain]:
    """What goes around the parts of the pipeline, by their rows of the report."""
    rows: dict[str, list[Callable[..., Any]]] = {}
    if methods:
        rows["slat"], rows["postprocess"] = [RequireVoxels()], [MeshAlone()]
    mesh = methods.get("mesh")
    if isinstance(mesh, MeshMethod):
        rows["preprocess"] = [KeepPicture()]
        if mesh.where == "voxels":
            rows["ss"] = [AggregateVoxels(mesh)]
        else:
            rows["mesh"] = [AggregateInDecoder(mesh)]
    if mesh or any(isinstance(m, StageMethod) and m.where.needs_tokens for m in methods.values()):
        rows["other"] = [Begin()]
        rows["ss_decoder"] = [KeepOccupancy()]
        rows.setdefault("ss", []).append(KeepScale())
    exact = methods.get("exact")
    if isinstance(exact, Exact) and (exact.embedders or exact.images):
        rows.setdefault("other", []).append(OneRun(exact.images))
    return {row: Chain(tuple(around)) for row, around in rows.items()}


def _guides(method: Method | None) -> bool:
    return isinstance(method, StageMethod) and not isinstance(method.guide, Both)


def _places(adapter: Sam3d) -> list[tuple[object, str]]:
    places = [(owner, name) for owner, name, _ in adapter.timed()]
    places += [(owner, name) for owner, name, _ in exact_places(adapter, Exact(), everywhere=True)]
    places += [(adapter.backbone(stage), "forward") for stage in adapter.stages]
    return places + [(adapter.solver(stage), "solve_iter") for stage in adapter.stages]


def _settings(config: Any, preset: str | None, overrides: Sequence[str]) -> Mapping[str, Any]:
    """The configuration as {stage: mapping}."""
    if isinstance(overrides, str):
        raise ConfigError(f"overrides is the text {overrides!r}: give a list, [{overrides!r}]")
    if config is not None and preset is not None:
        raise ConfigError("config and preset both say what to do: give one of them")
    if isinstance(config, str) and not _is_file(config):
        config, preset = None, config
    if config is None:
        return _from_preset(preset, overrides)
    if isinstance(config, (str, os.PathLike)):
        config = _read(Path(config))
    modules = getattr(config, "modules", None)  # fast_sam3d.config.Config
    mapping = config if isinstance(config, Mapping) else modules
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"config is a {type(config).__name__}: give a mapping, the path of a YAML file, or a preset")
    return _plain(mapping, overrides)


def _from_preset(preset: str | None, overrides: Sequence[str]) -> Mapping[str, Any]:
    from fast_sam3d.config import MODULES, PRESET, compose, group_options

    names = group_options()["preset"]
    if preset is not None and preset not in names:
        raise ConfigError(f"there is no preset '{preset}', nor a file of that name: {suggest(preset, names)}")
    tree, _ = compose([f"preset={preset or PRESET}", *overrides])
    return {module: tree[module] for module in MODULES}


def _is_file(text: str) -> bool:
    return text.endswith((".yaml", ".yml")) or os.sep in text


def _read(path: Path) -> Any:
    from omegaconf import OmegaConf
    from yaml import YAMLError

    try:
        return OmegaConf.load(path)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror or error}): give the path of a YAML file") from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {str(error).splitlines()[0]}") from error


def _plain(mapping: Mapping[str, Any], overrides: Sequence[str]) -> Mapping[str, Any]:
    """Plain containers, interpolations resolved, overrides applied."""
    if not overrides and type(mapping) is dict:
        return mapping
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        tree = OmegaConf.merge(mapping, OmegaConf.from_dotlist([override.lstrip("+") for override in overrides]))
        return OmegaConf.to_container(tree, resolve=True)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration cannot be resolved: {str(error).splitlines()[0]}") from error


def _refuse_unknown(settings: Mapping[str, Any], stages: Collection[str]) -> None:
    """Refuse a key that is neither a stage nor another part of the project's whole configuration."""
    others = [key for key in settings if key not in stages]
    if others:
        from fast_sam3d.config import MODULES, compose

        known = compose()[0].keys() - set(MODULES)
        for key in others:
            if key not in known:
                raise ConfigError(f"there is no module '{key}' to accelerate: {suggest(str(key), stages)}")
