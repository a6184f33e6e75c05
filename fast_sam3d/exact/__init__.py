"""Exact savings: the pipeline's redundant work is skipped, results stay equal up to floating-point rounding."""

from fast_sam3d.exact.settings import Exact, build_exact

__all__ = ["Exact", "build_exact"]
