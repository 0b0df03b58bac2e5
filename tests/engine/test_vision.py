"""Rule 8 with pictures: a batched answer equals the same request's answer alone, and mlx-vlm's own."""

from __future__ import annotations

import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import mlx.core as mx
import msgspec
import numpy as np
import pytest
from PIL import Image

from quince.engine.disk_tier import DiskTier
from quince.engine.kv_layout import KVQuantization
from quince.engine.media_messages import MediaType, Prepare
from quince.engine.messages import FinishReason, MediaArray
from quince.engine.preprocess import PreparedMedia
from quince.engine.processor import Processor
from quince.engine.video import VideoDecoder, VideoJob
from quince.engine.vision import FeatureCache, Features
from quince.engine.vision_loader import load_vision
from quince.errors import ModelLoadError
from tests import tiny_vision, vision_configs
from tests.engine.driver import run
from tests.vision_prompts import VisionFamily, mp4, png

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # transformers', of its own configurations

REFUSED = {"llava_next"}
GRIDS = {"qwen2_vl", "qwen2_5_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl", "qwen3_vl_moe"}  # place videos by their ids
VIDEO = GRIDS | {"llava_onevision"}
TWINS = {"glm4v_moe", "qwen3_5_moe", "qwen3_vl_moe"}  # differ from another family in what their layers compute only
ON_DISK = {"qwen2_vl", "gemma3", "lfm2_vl"}  # a kind of cache each: whole, sliding windows, snapshots
CACHE = 2**24


@pytest.fixture(scope="module", params=sorted(vision_configs.FAMILIES.keys() - REFUSED))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionFamily:
    return VisionFamily(request.param, tmp_path_factory.mktemp("vision") / request.param)


@pytest.fixture(autouse=True)
def spared(request: pytest.FixtureRequest) -> None:
    """Twins are tried with what an answer depends on."""
    parameters = getattr(request.node, "callspec", None)
    name = parameters.params.get("family") if parameters else None
    if name in TWINS and request.function not in (test_batched_equals_alone, test_alone_equals_mlx_vlm):
        pytest.skip("is as its twin")


def test_batched_equals_alone(family: VisionFamily) -> None:
    """Late joins and aborts, texts and pictures in one batch, prompts in chunks that cut pictures."""
    requests = family.random_requests(1, 16)
    rng = random.Random(2)
    arrivals = {request.request_id: rng.randrange(30) for request in requests}
    aborts = {request.request_id: rng.randrange(35) for request in rng.sample(requests, 3)}
    engine, forward = family.core(chunk=24)
    batched = run(engine, requests, arrivals=arrivals, aborts=aborts)
    assert forward.encoded_media <= 4
    for request in requests:
        alone, together = family.alone(request), batched[request.request_id]
        assert together.error is None
        if together.finish_reason is FinishReason.ABORT:
            assert together.token_ids == alone.token_ids[: len(together.token_ids)]
        else:
            assert together.token_ids == alone.token_ids
            assert len(together.token_ids) == request.sampling.max_tokens


def test_alone_equals_mlx_vlm(family: VisionFamily) -> None:
    for text, pictures in (("ab#cd", [0]), ("# what is it?", [2]), ("x\n#\ny", [3])):
        request = family.request("r", text, pictures)
        prompt, answer = family.theirs(text, pictures, 12)
        assert request.prompt_token_ids == prompt
        assert family.alone(request).token_ids == answer


def test_pictures_change_the_answer(family: VisionFamily) -> None:
    answers = {tuple(family.alone(family.request("r", "see # now", [number])).token_ids) for number in range(4)}
    assert len(answers) >= 3


@pytest.mark.parametrize("chunk", [16, 31, 1024])
def test_chunks_do_not_change_the_answer(family: VisionFamily, chunk: int) -> None:
    request = family.request("r", "long words before # and between # and then some", [2, 1])
    answer = run(family.core(chunk=chunk)[0], [request])["r"]
    assert answer.token_ids == family.alone(request).token_ids


def test_a_second_question_about_a_picture_does_not_encode_it_again(family: VisionFamily) -> None:
    engine, forward = family.core(cache_bytes=CACHE)
    first = family.request("first", "a long beginning # what is that thing?", [2])
    second = family.request("second", "a long beginning # what is the colour of it?", [2])
    other = family.request("other", "a long beginning # what is the colour of it?", [1])
    run(engine, [first])
    forward._features = FeatureCache(0)  # the prefix cache alone must do
    answer = run(engine, [second])["second"]
    start, count = second.media[0].runs[-1]
    assert answer.cached_tokens >= start + count
    assert forward.encoded_media == 1
    assert answer.token_ids == family.alone(second).token_ids
    answer = run(engine, [other])["other"]
    assert answer.cached_tokens <= other.media[0].runs[0][0]
    assert forward.encoded_media == 2
    assert answer.token_ids == family.alone(other).token_ids


def test_a_picture_that_the_disk_has_is_not_encoded_again(family: VisionFamily, tmp_path: Path) -> None:
    if family.name not in ON_DISK:
        pytest.skip("is as one of the others")
    text = "a long beginning " + "so long " * 12
    first = family.request("first", f"{text} # what is that thing?", [2])
    second = family.request("second", f"{text} # what is the colour of it?", [2])
    other = family.request("other", f"{text} # what is the colour of it?", [1])
    encoded = []
    for requests in ([first], [second, other]):  # two lives
        tier = DiskTier(tmp_path / "tier", "0" * 32, max_bytes=2**28)
        assert tier.drain(10)
        engine, forward = family.core(cache_bytes=CACHE, tier=tier)
        assert engine.scheduler.disk is not None
        engine.scheduler.disk.token_seconds = lambda: 1.0
        answers = run(engine, requests, aborts={"other": 1})
        engine.close(20)
        tier.close()
        encoded.append(forward.encoded_media)
        assert answers[requests[0].request_id].token_ids == family.alone(requests[0]).token_ids
    start, count = second.media[0].runs[-1]
    assert answers["second"].cached_tokens >= start + count
    assert answers["other"].finish_reason is FinishReason.ABORT
    assert encoded == [1, 0]


def test_steps_with_the_tower_in_them_tell_the_pacer_nothing(
    family: VisionFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, forward = family.core()
    forward._features = FeatureCache(0)
    known: list[tuple[int, int]] = []  # how often the tower had run when a step was told of, and when it was started

    def observe(shape: Any, tokens: int, seconds: float, *, decoding: bool) -> None:
        known.append((started[-2], started[-1]))

    started = [0]
    whole = engine.runner.run

    def run_batch(batch: Any) -> Any:
        tokens = whole(batch)
        started.append(forward.encoded_media)
        return tokens

    monkeypatch.setattr(engine.runner, "run", run_batch)
    monkeypatch.setattr(engine.scheduler._pacer, "observe_prefill", observe)
    run(engine, [family.request("pictures", "a # b # c", [0, 1]), family.request("text", "no picture at all", [])])
    assert forward.encoded_media > 2, "pictures were computed again"
    assert all(before == after for before, after in known)


@pytest.mark.parametrize("room", [1, 2])
def test_more_pictures_than_features_are_kept_of(family: VisionFamily, room: int) -> None:
    """Each goes through the tower once ahead, and those that had to go once more."""
    engine, forward = family.core(chunk=16)
    run(engine, [family.request("one", "see # now", [0])])
    one = forward._features.nbytes
    forward.reset()
    forward._features = FeatureCache(int((room + 0.5) * one))
    before = forward.encoded_media
    many = family.request("many", "first # then # and # what?", [0, 1, 2])
    assert run(engine, [many])["many"].token_ids == family.alone(many).token_ids
    assert before + 3 <= forward.encoded_media <= before + 6


def test_pictures_that_the_prefix_cache_has_are_not_encoded_for_those_behind(family: VisionFamily) -> None:
    engine, forward = family.core(cache_bytes=CACHE)
    run(engine, [family.request("first", "a long beginning # what is that thing?", [2])])
    forward._features = FeatureCache(0)
    second = family.request("second", "a long beginning # what is that thing? and # this?", [2, 1])
    assert run(engine, [second])["second"].token_ids == family.alone(second).token_ids
    assert forward.encoded_media == 2


def test_only_pictures_that_need_the_tower_wait_for_it(family: VisionFamily) -> None:
    """In one step, all requests whose features are kept are let in, and one that is encoded."""
    engine, forward = family.core()
    run(engine, [family.request("first", "see # now", [0])])
    for number in range(3):
        engine.add(family.request(f"known{number}", f"{number} see # now", [0]))
    for number in (1, 2):
        engine.add(family.request(f"new{number}", "see # now", [number]))
    engine.step()
    assert forward.encoded_media == 2
    assert list(engine._encoding) == ["new2"]
    engine.step()
    assert not engine._encoding


def test_turns_with_pictures(family: VisionFamily) -> None:
    """A conversation finds what it has said, whatever came between."""
    engine, _ = family.core(cache_bytes=CACHE, chunk=40)
    text, pictures = "a question about # this picture, please", [0]
    for turn in range(3):
        request = family.request(f"t{turn}", text, pictures)
        answer = run(engine, [request, family.request("x", "aside # here", [turn])])[f"t{turn}"]
        assert answer.token_ids == family.alone(request).token_ids
        assert (answer.cached_tokens > 0) == (turn > 0)
        text, pictures = text + f" and then {turn} # also", [*pictures, turn + 1]


def test_a_picture_whose_files_are_lost_ends_its_own_request_only(family: VisionFamily) -> None:
    good, missing = family.request("good", "ab # cd", [0]), family.request("missing", "ab # cd", [2])
    lost = [MediaArray(array.name, path="/nowhere/at/all.npy") for array in missing.media[0].arrays]
    missing.media[0] = msgspec.structs.replace(missing.media[0], key="lost", arrays=lost)
    answers = run(family.core()[0], [good, missing])
    assert answers["missing"].finish_reason is FinishReason.ERROR
    assert "nowhere" not in (answers["missing"].error or "")
    assert answers["good"].token_ids == family.alone(good).token_ids


@pytest.mark.parametrize("feature_bytes", [0, 2**24])
def test_a_picture_that_the_model_cannot_take_ends_its_own_request_only(
    family: VisionFamily, feature_bytes: int
) -> None:
    good, broken = family.request("good", "ab # cd", [0]), family.request("broken", "ab # cd # ef", [1, 2])
    arrays = [array for array in broken.media[1].arrays if array.name != "pixel_values"]
    buffer = BytesIO()
    np.save(buffer, np.zeros((1, 7), dtype=np.float32))
    arrays.append(MediaArray("pixel_values", data=buffer.getvalue()))
    broken.media[1] = msgspec.structs.replace(broken.media[1], key="broken", arrays=arrays)
    engine, forward = family.core()
    forward._features = FeatureCache(feature_bytes)
    answers = run(engine, [good, broken])
    assert answers["broken"].refused
    assert answers["good"].token_ids == family.alone(good).token_ids


def test_tokens_of_a_video_that_is_not_there_end_their_own_request_only(family: VisionFamily) -> None:
    if family.name not in GRIDS:
        pytest.skip("places no videos")
    good, odd = family.request("good", "ab # cd", [0]), family.request("odd", "ab # cd", [2])
    spelled = [vision_configs.IDS[text] for text in ("<|vision_start|>", "<|video_pad|>", "<|vision_end|>")]
    odd.prompt_token_ids.extend([*spelled, 1])
    answers = run(family.core()[0], [good, odd])
    assert answers["odd"].finish_reason is FinishReason.ERROR
    assert answers["good"].token_ids == family.alone(good).token_ids


def test_what_is_aborted_while_it_waits_for_the_tower_is_forgotten(family: VisionFamily) -> None:
    engine, forward = family.core()
    requests = [family.request(f"r{number}", "see # now", [number]) for number in range(3)]
    answers = run(engine, requests, aborts={"r1": 0, "r2": 1})
    assert answers["r1"].finish_reason is answers["r2"].finish_reason is FinishReason.ABORT
    assert answers["r0"].token_ids == family.alone(requests[0]).token_ids
    assert not forward._media
    assert forward.encoded_media < 3


def test_a_video_beside_pictures(family: VisionFamily, tmp_path: Path) -> None:
    """Alone as mlx-vlm answers, in a batch and in chunks as alone."""
    from mlx_vlm.utils import prepare_inputs

    mark = family.processor.marks.get(MediaType.VIDEO)
    if mark is None:
        assert family.name not in VIDEO
        return
    path = mp4(tmp_path)
    found = family.processor.prepare(Prepare(99, MediaType.VIDEO, False, path.read_bytes()))
    video = PreparedMedia("video", mark, found.text, found.tokens, found.arrays)
    only = family.request_with("only", f"see {mark.text} what", [video])
    both = family.request_with("both", f"{family.mark} and {mark.text} or", [family.prepare(1), video])
    inputs = dict(prepare_inputs(family.processor._processor, videos=[str(path)], prompts=[f"see {mark.text} what"]))
    assert (only.prompt_token_ids, family.alone(only).token_ids) == family.generate(inputs, 12)
    answers = run(family.core(chunk=24)[0], [only, both, family.request("picture", "a # b", [1])])
    for request in (only, both):
        assert answers[request.request_id].token_ids == family.alone(request).token_ids
    with pytest.raises(ValueError, match="cannot be decoded"):
        family.processor.prepare(Prepare(98, MediaType.VIDEO, False, path.read_bytes()[:100]))


def test_pictures_are_prepared_while_a_video_is_decoded(
    family: VisionFamily, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if MediaType.VIDEO not in family.processor.marks:
        pytest.skip("has no videos")
    decode = VideoDecoder._run

    def run(decoder: VideoDecoder, number: int, job: VideoJob) -> bytes:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(family.processor.prepare, Prepare(97, MediaType.IMAGE, False, png(0))).result(30)
        return decode(decoder, number, job)

    monkeypatch.setattr(VideoDecoder, "_run", run)
    video = Prepare(96, MediaType.VIDEO, False, mp4(tmp_path).read_bytes())
    assert family.processor.prepare(video).tokens > 0


def test_quantised_keys_and_values_or_a_reason(family: VisionFamily) -> None:
    try:
        engine, _ = family.core(quantization=KVQuantization(8, 32))
    except ModelLoadError as error:
        assert "cannot keep keys and values in 8 bits" in error.message
        return
    requests = family.random_requests(3, 6)
    together = run(engine, requests)
    for request in requests:
        alone, _ = family.core(quantization=KVQuantization(8, 32))
        assert run(alone, [request])[request.request_id].token_ids == together[request.request_id].token_ids


def test_without_mlx_vlm_the_sentence_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_vision.save("qwen2_vl", tmp_path / "model")
    monkeypatch.setitem(sys.modules, "mlx_vlm.utils", None)
    with pytest.raises(ModelLoadError, match=r"needs mlx-vlm: pip install 'quince\[vision\]'"):
        load_vision(path, max_model_len=None)


def test_a_text_model_whose_rows_are_not_even_is_refused(tmp_path: Path) -> None:
    path = tiny_vision.save("mistral3", tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["model_type"] = "ministral3"
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="'ministral3' gives wrong answers to several requests at once"):
        load_vision(path, max_model_len=None)


def test_an_architecture_that_is_not_known_is_refused(tmp_path: Path) -> None:
    path = tiny_vision.save("llava_next", tmp_path / "model")
    with pytest.raises(ModelLoadError, match="'llava_next' is none of the vision architectures"):
        load_vision(path, max_model_len=None)


def test_features_of_a_tower_that_failed_are_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = VisionFamily("llava", tmp_path / "llava")
    engine, forward = family.core()
    requests = [family.request(f"r{number}", "ab # cd", [0]) for number in range(3)]
    whole = mx.async_eval

    def fail(*arrays: Any) -> None:
        monkeypatch.setattr(mx, "async_eval", whole)
        raise RuntimeError("no memory, says the test")

    monkeypatch.setattr(mx, "async_eval", fail)
    assert run(engine, requests[:1])["r0"].refused
    assert forward._features.nbytes == 0
    assert run(engine, requests[1:2])["r1"].token_ids == family.alone(requests[0]).token_ids
    engine.fail_step("what a step was computing is lost with it")
    encoded = forward.encoded_media
    assert run(engine, requests[2:])["r2"].token_ids == family.alone(requests[0]).token_ids
    assert forward.encoded_media == encoded + 1


def test_pillows_own_bound_on_pixels_gives_way_to_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    family = VisionFamily("llava", tmp_path / "llava")
    assert family.prepare(0).tokens
    small = Processor(family.path, tmp_path, max_pixels=4000, video_seconds=20)
    with pytest.raises(ValueError, match="84 x 56 pixels, more than 4000"):
        small.prepare(Prepare(1, MediaType.IMAGE, False, png(0)))


def test_features_are_kept_within_bounds() -> None:
    cache = FeatureCache(3 * 4 * 8)
    for number in range(4):
        cache.put(str(number), Features(mx.zeros((1, 8)), None))
        cache.get("0")
    assert [number for number in range(4) if cache.get(str(number))] == [0, 2, 3]
    assert cache.nbytes == 3 * 4 * 8
    cache.put("large", Features(mx.zeros((100, 8)), None))
    assert cache.get("large") is not None, "the newest stays, or nothing could be computed"
    assert cache.get("0") is None
