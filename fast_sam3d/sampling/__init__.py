"""One ODE solve with fewer network calls: when and where the network runs, how the rest is predicted, how it is guided.

Nothing here depends on a model. `when`, `where`, `predict` and `guide` hold one class per file; `driver` acts on a
solver, and `solve` is one solve under it. docs/adding-a-method.md shows how to add a method.
"""

from fast_sam3d.sampling.history import History
from fast_sam3d.sampling.method import StageMethod, build_stage_method
from fast_sam3d.sampling.step import Evaluation, LeafEvaluation

__all__ = ["Evaluation", "History", "LeafEvaluation", "StageMethod", "build_stage_method"]
