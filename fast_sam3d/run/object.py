"""One object: the call of the pipeline, with the same arguments wherever an object is run, and what it returns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from fast_sam3d.config.compose import FORMATS, SEED_MAX, PipelineConfig
from fast_sam3d.errors import ConfigError, InputError
from fast_sam3d.ranges import Whole
from fast_sam3d.run.memory import SMALLER, free_memory, run_fitting, smaller_than
from fast_sam3d.serial import one_at_a_time

if TYPE_CHECKING:
    from torch import Tensor

    from fast_sam3d.telemetry import Progress, Report

__all__ = [
    "Known", "ObjectRun", "RunSettings", "call_pipeline", "checked_picture", "known_of", "run_object",
    "run_object_fitting", "with_alpha",
]  # fmt: skip

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What one run depends on besides its inputs.

    Args:
        seed: of the noise; None uses the global random generator.
        ss_steps, slat_steps: Euler steps of the two samplers; None: the pipeline's own.
        formats: to decode, of "mesh", "gaussian" and "gaussian_4"; None: the pipeline's own.
        refine_pose: refine the pose against mask and pointmap once the object is decoded.
        structure_only: end with the voxels and the pose of the network.

    Raises:
        ConfigError: a value out of range.
    """

    seed: int | None = 42
    ss_steps: int | None = None
    slat_steps: int | None = None
    formats: tuple[str, ...] | None = None
    refine_pose: bool = True
    structure_only: bool = False

    def __post_init__(self) -> None:
        for name, valid in (("seed", Whole(0, SEED_MAX)), ("ss_steps", Whole(1, 1000)), ("slat_steps", Whole(1, 1000))):
            value = getattr(self, name)
            if value is not None and not valid.holds(value):
                raise ConfigError(f"{name} is {value!r}: give {valid}")
        known = isinstance(self.formats, (list, tuple)) and self.formats and set(self.formats) <= set(FORMATS)
        if self.formats is not None and not known:
            raise ConfigError(f"formats is {self.formats!r}: give some of {FORMATS}")

    @property
    def refines(self) -> bool:
        """Whether the pose is refined; a structure alone has no surface for it."""
        return self.refine_pose and not self.structure_only

    @classmethod
    def of(cls, seed: int, pipeline: PipelineConfig) -> RunSettings:
        """The settings of a configuration."""
        return cls(seed, pipeline.ss_steps, pipeline.slat_steps, pipeline.formats, pipeline.layout_postprocess)


@dataclass(frozen=True, slots=True, eq=False)
class ObjectRun:
    """What one run returned and cost.

    Args:
        result: of the pipeline's `run`.
        report: of this run alone; `report.methods` are the settings of the acceleration, empty without one.
        settings: that it was run with.
        seconds: wall-clock time of the call.
        device: of the pipeline.
        runtime: whose classes ran, "native", "stock" or "embedded".
    """

    result: Mapping[str, Any]
    report: Report
    settings: RunSettings
    seconds: float
    device: str
    runtime: str = "stock"

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats that were asked for; where none were named, those that the result holds."""
        return self.settings.formats or tuple(name for name in FORMATS if self.result.get(name) is not None)

    @property
    def pose_refined(self) -> bool:
        """Whether the layout stage ran; `result["layout_refinement"]` says what it changed."""
        return "layout" in self.report.seconds


@one_at_a_time()
def run_object(
    pipeline: Any,
    image: NDArray[np.uint8],
    mask: NDArray[Any],
    pointmap: Any = None,
    *,
    settings: RunSettings = RunSettings(),
    progress: Progress | None = None,
    known: Known | None = None,
) -> ObjectRun:
    """Run a pipeline on one object and observe the run.

    The arguments are those of the stock notebook (notebook/inference.py, Inference.__call__). While another thread is
    in a run, it waits for the end of that run.

    Args:
        pipeline: a SAM 3D pipeline, or an object that holds one in `_pipeline`; accelerated or not.
        image: [H, W, 3] uint8.
        mask: [H, W], the object where it is above 0; of TRELLIS as uint8 the opacity, 0 to 255.
        pointmap: [H, W, 3] float32, metres, PyTorch3D camera frame, NaN or z <= 0 where unknown; None asks the depth
            model. TRELLIS takes none.
        settings: seed, steps, formats, pose refinement. A pipeline that refines no pose itself, as the stock one in
            its published configuration, has it refined here; see `fast_sam3d.run.pose.with_refined_pose`.
        progress: receives every step and stage.
        known: of an earlier run of this object, which stopped; see `known_of`.

    Raises:
        NotAPipelineError: `pipeline` is not one.
        InputError: a picture that is not [H, W, 3] uint8, or a mask of another size; for the published networks also
            one with fewer than 3 pixels across.
    """
    from fast_sam3d.adapters import adapt, unwrap
    from fast_sam3d.adapters.memory import remembering, residency_of
    from fast_sam3d.adapters.refinement import own_refinement
    from fast_sam3d.model.inputs import box_size, check_box
    from fast_sam3d.report import observe
    from fast_sam3d.run.pose import with_refined_pose
    from fast_sam3d.telemetry import unseen

    pipeline = unwrap(pipeline)
    runtime = adapt(pipeline).runtime
    if runtime in ("stock", "trellis"):  # their own checks come late, or never
        check_box(*box_size(mask))
    with ExitStack() as stack:
        report = stack.enter_context(observe(pipeline, progress or unseen, None if known is None else known.report))
        given = stack.enter_context(own_refinement(pipeline))
        residency = residency_of(pipeline)
        if known is not None:
            known.report = report
            stack.enter_context(remembering(pipeline, known.replay))
        elif residency is not None:
            residency.clear()
        begin = time.perf_counter()
        if known is not None:
            stack.callback(known.ended, begin)
        result = call_pipeline(pipeline, image, mask, pointmap, settings)
        if settings.refines and "rotation" in result:
            result = with_refined_pose(result, mask, report, given)
        seconds = time.perf_counter() - begin
        if known is not None:
            seconds += known.seconds
    if residency is not None:
        report.memory = residency.facts(len(result["coords"]))
        report.peak_device_bytes = residency.peak_device_bytes(report.peak_device_bytes)
    return ObjectRun(result, report, settings, seconds, str(getattr(pipeline, "device", "")), runtime)


def call_pipeline(
    pipeline: Any, image: NDArray[np.uint8], mask: NDArray[Any], pointmap: Any, settings: RunSettings
) -> Mapping[str, Any]:
    """The pipeline's own `run`, with nothing around it; arguments as of `run_object`."""
    import torch

    from fast_sam3d.adapters import adapt

    points = None if pointmap is None else _ahead(torch.as_tensor(pointmap))
    adapter = adapt(pipeline)
    return adapter.call(with_alpha(image, mask, adapter.soft_alpha), points, settings)


def _ahead(points: Tensor) -> Tensor:
    """A pointmap in which points with z <= 0, which is no depth, are NaN."""
    if points.ndim != 3 or points.shape[-1] != 3 or not bool((wrong := points[..., 2] <= 0).any()):
        return points
    return points.masked_fill(wrong[..., None], float("nan"))


@dataclass(slots=True, eq=False)
class Known:
    """What runs of one object that stopped leave for the next one.

    Args:
        replay: results of its stages, see `fast_sam3d.native.replay`.
        report: of the runs so far; None before the first.
        seconds: of the runs so far.
    """

    replay: Any
    report: Report | None = None
    seconds: float = 0.0

    def ended(self, begin: float) -> None:
        """A run that began at this time of the performance counter has ended."""
        self.seconds += time.perf_counter() - begin

    def forget_aggregations(self) -> None:
        """Of voxels, which the next run repeats."""
        if self.report is not None:
            self.report.aggregations.clear()


def known_of(pipeline: Any) -> Known | None:
    """For a new object; None where the pipeline cannot repeat a run from the stage at which it stopped."""
    from fast_sam3d.adapters import unwrap
    from fast_sam3d.adapters.memory import residency_of

    residency = residency_of(unwrap(pipeline))
    if residency is None:
        return None
    from fast_sam3d.native.replay import Replay

    residency.clear()
    return Known(Replay(residency.device))


def run_object_fitting(
    pipeline: Any,
    image: NDArray[np.uint8],
    mask: NDArray[Any],
    pointmap: Any = None,
    *,
    settings: RunSettings = RunSettings(),
    progress: Progress | None = None,
    smaller: Sequence[Sequence[str]] = SMALLER,
    free: Callable[[], None] = free_memory,
    failures: list[str] | None = None,
    known: Known | None = None,
    use: Callable[[ObjectRun], T],
) -> tuple[T, tuple[str, ...]]:
    """`run_object`; out of memory, free caches and run again, then under smaller memory plans, then with fewer formats.

    A pipeline with memory plans repeats only the stage that failed.

    Args:
        smaller: formats to decode instead, in order; those that need no less memory, and those that the pipeline has
            no decoder for, are left out.
        free: called before every further attempt.
        failures: filled with a line for every attempt that did not fit.
        known: of an earlier run of this object, which stopped; None: there was none.
        use: receives the run; out of memory in it counts too.

    Returns:
        the value of `use`, and the formats that were asked for in the attempt that fitted.

    Raises:
        DoesNotFit: no attempt fitted.
    """
    from fast_sam3d.adapters import adapt
    from fast_sam3d.adapters.memory import residency_of

    adapter = adapt(pipeline)
    own = getattr(adapter.pipeline, "decode_formats", None)
    asked = tuple(settings.formats or own or ("mesh", "gaussian"))
    residency = residency_of(adapter.pipeline)
    known = known or known_of(pipeline)

    def attempt(formats: tuple[str, ...]) -> T:
        chosen = replace(settings, formats=formats)
        return use(run_object(pipeline, image, mask, pointmap, settings=chosen, progress=progress, known=known))

    def free_all() -> None:
        free()
        if residency is not None:
            residency.release()

    def shrink() -> str | None:
        plan = None if residency is None else residency.shrink()
        return None if plan is None else plan.name

    fewer = smaller_than(asked, smaller, adapter.formats)
    value, formats, _ = run_fitting(attempt, asked, fewer, free_all, failures, shrink)
    return value, formats


def with_alpha(image: NDArray[np.uint8], mask: NDArray[Any], soft: bool = False) -> NDArray[np.uint8]:
    """[H, W, 4], the mask as alpha in 0 or 255; `soft`: a uint8 mask with values above 1 as it is.

    A separate boolean mask would become an alpha of 1 in 255 in the stock pipeline (inference_pipeline.py,
    merge_image_and_mask).

    Raises:
        InputError: a picture that is not [H, W, 3] uint8, or a mask of another size.
    """
    pixels, covered = checked_picture(image), np.asarray(mask)
    if covered.shape != pixels.shape[:2]:
        raise InputError(
            f"the mask is {list(covered.shape)} and the picture {list(pixels.shape[:2])} (height, width): "
            "give the mask at the picture's size"
        )
    if soft and covered.dtype == np.uint8 and covered.max(initial=0) > 1:
        return np.dstack([pixels, covered])
    return np.dstack([pixels, (covered > 0).astype(np.uint8) * 255])


def checked_picture(image: Any) -> NDArray[np.uint8]:
    """A picture as an array. Raises InputError unless it is [H, W, 3] uint8."""
    pixels = np.asarray(image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(f"the picture is {pixels.dtype} {list(pixels.shape)}: give [height, width, 3] of uint8")
    return pixels
