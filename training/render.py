"""A sample as the text that the server will send and receive: rendered with the model's own chat template."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from training.data.sample import Sample

ROOT = Path(__file__).resolve().parent.parent
MODEL_DIR = ROOT / "quince" / "models" / "demo" / "quince-demo"
END, STOP = "<|im_end|>", "<|endoftext|>"


def tojson(value: Any, indent: int | None = None) -> str:
    """As transformers' own filter: JSON that is not escaped for HTML."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


@cache
def template() -> Any:
    """The environment has the settings that transformers uses, so that training equals serving."""
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = tojson
    return env.from_string((MODEL_DIR / "chat_template.jinja").read_text(encoding="utf-8"))


def prompt(sample: Sample) -> str:
    """What the server sends, up to where the model takes over (a forced prefix belongs to the prompt)."""
    if sample.raw:
        return sample.raw
    text: str = template().render(
        messages=sample.messages,
        tools=sample.tools or None,
        add_generation_prompt=True,
        enable_thinking=sample.thinking,
    )
    return text + sample.prefix


def completion(sample: Sample) -> str:
    """What the model writes, its end token included."""
    if sample.raw:
        return sample.answer + STOP
    thought = f"<think>\n{sample.thought}\n</think>\n\n" if sample.thinking and not sample.prefix else ""
    return thought + sample.answer.removeprefix(sample.prefix) + END
