"""A small pipeline with the surface of trellis2/pipelines: shape and texture from one image, each with its sampler.

Resolutions are a quarter of TRELLIS.2's: 128 for "512" and 256 for "1024", with a sixteenth of that in voxels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from fast_sam3d.model.config import SSDecoderConfig
from fast_sam3d.model.slat_config import MeshDecoderConfig
from fast_sam3d.model.slat_decoder import MeshDecoder
from fast_sam3d.model.ss_vae import SSDecoder
from tests.minis import STEPS, enliven
from tests.trellis_like import networks, samplers
from tests.trellis_like.networks import CHANNELS, SparseTensor
from tests.trellis_like.pipelines import SIDE, TrellisImageTo3DPipeline, aim, calm, picture
from tests.trellis_like.samplers import Answer

SHAPE_512, SHAPE_1024 = "shape_slat_flow_model_512", "shape_slat_flow_model_1024"
TEX_512, TEX_1024 = "tex_slat_flow_model_512", "tex_slat_flow_model_1024"
EDGES = {"512": 128, "1024": 256, "1024_cascade": 256}
SAMPLING = ("sparse_structure", 7.5, 0.7), ("shape_slat", 7.5, 0.5), ("tex_slat", 1.0, 0.0)
PARAMS: dict[str, Any] = {"steps": STEPS, "guidance_interval": [0.5, 1.0], "rescale_t": 3.0}


class FlowEulerSampler(samplers.FlowEulerSampler):
    """Without guidance."""

    def _pred_to_xstart(self, x_t: Any, t: float, pred: Any) -> Any:
        return (1 - self.sigma_min) * x_t - (self.sigma_min + (1 - self.sigma_min) * t) * pred

    def _xstart_to_pred(self, x_t: Any, t: float, x_0: Any) -> Any:
        return ((1 - self.sigma_min) * x_t - x_0) / (self.sigma_min + (1 - self.sigma_min) * t)

    def _inference_model(self, model: Any, x_t: Any, t: float, cond: Any = None, **kwargs: Any) -> Any:
        return model(x_t, torch.full((x_t.shape[0],), 1000 * t, dtype=torch.float32), cond, **kwargs)

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        model: Any,
        noise: Any,
        cond: Any = None,
        steps: int = 50,
        rescale_t: float = 1.0,
        verbose: bool = True,
        tqdm_desc: str = "Sampling",
        **kwargs: Any,
    ) -> Answer:
        return samplers.walk(self, model, noise, samplers.grid(steps, rescale_t).tolist(), cond, **kwargs)


class FlowEulerCfgSampler(FlowEulerSampler):
    """Guided at all times: s c + (1 - s) u, with one call where s is 0 or 1."""

    def _inference_model(  # type: ignore[override]
        self, model: Any, x_t: Any, t: float, cond: Any, neg_cond: Any, guidance_strength: float,
        guidance_rescale: float = 0.0, **kwargs: Any,
    ) -> Any:  # fmt: skip
        if guidance_strength in (0, 1):
            return super()._inference_model(model, x_t, t, cond if guidance_strength else neg_cond, **kwargs)
        positive = super()._inference_model(model, x_t, t, cond, **kwargs)
        negative = super()._inference_model(model, x_t, t, neg_cond, **kwargs)
        mixed = guidance_strength * positive + (1 - guidance_strength) * negative
        if guidance_rescale > 0:
            plain, start = (self._pred_to_xstart(x_t, t, one) for one in (positive, mixed))
            axes = list(range(1, start.ndim))
            scaled = start * (plain.std(dim=axes, keepdim=True) / start.std(dim=axes, keepdim=True))
            mixed = self._xstart_to_pred(x_t, t, guidance_rescale * scaled + (1 - guidance_rescale) * start)
        return mixed

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        model: Any,
        noise: Any,
        cond: Any,
        neg_cond: Any,
        steps: int = 50,
        rescale_t: float = 1.0,
        guidance_strength: float = 3.0,
        verbose: bool = True,
        **kwargs: Any,
    ) -> Answer:
        kwargs |= {"neg_cond": neg_cond, "guidance_strength": guidance_strength}
        return super().sample(model, noise, cond, steps, rescale_t, verbose, **kwargs)


class FlowEulerGuidanceIntervalSampler(FlowEulerCfgSampler):
    """Guided between two times, both included."""

    def _inference_model(  # type: ignore[override]
        self, model: Any, x_t: Any, t: float, cond: Any, guidance_strength: float, guidance_interval: Any, **kwargs: Any
    ) -> Any:
        inside = guidance_interval[0] <= t <= guidance_interval[1]
        strength = guidance_strength if inside else 1
        return super()._inference_model(model, x_t, t, cond, guidance_strength=strength, **kwargs)

    @torch.no_grad()
    def sample(  # type: ignore[override]
        self,
        model: Any,
        noise: Any,
        cond: Any,
        neg_cond: Any,
        steps: int = 50,
        rescale_t: float = 1.0,
        guidance_strength: float = 3.0,
        guidance_interval: tuple[float, float] = (0.0, 1.0),
        verbose: bool = True,
        **kwargs: Any,
    ) -> Answer:
        kwargs["guidance_interval"] = guidance_interval
        return super().sample(model, noise, cond, neg_cond, steps, rescale_t, guidance_strength, verbose, **kwargs)


class FlexiDualGridVaeDecoder(nn.Module):
    """The shape's decoder: a sparse tensor -> (meshes, [sparse tensor of the finest voxels])."""

    low_vram = False

    def __init__(self) -> None:
        super().__init__()
        self.fields = MeshDecoder(MeshDecoderConfig(16, CHANNELS, 16, 1, 2, upsample_channels=(8, 8)))
        self.occupied = networks.SparseLinear(CHANNELS, 8)
        self.resolution = 256

    def set_resolution(self, resolution: int) -> None:
        self.resolution = resolution

    def upsample(self, x: SparseTensor, upsample_times: int) -> Tensor:
        """[M, 4] int32, some of the children after that many subdivisions, at least one of each voxel."""
        logits = self.occupied(x).feats
        voxel, child = torch.nonzero(logits >= logits.amax(1, keepdim=True) - 0.5, as_tuple=True)
        edge = 2**upsample_times
        inside = torch.stack([child // 4, child // 2 % 2, child % 2], dim=1) * (edge // 2) + edge // 4
        coords = x.coords[voxel]
        return torch.cat([coords[:, :1], coords[:, 1:] * edge + inside], dim=1).int()

    def forward(self, x: SparseTensor, return_subs: bool = False) -> Any:
        meshes = [Mesh(mesh.vertices, mesh.faces, mesh.vertex_attrs) for mesh in self.fields(x)]
        return (meshes, [x]) if return_subs else meshes


class SparseUnetVaeDecoder(nn.Module):
    """The texture's decoder: a sparse tensor -> six attributes of each voxel."""

    def __init__(self) -> None:
        super().__init__()
        self.out_layer = networks.SparseLinear(CHANNELS, 6)

    def forward(self, x: SparseTensor, guide_subs: list[SparseTensor]) -> SparseTensor:
        assert guide_subs[0].coords.equal(x.coords)
        return self.out_layer(x)


class Mesh:
    def __init__(self, vertices: Tensor, faces: Tensor, vertex_attrs: Tensor | None = None) -> None:
        self.vertices, self.faces, self.vertex_attrs = vertices.float(), faces.int(), vertex_attrs

    def fill_holes(self, max_hole_perimeter: float = 3e-2) -> None:
        """TRELLIS.2's needs a GPU."""


class MeshWithVoxel(Mesh):
    """A mesh and the attributes of voxels around its surface: base colour, metallic, roughness, alpha."""

    def __init__(self, vertices: Tensor, faces: Tensor, **voxels: Any) -> None:
        super().__init__(vertices, faces)
        self.origin = torch.tensor(voxels.pop("origin"), dtype=torch.float32)
        vars(self).update(voxels)


class Encoder(networks.ImageEncoder):
    """Called with a list of pictures; tokens depend on `image_size`."""

    image_size = 512

    def forward(self, image: list[Image.Image]) -> Any:  # type: ignore[override]
        side = self.image_size * SIDE // 512
        pixels = TrellisImageTo3DPipeline.pixels([one.resize((side, side)) for one in image])
        tokens = super().forward(pixels * 2 - 1, is_training=True)["x_prenorm"]
        return F.layer_norm(tokens, tokens.shape[-1:])


class Trellis2ImageTo3DPipeline:
    """A picture with alpha to meshes with textures."""

    low_vram = True
    default_pipeline_type = "1024_cascade"
    rembg_model = None
    preprocess_image = TrellisImageTo3DPipeline.preprocess_image

    def __init__(self, models: dict[str, nn.Module], image_cond_model: Any) -> None:
        self.models, self.image_cond_model, self._device = models, image_cond_model, "cpu"
        for stage, strength, rescale in SAMPLING:
            setattr(self, f"{stage}_sampler", FlowEulerGuidanceIntervalSampler(sigma_min=1e-5))
            params = {**PARAMS, "guidance_strength": strength, "guidance_rescale": rescale}
            setattr(self, f"{stage}_sampler_params", params)
        self.shape_slat_normalization = {"mean": [0.1] * CHANNELS, "std": [1.5] * CHANNELS}
        self.tex_slat_normalization = {"mean": [-0.1] * CHANNELS, "std": [0.5] * CHANNELS}
        self.pbr_attr_layout = {
            "base_color": slice(0, 3), "metallic": slice(3, 4), "roughness": slice(4, 5), "alpha": slice(5, 6)
        }  # fmt: skip

    @property
    def device(self) -> Any:
        return self._device

    def to(self, device: Any) -> None:
        self._device = device

    def get_cond(self, image: list[Image.Image], resolution: int, include_neg_cond: bool = True) -> dict[str, Tensor]:
        self.image_cond_model.image_size = resolution
        cond = self.image_cond_model(image)
        return {"cond": cond, "neg_cond": torch.zeros_like(cond)} if include_neg_cond else {"cond": cond}

    def sample_sparse_structure(
        self, cond: dict[str, Tensor], resolution: int, num_samples: int = 1, sampler_params: Any = {}  # noqa: B006
    ) -> Tensor:  # fmt: skip
        network: Any = self.models["sparse_structure_flow_model"]
        noise = torch.randn(num_samples, network.in_channels, *[network.resolution] * 3).to(self.device)
        latent = self._sample("sparse_structure", network, noise, cond, sampler_params)
        occupied = self.models["sparse_structure_decoder"](latent) > 0
        if resolution != occupied.shape[2]:
            ratio = occupied.shape[2] // resolution
            occupied = F.max_pool3d(occupied.float(), ratio, ratio, 0) > 0.5
        return torch.argwhere(occupied)[:, [0, 2, 3, 4]].int()

    def sample_shape_slat(
        self, cond: dict[str, Tensor], flow_model: Any, coords: Tensor, sampler_params: Any = {}  # noqa: B006
    ) -> SparseTensor:  # fmt: skip
        feats = torch.randn(len(coords), flow_model.in_channels).to(self.device)
        noise = SparseTensor(feats=feats, coords=coords)
        slat = self._sample("shape_slat", flow_model, noise, cond, sampler_params)
        return slat * self._row("shape", "std") + self._row("shape", "mean")

    def sample_shape_slat_cascade(
        self, lr_cond: dict[str, Tensor], cond: dict[str, Tensor], flow_model_lr: Any, flow_model: Any,
        lr_resolution: int, resolution: int, coords: Tensor, sampler_params: Any = {}, max_num_tokens: int = 49152,  # noqa: B006
    ) -> tuple[SparseTensor, int]:  # fmt: skip
        """Two solves of one sampler, of different networks and voxels."""
        slat = self.sample_shape_slat(lr_cond, flow_model_lr, coords, sampler_params)
        fine = self.models["shape_slat_decoder"].upsample(slat, upsample_times=4)
        places = ((fine[:, 1:] + 0.5) / lr_resolution * (resolution // 16)).int()
        coords = torch.cat([fine[:, :1], places], dim=1).unique(dim=0)
        return self.sample_shape_slat(cond, flow_model, coords, sampler_params), resolution

    def sample_tex_slat(
        self, cond: dict[str, Tensor], flow_model: Any, shape_slat: SparseTensor, sampler_params: Any = {}  # noqa: B006
    ) -> SparseTensor:  # fmt: skip
        shape_slat = (shape_slat - self._row("shape", "mean")) / self._row("shape", "std")
        channels = flow_model.in_channels - shape_slat.feats.shape[1]
        noise = shape_slat.replace(feats=torch.randn(len(shape_slat.coords), channels).to(self.device))
        slat = self._sample("tex_slat", flow_model, noise, cond, sampler_params, concat_cond=shape_slat)
        return slat * self._row("tex", "std") + self._row("tex", "mean")

    def _sample(self, stage: str, network: Any, noise: Any, cond: Any, given: Any, **first: Any) -> Any:
        params = {**getattr(self, f"{stage}_sampler_params"), **given}
        if self.low_vram:
            network.to(self.device)
        sampler = getattr(self, f"{stage}_sampler")
        answer = sampler.sample(network, noise, **first, **cond, **params, verbose=True, tqdm_desc=f"Sampling {stage}")
        if self.low_vram:
            network.cpu()
        return answer.samples

    def _row(self, kind: str, name: str) -> Tensor:
        return torch.tensor(getattr(self, f"{kind}_slat_normalization")[name])[None]

    @torch.no_grad()
    def decode_latent(self, shape_slat: SparseTensor, tex_slat: SparseTensor, resolution: int) -> list[MeshWithVoxel]:
        decoder: Any = self.models["shape_slat_decoder"]
        decoder.set_resolution(resolution)
        meshes, subs = decoder(shape_slat, return_subs=True)
        voxels = self.models["tex_slat_decoder"](tex_slat, guide_subs=subs) * 0.5 + 0.5
        found = []
        for mesh, one in zip(meshes, voxels, strict=False):
            mesh.fill_holes()
            around = {"coords": one.coords[:, 1:], "attrs": one.feats, "voxel_size": 1 / resolution}
            shape = torch.Size([*one.shape, *[resolution] * 3])
            facts = {"origin": [-0.5] * 3, "voxel_shape": shape, "layout": self.pbr_attr_layout}
            found.append(MeshWithVoxel(mesh.vertices, mesh.faces, **around, **facts))
        return found

    @torch.no_grad()
    def run(
        self,
        image: Image.Image,
        num_samples: int = 1,
        seed: int = 42,
        sparse_structure_sampler_params: Any = {},  # noqa: B006
        shape_slat_sampler_params: Any = {},  # noqa: B006
        tex_slat_sampler_params: Any = {},  # noqa: B006
        preprocess_image: bool = True,
        return_latent: bool = False,
        pipeline_type: str | None = None,
        max_num_tokens: int = 49152,
    ) -> Any:
        kind = pipeline_type or self.default_pipeline_type
        image = self.preprocess_image(image) if preprocess_image else image  # type: ignore[misc, arg-type]
        torch.manual_seed(seed)
        coarse = self.get_cond([image], 512)
        cond = coarse if kind == "512" else self.get_cond([image], 1024)
        edge = 16 if kind == "1024" else 8
        coords = self.sample_sparse_structure(coarse, edge, num_samples, sparse_structure_sampler_params)
        if kind == "1024_cascade":
            networks = self.models[SHAPE_512], self.models[SHAPE_1024]
            sizes = EDGES["512"], EDGES[kind]
            slat, size = self.sample_shape_slat_cascade(
                coarse, cond, *networks, *sizes, coords, shape_slat_sampler_params, max_num_tokens
            )
        else:
            network = self.models[SHAPE_512 if kind == "512" else SHAPE_1024]
            slat, size = self.sample_shape_slat(cond, network, coords, shape_slat_sampler_params), EDGES[kind]
        network = self.models[TEX_512 if kind == "512" else TEX_1024]
        texture = self.sample_tex_slat(cond, network, slat, tex_slat_sampler_params)
        meshes = self.decode_latent(slat, texture, size)
        return (meshes, (slat, texture, size)) if return_latent else meshes


def random_second(seed: int = 0) -> Trellis2ImageTo3DPipeline:
    """A pipeline with no dead branch."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ss = SSDecoderConfig(latent_channels=CHANNELS, model_channels=16, num_res_blocks=1, refine_channels=4)
        models: dict[str, nn.Module] = {
            "sparse_structure_flow_model": networks.SparseStructureFlowModel(),
            "sparse_structure_decoder": SSDecoder(ss),
            "shape_slat_decoder": FlexiDualGridVaeDecoder(),
            "tex_slat_decoder": SparseUnetVaeDecoder(),
            **{name: networks.SLatFlowModel(packed=False) for name in (SHAPE_512, SHAPE_1024)},
            **{name: networks.SLatFlowModel(packed=False, in_channels=2 * CHANNELS) for name in (TEX_512, TEX_1024)},
        }
        pipeline = Trellis2ImageTo3DPipeline(models, Encoder())
        enliven([*models.values(), pipeline.image_cond_model])
        calm(models["shape_slat_decoder"].fields)
        cond = pipeline.get_cond([pipeline.preprocess_image(picture())], 512)  # type: ignore[misc, arg-type]
        aim(models["sparse_structure_decoder"], lambda: pipeline.sample_sparse_structure(cond, 16))
    for model in models.values():
        model.eval()
    return pipeline
