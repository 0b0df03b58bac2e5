"""/v1/embeddings with the clients that people use, and what it refuses."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

from tests.e2e.helpers import assert_error_shape, chat_body, sync_client
from tests.e2e.server_process import ServerProcess
from tests.pooling_models import BOS, EOS, VOCAB_SIZE

PATH = "/v1/embeddings"
SIZE = 32
TEXTS = ["a quince", "an apple and a pear", "rain in the mountains", ""]


@pytest.fixture(scope="module")
def official(pooling: ServerProcess) -> Any:
    with sync_client(pooling.base_url) as client:
        yield client


def vectors(server: ServerProcess, **body: Any) -> np.ndarray[Any, Any]:
    answer = server.post(PATH, {"model": "bert", **body})
    assert answer.status_code == 200, answer.text
    return np.array([one["embedding"] for one in answer.json()["data"]], np.float32)


def test_the_official_client_which_asks_for_base64(pooling: ServerProcess, official: openai.OpenAI) -> None:
    answer = official.embeddings.create(model="bert", input=TEXTS)
    assert answer.object == "list" and answer.model == "bert"
    assert [one.index for one in answer.data] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == sum(map(len, TEXTS)) + 2 * len(TEXTS)
    got = np.array([one.embedding for one in answer.data], np.float32)
    assert got.shape == (4, SIZE)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(got, vectors(pooling, input=TEXTS, encoding_format="float"))


def test_base64_is_little_endian_float32(pooling: ServerProcess) -> None:
    answer = pooling.post(PATH, {"model": "bert", "input": "a quince", "encoding_format": "base64"})
    (data,) = answer.json()["data"]
    assert set(data) == {"object", "index", "embedding"}
    numbers = np.frombuffer(base64.b64decode(data["embedding"]), "<f4")
    np.testing.assert_array_equal(numbers, vectors(pooling, input="a quince")[0])
    assert answer.headers["x-request-id"].startswith("embd-")


@pytest.mark.parametrize("model", ["bert", "modernbert", "qwen3-embedding"])
def test_one_by_one_as_together(pooling: ServerProcess, model: str) -> None:
    texts = [("quince " * length).strip() for length in (1, 2, 3, 5, 8, 13, 21)]
    together = vectors(pooling, model=model, input=texts)
    alone = np.concatenate([vectors(pooling, model=model, input=text) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_token_ids_are_taken_as_they_are(pooling: ServerProcess) -> None:
    one, two = ([BOS, *text.encode(), EOS] for text in ("pear", "apple"))
    np.testing.assert_allclose(vectors(pooling, input=one), vectors(pooling, input="pear"), atol=1e-6)
    np.testing.assert_allclose(vectors(pooling, input=[one, two]), vectors(pooling, input=["pear", "apple"]), atol=1e-5)


def test_dimensions_are_the_first_ones_at_length_one(pooling: ServerProcess, official: openai.OpenAI) -> None:
    whole = vectors(pooling, input=TEXTS)
    got = official.embeddings.create(model="bert", input=TEXTS, dimensions=8)
    expected = whole[:, :8] / np.linalg.norm(whole[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(np.array([one.embedding for one in got.data]), expected, atol=1e-6)
    np.testing.assert_array_equal(vectors(pooling, input=TEXTS, dimensions=SIZE), whole)


def test_a_long_text_is_cut_if_asked_and_refused_if_not(pooling: ServerProcess) -> None:
    long = "quince " * 50
    for wish in ({"truncate": True}, {"truncation": True}, {"truncate": "END"}):
        got = vectors(pooling, input=long, **wish)
        np.testing.assert_allclose(got, vectors(pooling, input=long[:254]), atol=1e-6)
    error = assert_error_shape(pooling.post(PATH, {"model": "bert", "input": ["short", long]}), 400)
    assert error["code"] == "context_length_exceeded" and error["param"] == "input"
    assert "256 tokens at most, but input[1] has 352" in error["message"] and "truncate" in error["message"]
    assert_error_shape(pooling.post(PATH, {"model": "bert", "input": long, "truncate": "NONE"}), 400)
    longer = long * 1000
    error = assert_error_shape(pooling.post(PATH, {"model": "bert", "input": ["short", longer]}), 400)
    assert "256 tokens at most, but input[1] has at least" in error["message"]
    np.testing.assert_allclose(
        vectors(pooling, input=longer, truncate=True), vectors(pooling, input=long[:254]), atol=1e-6
    )


def test_prompts_and_instructions(pooling: ServerProcess) -> None:
    prompt = "Instruct: Find fruit\nQuery:"
    got = vectors(pooling, model="qwen3-embedding", input="pears", instruction="Find fruit")
    np.testing.assert_allclose(got, vectors(pooling, model="qwen3-embedding", input=prompt + "pears"), atol=1e-6)
    document = vectors(pooling, model="qwen3-embedding", input="pears", input_type="search_document")
    np.testing.assert_array_equal(document, vectors(pooling, model="qwen3-embedding", input="pears"))
    query = vectors(pooling, model="qwen3-embedding", input="pears", task="retrieval.query")
    assert np.abs(query - document).max() > 0.01


def test_2048_inputs(pooling: ServerProcess) -> None:
    texts = [f"quince {number}" for number in range(2048)]
    got = vectors(pooling, input=texts)
    assert got.shape == (2048, SIZE)
    np.testing.assert_allclose(
        got[[0, 999, 2047]], vectors(pooling, input=[texts[0], texts[999], texts[2047]]), atol=1e-5
    )


def test_langchain(pooling: ServerProcess) -> None:
    embeddings = OpenAIEmbeddings(
        model="bert",
        base_url=pooling.base_url + "/v1",
        api_key="none",  # type: ignore[arg-type]
        check_embedding_ctx_length=False,  # else it sends tokens of OpenAI's own tokenizer, which it downloads
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), vectors(pooling, input=TEXTS), atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query("a quince"), vectors(pooling, input="a quince")[0], atol=1e-6)


def test_as_jinas_client(pooling: ServerProcess) -> None:
    wishes = {"task": "text-matching", "normalized": True, "late_chunking": False, "dimensions": 8, "truncate": True}
    plain = vectors(pooling, input=["a pear", "rain"], dimensions=8)
    got = vectors(pooling, input=[{"text": "a pear"}, "rain"], embedding_type="float", **wishes)
    np.testing.assert_array_equal(got, plain)
    answer = pooling.post(PATH, {"model": "bert", "input": [{"text": "a pear"}], "embedding_type": "base64", **wishes})
    (data,) = answer.json()["data"]
    np.testing.assert_allclose(np.frombuffer(base64.b64decode(data["embedding"]), "<f4"), plain[0], atol=1e-6)


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": []}, "input", ""),
        ({}, "input", ""),
        ({"input": 5}, "input", ""),
        ({"input": [["a"]]}, "input", ""),
        ({"input": [1, -1]}, "input", ""),
        ({"input": [[]]}, "input", ""),
        ({"input": [VOCAB_SIZE]}, "input", f"between 0 and {VOCAB_SIZE - 1}"),
        ({"input": ["x"] * 2049}, "input", "2048"),
        ({"input": "x", "dimensions": 33}, "dimensions", "this model has 32"),
        ({"input": "x", "dimensions": 0}, "dimensions", ""),
        ({"input": "x", "encoding_format": "int8"}, "encoding_format", ""),
        ({"input": "x", "embedding_type": "ubinary"}, "embedding_type", ""),
        (
            {"input": "x", "embedding_type": "float", "encoding_format": "base64"},
            "embedding_type",
            "cannot be combined",
        ),
        ({"input": "x", "normalized": False}, "normalized", ""),
        ({"input": "x", "late_chunking": True}, "late_chunking", ""),
        ({"input": [{"image": "x"}]}, "input", ""),
        ({"input": "x", "truncate": "START"}, "truncate", ""),
        ({"input": "x", "prompt_name": "query"}, "prompt_name", "it has none"),
        ({"input": "x", "instruction": "find"}, "instruction", "takes none"),
        ({"input": [5], "input_type": "query"}, "input", "before token ids"),
        ({"input": "x", "input_type": "query", "task": "retrieval.passage"}, "task", "cannot be combined"),
    ],
)
def test_what_is_wrong_is_named(pooling: ServerProcess, body: dict[str, Any], param: str, message: str) -> None:
    error = assert_error_shape(pooling.post(PATH, {"model": "bert", **body}), 400)
    assert (error["param"] or "").split(".")[0] == param and message in error["message"]


def test_asking_a_model_for_what_it_cannot_do_says_so(pooling: ServerProcess) -> None:
    for path, body in (
        (PATH, {"model": "chat", "input": "x"}),
        (PATH, {"model": "bert-reranker", "input": "x"}),
        ("/v1/chat/completions", {**chat_body(), "model": "bert"}),
        ("/v1/completions", {"model": "qwen3-reranker", "prompt": "x"}),
        ("/v1/rerank", {"model": "bert", "query": "x", "documents": ["y"]}),
    ):
        error = assert_error_shape(pooling.post(path, body), 400)
        assert error["param"] == "model" and "is of type" in error["message"]
    assert_error_shape(pooling.post(PATH, {"model": "nobody", "input": "x"}), 404)
