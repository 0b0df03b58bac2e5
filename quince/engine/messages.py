"""The engine's protocol: every message that crosses between the API process and an engine process.

API process -> engine: AddRequest (to a generating engine) or PoolRequest (to a pooling one), Abort.
Engine -> API process: Ready, LoadFailed, StepOutput.
The engine is configured once, by an EngineConfig on its standard input.
"""

from __future__ import annotations

import enum

import msgspec

from quince.sampling import SamplingParams


class Task(enum.Enum):
    """What an engine does: write answers, make vectors of texts, or score pairs of texts."""

    GENERATE = "generate"
    EMBED = "embed"
    SCORE = "score"


class EngineConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine process needs to start. ``model_path``, ``adapter_path`` (for all requests) and
    those of ``adapters``, by the names that requests use, are local directories.

    ``memory_bytes`` (None: what the device has, up to ``memory_limit``) hold weights, caches and, as a part,
    ``prefix_cache_bytes`` (0: none; None: a share). ``prefix_cache_disk_bytes`` more of it may be kept in files below
    ``prefix_cache_dir``, across restarts. ``kv_bits`` (None: as the model computes them) hold each number of keys and
    values. ``prefill_chunk_size``: most tokens of prompts in a step (None: what suits the device). ``vision``: the
    model is one of mlx-vlm's.
    """

    address: str
    model_path: str
    adapter_path: str | None = None
    adapters: dict[str, str] = {}
    max_running_requests: int
    prefill_chunk_size: int | None = None
    max_model_len: int | None = None
    memory_bytes: int | None = None
    memory_limit: int | None = None
    prefix_cache_bytes: int | None = None
    prefix_cache_disk_bytes: int = 0
    prefix_cache_dir: str = ""
    kv_bits: int | None = None
    kv_group_size: int = 64
    task: Task = Task.GENERATE
    vision: bool = False


class FinishReason(enum.Enum):
    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


class MediaArray(msgspec.Struct, frozen=True, array_like=True):
    """An argument of the model, by its name there: an array in NumPy's format, in the file ``path`` or, if it is small,
    in ``data``."""

    name: str
    path: str = ""
    data: bytes = b""


class MediaInput(msgspec.Struct, frozen=True, array_like=True):
    """An image or a video of a prompt, as the model's processor prepared it.

    ``key`` names the content: with equal keys the model sees the same. ``runs``, (first position, count), are the
    tokens that stand for it, in ascending order; each of them is ``token_id``. Who sends it keeps the files until the
    request has ended.
    """

    key: str
    token_id: int
    runs: list[tuple[int, int]]
    arrays: list[MediaArray]


class AddRequest(msgspec.Struct, frozen=True, tag="add"):
    """``boundaries``: positions in the prompt, in tokens, where messages end. Other requests may part there, so they
    are good places to resume from; they never change an answer. ``media`` come in the order of the prompt. ``adapter``
    is one of the engine's, by its name."""

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    boundaries: list[int] = []
    media: list[MediaInput] = []
    adapter: str | None = None


class PoolInput(msgspec.Struct, frozen=True, array_like=True):
    """One text, or a pair of texts, as the model reads it; not empty.

    Of a pair, the second text begins at token ``second_from``. The first ``prompt_tokens`` tokens are an instruction,
    which some models leave out of what they pool.
    """

    token_ids: list[int]
    second_from: int | None = None
    prompt_tokens: int = 0


class PoolRequest(msgspec.Struct, frozen=True, tag="pool"):
    """Asks for one vector (Task.EMBED) or one score (Task.SCORE) of every input.

    ``label_token_ids`` are the tokens (no, yes) between which a generative reranker decides.
    """

    request_id: str
    inputs: list[PoolInput]
    label_token_ids: tuple[int, int] | None = None


class Abort(msgspec.Struct, frozen=True, tag="abort"):
    request_ids: list[str]


class Ready(msgspec.Struct, frozen=True, tag="ready", kw_only=True):
    """The model is loaded. ``memory_bytes`` is what MLX holds after loading; ``max_model_len`` is in tokens.

    ``dimensions`` is the length of a pooling engine's results: of its vectors, or 1 for scores.
    """

    model_type: str
    vocab_size: int
    max_model_len: int
    memory_bytes: int
    device: str
    dimensions: int = 0


class LoadFailed(msgspec.Struct, frozen=True, tag="load_failed"):
    message: str


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural-log probabilities under the model's own distribution (before temperature and filters)."""

    logprob: float
    top_ids: list[int] = []
    top_logprobs: list[float] = []


class Pooled(msgspec.Struct, frozen=True, array_like=True):
    """The result for input ``index`` of a PoolRequest: float32 numbers, little-endian.

    Vectors are pooled and normalised as the model's files say; scores are in 0..1.
    """

    index: int
    values: bytes


class Output(msgspec.Struct, omit_defaults=True, array_like=True):
    """What happened to one request in one step. ``started`` marks the step that took it out of the queue, and comes
    with ``cached_tokens``, how much of its prompt did not have to be computed.

    With finish_reason ERROR, ``error`` says why, and ``refused`` that the request itself is at fault.
    """

    request_id: str
    token_ids: list[int] = []
    finish_reason: FinishReason | None = None
    started: bool = False
    cached_tokens: int = 0
    logprobs: list[TokenLogprobs] = []
    error: str | None = None
    refused: bool = False
    pooled: list[Pooled] = []


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """Counts since the engine started, except ``running``, ``waiting`` and memory, which are now. Memory is in bytes.

    ``prompt_tokens`` were computed, ``cached_tokens`` taken from the prefix cache by ``cache_hits`` requests;
    ``cache_bytes`` is what it holds, ``kv_bytes`` what the running requests' keys and values take besides, of the
    ``kv_limit`` that both share. ``preemptions``: how often a request had to give up its row for a while.
    ``encoded_media``: images and videos that went through the vision tower. ``disk_bytes``: what the prefix cache's
    files of all models take now; ``disk_tokens`` of prompts were taken from there.
    """

    running: int = 0
    waiting: int = 0
    steps: int = 0
    prompt_tokens: int = 0
    generation_tokens: int = 0
    active_memory: int = 0
    peak_memory: int = 0
    cached_tokens: int = 0
    cache_hits: int = 0
    cache_bytes: int = 0
    preemptions: int = 0
    kv_bytes: int = 0
    kv_limit: int = 0
    encoded_media: int = 0
    disk_bytes: int = 0
    disk_tokens: int = 0


class StepOutput(msgspec.Struct, frozen=True, tag="step"):
    """All outputs of one step. Sent every step, also without outputs: it is the proof of progress."""

    outputs: list[Output]
    stats: EngineStats


ToEngine = AddRequest | PoolRequest | Abort
FromEngine = Ready | LoadFailed | StepOutput
