"""POST /v1/tokenize and /v1/detokenize"""

from __future__ import annotations

import msgspec
from fastapi import APIRouter
from starlette.responses import Response

from quince.errors import InvalidRequest
from quince.models.loaded import ModelText
from quince.server.dependencies import State, json_response
from quince.server.protocol.tokenize import DetokenizeAnswer, DetokenizeRequest, TokenizeAnswer, TokenizeRequest
from quince.text.generation import maybe_on_thread

router = APIRouter(tags=["Tokens"])

MAX_TOKENS = 2**20


@router.post("/v1/tokenize", response_model=None)
async def tokenize(body: TokenizeRequest, state: State) -> Response:
    """The tokens of texts, or of a conversation as chat would begin with it; of any model, loaded or not."""
    async with state.manager.text(body.model) as (name, text):
        lists = await maybe_on_thread(lambda: _tokenize(body, text), body.size)
    several = isinstance(body.texts, list)
    answer = TokenizeAnswer(
        model=body.model or name,
        count=sum(map(len, lists)),
        counts=[len(one) for one in lists] if several else msgspec.UNSET,
        tokens=(lists if several else lists[0]) if body.return_tokens else msgspec.UNSET,
        token_strs=_spelled(lists, text, several=several) if body.return_token_strs else msgspec.UNSET,
    )
    return json_response(answer)


def _tokenize(body: TokenizeRequest, text: ModelText) -> list[list[int]]:
    def check(*texts: str) -> None:
        least = text.tokenizer.at_least(texts, MAX_TOKENS)
        if least is not None:
            raise InvalidRequest(f"there are at least {least} tokens in this, and {MAX_TOKENS} are counted at once")

    if body.texts is None:
        messages, params = body.conversation(), body.chat_params()
        return [text.prompter.prepare(messages, params, None, check_text=check).token_ids]
    texts = [body.texts] if isinstance(body.texts, str) else body.texts
    check(*texts)
    return text.tokenizer.encode_texts(texts) if body.add_special_tokens else text.tokenizer.encode_bare(texts)


def _spelled(lists: list[list[int]], text: ModelText, *, several: bool) -> list[str | None] | list[list[str | None]]:
    spelled = [text.tokenizer.token_texts(one) for one in lists]
    return spelled if several else spelled[0]


@router.post("/v1/detokenize", response_model=None)
async def detokenize(body: DetokenizeRequest, state: State) -> Response:
    """The text of tokens, special ones included."""
    lists = body.lists
    async with state.manager.text(body.model) as (name, text):
        texts = await maybe_on_thread(lambda: [text.tokenizer.decode_known(one) for one in lists], sum(map(len, lists)))
    model = body.model or name
    answer = (
        DetokenizeAnswer(model=model, texts=texts) if body.several else DetokenizeAnswer(model=model, text=texts[0])
    )
    return json_response(answer)
