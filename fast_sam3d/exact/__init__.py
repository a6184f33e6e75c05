"""Savings that change nothing: work of the pipeline whose result is known beforehand."""

from fast_sam3d.exact.settings import Exact, build_exact

__all__ = ["Exact", "build_exact"]
