"""Pipelines with the surface of trellis/pipelines: image to 3D and text to 3D."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fast_sam3d.model.config import SSDecoderConfig
from fast_sam3d.model.slat_config import GaussianDecoderConfig, MeshDecoderConfig
from fast_sam3d.model.slat_decoder import GaussianDecoder, MeshDecoder
from fast_sam3d.model.ss_vae import SSDecoder
from tests.minis import STEPS, enliven, rgba
from tests.trellis_like import networks, samplers

SIDE, VOXELS, TOKENS = 56, 100, 77
FORMATS = ("mesh", "gaussian", "radiance_field")
PUBLISHED: dict[str, Any] = {"steps": STEPS, "cfg_strength": 5.0, "cfg_interval": [0.5, 1.0]}


class Pipeline:
    """What both have: two samplers, their parameters, and a plain dict of networks."""

    models: dict[str, nn.Module]

    def __init__(self, models: dict[str, nn.Module]) -> None:
        self.models = models
        for model in models.values():
            model.eval()
        self.sparse_structure_sampler = samplers.FlowEulerGuidanceIntervalSampler(sigma_min=1e-5)
        self.sparse_structure_sampler_params: dict[str, Any] = {**PUBLISHED, "rescale_t": 3.0}
        self.slat_sampler = samplers.FlowEulerGuidanceIntervalSampler(sigma_min=1e-5)
        self.slat_sampler_params: dict[str, Any] = {**PUBLISHED, "cfg_strength": 1.0, "rescale_t": 1.0}
        spread = np.linspace(0.5, 2, networks.CHANNELS).tolist()
        self.slat_normalization = {"mean": spread[::-1], "std": spread}

    @property
    def device(self) -> torch.device:
        return next(model.device for model in self.models.values() if hasattr(model, "device"))  # type: ignore[misc]

    def to(self, device: Any) -> None:
        for model in self.models.values():
            model.to(device)

    def sample_sparse_structure(
        self, cond: dict[str, Tensor], num_samples: int = 1, sampler_params: dict[str, Any] = {}  # noqa: B006
    ) -> Tensor:  # fmt: skip
        network: Any = self.models["sparse_structure_flow_model"]
        noise = torch.randn(num_samples, network.in_channels, *[network.resolution] * 3).to(self.device)
        params = {**self.sparse_structure_sampler_params, **sampler_params}
        latent = self.sparse_structure_sampler.sample(network, noise, **cond, **params, verbose=True).samples
        occupied = self.models["sparse_structure_decoder"](latent) > 0
        return torch.argwhere(occupied)[:, [0, 2, 3, 4]].int()

    def sample_slat(
        self, cond: dict[str, Tensor], coords: Tensor, sampler_params: dict[str, Any] = {}  # noqa: B006
    ) -> networks.SparseTensor:  # fmt: skip
        network: Any = self.models["slat_flow_model"]
        feats = torch.randn(len(coords), network.in_channels).to(self.device)
        noise = networks.SparseTensor(feats=feats, coords=coords)
        params = {**self.slat_sampler_params, **sampler_params}
        slat = self.slat_sampler.sample(network, noise, **cond, **params, verbose=True).samples
        std, mean = (torch.tensor(self.slat_normalization[k])[None].to(slat.device) for k in ("std", "mean"))
        return slat * std + mean

    def decode_slat(self, slat: networks.SparseTensor, formats: Sequence[str] = FORMATS) -> dict[str, list[Any]]:
        parts = {"mesh": "slat_decoder_mesh", "gaussian": "slat_decoder_gs", "radiance_field": "slat_decoder_rf"}
        return {name: self.models[part](slat) for name, part in parts.items() if name in formats}

    def _of(
        self, cond: dict[str, Tensor], seed: int, samples: int, ss: dict[str, Any], slat: dict[str, Any], formats: Any
    ) -> dict[str, list[Any]]:
        torch.manual_seed(seed)
        coords = self.sample_sparse_structure(cond, samples, ss)
        return self.decode_slat(self.sample_slat(cond, coords, slat), formats)


class TrellisImageTo3DPipeline(Pipeline):
    """A picture with alpha to meshes, gaussians and radiance fields."""

    rembg_session = None

    def preprocess_image(self, input: Image.Image) -> Image.Image:
        """Cropped around what is opaque, on black; without any transparency the background would be removed first."""
        if input.mode != "RGBA" or np.asarray(input)[..., 3].min() == 255:
            raise RuntimeError("this stand-in removes no background")
        rows, columns = np.nonzero(np.asarray(input)[..., 3] > 0.8 * 255)
        x, y = (columns.min() + columns.max()) / 2, (rows.min() + rows.max()) / 2
        half = int(max(np.ptp(rows), np.ptp(columns)) * 1.2) // 2
        cut = input.crop((x - half, y - half, x + half, y + half)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
        colours = np.asarray(cut).astype(np.float32) / 255
        return Image.fromarray((colours[..., :3] * colours[..., 3:] * 255).astype(np.uint8))

    @staticmethod
    def pixels(images: list[Image.Image]) -> Tensor:
        """[B, 3, H, W] in 0..1."""
        stack = np.stack([np.asarray(one.convert("RGB")) for one in images]).astype(np.float32) / 255
        return torch.from_numpy(stack).permute(0, 3, 1, 2)

    @torch.no_grad()
    def encode_image(self, image: Tensor | list[Image.Image]) -> Tensor:
        if isinstance(image, list):
            image = self.pixels([one.resize((SIDE, SIDE)) for one in image])
        features = self.models["image_cond_model"](image.to(self.device) * 2 - 1, is_training=True)["x_prenorm"]
        return F.layer_norm(features, features.shape[-1:])

    def get_cond(self, image: Tensor | list[Image.Image]) -> dict[str, Tensor]:
        cond = self.encode_image(image)
        return {"cond": cond, "neg_cond": torch.zeros_like(cond)}

    @torch.no_grad()
    def run(
        self,
        image: Image.Image,
        num_samples: int = 1,
        seed: int = 42,
        sparse_structure_sampler_params: dict[str, Any] = {},  # noqa: B006
        slat_sampler_params: dict[str, Any] = {},  # noqa: B006
        formats: Sequence[str] = FORMATS,
        preprocess_image: bool = True,
    ) -> dict[str, list[Any]]:
        image = self.preprocess_image(image) if preprocess_image else image
        cond = self.get_cond([image])
        return self._of(cond, seed, num_samples, sparse_structure_sampler_params, slat_sampler_params, formats)

    @contextmanager
    def inject_sampler_multi_image(
        self, sampler_name: str, num_images: int, num_steps: int, mode: str = "stochastic"
    ) -> Iterator[None]:
        """Replaces a sampler's `_inference_model`; as in TRELLIS, the former method stays on the instance, and an
        exception in the block leaves the replacement there."""
        sampler: Any = getattr(self, sampler_name)
        sampler._old_inference_model = sampler._inference_model
        kind = {"stochastic": one_view_each, "multidiffusion": mean_of_views}.get(mode)
        if kind is None:
            raise ValueError(f"Unsupported mode: {mode}")
        sampler._inference_model = kind(num_images, num_steps).__get__(sampler, type(sampler))
        yield
        sampler._inference_model = sampler._old_inference_model
        del sampler._old_inference_model

    @torch.no_grad()
    def run_multi_image(
        self,
        images: list[Image.Image],
        num_samples: int = 1,
        seed: int = 42,
        sparse_structure_sampler_params: dict[str, Any] = {},  # noqa: B006
        slat_sampler_params: dict[str, Any] = {},  # noqa: B006
        formats: Sequence[str] = FORMATS,
        preprocess_image: bool = True,
        mode: str = "stochastic",
    ) -> dict[str, list[Any]]:
        images = [self.preprocess_image(image) for image in images] if preprocess_image else images
        cond = self.get_cond(images)
        cond["neg_cond"] = cond["neg_cond"][:1]
        torch.manual_seed(seed)
        steps = {**self.sparse_structure_sampler_params, **sparse_structure_sampler_params}["steps"]
        with self.inject_sampler_multi_image("sparse_structure_sampler", len(images), steps, mode=mode):
            coords = self.sample_sparse_structure(cond, num_samples, sparse_structure_sampler_params)
        steps = {**self.slat_sampler_params, **slat_sampler_params}["steps"]
        with self.inject_sampler_multi_image("slat_sampler", len(images), steps, mode=mode):
            slat = self.sample_slat(cond, coords, slat_sampler_params)
        return self.decode_slat(slat, formats)


def one_view_each(images: int, steps: int) -> Callable[..., Any]:
    """Each call takes the next view."""
    views = [step % images for step in range(steps)]

    def infer(self: Any, model: Any, x_t: Any, t: float, cond: Tensor, **kwargs: Any) -> Any:
        view = views.pop(0)
        return self._old_inference_model(model, x_t, t, cond=cond[view : view + 1], **kwargs)

    return infer


def mean_of_views(images: int, steps: int) -> Callable[..., Any]:
    """Each call evaluates all views; guidance is of their mean."""
    plain = samplers.FlowEulerSampler._inference_model

    def infer(
        self: Any, model: Any, x_t: Any, t: float, cond: Tensor, neg_cond: Tensor, cfg_strength: float,
        cfg_interval: Any, **kwargs: Any,
    ) -> Any:  # fmt: skip
        views = [plain(self, model, x_t, t, cond[i : i + 1], **kwargs) for i in range(len(cond))]
        mean = sum(views) / len(views)
        if not cfg_interval[0] <= t <= cfg_interval[1]:
            return mean
        return (1 + cfg_strength) * mean - cfg_strength * plain(self, model, x_t, t, neg_cond, **kwargs)

    return infer


class TrellisTextTo3DPipeline(Pipeline):
    """A sentence to meshes, gaussians and radiance fields, or to variants of a mesh."""

    def __init__(self, models: dict[str, nn.Module], encoder: nn.Module) -> None:
        super().__init__(models)
        self.text_cond_model: dict[str, Any] = {"model": encoder, "tokenizer": tokens}
        self.text_cond_model["null_cond"] = self.encode_text([""])

    @torch.no_grad()
    def encode_text(self, text: list[str]) -> Tensor:
        assert isinstance(text, list)
        tokenizer, encoder = self.text_cond_model["tokenizer"], self.text_cond_model["model"]
        ids = tokenizer(text, max_length=TOKENS, padding="max_length", truncation=True, return_tensors="pt")
        return encoder(input_ids=ids["input_ids"]).last_hidden_state

    def get_cond(self, prompt: list[str]) -> dict[str, Tensor]:
        return {"cond": self.encode_text(prompt), "neg_cond": self.text_cond_model["null_cond"]}

    @torch.no_grad()
    def run(
        self,
        prompt: str,
        num_samples: int = 1,
        seed: int = 42,
        sparse_structure_sampler_params: dict[str, Any] = {},  # noqa: B006
        slat_sampler_params: dict[str, Any] = {},  # noqa: B006
        formats: Sequence[str] = FORMATS,
    ) -> dict[str, list[Any]]:
        cond = self.get_cond([prompt])
        return self._of(cond, seed, num_samples, sparse_structure_sampler_params, slat_sampler_params, formats)

    def voxelize(self, mesh: Any) -> Tensor:
        """The voxels that hold vertices; TRELLIS takes those that the surface crosses."""
        points = np.asarray(mesh.vertices, dtype=np.float64)
        low, high = points.min(0), points.max(0)
        points = ((points - (low + high) / 2) / (high - low).max()).clip(-0.5 + 1e-6, 0.5 - 1e-6)
        edge = self.models["slat_flow_model"].resolution
        return torch.from_numpy(np.unique(((points + 0.5) * edge).astype(np.int32), axis=0))

    @torch.no_grad()
    def run_variant(
        self,
        mesh: Any,
        prompt: str,
        num_samples: int = 1,
        seed: int = 42,
        slat_sampler_params: dict[str, Any] = {},  # noqa: B006
        formats: Sequence[str] = FORMATS,
    ) -> dict[str, list[Any]]:
        cond = self.get_cond([prompt])
        voxels = self.voxelize(mesh)
        batch = torch.arange(num_samples).repeat_interleave(len(voxels))[:, None].int()
        torch.manual_seed(seed)
        slat = self.sample_slat(cond, torch.cat([batch, voxels.repeat(num_samples, 1)], 1), slat_sampler_params)
        return self.decode_slat(slat, formats)


def tokens(texts: list[str], max_length: int, **options: Any) -> dict[str, Tensor]:
    """In place of a tokenizer: one token a byte, padded by zeros."""
    rows = [[*text.encode()][:max_length] for text in texts]
    return {"input_ids": torch.tensor([row + [0] * (max_length - len(row)) for row in rows])}


def _networks() -> dict[str, nn.Module]:
    mesh = MeshDecoderConfig(16, networks.CHANNELS, 16, 1, 2, upsample_channels=(8, 8))
    gaussians = GaussianDecoderConfig(16, networks.CHANNELS, 16, 1, 2, num_gaussians=1)
    return {
        "sparse_structure_flow_model": networks.SparseStructureFlowModel(),
        "sparse_structure_decoder": SSDecoder(
            SSDecoderConfig(latent_channels=networks.CHANNELS, model_channels=16, num_res_blocks=1, refine_channels=4)
        ),
        "slat_flow_model": networks.SLatFlowModel(),
        "slat_decoder_mesh": MeshDecoder(mesh),
        "slat_decoder_gs": GaussianDecoder(gaussians),
        "slat_decoder_rf": networks.RadianceDecoder(),
    }


def random_image(seed: int = 0) -> TrellisImageTo3DPipeline:
    """A pipeline with no dead branch, and about `VOXELS` voxels per object."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = TrellisImageTo3DPipeline({**_networks(), "image_cond_model": networks.ImageEncoder()})
        enliven(pipeline.models.values())
        _finish(pipeline, pipeline.get_cond([pipeline.preprocess_image(picture())]))
    return pipeline


def random_text(seed: int = 0) -> TrellisTextTo3DPipeline:
    """As `random_image`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = TrellisTextTo3DPipeline(_networks(), networks.TextEncoder())
        enliven([*pipeline.models.values(), pipeline.text_cond_model["model"]])
        pipeline.text_cond_model["null_cond"] = pipeline.encode_text([""])
        _finish(pipeline, pipeline.get_cond(["a red chair"]))
    return pipeline


def _finish(pipeline: Any, cond: dict[str, Tensor]) -> None:
    calm(pipeline.models["slat_decoder_mesh"])
    aim(pipeline.models["sparse_structure_decoder"], lambda: pipeline.sample_sparse_structure(cond))


def picture() -> Image.Image:
    """A disc whose mask is the alpha."""
    return Image.fromarray(rgba())


@torch.no_grad()
def calm(mesh: MeshDecoder) -> None:
    """Less noise in the distance field, or a mesh would have half a million faces."""
    for layer in (mesh.out_layer, mesh.cells_layer):
        layer.weight.mul_(0.05)
        layer.bias[0] = -0.5


@torch.no_grad()
def aim(decoder: Any, sample: Callable[[], object], voxels: int = VOXELS) -> None:
    """Shift the last bias of a structure decoder, which `sample` calls, so that about `voxels` logits are positive."""
    logits: list[Tensor] = []
    hook = decoder.register_forward_hook(lambda module, args, output: logits.append(output.flatten()))
    torch.manual_seed(0)
    sample()
    hook.remove()
    last = [module for module in decoder.modules() if isinstance(module, nn.Conv3d)][-1]
    last.bias.sub_(logits[0].topk(voxels + 1).values[-2:].mean())  # type: ignore[union-attr]
