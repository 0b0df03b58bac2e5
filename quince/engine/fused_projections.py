"""Linear layers that read one input become one matrix product, so that a step hands fewer kernels to the device.

The code of mlx-lm's models stays as it is: it calls q_proj, k_proj and v_proj (or gate_proj and up_proj) on the same
array, one after the other. A ``FusedProjection`` stands in the place of each; whichever is called first computes the
product for all. A layer that is called with another array than the one before computes its own part of it: slower,
never wrong. Layers that a model does not call together are left alone, which one call of the model tells.

vLLM and SGLang load checkpoints this way (QKVParallelLinear, MergedColumnParallelLinear).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.quantized import QuantizedLinear

from quince.engine.batch_cache import BatchCache
from quince.engine.forward import Forward

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"), ("w1", "w3"))


class Product:
    """``layer``'s output for the input that was seen last, until every part of it has been taken."""

    def __init__(self, layer: Module, sizes: list[int]) -> None:
        """``sizes``: how many of the outputs each part has, in order."""
        self.layer = layer
        self.calls = 0
        self._cuts = [sum(sizes[:end]) for end in range(1, len(sizes))]
        self._input: mx.array | None = None
        self._parts: dict[int, mx.array] = {}

    def take(self, index: int, x: mx.array) -> mx.array:
        """Part ``index`` of the output for ``x``, [..., size of the part]."""
        if x is not self._input or index not in self._parts:
            self.calls += 1
            self._input = x
            self._parts = dict(enumerate(mx.split(self.layer(x), self._cuts, axis=-1)))
        part = self._parts.pop(index)
        if not self._parts:
            self._input = None  # whoever holds an array keeps its memory from being used again
        return part

    @property
    def complete(self) -> bool:
        """Whether one call of the layer has served all parts."""
        return self.calls == 1 and not self._parts


class FusedProjection(Module):
    """One of the layers that ``product`` computes, called as the layer itself."""

    def __init__(self, product: Product, index: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._product = product
        self._index = index

    def __call__(self, x: mx.array) -> mx.array:
        return self._product.take(self._index, x)


@dataclass
class _Group:
    """Children of ``owner`` and what may replace them. Nothing of the product's layer is computed yet."""

    owner: Module
    layers: dict[str, Module]
    product: Product

    def install(self) -> None:
        for index, name in enumerate(self.layers):
            setattr(self.owner, name, FusedProjection(self.product, index))

    def remove(self) -> None:
        for name, layer in self.layers.items():
            setattr(self.owner, name, layer)


def fuse_projections(forward: Forward, model: Module) -> int:
    """Fuse what can be fused in ``model``, which ``forward`` calls. Returns how many products there are now.

    The weights are as large as before; while they are put together, one group's are there twice.
    """
    groups = list(_candidates(model))
    for group in groups:
        group.install()
    if not _can_be_called(forward):
        for group in groups:
            group.remove()
        return 0
    fused = 0
    while groups:
        group = groups.pop()
        if group.product.complete:
            mx.eval(group.product.layer.parameters())  # type: ignore[no-untyped-call]
            fused += 1
        else:
            group.remove()
    return fused


def _candidates(model: Module) -> Iterator[_Group]:
    modules: list[Module] = model.modules()  # type: ignore[no-untyped-call]
    for owner in modules:
        for names in SIBLINGS:
            layers = {name: owner[name] for name in names if name in owner}
            if len(layers) == len(names) and _alike(list(layers.values())):
                yield _Group(owner, layers, _product(list(layers.values())))


def _alike(layers: list[Any]) -> bool:
    """Whether their outputs may stand side by side in one."""
    first = layers[0]
    if type(first) not in (Linear, QuantizedLinear) or any(type(layer) is not type(first) for layer in layers):
        return False
    if type(first) is QuantizedLinear:
        ways = {(layer.group_size, layer.bits, layer.mode) for layer in layers}
        if len(ways) > 1:
            return False
    return len({tuple(_widths(layer)) for layer in layers}) == 1


def _widths(layer: Module) -> list[tuple[str, mx.Dtype, tuple[int, ...]]]:
    """What the arrays are apart from the number of outputs, which is their first axis."""
    return [(name, array.dtype, array.shape[1:]) for name, array in sorted(_arrays(layer).items())]


def _arrays(layer: Module) -> dict[str, mx.array]:
    arrays: dict[str, mx.array] = layer.parameters()  # type: ignore[no-untyped-call]
    return arrays


def _product(layers: list[Module]) -> Product:
    together = copy.copy(layers[0])
    parts = [_arrays(layer) for layer in layers]
    together.update({name: mx.concatenate([part[name] for part in parts]) for name in parts[0]})
    return Product(together, [part["weight"].shape[0] for part in parts])


def _can_be_called(forward: Forward) -> bool:
    """Call the model on one token, without computing anything."""
    cache = BatchCache(forward, max_width=1)
    cache.add_empty_rows(1)
    cache.begin(1)
    try:
        forward.logits(mx.array([[0]]), cache)
    except (ValueError, TypeError, AttributeError, KeyError, IndexError, RuntimeError):
        return False  # the model's code asks a layer for more than a product
    cache.commit()
    return True
