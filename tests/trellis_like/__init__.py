"""Small pipelines with the surface of TRELLIS and TRELLIS.2, for tests where those cannot be imported.

Written from their behaviour: the same names of attributes, signatures, order of calls, types and arithmetic of the
samplers; layers and decoders are those of `fast_sam3d.model` at tiny sizes. `tests/trellis` runs the real classes.
"""

from tests.trellis_like.networks import SparseTensor
from tests.trellis_like.pipelines import (
    TrellisImageTo3DPipeline,
    TrellisTextTo3DPipeline,
    picture,
    random_image,
    random_text,
)
from tests.trellis_like.second import Trellis2ImageTo3DPipeline, random_second

__all__ = [
    "SparseTensor",
    "Trellis2ImageTo3DPipeline",
    "TrellisImageTo3DPipeline",
    "TrellisTextTo3DPipeline",
    "picture",
    "random_image",
    "random_second",
    "random_text",
]
