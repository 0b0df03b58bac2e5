"""What becomes of a model that was loaded, so that this device computes it as fast as it can. Answers stay the same."""

from __future__ import annotations

from mlx.nn.layers.base import Module

from quince.engine import device
from quince.engine.rotations import share_rotations
from quince.engine.weight_layout import store_by_inputs


def prepare(model: Module) -> None:
    """Before adapters are put over it."""
    if device.has_reference_blas():
        store_by_inputs(model)
    if not device.has_rotation_kernel():
        share_rotations(model)
