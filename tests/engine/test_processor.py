"""mlx-vlm's processors, one for each thread that needs one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from quince.engine.media_messages import MediaType, Prepare, Prepared
from quince.engine.processor import Processor
from quince.engine.vision import _read
from tests import tiny_vision
from tests.vision_prompts import png

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers', of its own configurations


@pytest.mark.parametrize("processors", [1, 2])
def test_a_busy_processor_is_waited_for_unless_there_may_be_another(tmp_path: Path, processors: int) -> None:
    processor = Processor(
        tiny_vision.save("qwen2_5_vl", tmp_path / "model"),
        tmp_path,
        max_pixels=10**6,
        video_seconds=20,
        processors=processors,
    )
    jobs = [Prepare(number, MediaType.IMAGE, False, png(number)) for number in range(4)]
    alone = [_content(processor.prepare(job)) for job in jobs]
    with ThreadPoolExecutor(4) as pool:
        with processor._borrowed():
            together = [pool.submit(processor.prepare, job) for job in jobs]
            done, _ = wait(together, timeout=0.5 if processors == 1 else 30)
            assert len(done) == (0 if processors == 1 else 4)
        assert [_content(one.result(30)) for one in together] == alone


def _content(prepared: Prepared) -> tuple[str, int, list[bytes]]:
    return prepared.text, prepared.tokens, [_read(one).tobytes() for one in prepared.arrays]
