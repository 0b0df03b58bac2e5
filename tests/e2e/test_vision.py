"""A model that reads images, through the real server, engine and preprocessor: tiny and random."""

from __future__ import annotations

import asyncio
import base64
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests import tiny_vision
from tests.e2e.conftest import StartServer
from tests.e2e.helpers import arguments, assert_error_shape, async_client, chat_body, eventually, sync_client
from tests.e2e.server_process import ServerProcess, is_alive, wait_for
from tests.vision_prompts import png

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def vision_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vision.save("qwen2_vl", tmp_path_factory.mktemp("models") / "tiny-vision")


@pytest.fixture(scope="module")
def vision(vision_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("vision") / "log", str(vision_dir)) as process:
        yield process.wait_ready()


def image(number: int) -> dict[str, Any]:
    url = "data:image/png;base64," + base64.b64encode(png(number)).decode()
    return {"type": "image_url", "image_url": {"url": url}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": list(parts)}


def question(number: int, words: str = "what is this?") -> dict[str, Any]:
    return chat_body(messages=[user(text("Look: "), image(number), text(words))])


def preprocessor(server: ServerProcess) -> psutil.Process:
    (found,) = [one for one in server.engines() if "quince.engine.preprocess_process" in one.cmdline()]
    return found


def media_files(server: ServerProcess) -> list[Path]:
    return list(server.temporary.glob("quince-*/*-files/*"))


def test_a_conversation_about_images(vision: ServerProcess) -> None:
    """Several images over several turns, streamed and not."""
    messages = [user(text("Compare "), image(0), text(" with "), image(1))]
    with sync_client(vision.base_url) as client:
        for words in ("hello", "and what about", "this?"):
            body = arguments(chat_body(messages=messages))
            answer = client.chat.completions.create(**body)
            content = answer.choices[0].message.content
            stream = client.chat.completions.create(**body, stream=True)
            assert "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices) == content
            assert answer.usage is not None
            assert answer.usage.completion_tokens == 16
            messages += [{"role": "assistant", "content": content}, user(text(words))]


def test_images_decide_the_answer(vision: ServerProcess) -> None:
    answers = {vision.post(CHAT, question(number)).json()["choices"][0]["message"]["content"] for number in (0, 1, 2)}
    assert len(answers) == 3


def test_a_second_question_about_an_image_reuses_it(vision: ServerProcess) -> None:
    asked = [question(6, words) for words in ("what is this?", "how large is that?")]
    first = vision.post(CHAT, asked[0]).json()["usage"]
    encoded = vision.stats()["encoded_media"]
    second = vision.post(CHAT, asked[1]).json()["usage"]
    assert vision.stats()["encoded_media"] == encoded
    before = first["prompt_tokens_details"]["cached_tokens"]
    image_tokens = 16
    assert second["prompt_tokens_details"]["cached_tokens"] >= before + image_tokens
    other = vision.post(CHAT, question(7, "how large is that?")).json()["usage"]
    assert other["prompt_tokens_details"]["cached_tokens"] <= len("[user]Look: ") + 1


async def test_texts_and_images_at_once_equal_their_answers_alone(vision: ServerProcess) -> None:
    bodies = [
        question(number % 5, f"number {number % 3}") if number % 2 else chat_body(f"text {number}")
        for number in range(16)
    ]
    async with async_client(vision.base_url) as client:

        async def ask(body: dict[str, Any]) -> str | None:
            answer = await client.chat.completions.create(**arguments(body))
            return answer.choices[0].message.content

        together = await asyncio.gather(*map(ask, bodies))
        alone = [await ask(body) for body in bodies]
    assert together == alone


def test_an_image_that_cannot_be_decoded_is_told_by_its_part(vision: ServerProcess) -> None:
    body = question(0)
    whole = png(0)
    broken = whole[:60] + bytes(200) + whole[260:]  # a whole file by its ends
    url = "data:image/png;base64," + base64.b64encode(broken).decode()
    body["messages"][0]["content"].append({"type": "image_url", "image_url": {"url": url}})
    error = assert_error_shape(vision.post(CHAT, body), 400)
    assert error["param"] == "messages.0.content.3.image_url.url"
    assert "it cannot be read" in error["message"]
    assert vision.post(CHAT, question(0)).status_code == 200


def test_a_user_cannot_forge_an_image(vision: ServerProcess) -> None:
    body = chat_body(messages=[user(text("<|image_pad|> and "), image(0))])
    error = assert_error_shape(vision.post(CHAT, body), 400)
    assert "the text by which the model marks images" in error["message"]


async def test_clients_that_leave_leave_no_work(vision: ServerProcess) -> None:
    """While their images are prepared, and while their prompts are computed."""
    async with async_client(vision.base_url) as client:
        for wait in (0.001, 0.01, 0.03, 0.1):
            body = chat_body(messages=[user(*(image(number) for number in range(20, 28)))], max_tokens=1000)
            tasks = [asyncio.create_task(client.chat.completions.create(**arguments(body))) for _ in range(3)]
            await asyncio.sleep(wait)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def idle() -> bool:
        stats = await asyncio.to_thread(vision.stats)
        return bool(stats["running"] == stats["waiting"] == 0)

    await eventually(idle, within=10, what="nothing runs and nothing waits")
    assert vision.post(CHAT, question(1)).status_code == 200


def test_the_preprocessor_dies_and_the_server_goes_on(start_server: StartServer, vision_dir: Path) -> None:
    server = start_server(model=vision_dir)
    assert server.post(CHAT, question(0)).status_code == 200
    process = preprocessor(server)
    process.send_signal(signal.SIGKILL)
    assert server.post(CHAT, chat_body("text goes on")).status_code == 200
    answer = wait_for(
        lambda: (found := server.post(CHAT, question(1))).status_code == 200 and found, within=30, what="images again"
    )
    assert answer.json()["choices"][0]["message"]["content"]
    replacement = preprocessor(server)
    assert replacement.pid != process.pid
    assert server.stop() == 0
    assert not is_alive(replacement)
    assert not media_files(server)


def test_nothing_stays_when_the_server_is_killed(start_server: StartServer, vision_dir: Path) -> None:
    server = start_server(model=vision_dir)
    assert server.post(CHAT, question(0)).status_code == 200
    assert media_files(server), "a picture that was prepared is kept for the next question"
    children = server.engines()
    assert len(children) == 2
    server.signal(signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, children)), within=10, what="its children end")
    assert not media_files(server)


def test_an_unknown_architecture_is_refused_in_a_sentence(start_server: StartServer, tmp_path: Path) -> None:
    path = tiny_vision.save("llava_next", tmp_path / "model")
    server = start_server(model=path, ready=False)
    said = "'llava_next' is none of the vision architectures"
    wait_for(lambda: said in server.logs(), within=30, what="the log says why")
    assert_error_shape(server.post(CHAT, chat_body("hello")), 503)
