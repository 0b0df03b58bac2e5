"""Which server a chat goes through: the one that was named, the one that runs here, or one of its own."""

from __future__ import annotations

import contextlib
import difflib
import os
import re
from collections.abc import Iterator
from typing import TextIO
from urllib.parse import urlsplit

from quince import config_sources
from quince.chat.client import ChatClient
from quince.chat.own_server import own_server
from quince.config import ServeConfig
from quince.errors import UsageError
from quince.models.aliases import shipped
from quince.models.sections import ModelSections
from quince.models.store import ModelStore, StoredModel

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_NOBODY = "no/such/model"
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@contextlib.contextmanager
def connect(model: str | None, url: str | None, note: TextIO | None) -> Iterator[ChatClient]:
    """A client of a server that serves ``model`` (None: anything). ``note``: where a wait is told of.

    Raises RemoteError, and UsageError for a model that is neither on the server nor here.
    """
    settings = config_sources.load({})
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(ChatClient(_address(settings, url), _key(settings)))
        if url is not None or _serves(client, model):
            yield client
            return
        if model == settings.model:
            model = None  # the server knows by itself
        _check_here(model or settings.model, settings)
        if note is not None:
            note.write("No server runs here: starting one for this chat.\n")
        yield stack.enter_context(own_server(model, directory=model is not None and _is_directory(model)))


def is_model(name: str, url: str | None) -> bool:
    """Whether a lone argument of ``quince run`` is a model, not something to ask.

    A word that is nearly a model's name is one, too: better to be told of the mistake than to get an answer to it.
    """
    if _is_directory(name):
        return True
    if re.search(r"\s", name):
        return False
    settings = config_sources.load({})
    store = ModelStore(settings.home, directory=settings.models_dir)
    if _HUB_ID.fullmatch(name) or name in shipped() or _find(name, settings, store) is not None:
        return True
    with ChatClient(_address(settings, url), _key(settings)) as client:
        if (url is not None or client.health() is not None) and _names_model(client, name):
            return True
    known = [model.name for model in store.models()]
    return bool(difflib.get_close_matches(name, [*known, *store.aliases()], cutoff=0.8))


def checked_url(url: str) -> str:
    """The address of a server. Raises UsageError for what is none."""
    with contextlib.suppress(ValueError):  # a port that is no number
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and not re.search(r"\s", url):
            return url
    raise UsageError(f"--url {url}: an address is like http://127.0.0.1:8000")


def _names_model(client: ChatClient, name: str) -> bool:
    """A server may answer to every name: there, only a model's own counts."""
    return client.knows(name) and (name in client.models() or not client.knows(_NOBODY))


def _address(settings: ServeConfig, url: str | None) -> str:
    if url is not None:
        return checked_url(url)
    host = _EVERYWHERE.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _key(settings: ServeConfig) -> str | None:
    return settings.api_key[0].get_secret_value() if settings.api_key else None


def _serves(client: ChatClient, model: str | None) -> bool:
    """Whether a server runs (waiting for one that is still loading) and has the model."""
    if not client.wait_ready():
        return False
    if model is None:
        return True
    return client.knows(os.path.realpath(os.path.expanduser(model)) if _is_directory(model) else model)


def _is_directory(name: str) -> bool:
    """Of a model. Any text may be asked about: prompts are longer than paths can be."""
    return os.path.isfile(os.path.join(os.path.expanduser(name), "config.json"))


def _find(name: str, settings: ServeConfig, store: ModelStore) -> StoredModel | None:
    """What is here by this name, the configuration file's aliases included."""
    return store.find(ModelSections(settings, store).target(name))


def _check_here(model: str | None, settings: ServeConfig) -> None:
    if model is None or settings.auto_download or _is_directory(model):
        return
    store = ModelStore(settings.home, directory=settings.models_dir)
    if _find(model, settings, store) is None:
        near = difflib.get_close_matches(model, [*(one.name for one in store.models()), *store.aliases()], n=1)
        hint = f"did you mean {near[0]}?" if near else f"`quince pull {model}` installs it, if it is a hub id"
        raise UsageError(f"there is no model '{model}' here: {hint}")
