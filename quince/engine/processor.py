"""mlx-vlm's processor of one model: encoded images and videos to the arrays that the model takes.

Each image is prepared by itself, whatever else is in its prompt: so what is made of it can be kept by its content. The
processor writes a mark of its own as often as an image has tokens; that text takes the mark's place in the prompt.
That this gives what the processor makes of a whole prompt is checked when it is loaded.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from quince.engine.media_messages import Mark, MediaType, Prepare, Prepared
from quince.engine.messages import MediaArray
from quince.engine.video import FrameChoice, VideoDecoder, VideoFrames
from quince.engine.vision_loader import MISSING, vision_family
from quince.errors import ModelLoadError

Array = npt.NDArray[Any]

SMALL_SIDE = 512  # pixels of the longer side of an image that is to save tokens
MAX_INLINE = 2048  # bytes of an array that needs no file
VIDEO_PIXELS = 4  # times max_pixels: what all frames of a video may have together
# Said of text, not of an image.
TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
# What templates write for an image or a video, where the processor does not say.
MARKS = {
    MediaType.IMAGE: ("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>", "<image>", "[IMG]"),
    MediaType.VIDEO: ("<|vision_start|><|video_pad|><|vision_end|>", "<video>"),
}


class Processor:
    """``prepare`` may be called by several threads. mlx-vlm's processors are for one at a time, so there may be several
    of them; threads that find none take turns."""

    def __init__(
        self, path: Path, directory: Path, *, max_pixels: int, video_seconds: float, processors: int = 1
    ) -> None:
        """``directory`` is where arrays are written, and videos' frames for a while. Of ``processors``, all but one are
        loaded when they are missed. Raises ModelLoadError."""
        vision_family(path)
        try:
            import mlx.core as mx
            from mlx_vlm.utils import get_model_and_args, load_config
            from PIL import Image
        except ImportError as error:
            raise ModelLoadError(MISSING) from error
        mx.set_default_device(mx.cpu)
        Image.MAX_IMAGE_PIXELS = None  # Pillow's own bound, below what max_pixels may be
        self._directory = directory
        self._path = path
        self._missing = processors - 1
        self._lock = threading.Lock()  # of _missing
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()  # processors that no thread uses
        self._max_pixels = max_pixels
        self._videos = VideoDecoder(
            directory, max_pixels=max_pixels, all_pixels=VIDEO_PIXELS * max_pixels, seconds=video_seconds
        )
        try:
            config = load_config(path)
            module, _ = get_model_and_args(config)
            self._config = module.ModelConfig.from_dict(config)
            self._processor: Any = _load(path)
        except Exception as error:  # whatever a model's files make transformers raise
            raise ModelLoadError(f"{path.name}: its image processor cannot be loaded: {error}") from error
        self._idle.put(self._processor)
        self._directly = False
        self.marks = self._find_marks()
        if MediaType.IMAGE not in self.marks:
            self._directly = True
            self.marks = self._find_marks()
        if MediaType.IMAGE not in self.marks:
            raise ModelLoadError(f"{path.name}: its processor does not place images as Quince knows it")

    # What the processor does with marks

    def _find_marks(self) -> dict[MediaType, Mark]:
        found = {MediaType.IMAGE: self._mark(MediaType.IMAGE), MediaType.VIDEO: self._mark(MediaType.VIDEO)}
        return {kind: mark for kind, mark in found.items() if mark is not None}

    def _mark(self, kind: MediaType) -> Mark | None:
        """The text that the processor replaces, if replacing it piece by piece gives what it gives."""
        token_id = self._token_id(kind)
        own = [getattr(self._processor, name, None) for name in ("boi_token", f"{kind.value}_token")]
        if kind is MediaType.VIDEO:  # Qwen3-VL replaces the tokens around it, too
            own = [*MARKS[kind], own[1]]
        for text in dict.fromkeys([*(text for text in own if isinstance(text, str)), *MARKS[kind]]):
            with contextlib.suppress(Exception):  # a processor that wants another mark, or has no videos
                if token_id is not None and self._replaces(kind, text, token_id):
                    return Mark(text, token_id)
        return None

    def _token_id(self, kind: MediaType) -> int | None:
        names = (f"{kind.value}_token_id", f"{kind.value}_token_index")
        found = (getattr(self._config, name, None) for name in names)
        return next((number for number in found if isinstance(number, int)), None)

    def _replaces(self, kind: MediaType, mark: str, token_id: int) -> bool:
        samples = [_sample(kind, width, height) for width, height in ((90, 60), (60, 120))]
        with self._borrowed() as processor:
            tokenizer = _tokenizer(processor)

            def tokenize(text: str) -> list[int]:
                return list(tokenizer.encode(text, add_special_tokens=False))

            parts = [self._run(processor, kind, mark, sample) for sample in samples]
            texts = [_text(tokenizer, part["input_ids"]) for part in parts]
            if any(text == mark or token_id not in tokenize(text) for text in texts):
                return False
            whole = self._run(processor, kind, f"one\n{mark}\ntwo", samples[0])
            return tokenize(f"one\n{texts[0]}\ntwo") == _ids(whole["input_ids"])

    def _run(self, processor: Any, kind: MediaType, text: str, media: Any, **arguments: Any) -> dict[str, Any]:
        """A prompt with one image or video in it. The arrays of mlx-vlm's processor, and the prompt's tokens.

        LLaVA's processor refuses what mlx-vlm's ``prepare_inputs`` tells all processors (0.7.10, transformers 5).
        """
        from mlx_vlm.utils import prepare_inputs

        inputs = {f"{kind.value}s": [media], **arguments}
        if not self._directly:
            return dict(prepare_inputs(processor, prompts=[text], **inputs))
        found = dict(processor(text=[text], **inputs))
        added = _tokenizer(processor).encode("", add_special_tokens=True)
        return {**found, "input_ids": _ids(found["input_ids"])[len(added) :]}

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Any]:
        """A processor for this thread alone, for as long as the block lasts."""
        try:
            processor = self._idle.get_nowait()
        except queue.Empty:
            self._load_another()
            processor = self._idle.get()
        try:
            yield processor
        finally:
            self._idle.put(processor)

    def _load_another(self) -> None:
        """On a thread: until it is there, or for ever if that fails, the threads take turns at those that are."""
        with self._lock:
            if self._missing == 0:
                return
            self._missing -= 1
        threading.Thread(target=lambda: self._idle.put(_load(self._path)), name="load-processor", daemon=True).start()

    # Files to arrays

    def prepare(self, job: Prepare) -> Prepared:
        """Raises whatever decoders raise for broken files, and ValueError for what is too large."""
        mark = self.marks.get(job.kind)
        if mark is None:
            raise ValueError(f"this model takes no {job.kind.value}s")
        with self._decoded(job) as (media, arguments), self._borrowed() as processor:
            found = self._run(processor, job.kind, mark.text, media, **arguments)
            text = _text(_tokenizer(processor), found["input_ids"])
        arrays = {
            name: _as_array(value) for name, value in found.items() if value is not None and name not in TEXT_INPUTS
        }
        written = [self._write(job.job, name, value) for name, value in arrays.items()]
        return Prepared(
            job.job,
            text,
            _ids(found["input_ids"]).count(mark.token_id),
            written,
            sum(value.nbytes for value in arrays.values()),
        )

    @contextlib.contextmanager
    def _decoded(self, job: Prepare) -> Iterator[tuple[Any, dict[str, Any]]]:
        """An image's pixels, or a video's frames and what is known of them."""
        if job.kind is MediaType.IMAGE:
            yield self._image(job), {}
            return
        with self._videos.decoded(job.job, job.data, self._frame_choice()) as (frames, found):
            yield frames, {"video_metadata": [_metadata(found)]}

    def stop_video(self, job: int) -> None:
        """Nobody waits for this job any more: end its decoding, if that is what it is at. For any thread."""
        self._videos.stop(job)

    def _image(self, job: Prepare) -> Any:
        """Upright, in RGB."""
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            opened = Image.open(BytesIO(job.data))
        except UnidentifiedImageError:  # which shows an address in memory
            raise ValueError("it is no image of a known format") from None
        with opened as image:
            if image.width * image.height > self._max_pixels:
                raise ValueError(f"it has {image.width} x {image.height} pixels, more than {self._max_pixels}")
            image.load()
            upright = ImageOps.exif_transpose(image).convert("RGB")
        if job.small:
            upright.thumbnail((SMALL_SIDE, SMALL_SIDE))
        return upright

    def _frame_choice(self) -> FrameChoice:
        """As mlx-vlm's ``prepare_inputs`` has it for a file."""
        from mlx_vlm.utils import resolve_video_sampling

        wanted: Any = resolve_video_sampling(self._processor, {})
        return FrameChoice(
            fps=wanted.fps, min_frames=wanted.min_frames, max_frames=wanted.max_frames, factor=wanted.frame_factor
        )

    def _write(self, job: int, name: str, value: Array) -> MediaArray:
        if value.nbytes <= MAX_INLINE:
            buffer = BytesIO()
            np.save(buffer, value, allow_pickle=False)
            return MediaArray(name, data=buffer.getvalue())
        path = self._directory / f"{job}-{name}.npy"
        np.save(path, value, allow_pickle=False)
        return MediaArray(name, path=str(path))


def _load(path: Path) -> Any:
    from mlx_vlm.utils import load_image_processor, load_processor

    processor = load_processor(path)
    own = load_image_processor(path)
    if own is not None:
        processor.image_processor = own
    return processor


def _tokenizer(processor: Any) -> Any:
    return getattr(processor, "tokenizer", processor)


def _text(tokenizer: Any, input_ids: Any) -> str:
    return str(tokenizer.decode(_ids(input_ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _sample(kind: MediaType, width: int, height: int) -> Any:
    """An image or four frames of a video, of one grey."""
    from PIL import Image

    if kind is MediaType.IMAGE:
        return Image.new("RGB", (width, height), (90, 90, 90))
    return np.full((4, 3, height, width), 90, dtype=np.uint8)


def _metadata(found: VideoFrames) -> Any:
    from mlx_vlm.utils import VideoMetadata

    return VideoMetadata(
        total_num_frames=found.total,
        fps=found.fps,
        frames_indices=found.taken,
        width=found.width,
        height=found.height,
        duration=found.total / found.fps,
    )


def _ids(input_ids: Any) -> list[int]:
    return [int(number) for number in np.array(input_ids).reshape(-1)]


def _as_array(value: Any) -> Array:
    """Lists are those of one image's: of arrays of one shape, or of numbers. MLX's memory is not copied."""
    if isinstance(value, list):
        return np.stack([np.asarray(one) for one in value])
    return np.asarray(value)
