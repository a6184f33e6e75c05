"""The velocity at a step where the network does not run, from the evaluations before it.

Predictions work in real time t. The grid need not be uniform (SAM 3D's sparse-structure grid is t = s / (3 - 2s)),
so a step index is no measure of distance. Differences are taken in float32 or better; results have the velocity's
dtype.
"""

from __future__ import annotations

from fast_sam3d.sampling.predict.adams_bashforth import AdamsBashforth
from fast_sam3d.sampling.predict.anchored import Anchored
from fast_sam3d.sampling.predict.base import Integrate, Predict
from fast_sam3d.sampling.predict.chebyshev import Chebyshev
from fast_sam3d.sampling.predict.deis import Deis
from fast_sam3d.sampling.predict.dmd import DynamicModes
from fast_sam3d.sampling.predict.hermite import Hermite
from fast_sam3d.sampling.predict.hold import Hold
from fast_sam3d.sampling.predict.mean_flow import MeanFlow
from fast_sam3d.sampling.predict.offset import Offset
from fast_sam3d.sampling.predict.taylor import Taylor, extrapolate

__all__ = [
    "PREDICT",
    "AdamsBashforth",
    "Anchored",
    "Chebyshev",
    "Deis",
    "DynamicModes",
    "Hermite",
    "Hold",
    "Integrate",
    "MeanFlow",
    "Offset",
    "Predict",
    "Taylor",
    "extrapolate",
]

PREDICT: dict[str, type[Predict]] = {
    "adams_bashforth": AdamsBashforth,
    "anchored": Anchored,
    "chebyshev": Chebyshev,
    "deis": Deis,
    "dmd": DynamicModes,
    "hermite": Hermite,
    "hold": Hold,
    "mean_flow": MeanFlow,
    "offset": Offset,
    "taylor": Taylor,
}
"""Predictors by their name in a configuration."""
