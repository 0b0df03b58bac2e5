"""A model with its engine, and how both are made from the server's settings."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from quince import environment
from quince.config import ServeConfig
from quince.engine.client import EngineClient, EngineLimits
from quince.engine.history import EngineHistory
from quince.engine.ipc import SocketDirectory
from quince.engine.media_messages import PreprocessorConfig
from quince.engine.messages import EngineConfig, Task
from quince.engine.preprocess import MediaPreprocessor
from quince.errors import UsageError
from quince.models.model_type import ModelType
from quince.models.registry import adapted_name
from quince.models.store import StoredModel
from quince.text import reasoning_parsers, tool_parsers
from quince.text.chat import ChatPrompter
from quince.text.embedding import TextEmbedder
from quince.text.generation import SamplingDefaults, TextGenerator
from quince.text.media import MediaLimits, MediaLoader
from quince.text.prompts import Prompts
from quince.text.reranking import TextReranker, pair_format
from quince.text.tokenizer import Tokenizer, read_json
from quince.text.vision import MediaReader

TASKS = {
    ModelType.LLM: Task.GENERATE,
    ModelType.VLM: Task.GENERATE,
    ModelType.EMBEDDING: Task.EMBED,
    ModelType.RERANKER: Task.SCORE,
}
# Settings for models that write. The others sample nothing and keep nothing between requests; what a pass of theirs
# takes is bounded by prefill_chunk_size.
_ONLY_FOR_WRITING = (
    "adapter",
    "adapters",
    "max_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "memory_bytes",
    "prefix_cache_bytes",
    "prefix_cache_disk_bytes",
    "kv_bits",
    "kv_group_size",
    "tool_parser",
    "reasoning_parser",
)


@dataclass(frozen=True)
class ModelText:
    """What a model's texts and tokens need, which is there without an engine."""

    tokenizer: Tokenizer
    prompter: ChatPrompter


@dataclass(frozen=True)
class LoadedModel:
    """A model with its engine; ``created`` is a Unix time in seconds.

    It has one of generator, embedder and reranker, by its type: whoever acquires it says which types it can use.
    """

    name: str
    path: Path
    engine: EngineClient
    text: ModelText
    created: int
    service: TextGenerator | TextEmbedder | TextReranker

    @property
    def generator(self) -> TextGenerator:
        assert isinstance(self.service, TextGenerator)
        return self.service

    def with_adapter(self, adapter: str) -> LoadedModel:
        """As requests see it that name this adapter of it."""
        return replace(self, name=adapted_name(self.name, adapter), service=self.generator.with_adapter(adapter))

    @property
    def embedder(self) -> TextEmbedder:
        assert isinstance(self.service, TextEmbedder)
        return self.service

    @property
    def reranker(self) -> TextReranker:
        assert isinstance(self.service, TextReranker)
        return self.service


def writes(stored: StoredModel) -> bool:
    """Whether its engine keeps keys and values, within the memory that it may take."""
    return TASKS[stored.type] is Task.GENERATE


def check_settings(stored: StoredModel, config: ServeConfig) -> None:
    """For a server of this model alone. Raises UsageError that names a setting which means nothing to it; what the
    configuration file says for all models rests."""
    if writes(stored):
        return
    for name in _ONLY_FOR_WRITING:
        if name in config.named:
            raise UsageError(
                f"--{name.replace('_', '-')} (or {environment.PREFIX}{name.upper()}) is for models that write, "
                f"and '{stored.name}' is of type {stored.type.value}"
            )


@dataclass(frozen=True)
class EnginePlace:
    """Where an engine runs: ``address`` is a name that no other engine of ``sockets`` has. ``memory_limit``: bytes
    for an engine that is not told by the settings what it may take."""

    sockets: SocketDirectory
    address: str
    command: Sequence[str]
    memory_limit: int | None = None


def make_engine(stored: StoredModel, config: ServeConfig, place: EnginePlace, history: EngineHistory) -> EngineClient:
    """Not started."""
    engine_config = EngineConfig(
        address=place.address,
        model_path=str(stored.path),
        adapter_path=config.adapter,
        adapters=config.adapter_directories,
        max_running_requests=config.max_running_requests,
        prefill_chunk_size=config.prefill_chunk_size,
        max_model_len=config.ctx_size,
        memory_bytes=config.memory_bytes,
        memory_limit=place.memory_limit,
        prefix_cache_bytes=config.prefix_cache_bytes,
        prefix_cache_disk_bytes=config.prefix_cache_disk_bytes,
        prefix_cache_dir=config.prefix_cache_dir or str(config.home / "cache"),
        kv_bits=config.kv_bits,
        kv_group_size=config.kv_group_size,
        task=TASKS[stored.type],
        vision=stored.type is ModelType.VLM,
    )
    limits = EngineLimits(
        max_running_requests=config.max_running_requests,
        queue_size=config.queue_size,
        queue_timeout=config.queue_timeout,
        engine_timeout=config.engine_timeout,
    )
    preprocessor = None
    if engine_config.vision:
        reads = PreprocessorConfig(
            address=f"{place.address}-media",
            model_path=str(stored.path),
            max_pixels=config.max_media_pixels,
            video_seconds=config.video_timeout,
        )
        # What decodes a video says nothing until it is done.
        timeout = config.engine_timeout + config.video_timeout
        preprocessor = MediaPreprocessor(reads, place.sockets, timeout=timeout, used_bytes=config.max_prepared_bytes)
    return EngineClient(engine_config, limits, place.sockets, place.command, history, preprocessor)


def make_model(stored: StoredModel, config: ServeConfig, engine: EngineClient) -> LoadedModel:
    """Reads the tokenizer, for seconds: on a thread. Raises ModelLoadError for an unusable one."""
    text = make_text(stored, config)
    service = _make_service(stored, config, engine, text)
    # What is there now stays. To look for garbage among it would stop all streams for 70 ms at a time.
    gc.freeze()
    return LoadedModel(stored.name, stored.path, engine, text, int(stored.manifest.installed_at), service)


def make_text(stored: StoredModel, config: ServeConfig) -> ModelText:
    """As ``make_model``, for those who need no engine."""
    tokenizer = Tokenizer(stored.path)
    return ModelText(tokenizer, _prompter(tokenizer, config))


def _make_service(
    stored: StoredModel, config: ServeConfig, engine: EngineClient, text: ModelText
) -> TextGenerator | TextEmbedder | TextReranker:
    path = stored.path
    match TASKS[stored.type]:
        case Task.GENERATE:
            reader = None
            if engine.preprocessor is not None:
                reader = MediaReader(MediaLoader(media_limits(config)), engine.preprocessor)
            return TextGenerator(engine, text.tokenizer, text.prompter, _sampling_defaults(path, config), reader)
        case Task.EMBED:
            lower_case = read_json(path / "sentence_bert_config.json").get("do_lower_case") is True
            return TextEmbedder(engine, text.tokenizer, Prompts.read(path), lower_case=lower_case)
        case Task.SCORE:
            return TextReranker(engine, text.tokenizer, pair_format(path, text.tokenizer))


def media_limits(config: ServeConfig) -> MediaLimits:
    return MediaLimits(
        directories=tuple(map(Path, config.allowed_media_path)),
        allow_private=config.allow_private_media,
        max_bytes=config.max_media_bytes,
        max_request_bytes=config.max_media_request_bytes,
        max_items=config.max_media_items,
        max_pixels=config.max_media_pixels,
        timeout=config.media_timeout,
    )


def _prompter(tokenizer: Tokenizer, config: ServeConfig) -> ChatPrompter:
    """Chats in the formats that the settings name, or else those that the model's template is written for."""
    template, special = tokenizer.chat_template or "", tokenizer.special_tokens
    reasoning = reasoning_parsers.detect(template, special)
    tools = tool_parsers.detect(template, special)
    if config.reasoning_parser is not None:
        reasoning = None if config.reasoning_parser == "none" else reasoning_parsers.get(config.reasoning_parser)
    if config.tool_parser is not None:
        tools = None if config.tool_parser == "none" else tool_parsers.get(config.tool_parser)
    return ChatPrompter(tokenizer, reasoning, tools)


def _sampling_defaults(path: Path, config: ServeConfig) -> SamplingDefaults:
    """The server's own settings, then the model's generation_config.json, then OpenAI's defaults."""
    written = read_json(path / "generation_config.json")
    found = {name: value for name, value in written.items() if isinstance(value, (int, float)) and value >= 0}
    if not found.get("do_sample", True):
        found["temperature"] = 0.0
    own = {name: getattr(config, name) for name in ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")}
    found.update({name: value for name, value in own.items() if value is not None})
    base = SamplingDefaults()
    return SamplingDefaults(
        max_tokens=config.max_tokens,
        temperature=found.get("temperature", base.temperature),
        top_p=found.get("top_p", base.top_p),
        top_k=int(found.get("top_k", base.top_k)),
        min_p=found.get("min_p", base.min_p),
        repetition_penalty=found.get("repetition_penalty", base.repetition_penalty),
    )
