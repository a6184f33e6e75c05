"""What SAM 3D Objects and TRELLIS need: packages, versions that their authors pin, and parts that their code imports.

Facts from the stock repository: requirements*.txt, environments/default.yml and doc/setup.md (versions), the imports of
sam3d_objects/**.py and of the classes in its YAML files (packages and parts). tests/checkpoints/test_requirements.py
compares the parts with the code where sam3d_objects is installed. Of TRELLIS: the imports of trellis/**.py in
microsoft/TRELLIS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["FORK_MARK", "OPTIONAL", "PYTHON", "REQUIREMENTS", "TORCH", "TRELLIS", "Requirement", "release"]

_GITHUB = "https://github.com"
PYTHON = (3, 11)


@dataclass(frozen=True, slots=True)
class Requirement:
    """A package that the stock code imports.

    Args:
        module: the name to import.
        pin: the version of its authors; None: any.
        parts: submodules that the code imports, or "module:function" for a function of one. Another package of the same
            name, and versions that were rearranged, lack them.
        distribution: the name that pip takes, where it is not `module`.
        others: further distributions that provide the module.
        source: the git address that pip takes; None: it is on the package index.
        compiled: whether it is built against the installed torch, so that pip must not isolate the build.
        optional: not needed to build the pipeline.
    """

    module: str
    pin: str | None = None
    parts: tuple[str, ...] = ()
    distribution: str | None = None
    others: tuple[str, ...] = ()
    source: str | None = None
    compiled: bool = False
    optional: bool = False

    @property
    def name(self) -> str:
        return self.distribution or self.module

    @property
    def pinned(self) -> str:
        """What pip takes to install it as its authors do."""
        if self.source is not None:
            return f"{self.name} @ git+{self.source}"
        return f"{self.name}=={self.pin}" if self.pin else self.name


TORCH = Requirement("torch", "2.5.1", ("torch.nn.attention",))
REQUIREMENTS = (
    Requirement("sam3d_objects", None, ("sam3d_objects.pipeline.inference_pipeline_pointmap",)),
    Requirement("torchvision", "0.20.1", ("torchvision.transforms.functional",)),
    Requirement(
        "pytorch3d", "0.7.8", ("pytorch3d.renderer", "pytorch3d.structures", "pytorch3d.transforms"),
        source=f"{_GITHUB}/facebookresearch/pytorch3d.git@75ebeeaea0908c5527e7b1e305fbc7681382db47", compiled=True,
    ),
    Requirement("kaolin", "0.17.0", ("kaolin.utils.testing",)),
    Requirement(
        "spconv", "2.3.8", ("spconv.pytorch",), "spconv-cu121",
        others=tuple(f"spconv{cuda}" for cuda in ("-cu126", "-cu124", "-cu120", "-cu118", "-cu117", "")),
    ),
    Requirement(
        "gsplat", "1.5.3", ("gsplat.rendering:rasterization",), compiled=True,
        source=f"{_GITHUB}/nerfstudio-project/gsplat.git@2323de5905d5e90e035f792fe65bad0fedd413e7",
    ),
    Requirement(
        "moge", "1.0.0", ("moge.model.v1:MoGeModel", "moge.utils.geometry_numpy", "moge.utils.geometry_torch"),
        "MoGe", source=f"{_GITHUB}/microsoft/MoGe.git@a8c37341bc0325ca99b9d57981cc3bb2bd3e255b",
    ),
    # The commit that this MoGe asks for. Functions were renamed in August 2025; another package has the name on PyPI.
    Requirement(
        "utils3d", "0.0.2",
        ("utils3d.torch:depth_to_points", "utils3d.torch:intrinsics_from_fov_xy", "utils3d.torch:compute_edges"),
        source=f"{_GITHUB}/EasternJournalist/utils3d.git@3913c65d81e05e47b9f367250cf8c0f7462a0900",
    ),
    Requirement("astor", "0.8.1"),
    Requirement(
        "cv2", "4.9.0.80", (), "opencv-python",
        others=("opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless"),
    ),
    Requirement("easydict", "1.13"),
    Requirement("hydra", "1.3.2", ("hydra.utils",), "hydra-core"),
    Requirement("igraph", "0.11.8", ("igraph._igraph",)),
    Requirement(
        "lightning", "2.3.3", ("lightning.pytorch", "lightning.pytorch.utilities.consolidate_checkpoint"),
    ),
    Requirement("loguru", "0.7.2"),
    Requirement("matplotlib", None, ("matplotlib.pyplot",)),
    Requirement("numpy", "1.26.4"),
    Requirement("omegaconf", "2.3.0"),
    Requirement("open3d", "0.18.0", others=("open3d-cpu",)),
    Requirement("optree", "0.14.1"),
    Requirement("PIL", None, ("PIL.Image",), "pillow"),
    Requirement("plyfile"),
    Requirement("pymeshfix", "0.17.0", ("pymeshfix._meshfix",)),
    Requirement("pyvista"),
    Requirement("safetensors", None, ("safetensors.torch",)),
    Requirement("scipy", None, ("scipy.ndimage", "scipy.stats")),
    Requirement("timm", "0.9.16", ("timm.models.vision_transformer",)),
    Requirement("tqdm"),
    Requirement("trimesh", None, ("trimesh.visual",)),
    Requirement("xatlas", "0.0.9"),
    Requirement("flash_attn", "2.8.3", (), "flash-attn", compiled=True, optional=True),
    Requirement("xformers", "0.0.28.post3", ("xformers.ops",), optional=True),
)  # fmt: skip
_BASIC = "torchvision transformers open3d easydict plyfile safetensors huggingface_hub tqdm PIL numpy"
TRELLIS: Mapping[str, tuple[Requirement, ...]] = {
    "its code": (
        Requirement(
            "trellis", None, ("trellis.pipelines:TrellisImageTo3DPipeline",),
            f"a clone of {_GITHUB}/microsoft/TRELLIS with its submodules, on PYTHONPATH",
        ),
    ),
    "loading": (
        *(Requirement(name, distribution={"PIL": "pillow"}.get(name)) for name in _BASIC.split()),
        Requirement("rembg", None, (), "rembg[cpu]"),
        Requirement(
            "utils3d",
            source=f"{_GITHUB}/EasternJournalist/utils3d.git@9a4eb15e4021b67b12c460c7057d642626897ec8",
        ),
    ),
    "sparse convolution": (
        Requirement(
            "spconv", None, ("spconv.pytorch",), "spconv-cu121",
            others=tuple(f"spconv{cuda}" for cuda in ("-cu126", "-cu124", "-cu120", "-cu118", "-cu117", "")),
        ),
    ),
    "meshes": (Requirement("kaolin", None, ("kaolin.utils.testing",)),),
    "sparse attention, one of the two": (
        Requirement("flash_attn", None, (), "flash-attn", compiled=True, optional=True),
        Requirement("xformers", None, ("xformers.ops",), optional=True),
    ),
}  # fmt: skip
"""By what they are for. Its own videos and textures need more (nvdiffrast and others), which is not used here."""
OPTIONAL = tuple(requirement.module for requirement in REQUIREMENTS if requirement.optional)
# The Fast-SAM3D fork has a package of the same name, whose solvers yield other values.
FORK_MARK = "sam3d_objects.model.backbone.generator.flow_matching.model:FlowMatching_faster"


def release(version: str) -> tuple[int, ...]:
    """The numbers at the start of a version (2.5.0 of 2.5.0a0+git); (0,) where there are none."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(map(int, found[0].split("."))) if found else (0,)
