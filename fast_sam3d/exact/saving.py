"""What seams of the savings share."""

from __future__ import annotations

from fast_sam3d.patch import Seam


class SavingSeam(Seam):
    """A seam where several savings may act; the layers' methods are `Exact` settings."""

    def wanted(self, saving: str) -> bool:
        """Whether an installation asks for a saving here; another one may have made this seam."""
        return any(getattr(layer.method, saving, False) for layer in self.layers)
