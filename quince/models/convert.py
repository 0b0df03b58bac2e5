"""Conversion to MLX and quantisation, by mlx-lm's converter, or mlx-vlm's, in a child process.

A child, because the API process and the command line hold no MLX, and because a conversion that runs out of memory
must not take anything else with it.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import msgspec

from quince import children
from quince.errors import ConvertError, PullCancelled
from quince.models.model_type import ModelType
from quince.text.tokenizer import TOKENIZER_FILES

BITS = (4, 8)
GROUP_SIZES = (32, 64, 128)
COMMAND = children.command("quince.models.convert_worker")
POLL = 0.1  # seconds between two looks at the child

# The publisher's own: the converter would write its own spelling of them, or leave them out.
_KEPT = (
    *TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "README.md",
    "LICENSE",
    "LICENSE.txt",
    "LICENSE.md",
)


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """``target`` must not exist. ``bits`` None: only the format changes. ``vision``: by mlx-vlm, which leaves what
    reads the images as it is."""

    source: str
    target: str
    vision: bool
    bits: int | None = None
    group_size: int = 64


def check_options(bits: int | None, group_size: int) -> None:
    """Raises ConvertError for what the quantisation does not know."""
    if bits is not None and bits not in BITS:
        raise ConvertError(f"{bits} bits are not supported: {' or '.join(map(str, BITS))}")
    if group_size not in GROUP_SIZES:
        raise ConvertError(f"a group size of {group_size} is not supported: {', '.join(map(str, GROUP_SIZES))}")


def check_type(type: ModelType) -> None:
    """Raises ConvertError for models whose converter is not there."""
    if type is ModelType.VLM and find_spec("mlx_vlm") is None:
        raise ConvertError("converting a vision model needs mlx-vlm: pip install 'quince[vision]'")


def convert(conversion: Conversion, cancelled: threading.Event, command: tuple[str, ...] = COMMAND) -> None:
    """Convert ``source`` into the new directory ``target``; nothing is left there on failure. Blocks.

    Raises ConvertError with the converter's reason, PullCancelled when ``cancelled`` is set.
    """
    source, target = Path(conversion.source), Path(conversion.target)
    try:
        _run(conversion, cancelled, command)
        for name in _KEPT:
            if (source / name).is_file():
                shutil.copyfile(source / name, target / name)
        for folder in source.glob("[0-9]*_*/"):  # sentence-transformers' modules
            shutil.copytree(folder, target / folder.name, dirs_exist_ok=True)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _run(conversion: Conversion, cancelled: threading.Event, command: tuple[str, ...]) -> None:
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=words,
            start_new_session=True,  # a terminal's Ctrl-C is the parent's to handle
        )
        with _killed_at_exit(process):
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError), process.stdin:  # left open: the child ends when it does
                process.stdin.write(msgspec.json.encode(conversion) + b"\n")
                process.stdin.flush()
                _wait(process, cancelled.wait)
        words.seek(0)
        last = words.read()[-4000:].decode("utf-8", "replace").strip().splitlines()
    if process.returncode < 0:
        raise ConvertError(f"the converter was killed by signal {-process.returncode}: perhaps memory ran out")
    if process.returncode:
        raise ConvertError(f"the model cannot be converted: {last[-1] if last else 'no reason was given'}")


@contextlib.contextmanager
def _killed_at_exit(process: subprocess.Popen[bytes]) -> Iterator[None]:
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


def _wait(process: subprocess.Popen[bytes], cancelled: Callable[[float], bool]) -> None:
    while process.poll() is None:
        if cancelled(POLL):
            raise PullCancelled("the conversion was cancelled")
