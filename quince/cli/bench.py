"""``quince bench``"""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from quince.cli import completion


def bench(  # noqa: PLR0913 - one parameter per option
    model: Annotated[
        str | None,
        typer.Argument(
            help="What to serve and measure, as for `quince serve`; with --url, the model to ask for.",
            autocompletion=completion.models,
        ),
    ] = None,
    url: Annotated[str | None, typer.Option("--url", help="Measure a running OpenAI-compatible server.")] = None,
    concurrency: Annotated[list[int] | None, typer.Option("-c", "--concurrency", min=1, max=1024)] = None,
    requests: Annotated[int, typer.Option(min=1, help="Requests of each client, one after the other.")] = 4,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Length of the prompts in short words.")] = 100,
    max_tokens: Annotated[int, typer.Option(min=2, help="Length of the answers in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, max=2, help="0 is greedy.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """Tokens per second and time to first token, here.

    At 1, 4 and 16 streams, or at as many -c as you give.
    """
    import msgspec

    from quince.bench.run import BenchConfig, Figures, Target, measure, own_server
    from quince.chat.target import checked_url
    from quince.config_sources import load

    settings = BenchConfig(concurrency or [1, 4, 16], requests, prompt_tokens, max_tokens, temperature)
    with contextlib.ExitStack() as stack:
        if url is None:
            target = stack.enter_context(own_server(model, max(settings.concurrency)))
        else:
            keys = load({}).api_key
            target = Target(checked_url(url), keys[0].get_secret_value() if keys else None, model)
        found: list[Figures] = []
        for level in measure(target, settings):
            if not as_json and not found:
                typer.echo("streams   tokens/s   TTFT p50 / max ms   gap p50 / p99 ms")
            found.append(level)
            if not as_json:
                ttft = f"{level.ttft_p50:.0f} / {level.ttft_max:.0f}"
                gap = f"{level.gap_p50:.1f} / {level.gap_p99:.1f}"
                typer.echo(f"{level.concurrency:7d}   {level.tokens_per_second:8.0f}   {ttft:>17}   {gap:>16}")
    if as_json:
        typer.echo(msgspec.json.encode(found).decode())
