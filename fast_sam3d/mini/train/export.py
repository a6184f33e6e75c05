"""Export of a training run's results as the weights of the embedded pipeline."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from fast_sam3d.documents import read_json
from fast_sam3d.errors import ConfigError
from fast_sam3d.mini.train.origin import result_digest
from fast_sam3d.mini.train.run import LEAVES, TrainingRun
from fast_sam3d.model.config_file import ModelConfig
from fast_sam3d.model.pipeline import Pipeline
from fast_sam3d.model.weights import weights_digest
from fast_sam3d.outputs.files import save_json

EXPORTED = "exported.json"
"""File in the run's folder: digests of the last export and of the results it was created from."""


def export(run: TrainingRun, checkpoint: Path) -> None:
    """Write the embedded pipeline's weights and `pipeline.yaml`; requires the results of all stages.

    Raises:
        ConfigError: a stage has not run, or was built on results that have been replaced since.
    """
    for stage in LEAVES:
        run.check(stage)
    ss, slat = run.stored("ss_generator"), run.stored("slat_generator")
    voxels, contents = run.stored("ss_latents"), run.stored("slat_latents")
    config: ModelConfig = replace(
        run.recipe.pipeline,
        layout_mean={name: tuple(leaf["mean"]) for name, leaf in ss["statistics"].items()},
        layout_std={name: tuple(leaf["std"]) for name, leaf in ss["statistics"].items()},
        slat_mean=tuple(contents["mean"].tolist()),
        slat_std=tuple(contents["std"].tolist()),
    )
    pipeline = Pipeline(config)
    pipeline.models["ss_generator"].reverse_fn.backbone.load_state_dict(ss["backbone"])
    pipeline.models["slat_generator"].reverse_fn.backbone.load_state_dict(slat["backbone"])
    pipeline.condition_embedders["ss_condition_embedder"].load_state_dict(ss["embedder"])
    pipeline.models["ss_decoder"].load_state_dict(voxels["decoder"])
    for name in ("slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4"):
        pipeline.models[name].load_state_dict(contents[name])
    checkpoint.mkdir(parents=True, exist_ok=True)
    pipeline.save_pretrained(checkpoint)
    exported = {"checkpoint": weights_digest(checkpoint), **_results(run)}
    save_json(run.folder / EXPORTED, exported)


def check_exported(run: TrainingRun, checkpoint: Path) -> None:
    """Check that a checkpoint is the last export of this run, from its present results.

    Raises:
        ConfigError: it is not. Run folders without a record of an export are accepted.
    """
    record = run.folder / EXPORTED
    if not record.exists():
        return
    if read_json(record) != {"checkpoint": weights_digest(checkpoint), **_results(run)}:
        raise ConfigError(
            f"the weights in {checkpoint} were not exported from the present results in {run.folder}: add export to"
            " --stages"
        )


def _results(run: TrainingRun) -> dict[str, str]:
    return {stage: result_digest(run.result(stage)) for stage in LEAVES}
