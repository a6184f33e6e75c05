"""One ODE solve with fewer network calls: when the network runs, where, and how the rest is predicted.

Nothing here knows a model. `when`, `where` and `predict` are pure; `driver` sits on a solver.
"""

from fast_sam3d.solve.history import History
from fast_sam3d.solve.method import StageMethod, build
from fast_sam3d.solve.step import Evaluation, LeafEvaluation, StepRecord

__all__ = ["Evaluation", "History", "LeafEvaluation", "StageMethod", "StepRecord", "build"]
