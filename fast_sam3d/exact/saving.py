"""Base class of the savings' seams."""

from __future__ import annotations

from fast_sam3d.patch import Seam


class SavingSeam(Seam):
    """A seam at which several savings may act; the layers' methods are `Exact` settings."""

    def wanted(self, saving: str) -> bool:
        """Whether an installation asks for a saving here."""
        return any(getattr(layer.method, saving, False) for layer in self.layers)
