"""``quince serve``"""

from __future__ import annotations

from typing import Annotated, Any

import typer

Model = Annotated[
    str | None,
    typer.Argument(
        help="A directory, an installed model, an alias or a hub id: loaded at the start and kept. "
        "Without one, every model that there is, loaded on first use.",
        show_default=False,
    ),
]


def _option(help: str, flag: str) -> Any:
    return typer.Option(flag, help=help, show_default=False)


def serve(  # noqa: PLR0913 - one parameter per option
    model: Model = None,
    host: Annotated[str | None, _option("Address to listen on (default: 127.0.0.1).", "--host")] = None,
    port: Annotated[int | None, _option("Port to listen on; 0 takes a free one (default: 8000).", "--port")] = None,
    api_key: Annotated[
        list[str] | None,
        _option("Key that requests must bring; repeat it for several. Better in QUINCE_API_KEY.", "--api-key"),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        _option("Origin whose web pages may use the server, or *; repeat it for several.", "--cors-origin"),
    ] = None,
    ctx_size: Annotated[
        int | None, _option("Context length in tokens (default: the model's own).", "--ctx-size")
    ] = None,
    adapter: Annotated[
        str | None, _option("Directory of a LoRA adapter made by mlx-lm, for all requests.", "--adapter")
    ] = None,
    max_tokens: Annotated[
        int | None,
        _option("Longest answer of a request that gives none (default: rest of the context).", "--max-tokens"),
    ] = None,
    temperature: Annotated[
        float | None,
        _option("Temperature of a request that gives none (default: the model's own, else 1).", "--temperature"),
    ] = None,
    top_p: Annotated[
        float | None, _option("top_p of a request that gives none (default: the model's own, else 1).", "--top-p")
    ] = None,
    max_running_requests: Annotated[
        int | None, _option("Requests that share the running batch (default: 32).", "--max-running-requests")
    ] = None,
    queue_size: Annotated[
        int | None, _option("Requests that may wait; more are answered 429 (default: 100).", "--queue-size")
    ] = None,
    queue_timeout: Annotated[
        float | None, _option("Seconds a request may wait before it is answered 504 (default: 300).", "--queue-timeout")
    ] = None,
    prefill_chunk_size: Annotated[
        int | None,
        _option("Most prompt tokens computed between two decode steps (default: 4096).", "--prefill-chunk-size"),
    ] = None,
    memory_bytes: Annotated[
        int | None,
        _option("Memory that an engine may take, weights included (default: most of the GPU's).", "--memory-bytes"),
    ] = None,
    prefix_cache_bytes: Annotated[
        int | None,
        _option(
            "How much of it may hold earlier prompts and answers; 0 turns that off (default: half of what is free).",
            "--prefix-cache-bytes",
        ),
    ] = None,
    kv_bits: Annotated[
        int | None,
        _option("Bits per number of keys and values: 8 or 4 (default: as the model computes them).", "--kv-bits"),
    ] = None,
    kv_group_size: Annotated[
        int | None,
        _option("Numbers that share a scale with --kv-bits: 32, 64 or 128 (default: 64).", "--kv-group-size"),
    ] = None,
    engine_timeout: Annotated[
        float | None,
        _option("Seconds without progress before a busy engine is restarted (default: 120).", "--engine-timeout"),
    ] = None,
    tool_parser: Annotated[
        str | None,
        _option("How the model writes tool calls, or none (default: by its chat template).", "--tool-parser"),
    ] = None,
    reasoning_parser: Annotated[
        str | None,
        _option("How the model marks its thinking, or none (default: by its chat template).", "--reasoning-parser"),
    ] = None,
    model_type: Annotated[
        str | None, _option("What MODEL is: auto, llm, vlm, embedding or reranker.  [auto]", "--model-type")
    ] = None,
    max_loaded_models: Annotated[
        int | None, _option("Most models loaded at once; the least recently used goes.", "--max-loaded-models")
    ] = None,
    memory_budget: Annotated[
        int | None, _option("Bytes that loaded models may take.  [3/4 of the memory]", "--memory-budget")
    ] = None,
    idle_ttl: Annotated[
        float | None, _option("Seconds without a request before a model is unloaded.  [never]", "--idle-ttl")
    ] = None,
    preload: Annotated[
        list[str] | None, _option("Model to load at the start; repeat it for several.", "--preload")
    ] = None,
    auto_download: Annotated[
        bool | None,
        typer.Option(
            "--auto-download/--no-auto-download",
            help="Pull models that are named by a hub id.  [off]",
            show_default=False,
        ),
    ] = None,
    any_model_name: Annotated[
        bool | None, typer.Option("--any-model-name", help="Answer to every model name.", show_default=False)
    ] = None,
    log_level: Annotated[str | None, _option("debug, info, warning or error (default: info).", "--log-level")] = None,
) -> None:
    """Serve a model in the foreground. Ctrl-C lets running requests finish; a second one does not."""
    flags = dict(locals())

    from quince import config, logs
    from quince.cli import models
    from quince.server import run

    settings = config.load(flags)
    logs.setup(settings.log_level)
    if settings.model is not None and settings.auto_download:
        models.pull_missing(settings.model)
    run.serve(settings)
