"""/v1/rerank as Jina's and Cohere's clients speak to it."""

from __future__ import annotations

from typing import Any

import cohere
import httpx
import numpy as np
import pytest

from tests.e2e.helpers import assert_error_shape
from tests.e2e.server_process import ServerProcess
from tests.pooling_models import YES

MODELS = ("bert-reranker", "xlm-roberta-reranker", "qwen3-reranker")
DOCUMENTS = ["a pear is a fruit", "rain", "the quince tree bears yellow fruit", "rain", "a city by the sea"]


def rerank(server: ServerProcess, path: str = "/v1/rerank", **body: Any) -> dict[str, Any]:
    answer = server.post(
        path, {"model": "xlm-roberta-reranker", "query": "which fruit", "documents": DOCUMENTS, **body}
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert answer.headers["x-request-id"] == found["id"]
    return found


@pytest.mark.parametrize("model", MODELS)
def test_the_best_come_first_and_ties_keep_their_order(pooling: ServerProcess, model: str) -> None:
    found = rerank(pooling, model=model)
    scores = [one["relevance_score"] for one in found["results"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    assert all(0 <= score <= 1 for score in scores)
    order = [one["index"] for one in found["results"]]
    assert sorted(order) == [0, 1, 2, 3, 4] and order.index(1) + 1 == order.index(3)
    assert found["usage"]["total_tokens"] == found["usage"]["prompt_tokens"] > 0
    alone = {index: rerank(pooling, model=model, documents=[text]) for index, text in enumerate(DOCUMENTS)}
    for one in found["results"]:
        assert abs(alone[one["index"]]["results"][0]["relevance_score"] - one["relevance_score"]) < 1e-5


def test_as_jinas_client(pooling: ServerProcess) -> None:
    found = rerank(pooling, documents=[{"text": text} for text in DOCUMENTS], top_n=2)
    assert found["model"] == "xlm-roberta-reranker" and len(found["results"]) == 2
    for one in found["results"]:
        assert one["document"] == {"text": DOCUMENTS[one["index"]]}


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_as_coheres_client(pooling: ServerProcess, path: str) -> None:
    found = rerank(pooling, path, top_n=100, return_documents=False, max_tokens_per_doc=4096)
    assert len(found["results"]) == len(DOCUMENTS)
    assert all(set(one) == {"index", "relevance_score"} for one in found["results"])
    assert found["id"] and found["meta"]["billed_units"] == {"search_units": 1}


def test_coheres_own_clients(pooling: ServerProcess) -> None:
    expected = rerank(pooling, top_n=3)["results"]
    for kind in (cohere.ClientV2, cohere.Client):
        with httpx.Client(trust_env=False) as http:
            client = kind(api_key="none", base_url=pooling.base_url, httpx_client=http)
            answer = client.rerank(model="xlm-roberta-reranker", query="which fruit", documents=DOCUMENTS, top_n=3)
            with pytest.raises(cohere.NotFoundError, match="does not exist"):
                client.rerank(model="nobody", query="which fruit", documents=DOCUMENTS)
        got = [(one.index, one.relevance_score) for one in answer.results]
        assert [index for index, _ in got] == [one["index"] for one in expected]
        np.testing.assert_allclose([score for _, score in got], [one["relevance_score"] for one in expected], atol=1e-6)


def test_long_documents_are_cut_if_asked_and_refused_if_not(pooling: ServerProcess) -> None:
    long = "quince " * 100
    error = assert_error_shape(
        pooling.post("/v1/rerank", {"model": "bert-reranker", "query": "q", "documents": ["x", long]}), 400
    )
    assert error["code"] == "context_length_exceeded" and "documents[1]" in error["message"]
    endless = {"model": "bert-reranker", "query": "q" * 100_000, "documents": ["x"] * 1000}
    error = assert_error_shape(pooling.post("/v1/rerank", endless), 400)
    assert "documents[0] has at least" in error["message"]
    wishes: list[tuple[dict[str, Any], int]] = [
        ({"truncate": True}, 256),
        ({"truncation": True}, 256),
        ({"max_tokens_per_doc": 10}, 10 + len("which fruit") + 3),
    ]
    for wish, tokens in wishes:
        assert rerank(pooling, model="bert-reranker", documents=[long], **wish)["usage"]["total_tokens"] == tokens


def test_qwen3s_question_and_its_instruction(pooling: ServerProcess) -> None:
    """What is counted is the model card's template, with the instruction in it."""
    usual = rerank(pooling, model="qwen3-reranker", documents=["pear"])
    own = rerank(pooling, model="qwen3-reranker", documents=["pear"], instruction="fruit")
    instruction = "Given a web search query, retrieve relevant passages that answer the query"
    assert usual["usage"]["total_tokens"] - own["usage"]["total_tokens"] == len(instruction) - len("fruit")
    assert usual["results"][0]["relevance_score"] != own["results"][0]["relevance_score"]
    text = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
        f"<Instruct>: {instruction}\n<Query>: which fruit\n<Document>: pear"
        "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )
    body = {"model": "qwen3-reranker", "input": text, "return_tokens": True}
    counted = pooling.post("/v1/tokenize", body).json()
    assert counted["count"] == usual["usage"]["total_tokens"] and YES in counted["tokens"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": []}, "documents"),
        ({"documents": ["x"] * 2049}, "documents"),
        ({"documents": [{"image": "x"}]}, "documents"),
        ({"documents": [5]}, "documents"),
        ({"query": ""}, "query"),
        ({"top_n": 0}, "top_n"),
        ({"instruction": "x"}, "instruction"),
        ({"rank_fields": ["title"]}, "rank_fields"),
        ({"max_chunks_per_doc": 10}, "max_chunks_per_doc"),
    ],
)
def test_what_is_wrong_is_named(pooling: ServerProcess, body: dict[str, Any], param: str) -> None:
    asked = {"model": "bert-reranker", "query": "q", "documents": ["x"], **body}
    error = assert_error_shape(pooling.post("/v1/rerank", asked), 400)
    assert (error["param"] or "").split(".")[0] == param


def test_scores_do_not_depend_on_the_documents_beside(pooling: ServerProcess) -> None:
    texts = [f"{'fruit ' * (number % 30)}{number}" for number in range(200)]
    together = {one["index"]: one["relevance_score"] for one in rerank(pooling, documents=texts)["results"]}
    halves = [rerank(pooling, documents=part)["results"] for part in (texts[:100], texts[100:])]
    apart = {one["index"] + 100 * half: one["relevance_score"] for half in (0, 1) for one in halves[half]}
    np.testing.assert_allclose([together[n] for n in range(200)], [apart[n] for n in range(200)], atol=1e-5)
