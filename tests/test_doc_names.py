"""Commands, options, variables, routes, targets and links that the documents name are there."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import shlex
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import typer

from quince import config
from quince.cli import mlx_serve, mlx_server
from quince.cli.main import app
from quince.server import routes
from quince.text import reasoning_parsers, tool_parsers
from tests import markdown
from tests.markdown import REPOSITORY

DOCUMENTS = [markdown.read(path) for path in markdown.documents()]
# benchmarks/ and training/ have commands of their own.
USERS = [document for document in DOCUMENTS if document.path.parent in (REPOSITORY, REPOSITORY / "docs")]
# Options of other programs that are named without them.
OTHER_OPTIONS = {"--offline", "--model"}
# mlx_lm.server's
OTHER_OPTIONS |= {"--adapter-path", "--temp", "--decode-concurrency", "--prefill-step-size", "--prompt-cache-bytes"}
OTHER_VARIABLES = {"QUINCE_HOME", "QUINCE_CONFIG", "QUINCE_MODELS_DIR"}
PROGRAMS = (app, mlx_server.app, mlx_server.launch_app, mlx_serve.app)


def file_name(document: markdown.Document) -> str:
    return markdown.name(document.path)


def commands(document: markdown.Document) -> Iterator[list[str]]:
    """Every ``quince ...`` that a document writes, as a shell would split it, also in blocks that are not run."""
    for code in document.code():
        if re.match(r"quince [a-z\-]", code):
            yield shlex.split(code)
    for block in document.blocks:
        if block.language == "sh":
            for line in block.text.replace("\\\n", " ").splitlines():
                lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
                lexer.whitespace_split = True
                yield from (words for words in split(lexer) if words[0] == "quince")


def split(lexer: Iterable[str]) -> Iterator[list[str]]:
    """A line's commands, without what connects them."""
    for connects, words in itertools.groupby(lexer, lambda word: set(word) <= set("|&;<>()")):
        if not connects:
            yield list(words)


def complaint(words: list[str]) -> str | None:
    """What is wrong with a command: a name or an option that is not there."""
    command: Any = typer.main.get_command(app)
    for word in words[1:]:
        if word.startswith("-"):
            if word.partition("=")[0] not in options_of(command):
                return f"{' '.join(words)}: there is no {word}"
        elif hasattr(command, "commands"):
            if word not in command.commands:
                return f"{' '.join(words)}: there is no command {word}"
            command = command.commands[word]
    return None


@pytest.mark.parametrize("document", DOCUMENTS, ids=file_name)
def test_commands_are_there(document: markdown.Document) -> None:
    assert [found for words in commands(document) if (found := complaint(words))] == []


def test_a_wrong_command_is_found() -> None:
    assert complaint(["quince", "serve", "--queue-size", "3"]) is None
    assert complaint(["quince", "serv"]) and complaint(["quince", "service", "begin"])
    assert complaint(["quince", "stop", "--hard"])


def options_of(command: Any) -> set[str]:
    parameters = command.get_params(command.context_class(command))
    return {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}


def every_option(command: Any) -> Iterator[str]:
    yield from options_of(command)
    for child in getattr(command, "commands", {}).values():
        yield from every_option(child)


@pytest.mark.parametrize("document", USERS, ids=file_name)
def test_options_variables_and_targets_are_there(document: markdown.Document) -> None:
    known = {option for program in PROGRAMS for option in every_option(typer.main.get_command(program))} | OTHER_OPTIONS
    variables = {f"QUINCE_{name.upper()}" for name in config.SETTINGS} | OTHER_VARIABLES
    targets = re.findall(r"^([a-z\-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    wrong = []
    for code in document.code():
        option = re.match(r"(--[a-z\-]+)", code)
        variable = re.match(r"(QUINCE_[A-Z_]*[A-Z])\b", code)
        target = re.match(r"make ([a-z\-]+)", code)
        if option and option[1] not in known:
            wrong.append(code)
        if variable and variable[1] not in variables and not variable[1].startswith("QUINCE_TEST_"):
            wrong.append(code)
        if target and target[1] not in targets:
            wrong.append(code)
    assert wrong == []


def served_routes() -> Iterator[tuple[str, str]]:
    """Method and path."""
    for module in pkgutil.iter_modules(routes.__path__):
        router = getattr(importlib.import_module(f"{routes.__name__}.{module.name}"), "router", None)
        for route in router.routes if router else ():
            for method in route.methods:
                yield method, without_names(route.path)


def without_names(path: str) -> str:
    """Of what stands in braces."""
    return re.sub(r"\{.*?\}", "{}", path)


@pytest.mark.parametrize("document", USERS, ids=file_name)
def test_routes_are_there(document: markdown.Document) -> None:
    served = set(served_routes())
    paths = {path for _, path in served}
    wrong = []
    for code in document.code():
        found = re.fullmatch(r"(?:(GET|POST|DELETE) )?(/(?:v1|v2|api/|health|metrics|stats)\b[\w/{}.]*)", code)
        if found:
            path = without_names(found[2])
            if path not in paths or (found[1] and (found[1], path) not in served):
                wrong.append(code)
    assert wrong == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=file_name)
def test_links_lead_somewhere(document: markdown.Document) -> None:
    """Files of the repository, and headings in them; addresses are not asked."""
    broken = []
    for link in document.links():
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        path = (document.path.parent / target).resolve() if target else document.path
        there = path.exists() and path.is_relative_to(REPOSITORY)
        if not there or (anchor and anchor not in markdown.read(path).anchors()):
            broken.append(link)
    assert broken == []


def test_every_document_can_be_found() -> None:
    """From the README."""
    linked = set(markdown.read(REPOSITORY / "README.md").links())
    assert {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")} <= linked


def test_the_readme_counts_right() -> None:
    count = re.search(r"as (\d+) and (\d+) families", (REPOSITORY / "README.md").read_text(encoding="utf-8"))
    assert count is not None
    assert [int(number) for number in count.groups()] == [len(tool_parsers.FORMATS), len(reasoning_parsers.FORMATS)]
