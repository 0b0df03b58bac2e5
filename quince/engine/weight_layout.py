"""How weights and keys lie in memory, where the device's matrix products depend on it.

MLX's CPU build for Linux brings the reference BLAS (Netlib's), which goes through its operands as they are written: a
product with weights [outputs, inputs] stored output by output is a dot product for each number, which compilers do not
vectorise; stored input by input it is a sum of scaled rows, which they do (benchmarks/README.md). The results are the
same but for the last bits.
"""

from __future__ import annotations

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear

from quince.engine import device


def arrange_weights(model: Module) -> None:
    """Lay the weights as this device computes fastest with them. Their shapes stay."""
    if device.has_reference_blas():
        store_by_inputs(model)


def stored_across(matrices: mx.array) -> mx.array:
    """The same values, with the numbers of a column beside each other in memory."""
    return mx.contiguous(matrices.swapaxes(-1, -2)).swapaxes(-1, -2)


def store_by_inputs(model: Module) -> None:
    """Keep the weights of linear layers, and of embeddings, which may be the model's head too, input by input. Their
    shapes stay. Only float32 goes through BLAS; other weights stay as they are."""
    modules: list[Module] = model.modules()  # type: ignore[no-untyped-call]
    for layer in modules:
        if type(layer) in (Linear, Embedding) and layer.weight.dtype == mx.float32:
            layer.weight = stored_across(layer.weight)
            mx.eval(layer.weight)  # one at a time: both layouts of all would be twice the memory
