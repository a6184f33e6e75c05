"""The velocity at a step where the network does not run, from the evaluations before it.

Predictions work in real time t. The grid need not be uniform (a sparse structure's may be t = s / (3 - 2s)),
so a step index is no measure of distance. Evaluations come in float32 or better, outside of autocast, and results
are cast to the network's type (`fast_sam3d.sampling.precision`).
"""

from fast_sam3d.sampling.part import parts_in
from fast_sam3d.sampling.predict.base import Integrate, Predict

__all__ = ["PREDICT", "Integrate", "Predict"]

PREDICT = parts_in(__name__, Predict)
"""Every predictor of this package by its name."""
