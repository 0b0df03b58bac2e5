"""mlx-vlm's models: prompts with images and videos, in the same batches as text.

A prompt's images reach the language model as embeddings in place of their tokens'. What the vision tower makes of one
image is kept by its content (``FeatureCache``), so each distinct image is computed once while there is room, whoever
sends it and however a prompt is cut into chunks.

Models with multimodal rotary positions (Qwen-VL) place an image's tokens on a grid. mlx-vlm keeps such positions on
the model, for one conversation; here they belong to the request, and every call is given those of all its rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
import numpy.typing as npt
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import ArraysCache, KVCache, RotatingKVCache

from quince.engine.batch import PrefillChunk
from quince.engine.batch_cache import BatchCache
from quince.engine.device import memory_budget
from quince.engine.forward import padded
from quince.engine.messages import AddRequest, MediaArray, MediaInput
from quince.engine.rotations import forget_rotations
from quince.errors import ModelLoadError

Array = npt.NDArray[Any]

# What a model may return for an image besides what is handled here: it would have to reach other calls, too.
UNHANDLED = ("per_layer_inputs", "cross_attention_states", "decoder_inputs_embeds", "pos_hw")
FEATURE_SHARE = 16  # of an engine's memory, one part of so many may hold features
MAX_FEATURE_BYTES = 512 * 2**20
GRIDS = ("image_grid_thw", "video_grid_thw")


def feature_bytes(memory_bytes: int | None, memory_limit: int | None) -> int:
    """How much of an engine's memory (see EngineConfig) features of images may take."""
    return min(MAX_FEATURE_BYTES, memory_budget(memory_bytes, memory_limit) // FEATURE_SHARE)


class Features(NamedTuple):
    """What the vision tower makes of one image: [tokens, hidden size], and, of models that add more to the first
    layers' states (Qwen3-VL), those [layers, tokens, hidden size]."""

    embeddings: mx.array
    deepstack: mx.array | None

    @property
    def nbytes(self) -> int:
        return self.embeddings.nbytes + (0 if self.deepstack is None else self.deepstack.nbytes)


class FeatureCache:
    """Features by content, within ``max_bytes``; who was used last goes last. The newest always stays."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Features] = OrderedDict()
        self.nbytes = 0

    def get(self, key: str) -> Features | None:
        if key in self._kept:
            self._kept.move_to_end(key)
        return self._kept.get(key)

    def put(self, key: str, features: Features) -> None:
        self._kept[key] = features
        self.nbytes += features.nbytes
        while self.nbytes > self._max_bytes and len(self._kept) > 1:
            _, old = self._kept.popitem(last=False)
            self.nbytes -= old.nbytes

    def discard(self, key: str) -> None:
        if key in self._kept:
            self.nbytes -= self._kept.pop(key).nbytes

    def clear(self) -> None:
        self._kept.clear()
        self.nbytes = 0


@dataclass(frozen=True)
class _Image:
    """``positions`` of its tokens in the prompt; ``span`` is the prompt from the first of them to the last, which
    may hold separators, too."""

    key: str
    token_id: int
    positions: Array
    span: list[int]
    arrays: dict[str, Array]


@dataclass
class _Media:
    """A request's images, and where its prompt's tokens stand in the model's rotary space: ``positions`` [3, tokens],
    and what an answer's positions are ahead of its place in the row by. ``encoded``: keys of images that have had their
    turn."""

    images: list[_Image]
    prompt_token_ids: list[int]
    encoded: set[str] = field(default_factory=set)
    positions: Array | None = None
    delta: int = 0

    def between(self, start: int, stop: int) -> Iterator[tuple[_Image, slice, Array]]:
        """Images with tokens from ``start`` to ``stop``: which of their tokens these are, and where they stand."""
        for image in self.images:
            first, last = np.searchsorted(image.positions, (start, stop))
            if first < last:
                yield image, slice(int(first), int(last)), image.positions[first:last]


class VisionForward:
    """See ``Forward``."""

    def __init__(self, model: Module, *, feature_bytes: int) -> None:
        self.model = model
        self._language = model.language_model
        self._has_grid = callable(getattr(self._language, "get_rope_index", None))
        self.reserved_bytes = feature_bytes
        self._features = FeatureCache(feature_bytes)
        self._media: dict[str, _Media] = {}
        self.encoded_media = 0
        self.mixes_adapters = True

    def make_cache(self) -> list[Any]:
        """One row's caches: mlx-vlm's classes are mlx-lm's by other names."""
        make = getattr(self._language, "make_cache", None)
        if make is None:
            return [KVCache() for _ in self._language.layers]
        return [_as_mlx_lm(cache) for cache in make()]

    # Calls

    def logits(self, tokens: mx.array, cache: BatchCache, request_ids: Sequence[str] = ()) -> mx.array:
        if not self._has_grid:
            return self._call(tokens, cache)
        positions = cache.positions
        if self._media and any(name in self._media for name in request_ids):
            deltas = [self._media[name].delta if name in self._media else 0 for name in request_ids]
            positions = positions + mx.array(deltas)[:, None]
        return self._call(tokens, cache, position_ids=mx.broadcast_to(positions[None], (3, *tokens.shape)))

    def prefill(self, chunks: Sequence[PrefillChunk], cache: BatchCache) -> mx.array:
        if not any(chunk.request_id in self._media for chunk in chunks):
            return self.logits(mx.array(padded(chunks, cache.width)), cache)
        width = cache.width
        rows = [[max(token, 0) for token in row] for row in padded(chunks, width)]
        arguments: dict[str, Any] = {}
        if self._has_grid:
            arguments["position_ids"] = mx.array(np.stack([self._positions(c, width) for c in chunks], axis=1))
        parts: list[tuple[Features, slice]] = []
        where: list[tuple[int, Array]] = []
        for number, chunk in enumerate(chunks):
            media = self._media.get(chunk.request_id)
            stop = chunk.start + len(chunk.token_ids)
            for image, tokens, positions in media.between(chunk.start, stop) if media else ():
                columns = positions - chunk.start
                for column in columns.tolist():
                    rows[number][column] = image.token_id
                parts.append((self._encode(image), tokens))
                where.append((number, columns))
        if parts:
            arguments |= self._embed(rows, parts, where)
        return self._call(mx.array(rows), cache, **arguments)

    def _call(self, tokens: mx.array, cache: BatchCache, **arguments: Any) -> mx.array:
        logits: mx.array = self._language(tokens, cache=cache.layers, **arguments).logits
        return logits

    def _embed(
        self, rows: list[list[int]], parts: Sequence[tuple[Features, slice]], where: Sequence[tuple[int, Array]]
    ) -> dict[str, Any]:
        """The rows' embeddings with ``parts`` of images in (row, columns) ``where``."""
        embeddings = self.model.get_input_embeddings(mx.array(rows), None).inputs_embeds
        row_index = np.concatenate([np.full(len(columns), row) for row, columns in where])
        columns = np.concatenate([columns for _, columns in where])
        features = mx.concatenate([features.embeddings[tokens] for features, tokens in parts])
        embeddings[mx.array(row_index), mx.array(columns)] = features.astype(embeddings.dtype)
        if all(features.deepstack is None for features, _ in parts):
            return {"inputs_embeds": embeddings}
        mask = np.zeros((len(rows), len(rows[0])), dtype=bool)
        mask[row_index, columns] = True
        deep = [features.deepstack[:, tokens] for features, tokens in parts if features.deepstack is not None]
        layers = mx.concatenate(deep, axis=1)
        return {"inputs_embeds": embeddings, "visual_pos_masks": mx.array(mask), "deepstack_visual_embeds": layers}

    def _positions(self, chunk: PrefillChunk, width: int) -> Array:
        """[3, width] of a chunk's tokens."""
        plain = np.broadcast_to(np.arange(chunk.start, chunk.start + width, dtype=np.int32), (3, width))
        media = self._media.get(chunk.request_id)
        if media is None:
            return plain
        assert media.positions is not None
        known = media.positions[:, chunk.start : chunk.start + width]
        return np.concatenate([known, plain[:, known.shape[1] :] + media.delta], axis=1)

    # Media

    def add(self, request: AddRequest) -> None:
        """Map the arrays, so that their files are needed no longer. Raises ValueError or OSError."""
        images = [_image(one, request.prompt_token_ids) for one in request.media]
        media = _Media(images, request.prompt_token_ids)
        if self._has_grid:
            self._place(media)
        self._media[request.request_id] = media

    def encode(self, request_id: str, start: int) -> bool:
        """Start computing the next image of the prompt from ``start`` on that is not there. The vision tower runs
        beside what the device does. Every image has its turn once, which shows whether the model can take it; one whose
        features have had to go since is computed again when the prompt has come to it."""
        media = self._media[request_id]
        due = {one.key: one for one in media.images if one.positions[-1] >= start and one.key not in media.encoded}
        missing = [image for key, image in due.items() if self._features.get(key) is None]
        if missing:
            media.encoded.add(missing[0].key)
            try:
                mx.async_eval(self._encode(missing[0]))  # type: ignore[no-untyped-call]
            except BaseException:
                self._features.discard(missing[0].key)  # its arrays may never get their values
                raise
        return len(missing) <= 1

    def reset(self) -> None:
        self._features.clear()
        forget_rotations(self.model)

    def release(self, request_id: str) -> None:
        self._media.pop(request_id, None)

    def _place(self, media: _Media) -> None:
        """Positions in the rotary space, as the model's own code counts them: number by number, which is not to wait
        for the step that the device is at."""
        with mx.stream(mx.cpu):
            grids: dict[str, mx.array] = {}
            for name in GRIDS:
                found = [image.arrays[name] for image in media.images if name in image.arrays]
                if found:
                    grids[name] = mx.array(np.concatenate(found))
            positions, deltas = self._language.get_rope_index(mx.array([media.prompt_token_ids]), **grids)
            media.positions = np.broadcast_to(np.array(positions), (3, 1, len(media.prompt_token_ids)))[:, 0].astype(
                np.int32
            )
            media.delta = int(np.array(deltas).reshape(-1)[0])

    def _encode(self, image: _Image) -> Features:
        features = self._features.get(image.key)
        if features is None:
            features = self._compute(image)
            self._features.put(image.key, features)
        return features

    def _compute(self, image: _Image) -> Features:
        """The image by itself: what one is does not depend on what stands around it."""
        arrays = {name: mx.array(value) for name, value in image.arrays.items()}
        tokens = mx.array([image.span])
        found = self.model.get_input_embeddings(
            tokens, arrays.pop("pixel_values", None), mask=mx.ones(tokens.shape, mx.int32), **arrays
        )
        for name in UNHANDLED:
            if getattr(found, name, None) is not None:
                raise ValueError(f"it returns {name}, which Quince does not know")
        if found.inputs_embeds.shape[1] != len(image.span):
            raise ValueError("it changes the length of the prompt, which Quince does not know")
        self.encoded_media += 1
        at = mx.array(image.positions - image.positions[0])
        deepstack = found.deepstack_visual_embeds
        if deepstack is not None and not isinstance(deepstack, mx.array):
            deepstack = mx.stack(list(deepstack))
        return Features(found.inputs_embeds[0][at], deepstack)


def _image(media: MediaInput, prompt_token_ids: list[int]) -> _Image:
    positions = np.concatenate([np.arange(start, start + count) for start, count in media.runs])
    span = prompt_token_ids[positions[0] : positions[-1] + 1]
    return _Image(media.key, media.token_id, positions, span, {one.name: _read(one) for one in media.arrays})


def _read(one: MediaArray) -> Array:
    if one.path:
        mapped: Array = np.load(one.path, mmap_mode="r", allow_pickle=False)
        return mapped
    held: Array = np.load(BytesIO(one.data), allow_pickle=False)
    return held


class RecurrentCache(ArraysCache):  # type: ignore[misc]
    """mlx-lm's, with what mlx-vlm's layers call of their own class."""

    def prepare(self, lengths: Sequence[int], **_: Any) -> None:
        super().prepare(lengths=lengths)
        self.left_padding = None  # Qwen3.5 takes any, if only zeros, for a sign that nothing is padded on the right

    def update_window(self, index: int, source: mx.array, width: int, *, lengths: mx.array | None = None) -> mx.array:
        """Keep the last ``width`` of ``source`` [rows, width + tokens, ...]; of rows with fewer tokens, by ``lengths``,
        those that end with their last one."""
        tokens = source.shape[1] - width
        if lengths is None:
            kept = source[:, tokens:]
        else:
            places = mx.clip(lengths, 0, tokens)[:, None] + mx.arange(width)
            kept = mx.take_along_axis(source, places.reshape(*places.shape, *[1] * (source.ndim - 2)), axis=1)
        self.cache[index] = kept = mx.contiguous(kept)
        return kept

    def update_recurrent(
        self, index: int, length: int, update: Callable[[mx.array | None, None], tuple[mx.array, mx.array]]
    ) -> tuple[mx.array, mx.array]:
        """``update`` makes an output and the next state of the last one; its second argument is for who wants the
        states between."""
        output, state = update(self.cache[index], None)
        self.cache[index] = state
        return output, state


def _as_mlx_lm(cache: Any) -> Any:
    """The same cache, empty, of mlx-lm's class. Raises ModelLoadError for one that it does not have."""
    match type(cache).__name__:
        case "KVCache":
            return KVCache()
        case "RotatingKVCache":
            return RotatingKVCache(max_size=cache.max_size, keep=cache.keep)
        case "ArraysCache":
            return RecurrentCache(len(cache.cache))
    raise ModelLoadError(f"this model keeps a {type(cache).__name__}, which Quince does not know")
