"""What a shell offers where a command takes a model. Nothing here asks the network, and no problem is told."""

from __future__ import annotations

import contextlib

from quince.errors import QuinceError


def models(incomplete: str) -> list[str]:
    """Names of the models that are here, and the user's aliases."""
    from quince import config
    from quince.models.store import ModelStore

    store = ModelStore(config.home())
    names: set[str] = set()
    with contextlib.suppress(QuinceError, OSError):
        names.update(model.name for model in store.models())
        names.update(store.aliases())
    return sorted(name for name in names if name.startswith(incomplete))


def repositories(incomplete: str) -> list[str]:
    """The short names that Quince has for models on the hub."""
    from quince.models.aliases import shipped

    return sorted(name for name in shipped() if name.startswith(incomplete))
