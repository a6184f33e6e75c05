"""What a run hands out besides what the decoders give."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fast_sam3d.model.extract import MeshResult

if TYPE_CHECKING:
    import trimesh

log = logging.getLogger(__name__)

_TURN_Y_UP = ((1, 0, 0, 0), (0, 0, 1, 0), (0, -1, 0, 0), (0, 0, 0, 1))


def mesh_y_up(mesh: MeshResult) -> trimesh.Trimesh | None:
    """The decoded mesh turned by (x, y, z) -> (x, z, -y), as the stock pipeline's `glb`; None if it is empty."""
    from fast_sam3d.outputs.meshes import mesh_to_trimesh

    if not mesh.success:
        log.warning("the mesh decoder found no surface: there is no mesh in the result")
        return None
    turned = mesh_to_trimesh(mesh)
    turned.apply_transform(_TURN_Y_UP)
    return turned


def add_outputs(outputs: dict[str, Any]) -> dict[str, Any]:
    """Add glb, gs and gs_4 to the decoded formats, in place: the first object of each."""
    outputs["glb"] = mesh_y_up(outputs["mesh"][0]) if "mesh" in outputs else None
    for name, short in (("gaussian", "gs"), ("gaussian_4", "gs_4")):
        if name in outputs:
            outputs[short] = outputs[name][0]
    return outputs
