from __future__ import annotations

import pytest

from quince import config
from quince.errors import UsageError


def test_a_flag_beats_the_environment_beats_the_default() -> None:
    assert config.load({}, {}).port == 8000
    assert config.load({}, {"QUINCE_PORT": "9000"}).port == 9000
    assert config.load({"port": 9001, "host": None}, {"QUINCE_PORT": "9000"}).port == 9001


@pytest.mark.parametrize(
    ("flags", "environ", "named"),
    [
        ({"port": 70000}, {}, "--port = 70000"),
        ({}, {"QUINCE_PORT": "many"}, "QUINCE_PORT = 'many'"),
        ({"temperature": 3.0}, {}, "--temperature = 3.0"),
        ({}, {"QUINCE_LOG_LEVEL": "loud"}, "QUINCE_LOG_LEVEL = 'loud'"),
    ],
)
def test_a_bad_value_is_named_with_its_source(flags: dict[str, object], environ: dict[str, str], named: str) -> None:
    with pytest.raises(UsageError) as refused:
        config.load(flags, environ)
    assert named in refused.value.message
    assert "\n" not in refused.value.message


def test_the_configuration_is_frozen() -> None:
    settings = config.load({}, {})
    with pytest.raises(Exception, match="frozen"):
        settings.port = 1  # type: ignore[misc]
