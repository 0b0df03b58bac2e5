"""What embeddings and reranking share: inputs that fit the model, in, and numbers out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from quince.engine.client import EngineClient
from quince.engine.messages import PoolInput, PoolRequest, Ready
from quince.errors import ContextLengthExceeded, EngineError, InvalidRequest
from quince.text.tokenizer import Tokenizer

Numbers = npt.NDArray[np.float32]


def check_inputs(inputs: Sequence[PoolInput], ready: Ready, *, field: str, truncate_field: str) -> None:
    """Raises InvalidRequest for an input that the model cannot take, by its number in the request's ``field``."""
    for number, one in enumerate(inputs):
        length = len(one.token_ids)
        if not length:
            raise InvalidRequest(f"{field}[{number}] is empty", param=field)
        if length > ready.max_model_len:
            raise _too_long(ready, field, number, str(length), truncate_field)
        if max(one.token_ids) >= ready.vocab_size or min(one.token_ids) < 0:
            raise InvalidRequest(f"token ids must be between 0 and {ready.vocab_size - 1}", param=field)


def check_texts(
    tokenizer: Tokenizer, texts: Iterable[Sequence[str]], ready: Ready, *, field: str, truncate_field: str
) -> None:
    """As ``check_inputs``, before anything is tokenized: for inputs that are far too long, each of several texts."""
    for number, one in enumerate(texts):
        least = tokenizer.at_least(one, ready.max_model_len)
        if least is not None:
            raise _too_long(ready, field, number, f"at least {least}", truncate_field)


def _too_long(ready: Ready, field: str, number: int, tokens: str, truncate_field: str) -> ContextLengthExceeded:
    return ContextLengthExceeded(
        f"This model reads {ready.max_model_len} tokens at most, but {field}[{number}] has {tokens}. "
        f"Shorten it, or send '{truncate_field}': true to have it cut.",
        param=field,
    )


async def pool(engine: EngineClient, request: PoolRequest, dimensions: int) -> Numbers:
    """The results of all inputs: [inputs, dimensions]. Raises EngineError for numbers that nobody can use."""
    results = b"".join(await engine.pool(request))
    numbers = np.frombuffer(results, "<f4").reshape(len(request.inputs), dimensions)
    if not np.isfinite(numbers).all():
        raise EngineError("the model computed numbers that are not finite; its weights or their precision are at fault")
    return numbers
