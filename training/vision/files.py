"""The model's directory, and its small files: chat template, processor and tokeniser settings."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

from training.vision.conversations import Turn
from training.vision.draw import GRID, SIDE

ROOT = Path(__file__).resolve().parent.parent.parent
MODEL_DIR = ROOT / "quince" / "models" / "demo" / "quince-demo-vision"
END, STOP, START, IMAGE = "<end_of_utterance>", "<|endoftext|>", "<|im_start|>", "<image>"
# What the processor puts around the image tokens of a picture.
AROUND, WHOLE = "<fake_token_around_image>", "<global-img>"
SPECIAL = (STOP, START, END, IMAGE, AROUND, WHOLE)
IMAGE_TOKENS = GRID * GRID
EXPANDED = AROUND + WHOLE + IMAGE * IMAGE_TOKENS + AROUND
CONTEXT = 2048

TEMPLATE = """\
{#- ChatML turns, images before the text; the processor makes of an <image> one token per patch. -#}
{%- for message in messages -%}
    {{- '<|im_start|>' ~ ('system' if message.role == 'developer' else message.role) ~ '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content or [] -%}
            {%- if part.type in ['image', 'image_url', 'input_image'] -%}
                {{- '<image>' -}}
            {%- endif -%}
        {%- endfor -%}
        {%- for part in message.content or [] -%}
            {%- if part.type in ['text', 'input_text'] -%}
                {{- part.text or part.content or '' -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<end_of_utterance>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


@cache
def template() -> Any:
    """With the settings that transformers uses."""
    return ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)


def messages(turns: tuple[Turn, ...], system: str = "") -> list[dict[str, Any]]:
    """Chat messages up to the last question."""
    found: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        parts: list[dict[str, str]] = [{"type": "image"} for _ in turn.images]
        parts.append({"type": "text", "text": turn.exchange.question})
        found.append({"role": "user", "content": parts})
        found.append({"role": "assistant", "content": turn.exchange.answer})
    return found[:-1]


def prompt(turns: tuple[Turn, ...], system: str = "") -> str:
    """What the server sends, each image token replaced as the processor does."""
    text: str = template().render(messages=messages(turns, system), add_generation_prompt=True)
    return text.replace(IMAGE, EXPANDED)


def image_processor() -> dict[str, Any]:
    """One square view of each picture, whatever its size."""
    return {
        "do_convert_rgb": True,
        "do_image_splitting": False,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_processor_type": "Idefics3ImageProcessor",
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": SIDE},
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": SIDE},
    }


def processor() -> dict[str, Any]:
    return {"image_seq_len": IMAGE_TOKENS, "processor_class": "Idefics3Processor"}


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_processor(out: Path) -> None:
    """Everything about a prompt but the tokeniser."""
    write_json(out / "preprocessor_config.json", image_processor())
    write_json(out / "processor_config.json", processor())
    (out / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
