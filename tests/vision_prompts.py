"""Requests with pictures for tiny vision models, made by the code that makes them in a server."""

from __future__ import annotations

import hashlib
import random
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from PIL import Image

from quince.engine import core
from quince.engine.core import CoreConfig, EngineCore
from quince.engine.disk_tier import DiskTier
from quince.engine.kv_layout import KVQuantization
from quince.engine.media_messages import MediaType, Prepare
from quince.engine.messages import AddRequest
from quince.engine.preprocess import PreparedMedia
from quince.engine.processor import Processor
from quince.engine.structured import GrammarCompiler
from quince.engine.vision import VisionForward
from quince.engine.vision_loader import load_vision
from quince.sampling import SamplingParams
from quince.text.tokenizer import Tokenizer
from quince.text.vision import locate, place
from tests import tiny_vision, vision_configs
from tests.engine.driver import Answer, run

SIZES = ((84, 56), (28, 84), (120, 120), (150, 40))  # width, height
WORDS = "abcdefghij klm"


def picture(number: int) -> Image.Image:
    width, height = SIZES[number % len(SIZES)]
    noise = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def png(number: int) -> bytes:
    buffer = BytesIO()
    picture(number).save(buffer, "PNG")
    return buffer.getvalue()


def mp4(directory: Path) -> Path:
    """Two seconds of noise."""
    import cv2

    path = directory / "noise.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 8, (96, 64))
    random_frames = np.random.default_rng(5)
    for _ in range(16):
        writer.write(random_frames.integers(0, 255, (64, 96, 3), dtype=np.uint8))
    writer.release()
    return path


class VisionFamily:
    """A tiny model with what is around it. Pictures are named by numbers."""

    def __init__(self, name: str, path: Path) -> None:
        self.name = name
        self.path = tiny_vision.save(name, path)
        self.model: Any = load_vision(self.path, max_model_len=None).model
        self.tokenizer = Tokenizer(self.path)
        arrays = path / "arrays"
        arrays.mkdir()
        self.processor = Processor(self.path, arrays, max_pixels=10**6, video_seconds=20)
        self._prepared: dict[int, PreparedMedia] = {}

    @property
    def mark(self) -> str:
        """What a template writes for a picture."""
        return vision_configs.FAMILIES[self.name].mark

    def prepare(self, number: int) -> PreparedMedia:
        if number not in self._prepared:
            data = png(number)
            found = self.processor.prepare(Prepare(number, MediaType.IMAGE, False, data))
            mark = self.processor.marks[MediaType.IMAGE]
            key = hashlib.sha256(data).hexdigest()
            self._prepared[number] = PreparedMedia(key, mark, found.text, found.tokens, found.arrays)
        return self._prepared[number]

    def request(self, name: str, text: str, pictures: list[int], **sampling: Any) -> AddRequest:
        """``text`` has a ``#`` for each picture."""
        media = [self.prepare(number) for number in pictures]
        return self.request_with(name, text.replace("#", self.mark), media, **sampling)

    def request_with(self, name: str, text: str, media: list[PreparedMedia], **sampling: Any) -> AddRequest:
        token_ids = self.tokenizer.encode(place(text, media), add_special_tokens=False)
        return AddRequest(
            name, token_ids, SamplingParams(**{"max_tokens": 12, **sampling}), [], locate(token_ids, media)
        )

    def core(
        self,
        *,
        chunk: int = 64,
        cache_bytes: int = 0,
        quantization: KVQuantization | None = None,
        tier: DiskTier | None = None,
    ) -> tuple[EngineCore, VisionForward]:
        forward = VisionForward(self.model, feature_bytes=2**22)
        grammars = GrammarCompiler(self.path / "tokenizer.json", vision_configs.VOCAB_SIZE)
        config = CoreConfig(
            16, chunk, prefix_cache_bytes=cache_bytes, snapshot_interval=64, kv_quantization=quantization
        )
        return core.make_core(forward, vision_configs.VOCAB_SIZE, grammars, config, tier), forward

    @cached_property
    def _alone(self) -> EngineCore:
        return self.core()[0]

    def alone(self, request: AddRequest) -> Answer:
        """Without the prefix cache, in an engine that has nothing else to do."""
        return run(self._alone, [request])[request.request_id]

    def random_requests(self, seed: int, count: int) -> list[AddRequest]:
        """Texts with none, one or two of four pictures; greedy and sampled."""
        rng = random.Random(seed)

        def words() -> str:
            return "".join(rng.choice(WORDS) for _ in range(rng.choice([1, 5, 30, 120])))

        requests = []
        for number in range(count):
            pictures = [rng.randrange(4) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
            text = words() + "".join("#" + words() for _ in pictures)
            sampling = {"temperature": 0.8, "seed": number} if number % 3 == 0 else {}
            requests.append(self.request(f"r{number}", text, pictures, max_tokens=rng.choice([2, 10, 25]), **sampling))
        return requests

    def theirs(self, text: str, pictures: list[int], tokens: int) -> tuple[list[int], list[int]]:
        """The prompt's and the answer's tokens, by mlx-vlm's own processor and generation."""
        processor = self.processor._processor
        images = [picture(number) for number in pictures]
        prompt = text.replace("#", self.mark)
        if self.name == "llava":  # whose processor does not take what prepare_inputs tells it
            inputs = dict(processor(images=images, text=[prompt]))
        else:
            from mlx_vlm.utils import prepare_inputs

            inputs = dict(prepare_inputs(processor, images=images, prompts=[prompt]))
        return self.generate(inputs, tokens)

    def generate(self, inputs: dict[str, Any], tokens: int) -> tuple[list[int], list[int]]:
        """The prompt's and the answer's tokens, by mlx-vlm's own generation."""
        from mlx_vlm.generate.ar import generate_step

        token_ids, mask = inputs.pop("input_ids"), inputs.pop("attention_mask")
        inputs.pop("token_type_ids", None)
        pixels = inputs.pop("pixel_values", None)
        steps = generate_step(token_ids, self.model, pixels, mask, max_tokens=tokens, temperature=0.0, **inputs)
        answer = [int(token.item()) if isinstance(token, mx.array) else int(token) for token, _ in steps]
        return token_ids.tolist()[0], answer
