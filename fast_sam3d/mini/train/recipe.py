"""Default settings of `train-mini`: amount of data, length of the stages, sizes of the networks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from fast_sam3d.mini.data.shards import HELD_OUT_SEED
from fast_sam3d.mini.train.loop import TrainingSchedule
from fast_sam3d.model.config import EmbedderConfig, SSDecoderConfig, SSEncoderConfig, SSFlowConfig
from fast_sam3d.model.config_file import ModelConfig, SamplingConfig
from fast_sam3d.model.slat_config import GaussianDecoderConfig, MeshDecoderConfig, SLatEncoderConfig, SLatFlowConfig


@dataclass(frozen=True)
class Recipe:
    """Settings of a training run. Objects have the seeds from 0 on; each stage has a schedule.

    Args:
        objects, views: number of training objects, and of pictures of each.
        ss_vae_objects, slat_vae_objects: number of objects for the autoencoders, which need fewer.
        slat_objects: number of objects for the structured latent's flow.
        noise_draws: noise samples per crop and update of the SS flow.
        decoder_share: share of the SS flow's shape error that is weighted by the decoder's sensitivity; in the rest all
            directions of the latent have equal weight.
        ss_encoder, slat_encoder: sizes of networks that are trained but not exported.
        pipeline: sizes of the exported networks, and sampler settings.
    """

    objects: int = 40_000
    views: int = 3
    ss_vae_objects: int = 10_000
    slat_vae_objects: int = 4_000
    slat_objects: int = 20_000
    noise_draws: int = 2
    decoder_share: float = 0.8
    ss_vae: TrainingSchedule = TrainingSchedule(3000, 32, rate=2e-3, average=0.995)
    slat_vae: TrainingSchedule = TrainingSchedule(600, 2, rate=2e-3, average=0.995, checkpoint=100)
    ss_flow: TrainingSchedule = TrainingSchedule(49_300, 128, rate=1e-3, warmup=200, average=0.998, checkpoint=100)
    slat_flow: TrainingSchedule = TrainingSchedule(7200, 8, rate=1e-3, warmup=200, average=0.998, checkpoint=100)
    ss_encoder: SSEncoderConfig = SSEncoderConfig()
    slat_encoder: SLatEncoderConfig = SLatEncoderConfig()
    pipeline: ModelConfig = field(
        default_factory=lambda: ModelConfig(
            ss_embedder=EmbedderConfig(num_blocks=3, mlp_ratio=3.0),
            ss_flow=SSFlowConfig(share_mod=True, mlp_ratio=3.0),
            ss_decoder=SSDecoderConfig(),
            slat_embedder=None,  # shared with the SS stage
            slat_flow=SLatFlowConfig(),
            slat_decoder_mesh=MeshDecoderConfig(),
            slat_decoder_gs=GaussianDecoderConfig(num_gaussians=8),
            slat_decoder_gs_4=GaussianDecoderConfig(num_gaussians=4),
            # Chosen so that few steps reduce quality, as in the real model, and many do not (see the model card).
            ss_sampling=SamplingConfig(cfg_strength=3.0, rescale_t=0.3),
            slat_sampling=SamplingConfig(cfg_strength=1.0, rescale_t=1.0),
        )
    )

    def __post_init__(self) -> None:
        for name in ("objects", "views", "ss_vae_objects", "slat_vae_objects", "slat_objects", "noise_draws"):
            if getattr(self, name) < 1:
                raise ValueError(f"Recipe.{name} must be at least 1, got {getattr(self, name)}")
        if self.objects >= HELD_OUT_SEED:
            raise ValueError(
                f"Recipe.objects must stay below {HELD_OUT_SEED}, where the held-out seeds begin, got {self.objects}"
            )
        if max(self.ss_vae_objects, self.slat_vae_objects, self.slat_objects) > self.objects:
            raise ValueError("no stage can use more objects than there are")
        if self.slat_vae_objects > self.slat_objects:
            raise ValueError("slat_vae_objects cannot be more than slat_objects, which are encoded")
        if self.pipeline.slat_embedder is not None or self.pipeline.slat_decoder_gs_4 is None:
            raise ValueError(
                "Recipe.pipeline needs one embedder for both stages (slat_embedder null) and both gaussian decoders"
            )
        if not 0 <= self.decoder_share < 1:
            raise ValueError(f"Recipe.decoder_share must be in [0, 1), got {self.decoder_share}")
        if self.ss_flow.batch % self.noise_draws:
            raise ValueError(f"ss_flow.batch must be a multiple of noise_draws={self.noise_draws}")

    def scaled(self, share: float) -> Recipe:
        """The same recipe with a share of the updates and objects, for a trial; 0 < share <= 1."""
        if not 0 < share <= 1:
            raise ValueError(f"share must be in (0, 1], got {share}")
        if share == 1:
            return self

        def fewer(count: int, least: int) -> int:
            return max(round(count * share), least)

        def shorter(schedule: TrainingSchedule) -> TrainingSchedule:
            steps = fewer(schedule.steps, 2)
            return replace(
                schedule, steps=steps, warmup=max(min(schedule.warmup, steps // 4), 1),
                checkpoint=min(schedule.checkpoint, max(steps // 2, 1)),
            )  # fmt: skip

        return replace(
            self,
            objects=fewer(self.objects, 4),
            ss_vae_objects=fewer(self.ss_vae_objects, 4),
            slat_vae_objects=fewer(self.slat_vae_objects, 4),
            slat_objects=fewer(self.slat_objects, 4),
            ss_vae=shorter(self.ss_vae),
            slat_vae=shorter(self.slat_vae),
            ss_flow=shorter(self.ss_flow),
            slat_flow=shorter(self.slat_flow),
        )
