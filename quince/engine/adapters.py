"""LoRA adapters of one model, chosen by every request for itself.

mlx-lm's ``load_adapters`` makes the layers of each adapter; an ``AdaptedLayer`` stands in the model where at least one
adapter has something to say, and calls the one that the rows of the current call ask for. If they ask for different
ones, a plain LoRA layer computes all of them in one pass: the adapters' matrices lie in one stack, of which each row
picks its own. Other kinds (DoRA, experts, embeddings) have one adapter in a pass, and the scheduler groups the rows.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_unflatten
from mlx_lm.utils import load_adapters

from quince.engine.batch_cache import BatchCache
from quince.engine.forward import TextForward
from quince.engine.messages import AddRequest
from quince.errors import ModelLoadError

logger = logging.getLogger(__name__)

FILES = ("adapter_config.json", "adapters.safetensors")
NONE = 0  # the number of the model as it is; adapters are counted from 1
PROBE_TOKENS = 24
# As in support.py: rounding is far below, a row with another row's adapter seldom.
TOLERANCE = 0.05


class RowAdapters:
    """Which adapter each row of the current call of the model wants; owned by whoever calls the model.

    ``only``: the one of all rows. If they want several, ``numbers`` [rows] and ``scales`` [rows, 1, 1] hold for each.
    """

    def __init__(self, scales: Sequence[float]) -> None:
        """``scales`` by number."""
        self._scales = scales
        self.only = NONE
        self.numbers: mx.array | None = None
        self.scales: mx.array | None = None

    @contextlib.contextmanager
    def rows(self, numbers: Sequence[int]) -> Iterator[None]:
        """Within the block, row ``i`` wants adapter ``numbers[i]``; without numbers, all want the model as it is."""
        different = set(numbers)
        if len(different) > 1:
            self.numbers = mx.array(list(numbers))
            self.scales = mx.array([self._scales[number] for number in numbers])[:, None, None]
        elif different:
            self.only = different.pop()
        try:
            yield
        finally:
            self.only, self.numbers, self.scales = NONE, None, None


class AdaptedLayer(Module):
    """A layer of the model and those of the adapters in its place, by number: the first is the model's own, which also
    stands for adapters that leave this layer as it is."""

    def __init__(self, layers: Sequence[Module], rows: RowAdapters) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers = list(layers)
        self._rows = rows
        self._stacks: tuple[mx.array, mx.array] | None = None

    def __call__(self, x: mx.array, *args: Any, **options: Any) -> mx.array:
        if self._rows.numbers is not None:
            return self._call_mixed(x)
        y: mx.array = self.layers[self._rows.only](x, *args, **options)
        return y

    def as_linear(self, x: mx.array) -> mx.array:
        """Of an embedding that is also the model's head."""
        y: mx.array = self.layers[self._rows.only].as_linear(x)
        return y

    def _call_mixed(self, x: mx.array) -> mx.array:
        numbers, scales = self._rows.numbers, self._rows.scales
        assert numbers is not None and scales is not None
        if self._stacks is None or x.ndim != 3 or x.shape[0] != numbers.size:
            raise ValueError("this layer has one adapter in a pass")
        down, up = self._stacks
        z = mx.gather_mm(mx.gather_mm(x, down, rhs_indices=numbers), up, rhs_indices=numbers)
        y: mx.array = self.layers[NONE](x)
        return y + (scales * z).astype(x.dtype)

    @property
    def _adapted(self) -> list[tuple[int, Module]]:
        return [(number, layer) for number, layer in enumerate(self.layers) if layer is not self.layers[NONE]]

    @property
    def stackable(self) -> bool:
        from mlx_lm.tuner.lora import LoRALinear  # imports transformers, which an engine without adapters does not need

        return all(type(layer) is LoRALinear for _, layer in self._adapted)

    def stack(self) -> None:
        """Lay the matrices of all adapters and of none beside each other, those of lower rank filled up with zeros.
        The adapters' own layers go on with their part of it, so that nothing is held twice."""
        adapted = dict(self._adapted)
        first = next(iter(adapted.values()))
        rank = max(layer.lora_a.shape[1] for layer in adapted.values())
        nothing = mx.zeros((first.lora_a.shape[0], 0)), mx.zeros((0, first.lora_b.shape[1]))
        down, up = [], []
        for number in range(len(self.layers)):
            layer = adapted.get(number)
            a, b = nothing if layer is None else (layer.lora_a, layer.lora_b)
            missing = rank - a.shape[1]
            down.append(mx.pad(a, [(0, 0), (0, missing)]))
            up.append(mx.pad(b, [(0, missing), (0, 0)]))
        dtypes = {layer.lora_a.dtype for layer in adapted.values()}
        dtype = dtypes.pop() if len(dtypes) == 1 else mx.float32
        self._stacks = mx.stack([a.astype(dtype) for a in down]), mx.stack([b.astype(dtype) for b in up])
        mx.eval(self._stacks)
        for number, layer in adapted.items():
            layer.lora_a, layer.lora_b = (matrices[number] for matrices in self._stacks)
            mx.eval(layer.lora_a, layer.lora_b)  # views of the stack from now on


class AdapterForward(TextForward):
    """A model that knows tokens only, and adapters over it: requests name theirs in ``AddRequest.adapter``."""

    def __init__(self, model: Module, directories: Mapping[str, Path]) -> None:
        """``directories`` by name. Raises ModelLoadError that names the adapter that does not fit the model."""
        super().__init__(model)
        self._numbers = {name: number for number, name in enumerate(directories, 1)}
        self._chosen: dict[str, int] = {}
        before = mx.get_active_memory()
        base = _modules(model)
        adapted: dict[str, dict[int, Module]] = {}
        scales = [1.0]
        for name, number in self._numbers.items():
            found, scale = _read(model, base, name, directories[name])
            scales.append(scale)
            for place, layer in found.items():
                adapted.setdefault(place, {})[number] = layer
        self._rows = RowAdapters(scales)
        numbers = range(1, 1 + len(directories))
        layers = {
            place: AdaptedLayer([base[place], *(layers.get(number, base[place]) for number in numbers)], self._rows)
            for place, layers in adapted.items()
        }
        model.update_modules(tree_unflatten(list(layers.items())))
        model.eval()
        self.mixes_adapters = self._stack(list(layers.values()))
        held = (mx.get_active_memory() - before) / 2**20
        how = "in one pass" if self.mixes_adapters else "in a pass for each"
        logger.info("adapters %s: %.1f MiB; requests for different ones run %s", ", ".join(directories), held, how)

    def _stack(self, layers: Sequence[AdaptedLayer]) -> bool:
        """Prepare for rows with different adapters. Returns whether the model's code can do with them."""
        if not all(layer.stackable for layer in layers):
            return False
        for layer in layers:
            layer.stack()
        return _mixes(self, len(self._numbers))

    def call(self, tokens: mx.array, numbers: Sequence[int]) -> mx.array:
        """Logits [rows, width, vocabulary] of rows by themselves, with these adapters."""
        with self._rows.rows(numbers):
            logits: mx.array = self.model(tokens)
        return logits

    def logits(self, tokens: mx.array, cache: BatchCache, request_ids: Sequence[str] = ()) -> mx.array:
        with self._rows.rows([self._chosen.get(name, NONE) for name in request_ids]):
            return super().logits(tokens, cache)

    def add(self, request: AddRequest) -> None:
        if request.media:
            super().add(request)
        if request.adapter not in self._numbers:
            raise ValueError(f"there is no adapter '{request.adapter}'")
        self._chosen[request.request_id] = self._numbers[request.adapter]

    def release(self, request_id: str) -> None:
        self._chosen.pop(request_id, None)


def _modules(model: Module) -> dict[str, Module]:
    return dict(model.named_modules())  # type: ignore[no-untyped-call]


def _read(model: Module, base: Mapping[str, Module], name: str, path: Path) -> tuple[dict[str, Module], float]:
    """The adapter's layers by their places in the model, and its scale. The model is as it was, then."""
    config = adapter_config(path)
    if config.get("fine_tune_type", "lora") == "full":
        raise ModelLoadError(f"the adapter {name} is a full fine-tune: --adapter serves it, for all requests")
    put_over(model, path)
    modules = _modules(model)
    found = {place: modules[place] for place, layer in base.items() if modules.get(place, layer) is not layer}
    model.update_modules(tree_unflatten([(place, base[place]) for place in found]))
    parameters = config.get("lora_parameters", {})
    logger.info(
        "adapter %s: rank %s, %d layers, trained over %s",
        *(name, parameters.get("rank"), len(found), config.get("model", "a model that it does not name")),
    )
    return found, float(parameters["scale"])


def adapter_config(path: Path) -> dict[str, Any]:
    """Raises ModelLoadError for what is no adapter of mlx-lm's."""
    for name in FILES:
        if not (path / name).is_file():
            raise ModelLoadError(f"{path} has no {name}, so it is no adapter that mlx-lm has made")
    try:
        config = json.loads((path / FILES[0]).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path / FILES[0]} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ModelLoadError(f"{path / FILES[0]} is no object")
    return config


def put_over(model: Module, path: Path) -> None:
    """Put an adapter's layers into the model, as mlx-lm's ``load_adapters`` does for all of its own tools."""
    adapter_config(path)
    try:
        load_adapters(model, str(path))
        mx.eval(model.parameters())  # type: ignore[no-untyped-call]
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError) as error:
        raise ModelLoadError(f"the adapter {path.name} does not fit the model: {error}") from error
    model.eval()


def _mixes(forward: AdapterForward, count: int) -> bool:
    """Whether rows with different adapters say together what they say alone."""
    row = [[7 * index % 11 for index in range(PROBE_TOKENS)]]
    numbers = [count, NONE, 1]
    for tokens in (mx.array(row), mx.array(row)[:, :1]):
        alone = mx.concatenate([forward.call(tokens, [number]) for number in numbers]).astype(mx.float32)
        try:
            together = forward.call(mx.concatenate([tokens] * len(numbers)), numbers).astype(mx.float32)
            error, size = mx.linalg.norm(together - alone), mx.linalg.norm(alone)
            if bool(error > TOLERANCE * size):
                return False
        except (ValueError, TypeError, IndexError, RuntimeError):  # whatever the model's code stumbles over
            return False
    return True
