"""POST /v1/tokenize and /v1/detokenize."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from pydantic import Field, model_validator

from quince.errors import InvalidRequest
from quince.server.protocol.embeddings import TokenId
from quince.server.protocol.openai import Name, Text, Wire
from quince.server.protocol.openai_chat import MAX_TOOLS, ChatMessage, ToolDefinition, template_messages
from quince.text.chat import ChatParams, ToolChoice
from quince.text.length import characters

MAX_INPUTS = 2048

Texts = Annotated[list[Text], Field(min_length=1, max_length=MAX_INPUTS)]
TokenIds = Annotated[list[TokenId], Field(max_length=2**22)]


class TokenizeRequest(Wire):
    """Texts (``input``, also vLLM's ``prompt``) or a conversation with its tools, which is rendered as for chat.

    ``return_tokens``: the tokens too, not only their count; ``return_token_strs``: as the vocabulary spells them.
    """

    model: Name | None = None
    input: Text | Texts | None = None
    prompt: Text | Texts | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1)] | None = None
    tools: Annotated[list[ToolDefinition], Field(max_length=MAX_TOOLS)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_special_tokens: bool = True
    return_tokens: bool | None = None
    return_token_strs: bool | None = None

    @model_validator(mode="after")
    def _asks_for_one_thing(self) -> TokenizeRequest:
        given = [one for one in (self.input, self.prompt, self.messages) if one is not None]
        if len(given) != 1:
            raise ValueError("give one of input and messages" if given else "give input or messages")
        if self.messages is None and (self.tools or self.chat_template_kwargs):
            raise ValueError("tools and chat_template_kwargs are for messages")
        return self

    @property
    def texts(self) -> str | list[str] | None:
        return self.prompt if self.input is None else self.input

    @property
    def size(self) -> int:
        """In characters."""
        return characters(self.model_dump(include={"input", "prompt", "messages", "tools"}))

    def conversation(self) -> list[dict[str, Any]]:
        """Raises InvalidRequest for images and videos."""
        messages, references = template_messages(self.messages or [])
        if references:
            what, param = references[0].kind, references[0].param
            raise InvalidRequest(
                f"{param}: how many tokens a {what} takes is known only to a model that has read it: "
                "only text is tokenized here",
                param=param,
            )
        return messages

    def chat_params(self) -> ChatParams:
        tools = None
        if self.tools:
            tools = ToolChoice(
                tools=[tool.tool() for tool in self.tools],
                definitions=[tool.model_dump(exclude_none=True) for tool in self.tools],
            )
        return ChatParams(tools=tools, template_kwargs=self.chat_template_kwargs or {})


class DetokenizeRequest(Wire):
    model: Name | None = None
    tokens: TokenIds | Annotated[list[TokenIds], Field(max_length=MAX_INPUTS)]

    @property
    def several(self) -> bool:
        return bool(self.tokens) and not isinstance(self.tokens[0], int)

    @property
    def lists(self) -> list[list[int]]:
        token_ids = [one for one in self.tokens if isinstance(one, int)]
        return [one for one in self.tokens if not isinstance(one, int)] if self.several else [token_ids]


class TokenizeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``count`` is of all tokens; of a list of texts there are ``counts`` besides, and a list of tokens for each."""

    model: str
    count: int
    counts: list[int] | msgspec.UnsetType = msgspec.UNSET
    tokens: list[int] | list[list[int]] | msgspec.UnsetType = msgspec.UNSET
    token_strs: list[str | None] | list[list[str | None]] | msgspec.UnsetType = msgspec.UNSET


class DetokenizeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``text`` of one list of tokens, ``texts`` of several."""

    model: str
    text: str | msgspec.UnsetType = msgspec.UNSET
    texts: list[str] | msgspec.UnsetType = msgspec.UNSET
