"""The stages of a training run: each is resumable and writes a result that later ones read."""

from __future__ import annotations

import logging
from collections.abc import Callable

from torch import Tensor

from fast_sam3d.mini.data.shards import read
from fast_sam3d.mini.train import autoencoders, structured
from fast_sam3d.mini.train.conditions import layout_statistics
from fast_sam3d.mini.train.flows import Readout, SSFlowLoss
from fast_sam3d.mini.train.run import TrainingRun
from fast_sam3d.mini.train.sensitivity import error_weighting
from fast_sam3d.mini.train.slat_vae import SLatEncoder
from fast_sam3d.model.embedder import ConditionEmbedder
from fast_sam3d.model.slat_decoder import GaussianDecoder, MeshDecoder
from fast_sam3d.model.slat_flow import StructuredLatentFlow
from fast_sam3d.model.ss_flow import SparseStructureFlow
from fast_sam3d.model.ss_vae import SSDecoder, SSEncoder

log = logging.getLogger(__name__)

VIEW_ARRAYS = ("image", "mask", "pointmap", "descriptor", "pose")


def run_ss_vae(run: TrainingRun) -> None:
    """Occupancy autoencoder; writes `ss_latents.pt`: the decoder and the latents of all objects."""
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


def run_slat_vae(run: TrainingRun) -> None:
    """Autoencoder of the voxels' contents; writes `slat_latents.pt`: decoders, latents, their mean and deviation."""
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


def run_ss_flow(run: TrainingRun) -> None:
    """Flow of shape and layout; writes `ss_generator.pt`: backbone, embedder and layout statistics."""
    if run.finished("ss_flow"):
        return
    recipe, config = run.recipe, run.recipe.pipeline
    objects = run.objects(recipe.objects, "coords", *VIEW_ARRAYS)
    coarse = autoencoders.coarse_occupancy(objects, config.ss_flow.resolution)
    statistics = layout_statistics(objects.arrays["pose"])
    encoded = run.stored("ss_latents")
    latents: Tensor = encoded["latents"]
    factor = error_weighting(recipe, encoded, run.seed, run.device)
    modules = run.train(
        "ss_flow",
        lambda: {
            "backbone": SparseStructureFlow(config.ss_flow),
            "embedder": ConditionEmbedder(config.ss_embedder),
            "readout": Readout(config.ss_embedder.model_channels, config.ss_flow.resolution),
        },
        lambda m: SSFlowLoss(
            objects, latents, coarse, statistics, **m, weighting=factor, device=run.device, draws=recipe.noise_draws
        ),
    )
    kept = {name: modules[name].state_dict() for name in ("backbone", "embedder")}
    run.store("ss_flow", {"statistics": statistics, **kept})


def run_slat_flow(run: TrainingRun) -> None:
    """Flow of the structured latent, over the SS embedder's tokens; writes `slat_generator.pt`: the backbone.

    The embedder is shared and frozen. A separate one that was trained along became constant: a voxel's contents follow
    so closely from its neighbours that the network ignored the picture, the only source of colours.
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


STAGES: dict[str, Callable[[TrainingRun], None]] = {
    "ss_vae": run_ss_vae,
    "slat_vae": run_slat_vae,
    "ss_flow": run_ss_flow,
    "slat_flow": run_slat_flow,
}
