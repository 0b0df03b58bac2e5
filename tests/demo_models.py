"""The names of the embedded models, which a server without a model of its own lists first."""

from __future__ import annotations

from quince.models import demo

DEMOS = [name for name in demo.NAMES if demo.path(name) is not None]
