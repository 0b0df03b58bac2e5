"""What becomes of a model that writes, so that this device computes it as fast as it can. Answers stay the same."""

from __future__ import annotations

from mlx.nn.layers.base import Module

from quince.engine import device
from quince.engine.attention import replace_attention
from quince.engine.cuda.chunk import CudaChunkKernel
from quince.engine.cuda.decode import CudaDecodeKernel
from quince.engine.rotations import share_rotations
from quince.engine.weight_layout import arrange_weights


def prepare(model: Module) -> None:
    """When it was loaded, before adapters are put over it."""
    arrange_weights(model)
    if not device.has_rotation_kernel():
        share_rotations(model)
    if device.gains_from_kernels():
        replace_attention(model, CudaDecodeKernel(), CudaChunkKernel())
