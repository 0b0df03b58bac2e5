"""mlx-lm's BatchGenerator called directly: what the engine under the other servers can do with nothing around it.

Reads Jobs as JSON lines from stdin and answers each with a JobResult line. A client's next prompt is inserted when its
last answer has ended; prompts are rendered and tokenized before the start. A token's time is when ``next`` returned it.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import os
import sys
import time
from dataclasses import dataclass
from typing import IO, Any

import mlx.core as mx
import msgspec
from mlx_lm import load
from mlx_lm.generate import BatchGenerator
from mlx_lm.sample_utils import make_sampler

from quince.bench.workload import ClientSpec, Job, JobResult, RequestResult, RequestSpec


@dataclass(frozen=True)
class _Turn:
    """The ``number``-th request of a client, whose prompts are ``prompts``."""

    client: ClientSpec
    prompts: list[list[int]]
    number: int

    @property
    def spec(self) -> RequestSpec:
        return self.client.requests[self.number]


class Contender:
    def __init__(self, path: str, batch_size: int) -> None:
        loaded: Any = load(path)
        self._model, self._tokenizer = loaded[0], loaded[1]
        self._batch_size = batch_size

    def run(self, job: Job) -> JobResult:
        generator = BatchGenerator(self._model, completion_batch_size=self._batch_size)
        turns = [_Turn(client, [self._tokenize(spec) for spec in client.requests], 0) for client in job.clients]
        order = itertools.count()  # turns cannot be compared
        due = [(job.start_at + turn.client.offset, next(order), turn) for turn in turns]
        heapq.heapify(due)
        active: dict[int, tuple[_Turn, RequestResult]] = {}
        results: list[RequestResult] = []
        before = time.process_time()
        while due or active:
            while due and (due[0][0] <= time.monotonic() or not active):
                at, _, turn = heapq.heappop(due)
                time.sleep(max(0.0, at - time.monotonic()))
                uid, result = self._insert(generator, turn)
                active[uid] = turn, result
                results.append(result)
            for turn in _step(generator, active):
                heapq.heappush(due, (time.monotonic(), next(order), turn))
        cpu = time.process_time() - before
        generator.close()
        mx.clear_cache()
        return JobResult(results, cpu)

    def _tokenize(self, spec: RequestSpec) -> list[int]:
        messages = [{"role": "user", "content": spec.prompt}]
        return list(self._tokenizer.apply_chat_template(messages, add_generation_prompt=True))

    def _insert(self, generator: BatchGenerator, turn: _Turn) -> tuple[int, RequestResult]:
        spec, prompt = turn.spec, turn.prompts[turn.number]
        sampler = make_sampler(spec.temperature, top_p=spec.top_p)
        result = RequestResult(turn.client.tag, time.monotonic(), prompt_tokens=len(prompt))
        (uid,) = generator.insert([prompt], [spec.max_tokens], samplers=[sampler])
        return uid, result


def _step(generator: BatchGenerator, active: dict[int, tuple[_Turn, RequestResult]]) -> list[_Turn]:
    """One step; returns the next turns of the clients whose answers have ended."""
    _, responses = generator.next()
    now = time.monotonic()
    ready = []
    for response in responses:
        turn, result = active[response.uid]
        result.times.append(now)
        result.counts.append(1)
        if response.finish_reason is None:
            continue
        del active[response.uid]
        result.ended = now
        result.completion_tokens = len(result.times)
        result.finish_reason = response.finish_reason
        if turn.number + 1 < len(turn.client.requests):
            ready.append(_Turn(turn.client, turn.prompts, turn.number + 1))
    return ready


def _private_stdout() -> IO[bytes]:
    """The pipe to the parent; whatever libraries print goes to stderr."""
    pipe = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return pipe


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("--batch-size", type=int, required=True)
    options = parser.parse_args()
    answers = _private_stdout()
    contender = Contender(options.path, options.batch_size)
    for line in sys.stdin.buffer:
        result = contender.run(msgspec.json.decode(line, type=Job))
        answers.write(msgspec.json.encode(result) + b"\n")
        answers.flush()


if __name__ == "__main__":
    main()
