"""One ODE solve with fewer network calls: when the network runs, where, how the rest is predicted, and how guidance is
made.

Nothing here knows a model. `when`, `where`, `predict` and `guide` are pure, a file for each class; `driver` sits on a
solver, and `run` is one solve under it. docs/adding-a-method.md shows how a method is added.
"""

from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.method import StageMethod, build_stage_method
from fast_sam3d.sampling.step import Evaluation, LeafEvaluation

__all__ = ["Evaluation", "History", "LeafEvaluation", "StageMethod", "build_stage_method"]
