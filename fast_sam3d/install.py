"""Checks the methods of a configuration against a pipeline, and installs them as seams."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from fast_sam3d.adapters import Adapter
from fast_sam3d.adapters.layout import layout_stream
from fast_sam3d.config.calibrated import choose
from fast_sam3d.config.methods import Method, build_methods
from fast_sam3d.config.resolve import refuse_unknown, resolve
from fast_sam3d.decode.aggregate import MeshMethod
from fast_sam3d.decode.hooks import aggregate_in_decoder, aggregate_voxels, mesh_without_gaussians, record_image
from fast_sam3d.errors import ConfigError
from fast_sam3d.exact import Exact
from fast_sam3d.exact.passes import one_run
from fast_sam3d.exact.places import layers as exact_layers
from fast_sam3d.patch import Layer, Patch, seam_at
from fast_sam3d.sampling.driver import SolveSeam
from fast_sam3d.sampling.exchange import Chain, Exchange, begin_run, keep_occupancy, keep_scale, require_voxels
from fast_sam3d.sampling.guide import NetworkSeam, guide_call
from fast_sam3d.sampling.guide.both import Both
from fast_sam3d.sampling.live import live_call
from fast_sam3d.sampling.method import StageMethod
from fast_sam3d.sampling.predict.live import Live
from fast_sam3d.telemetry import Report, StageSeam

__all__ = ["Method", "install", "methods_on", "plan", "schedule_on"]

logger = logging.getLogger(__name__)


def plan(
    adapter: Adapter, config: Any = None, *, preset: str | None = None, overrides: Sequence[str] = ()
) -> tuple[dict[str, Method], str | None]:
    """The methods of a configuration by module, checked against the pipeline. Installs nothing.

    Args, Raises: as `accelerate`.

    Returns:
        the methods, and the file of a schedule measured on this pipeline if they are of one.
    """
    stages = adapter.stages
    settings, schedule = choose(adapter, resolve(config, preset, overrides, adapter.presets))
    refuse_unknown(settings, [*stages, "mesh", "exact"])
    methods = build_methods(settings, stages)
    _refuse_unfit(adapter, methods)
    for name, method in methods.items():
        reason = adapter.unguidable(name) if _guides(method) else None
        if reason:
            raise ConfigError(f"{name}.guide cannot act on this pipeline, because {reason}: leave it out, or use both")
        if isinstance(method, StageMethod) and method.live and (reason := adapter.no_live_layout()):
            methods[name] = _without_live(method, name, reason)
    return methods, schedule


def install(adapter: Adapter, report: Report, methods: Mapping[str, Method] | None = None) -> Patch:
    """Install a report on a pipeline, and methods if given. A failure undoes everything.

    Args:
        adapter: the pipeline.
        report: collects the records.
        methods: by module. None: observe only. A mapping replaces the last acceleration; an empty one removes it and
            installs nothing.

    Returns:
        the undo log.
    """
    patch = Patch()
    accelerates = methods is not None
    scene = Exchange()
    around = _around(methods or {})
    try:
        # With nothing to accelerate the pipeline stays untouched, without a report as well.
        if methods or not accelerates:
            for owner, name, stage in adapter.timed():
                layer = Layer(report, accelerates, around.get(stage), scene)
                patch.add(owner, name, layer, partial(StageSeam, owner, name, stage))
            for name, solve_stage in adapter.stages.items():
                for loop, attribute, make_loop in adapter.loops(name):
                    patch.add(loop, attribute, Layer(report, accelerates, None, scene), make_loop)
                solver = adapter.solver(name)
                method = (methods or {}).get(name)
                layer = Layer(report, accelerates, method, scene)
                patch.add(solver, "solve_iter", layer, partial(SolveSeam, solver, solve_stage))
                for network in adapter.networks(name) if _guides(method) else ():
                    guide = Layer(report, accelerates, guide_call, scene)
                    patch.add(network, "forward", guide, partial(NetworkSeam, network))
                if isinstance(method, StageMethod) and method.live:
                    network, live = adapter.network(name), partial(live_call, layout_stream)
                    patch.add(
                        network, "forward", Layer(report, accelerates, live, scene), partial(NetworkSeam, network)
                    )
                if isinstance(method, StageMethod) and method.where.needs_decoder:
                    scene.decoder = seam_at(adapter.structure_decoder(), "forward")
            exact = (methods or {}).get("exact")
            if isinstance(exact, Exact):
                for owner, name, make, acts in exact_layers(adapter, exact):
                    patch.add(owner, name, Layer(report, accelerates, acts, scene), partial(make, owner))
        # The last acceleration is removed after the new one is in place, so that shared seams stay installed.
        if accelerates:
            patch.take_off(adapter.seams(), lambda layer: layer.accelerates and layer.report is not report)
            if patch.replaced:
                logger.info("the acceleration that was active is replaced")
    except BaseException:
        patch.rollback()
        raise
    return patch


def methods_on(adapter: Adapter) -> Mapping[str, Any]:
    """The settings of the acceleration on a pipeline, by stage; empty without one."""
    report = _report_on(adapter)
    return {} if report is None else report.methods


def schedule_on(adapter: Adapter) -> str | None:
    """The file of the measured schedule with which a pipeline is accelerated; None: with none."""
    report = _report_on(adapter)
    return None if report is None else report.schedule


def _report_on(adapter: Adapter) -> Report | None:
    """The report of the acceleration on a pipeline."""
    seams = (seam_at(owner, name) for owner, name, _ in adapter.timed())
    layers = (layer for seam in seams if seam is not None for layer in seam.layers)
    return next((layer.report for layer in layers if layer.accelerates), None)


def _around(methods: Mapping[str, Method]) -> dict[str, Chain]:
    """The wrappers of the pipeline's stages, by row of the report."""
    rows: dict[str, list[Callable[..., Any]]] = {"postprocess": [mesh_without_gaussians]}
    if methods:
        rows["slat"] = [require_voxels]
    mesh = methods.get("mesh")
    if isinstance(mesh, MeshMethod):
        rows["preprocess"] = [record_image]
        if mesh.where == "voxels":
            rows["ss"] = [partial(aggregate_voxels, mesh)]
        else:
            rows["mesh"] = [partial(aggregate_in_decoder, mesh)]
    if mesh or any(isinstance(m, StageMethod) and m.where.needs_tokens for m in methods.values()):
        rows["other"] = [begin_run]
        rows["ss_decoder"] = [keep_occupancy]
        rows.setdefault("ss", []).append(keep_scale)
    exact = methods.get("exact")
    if isinstance(exact, Exact) and (exact.embedders or exact.images):
        rows.setdefault("other", []).append(partial(one_run, exact.images))
    return {row: Chain(tuple(around)) for row, around in rows.items()}


def _refuse_unfit(adapter: Adapter, methods: Mapping[str, Method]) -> None:
    """Refuse an aggregation of voxels that the model has no place for.

    Raises:
        ConfigError: there is one.
    """
    mesh = methods.get("mesh")
    if not isinstance(mesh, MeshMethod):
        return
    reason = adapter.no_merged_voxels() if mesh.where == "voxels" else adapter.no_merged_mesh()
    if reason:
        mend = "leave mesh out" + ("" if adapter.no_merged_mesh() else ", or use decoder")
        raise ConfigError(f"mesh.where={mesh.where} cannot act on this pipeline, because {reason}: {mend}")


def _without_live(method: StageMethod, stage: str, reason: str) -> StageMethod:
    """The method with the fallbacks of its live predictors.

    Raises:
        ConfigError: there is none.
    """
    predict = {}
    for leaf, predictor in method.predict.items():
        if isinstance(predictor, Live) and predictor.fallback == "refuse":
            raise ConfigError(
                f"{stage}.predict is live for {leaf!r}, and this pipeline cannot evaluate the layout alone, because "
                f"{reason}: set fallback to anchored or hold, or use another predictor"
            )
        predict[leaf] = predictor.instead if isinstance(predictor, Live) else predictor
    used = sorted({predict[leaf].name for leaf, predictor in method.predict.items() if isinstance(predictor, Live)})
    logger.info("%s: the layout is predicted by %s and not evaluated, because %s", stage, ", ".join(used), reason)
    return replace(method, predict=predict)


def _guides(method: Method | None) -> bool:
    return isinstance(method, StageMethod) and not isinstance(method.guide, Both)
