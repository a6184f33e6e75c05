"""TRELLIS's own classes make as many operations as those by which `fast-sam3d count --model trellis` counts."""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fast_sam3d.bench.operations import shell
from fast_sam3d.model import published_trellis as ours
from fast_sam3d.model.slat_config import MeshDecoderConfig, SLatFlowConfig
from fast_sam3d.model.sparse import SparseTensor
from tests.trellis.stand_ins import importable, on_cpu

WIDTH, CONTEXT, EDGE = 64, 48, 16
SIZES = ours.TrellisSizes(
    SLatFlowConfig(16, 8, WIDTH, 3, 2, 4.0, CONTEXT, 32, 2, False, convention="published"),
    MeshDecoderConfig(16, 8, 256, 2, 4, upsample_channels=(64, 32), out_channels=101),
    resolution=4,
    context=(50, CONTEXT),
)
FLOW: dict[str, Any] = {
    "in_channels": 8, "out_channels": 8, "model_channels": WIDTH, "cond_channels": CONTEXT, "num_blocks": 3,
    "num_heads": 2, "qk_rms_norm": True,
}  # fmt: skip


def counted(call: Any) -> int:
    # The fused kernel of a CPU is not counted.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


@pytest.mark.parametrize("stage", ["ss", "slat", "mesh"])
def test_as_many_operations_as_the_classes_of_trellis(stage: str) -> None:
    own = ours.published_trellis(SIZES).models
    voxels = shell(5.0, EDGE)
    time, cond = torch.zeros(1), torch.zeros(1, *SIZES.context)
    meta = SparseTensor(torch.empty(len(voxels), 8, device="meta"), voxels)
    given = (time.to("meta"), cond.to("meta"))
    with importable(), on_cpu():
        from trellis import models
        from trellis.models.structured_latent_vae import decoder_mesh
        from trellis.modules import sparse

        sparse.SparseTensor(torch.zeros(1, 1), torch.zeros(1, 4).int())  # imports spconv at first use
        real = sparse.SparseTensor(torch.zeros(len(voxels), 8), voxels)
        if stage == "ss":
            network = models.SparseStructureFlowModel(resolution=4, patch_size=1, **FLOW)
            x = torch.zeros(1, 8, 4, 4, 4)
            theirs = counted(lambda: network(x, time, cond))
            found = counted(lambda: own["sparse_structure_flow_model"](x.to("meta"), *given))
        elif stage == "slat":
            network = models.SLatFlowModel(resolution=EDGE, io_block_channels=[32], **FLOW)
            theirs = counted(lambda: network(real, time, cond))
            found = counted(lambda: own["slat_flow_model"](meta, *given))
        else:
            on_host = partial(decoder_mesh.SparseFeatures2Mesh, device="cpu")
            with mock.patch.object(decoder_mesh, "SparseFeatures2Mesh", on_host):
                network = models.SLatMeshDecoder(
                    EDGE, 256, 8, 2, 4, window_size=8, representation_config={"use_color": True}
                )
            with mock.patch.object(network, "to_representation", lambda fields: fields):
                theirs = counted(lambda: network(real))
            found = counted(lambda: own["slat_decoder_mesh"].decode_fields(meta))
    assert found == theirs
