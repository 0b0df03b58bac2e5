"""Requests made from /openapi.json, right ones and wrong ones: none is answered 500, and errors have their shape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case, Response

from quince.config import ServeConfig
from quince.models.manager import ModelManager
from quince.server.app import create_app
from tests.e2e.server_process import ServerProcess

GENERATING = ("/v1/chat/completions", "/v1/completions")
EASY = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "quince"}]},
    "/v1/completions": {"prompt": "quince"},
}
INTRICATE = ("tools", "tool_choice", "response_format", "guided_json", "guided_regex", "guided_choice")
INTRICATE += ("guided_grammar", "logit_bias", "logprobs", "top_logprobs", "best_of", "echo", "n", "reasoning_effort")
INTRICATE += ("chat_template_kwargs", "thinking_budget")
API = create_app(ServeConfig(), ModelManager(ServeConfig())).openapi()
schema = schemathesis.openapi.from_dict(API)


@pytest.fixture(scope="module")
def small_server(model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """It answers to every model name, briefly; its engine is the same one in the end."""
    args = (str(model_dir), "--ctx-size", "64", "--max-tokens", "4", "--any-model-name")
    with ServerProcess(tmp_path_factory.mktemp("openapi") / "log", *args) as process:
        engine = process.wait_ready().engine().pid
        yield process
        assert process.engine().pid == engine
        assert "Traceback" not in process.logs()


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as made:
        made.trust_env = False
        yield made


@pytest.fixture(scope="module")
def statuses() -> Iterator[Counter[tuple[str, int]]]:
    """How many requests to which path were answered with which status. Enough must have got as far as the model."""
    counts: Counter[tuple[str, int]] = Counter()
    yield counts
    for path in GENERATING:
        assert counts[path, 200] >= 10, counts


def test_it_is_the_served_api(small_server: ServerProcess) -> None:
    assert small_server.get("/openapi.json").json() == API


@schema.parametrize()
@settings(max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck))
def test_no_request_is_a_500(
    small_server: ServerProcess, session: requests.Session, statuses: Counter[tuple[str, int]], case: Case
) -> None:
    check(case.call(base_url=small_server.base_url, session=session, timeout=30), case, statuses)
    if case.path in GENERATING and isinstance(case.body, dict):
        # Among so many fields some are wrong by chance: the same without those that seldom fit together.
        case.body = {name: value for name, value in case.body.items() if name not in INTRICATE} | EASY[case.path]
        check(case.call(base_url=small_server.base_url, session=session, timeout=30), case, statuses)


def check(answer: Response, case: Case, statuses: Counter[tuple[str, int]]) -> None:
    statuses[case.path, answer.status_code] += 1
    request = f"{case.method} {case.path} {case.body!r}"
    assert answer.status_code < 500, f"{request}\n{answer.text}"
    assert answer.headers["x-request-id"], request
    if answer.status_code >= 400:
        assert_error(answer, case.path, request)
    if answer.status_code == 405:
        assert answer.headers["allow"], request


def assert_error(answer: Response, path: str, request: str) -> None:
    """OpenAI's error object (on Ollama's routes its sentence) and nothing else."""
    body = answer.json()
    assert list(body) == ["error"], request
    error = body["error"]
    if path.startswith("/api/"):
        assert isinstance(error, str) and error, request
        return
    assert set(error) == {"message", "type", "param", "code"}, request
    assert error["message"] and error["type"], request
