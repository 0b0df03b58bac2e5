"""The models that this server has loaded, by the names that requests use."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

from quince.config import ServeConfig
from quince.engine.client import EngineClient, EngineLimits, EngineState
from quince.engine.ipc import SocketDirectory
from quince.engine.messages import EngineConfig
from quince.errors import ModelNotFound, UsageError
from quince.models import demo
from quince.text import reasoning_parsers, tool_parsers
from quince.text.chat import ChatPrompter
from quince.text.generation import SamplingDefaults, TextGenerator
from quince.text.tokenizer import Tokenizer, read_json

DEFAULT_NAMES = ("default", "model")


@dataclass(frozen=True)
class LoadedModel:
    """A model with its engine; ``created`` is a Unix time in seconds."""

    name: str
    path: Path
    engine: EngineClient
    generator: TextGenerator
    created: int


class ModelManager:
    """Starts the server's model and finds it for requests. Lifecycle: start, acquire ..., stop."""

    def __init__(self, config: ServeConfig) -> None:
        """Raises UsageError if ``config.model`` names nothing that is there."""
        self._config = config
        self._name, self._path = locate(config.model)
        self._sockets: SocketDirectory | None = None
        self._engine: EngineClient | None = None
        self._model: LoadedModel | None = None

    async def start(self) -> None:
        """Begin loading; returns before the engine is ready. Raises ModelLoadError for an unusable tokenizer."""
        self._sockets = SocketDirectory()
        engine = EngineClient(self._engine_config(), self._engine_limits(), self._sockets)
        engine.start()
        self._engine = engine
        # Importing and reading the tokenizer takes as long as loading a small model: side by side.
        tokenizer = await asyncio.to_thread(Tokenizer, self._path)
        generator = TextGenerator(engine, tokenizer, self._prompter(tokenizer), self._sampling_defaults())
        self._model = LoadedModel(self._name, self._path, engine, generator, int(time.time()))

    async def stop(self) -> None:
        """Also after a ``start`` that failed, and again."""
        if self._engine is not None:
            await self._engine.stop()
        if self._sockets is not None:
            self._sockets.close()

    def acquire(self, name: str | None) -> LoadedModel:
        """The model that ``name`` means; absent, 'default' and 'model' mean the server's own. Raises ModelNotFound."""
        model = self._model
        assert model is not None, "acquire() before start()"
        known = (model.name, str(model.path), self._config.model, *DEFAULT_NAMES)
        if name is None or name in known or self._config.any_model_name:
            return model
        raise ModelNotFound(
            f"The model '{name}' does not exist on this server. It serves: {model.name}.", param="model"
        )

    @property
    def models(self) -> list[LoadedModel]:
        return [] if self._model is None else [self._model]

    def health(self) -> tuple[bool, str]:
        """Whether requests can be served, and the state in words."""
        if self._model is None:
            return False, "loading"
        engine = self._model.engine
        return engine.state is EngineState.READY, engine.reason

    def _engine_config(self) -> EngineConfig:
        return EngineConfig(
            address="engine",
            model_path=str(self._path),
            adapter_path=self._config.adapter,
            max_running_requests=self._config.max_running_requests,
            prefill_chunk_size=self._config.prefill_chunk_size,
            max_model_len=self._config.ctx_size,
            memory_bytes=self._config.memory_bytes,
            prefix_cache_bytes=self._config.prefix_cache_bytes,
            kv_bits=self._config.kv_bits,
            kv_group_size=self._config.kv_group_size,
        )

    def _engine_limits(self) -> EngineLimits:
        return EngineLimits(
            max_running_requests=self._config.max_running_requests,
            queue_size=self._config.queue_size,
            queue_timeout=self._config.queue_timeout,
            engine_timeout=self._config.engine_timeout,
        )

    def _prompter(self, tokenizer: Tokenizer) -> ChatPrompter:
        """Chats in the formats that the settings name, or else those that the model's template is written for."""
        template, config = tokenizer.chat_template or "", self._config
        special = tokenizer.special_tokens
        reasoning = reasoning_parsers.detect(template, special)
        tools = tool_parsers.detect(template, special)
        if config.reasoning_parser is not None:
            reasoning = None if config.reasoning_parser == "none" else reasoning_parsers.get(config.reasoning_parser)
        if config.tool_parser is not None:
            tools = None if config.tool_parser == "none" else tool_parsers.get(config.tool_parser)
        return ChatPrompter(tokenizer, reasoning, tools)

    def _sampling_defaults(self) -> SamplingDefaults:
        """The server's own settings, then the model's generation_config.json, then OpenAI's defaults."""
        written = read_json(self._path / "generation_config.json")
        own = {name: value for name, value in written.items() if isinstance(value, (int, float)) and value >= 0}
        base = SamplingDefaults()
        temperature = own.get("temperature", base.temperature) if own.get("do_sample", True) else 0.0
        return SamplingDefaults(
            max_tokens=self._config.max_tokens,
            temperature=temperature if self._config.temperature is None else self._config.temperature,
            top_p=own.get("top_p", base.top_p) if self._config.top_p is None else self._config.top_p,
            top_k=int(own.get("top_k", base.top_k)),
            min_p=own.get("min_p", base.min_p),
            repetition_penalty=own.get("repetition_penalty", base.repetition_penalty),
        )


def locate(model: str | None) -> tuple[str, Path]:
    """The served name and the directory of what the command line calls ``model`` (None: the demo chat model)."""
    name = demo.CHAT if model is None else model
    embedded = demo.path(name)
    if embedded is not None:
        return name, embedded
    path = Path(name).expanduser()
    if not path.is_dir():
        raise UsageError(f"there is no model '{name}': give a model's directory, or none for the demo model")
    return path.resolve().name, path.resolve()
