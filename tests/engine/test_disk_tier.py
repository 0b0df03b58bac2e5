"""The tier's files: what is written is found by another one, within the cap; what cannot be trusted is not there."""

from __future__ import annotations

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from quince.engine import disk_files
from quince.engine.disk_files import BrokenFile, Digests, Entry, identity, packed
from quince.engine.disk_tier import STAGED_BYTES, DiskTier, Load
from quince.engine.host_arrays import HostArrays, LoadedPart

NAME = "a" * 32
ROOT_FILES = "*/*"


def words(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(-(2**62), 2**62) for _ in range(count)]


def entry(tokens: list[int], start: int, stop: int) -> Entry:
    digests = Digests(packed(tokens), None)
    before = digests.at(start)
    return Entry(False, start, before, digests.at(stop), packed(tokens[start:stop]).tobytes())


def snapshot(tokens: list[int]) -> Entry:
    digest = Digests(packed(tokens), None).at(len(tokens))
    return Entry(True, len(tokens), digest, digest)


def arrays(tokens: list[int], width: int = 1) -> HostArrays:
    """[1, 1, tokens, width] of the tokens, a bfloat16 by name, and a layer that has nothing."""
    numbers = np.repeat(np.array(tokens, dtype=np.int64)[None, None, :, None], width, axis=3)
    return HostArrays([[0], None, 1], [numbers, (numbers % 65536).astype(np.uint16)], ["int64", "bfloat16"])


def put(tier: DiskTier, tokens: list[int], start: int, stop: int, width: int = 1) -> Entry:
    one = entry(tokens, start, stop)
    used = tier.find(tokens, start, have=0).used
    tier.write(one, arrays(tokens[start:stop], width), used)
    return one


def parts(tier: DiskTier, load: Load) -> list[LoadedPart]:
    taken = []
    deadline = time.monotonic() + 10
    while not load.finished or load.parts:
        assert time.monotonic() < deadline
        if part := tier.take(load):
            taken.append(part)
        else:
            time.sleep(0.001)
    return taken


def open_tier(root: Path, *, cap: int = 2**30, name: str = NAME) -> DiskTier:
    tier = DiskTier(root, name, max_bytes=cap)
    assert tier.drain(10)
    return tier


def sizes(root: Path) -> int:
    return sum(path.stat().st_size for path in root.glob(ROOT_FILES))


def test_what_one_writes_another_reads(tmp_path: Path) -> None:
    tokens = words(1, 100)
    tier = open_tier(tmp_path / "cache")
    for start, stop in ((0, 40), (40, 100)):
        put(tier, tokens, start, stop)
    tier.write(snapshot(tokens[:70]), arrays([5]))
    assert tier.drain(10)
    tier.close()
    tier = open_tier(tmp_path / "cache")
    found = tier.find([*tokens[:90], 7, 8], 92, have=10)
    assert found.reach == 90 and found.snapshot == snapshot(tokens[:70])
    taken = parts(tier, tier.load([*found.pieces, found.snapshot]))
    assert [(part.start, part.stop) for part in taken] == [(10, 40), (40, 90), (70, 70)]
    for part in taken[:2]:
        assert part.host.arrays[0].ravel().tolist() == tokens[part.start : part.stop]
        assert part.host.tree == [[0], None, 1] and part.host.dtypes == ["int64", "bfloat16"]
    tier.close()
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").glob(ROOT_FILES)}
    assert modes == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "cache", tmp_path / "cache" / NAME)} == {0o700}


def test_a_file_can_be_read_while_it_is_still_on_its_way(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    tokens = words(2, 50)
    put(tier, tokens, 0, 50)
    (part,) = parts(tier, tier.load(tier.find(tokens, 50, have=0).pieces))
    assert part.host.arrays[0].ravel().tolist() == tokens
    tier.close()


def test_files_stay_within_the_cap_and_the_latest_stay(tmp_path: Path) -> None:
    cap = 100_000
    tier = open_tier(tmp_path, cap=cap)
    conversations = [words(index, 200) for index in range(40)]
    for number, tokens in enumerate(conversations):
        put(tier, tokens, 0, 100)
        assert tier.drain(10)
        put(tier, tokens, 100, 200)
        if number > 5:  # the second stays because it is used
            assert len(parts(tier, tier.load(tier.find(conversations[1], 200, have=0).pieces))) == 2
        assert tier.drain(10)
        assert sizes(tmp_path) <= cap
    reach = [tier.find(tokens, 200, have=0).reach for tokens in conversations]
    assert reach[0] == 0 and reach[1] == 200 and reach[-5:] == [200] * 5
    assert 0 < tier.nbytes == sizes(tmp_path)
    tier.close()
    tier = open_tier(tmp_path, cap=cap // 4)
    put(tier, words(99, 10), 0, 10)
    assert tier.drain(10)
    assert sizes(tmp_path) <= cap // 4, "a smaller cap holds for what is there"
    tier.close()


@pytest.mark.parametrize("read", [False, True])
def test_the_end_of_a_conversation_goes_before_its_beginning(read: bool, tmp_path: Path) -> None:
    tier = open_tier(tmp_path, cap=100_000)
    tokens = words(1, 1000)
    for start in range(0, 1000, 100):
        put(tier, tokens, start, start + 100)
    assert tier.drain(10)
    if read:
        found = tier.find(tokens, 1000, have=300)
        assert len(parts(tier, tier.load(found.pieces, found.used))) == 7
    for seed in range(2, 40):
        put(tier, words(seed, 200), 0, 200)
        assert tier.drain(10)
        reach = tier.find(tokens, 1000, have=0).reach
        held = [start for start in range(0, 1000, 100) if entry(tokens, start, start + 100) in tier]
        assert reach == 100 * len(held), "nothing is left that cannot be reached"
    tier.close()


def test_the_cap_counts_files_of_other_models_and_servers(tmp_path: Path) -> None:
    cap = 200_000
    tiers = [open_tier(tmp_path, cap=cap, name=name * 32) for name in "abab"]  # two of each share a directory
    rng = random.Random(1)
    for step in range(120):
        tier = rng.choice(tiers)
        tokens = words(rng.randrange(30), 150)
        found = tier.find(tokens, 150, have=0)
        for part in parts(tier, tier.load(found.pieces)):
            assert part.host.arrays[0].ravel().tolist() == tokens[part.start : part.stop]
        if found.reach < 150:
            put(tier, tokens, found.reach, 150)
            assert tier.drain(10)
        assert not tier.off
        assert sizes(tmp_path) <= cap + len(tiers) * cap // 8, step
    for tier in tiers:
        tier.close()


@pytest.mark.parametrize("kind", ["flipped", "cut", "longer", "header", "empty", "renamed", "gone"])
def test_a_file_that_cannot_be_trusted_is_not_there(kind: str, tmp_path: Path) -> None:
    tokens = words(3, 200)
    tier = open_tier(tmp_path)
    first = put(tier, tokens, 0, 100)
    second = put(tier, tokens, 100, 200)
    assert tier.drain(10)
    path = tmp_path / NAME / second.name
    content = path.read_bytes()
    path.unlink()
    broken = {
        "flipped": content[:-9] + bytes([content[-9] ^ 1]) + content[-8:],
        "cut": content[:-1],
        "longer": content + b"\0",
        "header": content[:30] + bytes([content[30] ^ 1]) + content[31:],
        "empty": b"",
        "renamed": (tmp_path / NAME / first.name).read_bytes(),
    }
    if kind in broken:
        path.write_bytes(broken[kind])
    taken = parts(tier, tier.load(tier.find(tokens, 200, have=0).pieces))
    assert [(part.start, part.stop) for part in taken] == [(0, 100)]
    assert tier.find(tokens, 200, have=0).reach == 100
    assert not path.exists() and not tier.off
    tier.close()
    if kind in broken:
        path.write_bytes(broken[kind])
    tier = open_tier(tmp_path)
    assert [part.stop for part in parts(tier, tier.load(tier.find(tokens, 200, have=0).pieces))] == [100]
    assert not path.exists() and not tier.off
    tier.close()


def test_a_file_of_another_model_is_refused(tmp_path: Path) -> None:
    tokens = words(4, 10)
    one = entry(tokens, 0, 10)
    disk_files.write(tmp_path / one.name, "b" * 32, one, arrays(tokens))
    with pytest.raises(BrokenFile, match="another model"):
        disk_files.read(tmp_path / one.name, NAME)
    assert disk_files.read(tmp_path / one.name, "b" * 32).nbytes == 10 * 10


def test_what_the_disk_is_too_slow_for_is_not_taken(tmp_path: Path) -> None:
    tier = open_tier(tmp_path)
    big = arrays(words(1, 1000), width=2000)
    taken = 0
    while tier.has_room(big.nbytes) and taken < 1000:
        tier.write(entry(words(taken, 1000), 0, 1000), big)
        taken += 1
        assert tier._staged <= STAGED_BYTES
    assert taken < 1000, "it was never behind"
    assert tier.wait_for_room(big.nbytes, 10)
    tier.close()


def test_reading_pauses_until_somebody_takes_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quince.engine.disk_tier.STAGED_BYTES", 3000)
    tier = open_tier(tmp_path)
    tokens = words(1, 1000)
    for start in range(0, 1000, 100):
        put(tier, tokens, start, start + 100)
    assert tier.drain(10)
    load = tier.load(tier.find(tokens, 1000, have=0).pieces)
    time.sleep(0.2)
    assert 1 <= len(load.parts) <= 4
    assert len(parts(tier, load)) == 10
    other = tier.load(tier.find(tokens, 1000, have=0).pieces)
    tier.cancel(other)
    assert parts(tier, other) == [] and tier._read == 0
    tier.close()


def test_an_error_turns_it_off_with_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tier = open_tier(tmp_path)
    tokens = words(1, 100)
    put(tier, tokens, 0, 50)
    assert tier.drain(10)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk_files, "write", full)
    put(tier, tokens, 50, 100)
    assert tier.drain(10) and tier.off
    assert not tier.has_room(1) and tier.find(tokens, 100, have=0).reach == 0
    assert parts(tier, tier.load([entry(tokens, 0, 50)])) == []
    put(tier, tokens, 50, 100)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "No space left" in caplog.text
    tier.close()


def test_a_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A real one, of 256 KiB."""
    root = tmp_path / "mount"
    root.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", root], capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    try:
        tier = open_tier(root)
        for seed in range(10):
            put(tier, words(seed, 1000), 0, 1000, width=10)
        assert tier.drain(10) and tier.off
        assert len(caplog.records) == 1 and not list(root.glob("*/.*"))
        tier.close()
        tier = open_tier(root)
        assert len(parts(tier, tier.load(tier.find(words(0, 1000), 1000, have=0).pieces))) == 1, (
            "what is there is sound"
        )
        tier.close()
    finally:
        subprocess.run(["umount", root], check=True)


def test_a_directory_that_cannot_be_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    tier = DiskTier(tmp_path / "file" / "cache", NAME, max_bytes=1000)
    assert tier.drain(10) and tier.off
    assert len(caplog.records) == 1
    tier.close()


WRITER = """
import sys
from pathlib import Path
from tests.engine.test_disk_tier import arrays, entry, open_tier, words
tier = open_tier(Path(sys.argv[1]))
host = arrays(words(1, 1000), width=100)
for seed in range(100_000):
    while not tier.has_room(host.nbytes):
        pass
    tier.write(entry(words(seed, 1000), 0, 1000), host)
    print(seed, flush=True)
"""


def test_a_kill_in_the_middle_of_writing(tmp_path: Path) -> None:
    for wait in (0.0, 0.02, 0.05):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    for path in tmp_path.glob("*/.*"):
        os.utime(path, (1, 1))
    (tmp_path / NAME / f".lost{disk_files.TEMPORARY}").write_bytes(b"half")
    os.utime(tmp_path / NAME / f".lost{disk_files.TEMPORARY}", (1, 1))
    tier = open_tier(tmp_path)
    assert not list(tmp_path.glob("*/.*")), "temporary files of the dead are gone"
    paths = list(tmp_path.glob(ROOT_FILES))
    assert paths
    for path in paths:
        assert disk_files.read(path, NAME).nbytes == 1000 * 100 * 10
    tier.close()


def test_nothing_else_below_the_root_is_touched(tmp_path: Path) -> None:
    for name in ("notes", NAME):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.txt").write_text("mine" * 1000)
    (tmp_path / "notes" / "y.segment").write_text("mine" * 1000)
    tier = open_tier(tmp_path, cap=5000)
    for seed in range(10):
        put(tier, words(seed, 50), 0, 50)
    assert tier.drain(10)
    assert (tmp_path / "notes" / "y.segment").exists() and (tmp_path / NAME / "x.txt").exists()
    tier.close()


def test_an_identity_changes_with_what_keys_and_values_depend_on(tmp_path: Path) -> None:
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    for directory in (model, adapter):
        directory.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (model / "README.md").write_text("a")
    names = [identity([model], [8])]
    (model / "README.md").write_text("b")
    assert identity([model], [8]) == names[0]
    names.append(identity([model], [None]))
    names.append(identity([model, adapter], [8]))
    (adapter / "adapters.safetensors").write_bytes(b"x")
    names.append(identity([model, adapter], [8]))
    (model / "config.json").write_text("{ }")
    names.append(identity([model], [8]))
    os.utime(model / "model.safetensors", (1, 1))
    names.append(identity([model], [8]))
    assert len(set(names)) == len(names) - 1, "an empty adapter changes nothing"
    assert all(len(name) == 32 for name in names)
