"""The stages of a training run, each resumable and each leaving a file that the next one reads."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fast_sam3d.errors import ConfigError
from fast_sam3d.metrics import voxel_iou
from fast_sam3d.mini.data.families import sample_object
from fast_sam3d.mini.data.samples import voxelise
from fast_sam3d.mini.data.shards import HELD_OUT_SEED, Objects, generate, read
from fast_sam3d.mini.train import autoencoders, structured
from fast_sam3d.mini.train.conditions import layout_statistics
from fast_sam3d.mini.train.flows import Readout, SSFlowLoss
from fast_sam3d.mini.train.loop import Trainer, load_whole, save_whole, step_generator
from fast_sam3d.mini.train.origin import check_origin, origin, result_digest
from fast_sam3d.mini.train.recipe import Recipe
from fast_sam3d.mini.train.sensitivity import sensitivity, weighting
from fast_sam3d.mini.train.slat_vae import SLatEncoder
from fast_sam3d.model.embedder import ConditionEmbedder
from fast_sam3d.model.pipeline_config import PipelineConfig
from fast_sam3d.model.slat_decoder import GaussianDecoder, MeshDecoder
from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.ss_flow import SparseStructureFlow
from fast_sam3d.model.ss_vae import SSDecoder, SSEncoder
from fast_sam3d.model.weights import weights_digest

log = logging.getLogger(__name__)

VALIDATION_OBJECTS = 200
COMPARED_OBJECTS = 40
SAME_SHAPE_IOU = 0.98
LEAVES = {"ss_vae": "ss_latents", "slat_vae": "slat_latents", "ss_flow": "ss_generator", "slat_flow": "slat_generator"}
"""What each stage keeps in the run's folder when it is done, as `<name>.pt`."""

NEEDS = {
    "ss_flow": ("ss_vae",),
    "slat_flow": ("slat_vae", "ss_flow"),
    "export": ("ss_vae", "slat_vae", "ss_flow", "slat_flow"),
    "evaluate": ("ss_vae", "slat_vae", "ss_flow", "slat_flow"),
}
"""Stages whose results a stage reads. All make the data that they lack."""

EXPORTED = "exported.json"
"""In the run's folder: digests of the last export and of what it was made from."""

VIEW_ARRAYS = ("image", "mask", "pointmap", "descriptor", "pose")

Modules = dict[str, nn.Module]


@dataclass(frozen=True)
class Run:
    """A training run's folder and settings."""

    folder: Path
    recipe: Recipe
    seed: int
    device: torch.device
    processes: int

    @cached_property
    def training_shards(self) -> list[Path]:
        shards = generate(self.folder / "data", 0, self.recipe.objects, self.recipe.views, self.processes)
        for shard in shards[:1]:
            warn_of_other_objects(shard)
        return shards

    @cached_property
    def validation_shards(self) -> list[Path]:
        count = min(VALIDATION_OBJECTS, self.recipe.objects)
        return generate(self.folder / "data", HELD_OUT_SEED, count, self.recipe.views, self.processes)

    def objects(self, count: int, *arrays: str) -> Objects:
        """The first `count` training objects, rounded up to whole shards."""
        total = 0
        for last, path in enumerate(self.training_shards, 1):
            first, stop = path.stem.split("-")[1:3]
            total += int(stop) - int(first)
            if total >= count:
                return read(self.training_shards[:last], arrays)
        return read(self.training_shards, arrays)

    def train(self, stage: str, build: Callable[[], Modules], loss: Callable[[Modules], Callable]) -> Modules:
        """Train one stage's modules, or finish what a killed run left."""
        torch.manual_seed(self.seed)
        modules = {name: module.to(self.device) for name, module in build().items()}
        schedule, made_from = getattr(self.recipe, stage), self._origins.get(stage)
        trainer = Trainer(stage, modules, schedule, self.folder, self.seed, self.device, made_from)
        return trainer.run(loss(modules))

    def store(self, stage: str, value: Mapping[str, object]) -> None:
        """Keep what a stage leaves, whole or not at all, with what it was made from."""
        save_whole({**value, "origin": self._origins.get(stage)}, self.result(stage))

    def stored(self, name: str) -> dict:
        """What `store` kept, on the CPU.

        Raises:
            CheckpointError: the file is damaged.
            ConfigError: the stage that makes it has not run.
        """
        path = self.folder / f"{name}.pt"
        if not path.exists():
            stage = next(stage for stage, left in LEAVES.items() if left == name)
            raise ConfigError(f"{path} is missing: run the stage {stage} first, which makes it")
        return load_whole(path)

    def result(self, stage: str) -> Path:
        """Where a stage keeps what it leaves."""
        return self.folder / f"{LEAVES[stage]}.pt"

    @cached_property
    def _origins(self) -> dict[str, dict[str, str]]:
        """What the stages that this run has begun are made from."""
        return {}

    def check(self, stage: str) -> dict[str, str] | None:
        """See that what a stage has left or begun was made from this recipe and from what the folder holds now.

        Returns:
            What it would be made from now; None where a result that it reads is not there yet.

        Raises:
            ConfigError: it was made from something else; names the files to delete.
        """
        needs = {need: self.result(need) for need in NEEDS.get(stage, ())}
        checkpoint = self.folder / f"{stage}.pt"
        missing = [need for need, path in needs.items() if not path.exists()]
        if missing:
            there = [path for path in (self.result(stage), checkpoint) if path.exists()]
            if there:
                log.warning(
                    "%s: trained before, while %s is still to be made: if that comes out otherwise, %s will be refused",
                    stage, " and ".join(missing), there[0],
                )  # fmt: skip
            return None
        now = origin(self.recipe, self.seed, stage, needs)
        check_origin(stage, self.result(stage), checkpoint, now, needs)
        return now

    def finished(self, stage: str) -> bool:
        """Whether a stage has left its result, said in the log if so; the first thing that a stage asks.

        Raises:
            ConfigError: see `check`.
        """
        now = self.check(stage)
        if now is not None:
            self._origins[stage] = now
        path = self.result(stage)
        if path.exists():
            log.info("%s: finished before; delete %s to let it train on", stage, path)
        return path.exists()

    def note(self, **measured: float) -> None:
        """Add numbers to `quality.json`."""
        path = self.folder / "quality.json"
        known = json.loads(path.read_text()) if path.exists() else {}
        aside = path.with_suffix(".tmp")
        aside.write_text(json.dumps(known | measured, indent=2))
        aside.replace(path)


def warn_of_other_objects(shard: Path) -> None:
    """Say in the log if the first objects of a shard are not those that their seeds give now.

    A run goes on with the data that it has; families that have been changed since are not in them.
    """
    objects, first = read([shard], ("coords",)), int(shard.stem.split("-")[1])
    count = min(len(objects), COMPARED_OBJECTS)
    shapes = (voxelise(sample_object(first + index)).coords for index in range(count))
    # Not bit for bit: on another machine a voxel on the edge of the band may fall on its other side.
    others = sum(voxel_iou(objects.voxels("coords", i), coords) < SAME_SHAPE_IOU for i, coords in enumerate(shapes))
    if others:
        log.warning(
            "%d of the first %d objects in %s are not those that this version makes: delete that folder and this"
            " run's .pt files to train on new ones", others, count, shard.parent,
        )  # fmt: skip


def run_ss_vae(run: Run) -> None:
    """Occupancy autoencoder; leaves `ss_latents.pt`: both networks and the latents of all objects."""
    if run.finished("ss_vae"):
        return
    recipe, config = run.recipe, run.recipe.pipeline
    objects = run.objects(recipe.ss_vae_objects, "coords")
    modules = run.train(
        "ss_vae",
        lambda: {"encoder": SSEncoder(recipe.ss_encoder), "decoder": SSDecoder(config.ss_decoder)},
        lambda m: autoencoders.SSAutoencoderLoss(objects, m["encoder"], m["decoder"], run.device),
    )
    encoder, decoder = modules["encoder"], modules["decoder"]
    everything = run.objects(recipe.objects, "coords")
    autoencoders.normalise_latents(everything, encoder, decoder, run.device)
    held_out = read(run.validation_shards, ("coords",))
    iou = autoencoders.occupancy_iou(held_out, encoder, decoder, run.device)
    log.info("occupancy autoencoder: held-out IoU %.3f", iou)
    run.note(ss_vae_iou=iou)
    latents = autoencoders.encode_shapes(everything, encoder, run.device)
    run.store("ss_vae", {"latents": latents, "decoder": decoder.state_dict()})


def run_slat_vae(run: Run) -> None:
    """Autoencoder of the voxels' contents.

    Leaves `slat_latents.pt`: decoders, latents, and their mean and deviation.
    """
    if run.finished("slat_vae"):
        return
    recipe, config = run.recipe, run.recipe.pipeline
    arrays = ("coords", "sdf", "rgb")
    objects = run.objects(recipe.slat_vae_objects, *arrays)
    modules = run.train(
        "slat_vae",
        lambda: {
            "encoder": SLatEncoder(recipe.slat_encoder),
            "mesh": MeshDecoder(config.slat_decoder_mesh),
            "slat_decoder_gs": GaussianDecoder(config.slat_decoder_gs),
            "slat_decoder_gs_4": GaussianDecoder(config.slat_decoder_gs_4),
        },
        lambda m: structured.SLatAutoencoderLoss(
            objects, m["encoder"], m["mesh"], {k: m[k] for k in m if k.startswith("slat_decoder")}, run.device
        ),
    )
    held_out = read(run.validation_shards, arrays)
    error = structured.field_error(held_out, modules["encoder"], modules["mesh"], run.device)
    log.info("voxel autoencoder: held-out errors %s", error)
    run.note(**error)
    everything = run.objects(recipe.slat_objects, *arrays)
    latents = structured.encode_contents(everything, modules["encoder"], run.device)
    run.store(
        "slat_vae",
        {
            "latents": latents,
            "mean": latents.float().mean(0),
            "std": latents.float().std(0).clamp_min(1e-3),
            **{k if k != "mesh" else "slat_decoder_mesh": m.state_dict() for k, m in modules.items() if k != "encoder"},
        },
    )


def run_ss_flow(run: Run) -> None:
    """Flow of shape and layout; leaves `ss_generator.pt`: backbone, embedder and layout statistics."""
    if run.finished("ss_flow"):
        return
    recipe, config = run.recipe, run.recipe.pipeline
    objects = run.objects(recipe.objects, "coords", *VIEW_ARRAYS)
    coarse = autoencoders.coarse_occupancy(objects, config.ss_flow.resolution)
    statistics = layout_statistics(objects.arrays["pose"])
    encoded = run.stored("ss_latents")
    latents: Tensor = encoded["latents"]
    weighting = _error_weighting(run, encoded)
    modules = run.train(
        "ss_flow",
        lambda: {
            "backbone": SparseStructureFlow(config.ss_flow),
            "embedder": ConditionEmbedder(config.ss_embedder),
            "readout": Readout(config.ss_embedder.model_channels, config.ss_flow.resolution),
        },
        lambda m: SSFlowLoss(
            objects, latents, coarse, statistics, **m, weighting=weighting, device=run.device, draws=recipe.noise_draws
        ),
    )
    kept = {name: modules[name].state_dict() for name in ("backbone", "embedder")}
    run.store("ss_flow", {"statistics": statistics, **kept})


def _error_weighting(run: Run, encoded: Mapping[str, Any]) -> Tensor:
    """What the shape's error is weighed by: `sensitivity.weighting` of the occupancy autoencoder's decoder."""
    config = run.recipe.pipeline
    decoder = SSDecoder(config.ss_decoder).to(run.device)
    decoder.load_state_dict(encoded["decoder"])
    chance = step_generator(run.seed, "sensitivity", 0)
    information = sensitivity(decoder.eval(), encoded["latents"], config.ss_flow.patch_size, chance, run.device)
    return weighting(information, run.recipe.decoder_share)


def run_slat_flow(run: Run) -> None:
    """Flow of the structured latent, over the tokens of the SS embedder; leaves `slat_generator.pt`: the backbone.

    The embedder is shared and frozen. One of its own, trained along, became a constant: what is in a voxel follows
    from its neighbours so nearly that the picture, which alone has the colours, was not worth a look.
    """
    if run.finished("slat_flow"):
        return
    recipe, config = run.recipe, run.recipe.pipeline
    objects = run.objects(recipe.slat_objects, "coords", *VIEW_ARRAYS)
    stored = run.stored("slat_latents")
    embedder = ConditionEmbedder(config.ss_embedder).to(run.device)
    embedder.load_state_dict(run.stored("ss_generator")["embedder"])
    embedder.eval().requires_grad_(False)
    modules = run.train(
        "slat_flow",
        lambda: {"backbone": StructuredLatentFlow(config.slat_flow)},
        lambda m: structured.SLatFlowLoss(
            objects, stored["latents"], stored["mean"], stored["std"], m["backbone"], embedder, run.device
        ),
    )
    run.store("slat_flow", {k: m.state_dict() for k, m in modules.items()})


STAGES: dict[str, Callable[[Run], None]] = {
    "ss_vae": run_ss_vae,
    "slat_vae": run_slat_vae,
    "ss_flow": run_ss_flow,
    "slat_flow": run_slat_flow,
}


def check_inputs(folder: Path, stages: Sequence[str]) -> None:
    """See that every stage will find what it reads.

    Args:
        folder: of the run.
        stages: names of what is to be run, in order.

    Raises:
        ConfigError: what a stage reads is neither there nor made by a stage before it.
    """
    for place, name in enumerate(stages):
        for need in NEEDS.get(name, ()):
            if need not in stages[:place] and not (folder / f"{LEAVES[need]}.pt").exists():
                raise ConfigError(
                    f"{name} needs what the stage {need} leaves in {folder}: name {need} too, or leave out --stages"
                )


def export(run: Run, checkpoint: Path) -> None:
    """Write the embedded pipeline's weights and `pipeline.yaml`; needs all stages.

    Raises:
        ConfigError: a stage has not run, or was built on what another has replaced since.
    """
    from fast_sam3d.model.pipeline import MiniPipeline

    for stage in STAGES:
        run.check(stage)
    ss, slat = run.stored("ss_generator"), run.stored("slat_generator")
    voxels, contents = run.stored("ss_latents"), run.stored("slat_latents")
    config: PipelineConfig = replace(
        run.recipe.pipeline,
        layout_mean={name: tuple(leaf["mean"]) for name, leaf in ss["statistics"].items()},
        layout_std={name: tuple(leaf["std"]) for name, leaf in ss["statistics"].items()},
        slat_mean=tuple(contents["mean"].tolist()),
        slat_std=tuple(contents["std"].tolist()),
    )
    pipeline = MiniPipeline(config)
    pipeline.models["ss_generator"].reverse_fn.backbone.load_state_dict(ss["backbone"])
    pipeline.models["slat_generator"].reverse_fn.backbone.load_state_dict(slat["backbone"])
    pipeline.condition_embedders["ss_condition_embedder"].load_state_dict(ss["embedder"])
    pipeline.models["ss_decoder"].load_state_dict(voxels["decoder"])
    for name in ("slat_decoder_mesh", "slat_decoder_gs", "slat_decoder_gs_4"):
        pipeline.models[name].load_state_dict(contents[name])
    checkpoint.mkdir(parents=True, exist_ok=True)
    pipeline.save_pretrained(checkpoint)
    exported = {"checkpoint": weights_digest(checkpoint), **_results(run)}
    aside = (run.folder / EXPORTED).with_suffix(".tmp")
    aside.write_text(json.dumps(exported, indent=1))
    aside.replace(run.folder / EXPORTED)


def check_exported(run: Run, checkpoint: Path) -> None:
    """See that a checkpoint is what this run has exported last, from the results that it has now.

    Raises:
        ConfigError: it is not. A run folder that holds no export's record is believed.
    """
    record = run.folder / EXPORTED
    if not record.exists():
        return
    if json.loads(record.read_text()) != {"checkpoint": weights_digest(checkpoint), **_results(run)}:
        raise ConfigError(
            f"the weights in {checkpoint} were not made from the results that {run.folder} holds now: name export too"
        )


def _results(run: Run) -> dict[str, str]:
    return {stage: result_digest(run.result(stage)) for stage in STAGES}
