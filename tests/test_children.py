from __future__ import annotations

import sys
import types

import pytest

from quince import children


@pytest.fixture
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(sys, "executable", "/opt/quince")


def test_by_the_interpreter() -> None:
    command = children.command("quince.engine.process", "--x")
    assert command == (sys.executable, "-m", "quince.engine.process", "--x")
    assert children.independent({"A": "1"}) == {"A": "1"}


@pytest.mark.usefixtures("frozen")
def test_by_the_binary() -> None:
    assert children.command("quince", "serve") == ("/opt/quince", "serve")
    assert children.command("quince.engine.process", "--x") == (
        "/opt/quince",
        "--quince-child",
        "quince.engine.process",
        "--x",
    )
    assert children.independent({"A": "1"}) == {"A": "1", "PYINSTALLER_RESET_ENVIRONMENT": "1"}


@pytest.mark.usefixtures("frozen")
@pytest.mark.parametrize(
    ("module", "args", "seen"),
    [("quince.fake_child", ("--x", "1"), ["--x", "1"]), ("quince", ("serve",), ["serve"])],
)
def test_the_binary_runs_what_its_command_says(
    monkeypatch: pytest.MonkeyPatch, module: str, args: tuple[str, ...], seen: list[str]
) -> None:
    called: list[list[str]] = []
    for name in ("quince.fake_child", "quince.__main__"):
        fake = types.ModuleType(name)
        monkeypatch.setattr(fake, "main", lambda name=name: called.append([name, *sys.argv[1:]]), raising=False)
        monkeypatch.setitem(sys.modules, name, fake)
    monkeypatch.setattr(sys, "argv", list(children.command(module, *args)))
    children.main()
    assert called == [["quince.__main__" if module == "quince" else module, *seen]]
