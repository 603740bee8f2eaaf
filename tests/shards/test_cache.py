from __future__ import annotations

import fcntl
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from segray.config import load_config
from segray.errors import UsageError
from segray.shards import cache as cache_module
from segray.shards.cache import ShardCache, shard_cache
from segray.shards.tally import counting

TABLE_BYTES = 100_000


def table(number: int, size: int = TABLE_BYTES) -> pa.Table:
    data = np.random.default_rng(number).bytes(size)
    return pa.table({"number": [number], "image": [data]})


class Fetches:
    """Makes tables, and knows which."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def of(self, number: int) -> Callable[[], pa.Table]:
        def make() -> pa.Table:
            self.made.append(number)
            return table(number)

        return make

    def ask(self, cache: ShardCache, *numbers: int) -> list[int]:
        """Ask for these tables, see that they are right; those that had to be fetched."""
        before = len(self.made)
        for number in numbers:
            assert cache.table(["part", number], self.of(number)).equals(table(number))
        return self.made[before:]


@pytest.fixture
def fetches() -> Fetches:
    return Fetches()


def cache_in(folder: Path, tables: float = 100, since: float = 0.0) -> ShardCache:
    return ShardCache(str(folder), int(tables * (TABLE_BYTES + 1000)), since)


def files(cache: ShardCache) -> list[Path]:
    return [path for path in Path(cache.root).glob("??/*") if path.is_file()]


def age(cache: ShardCache, seconds: float) -> None:
    """As if all that lies there had been used so much earlier."""
    for path in files(cache):
        used = path.stat().st_mtime - seconds
        os.utime(path, (used, used))


def test_a_table_is_fetched_once(tmp_path: Path, fetches: Fetches) -> None:
    assert fetches.ask(cache_in(tmp_path), 1, 2, 1) == [1, 2]
    assert fetches.ask(cache_in(tmp_path), 2, 1) == []


def test_what_is_kept_is_for_the_eyes_of_its_user_alone(tmp_path: Path, fetches: Fetches) -> None:
    cache = cache_in(tmp_path)
    fetches.ask(cache, 1)
    assert os.stat(cache.root).st_mode & 0o077 == 0


@pytest.mark.parametrize("harm", ["cut", "empty", "flipped", "end"])
def test_a_damaged_file_is_fetched_again(harm: str, tmp_path: Path, fetches: Fetches) -> None:
    cache = cache_in(tmp_path)
    fetches.ask(cache, 1)
    (path,) = files(cache)
    data = bytearray(path.read_bytes())
    if harm == "flipped":
        data[len(data) // 2] ^= 1
    cut = {"cut": len(data) // 2, "empty": 0, "flipped": len(data), "end": len(data) - 1}[harm]
    path.write_bytes(data[:cut])
    assert fetches.ask(cache, 1, 1) == [1]


PROGRAM = """
import sys, time
import pyarrow as pa
from segray.shards.cache import ShardCache

folder = sys.argv[1]

def make():
    with open(folder + "/fetched", "a") as log:
        log.write("once\\n")
    time.sleep(0.5)
    return pa.table({"image": [b"x" * 100_000]})

print("ready", flush=True)
sys.stdin.readline()
found = ShardCache(folder, 10**7).table(["part", 1], make)
assert found["image"][0].as_py() == b"x" * 100_000
"""


def test_processes_that_want_the_same_at_once_fetch_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    asking = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) for _ in range(3)
    ]
    for one in asking:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in asking:
        assert one.stdin is not None
        one.stdin.write("go\n")
    assert [one.wait(120) for one in asking] == [0, 0, 0]
    for one in asking:
        one.communicate()
    assert (tmp_path / "fetched").read_text() == "once\n"


def test_what_was_used_longest_ago_is_removed(tmp_path: Path, fetches: Fetches) -> None:
    fetches.ask(cache_in(tmp_path), 1)
    age(cache_in(tmp_path), 300)
    fetches.ask(cache_in(tmp_path), 2, 3)
    age(cache_in(tmp_path), 300)
    fetches.ask(cache_in(tmp_path), 1)
    age(cache_in(tmp_path), 300)
    later = cache_in(tmp_path, tables=3.3, since=time.time() - 60)
    assert fetches.ask(later, 4) == [4]
    assert len(files(later)) == 3
    assert fetches.ask(later, 1, 4) == []
    assert len(fetches.ask(later, 2, 3)) >= 1


def test_the_limit_holds(tmp_path: Path, fetches: Fetches) -> None:
    for number in range(12):
        cache = cache_in(tmp_path, tables=4, since=time.time() + 60)
        fetches.ask(cache, number)
        assert sum(path.stat().st_size for path in files(cache)) <= cache.limit
    assert len(files(cache)) >= 3


def test_of_shards_larger_than_the_limit_a_part_stays(tmp_path: Path, fetches: Fetches) -> None:
    cache = cache_in(tmp_path, tables=4, since=time.time() - 60)
    assert fetches.ask(cache, *range(8)) == [*range(8)]
    for _ in range(2):
        assert fetches.ask(cache, *range(8)) == [4, 5, 6, 7]


def test_a_table_larger_than_the_limit_leaves_the_others_where_they_are(tmp_path: Path, fetches: Fetches) -> None:
    cache = cache_in(tmp_path, tables=2, since=time.time() + 60)
    fetches.ask(cache, 1)
    large = table(2, 3 * TABLE_BYTES)
    assert cache.table(["large"], lambda: large).equals(large)
    assert fetches.ask(cache, 1) == []


def test_a_lost_count_is_made_again(tmp_path: Path, fetches: Fetches) -> None:
    cache = cache_in(tmp_path, tables=3.3, since=time.time() + 60)
    fetches.ask(cache, 1, 2, 3)
    Path(cache.root, "used").write_bytes(b"?")
    fetches.ask(cache, 4)
    assert sum(path.stat().st_size for path in files(cache)) <= cache.limit


def test_what_a_killed_writer_left_is_removed(tmp_path: Path, fetches: Fetches) -> None:
    cache = cache_in(tmp_path, tables=2.2, since=time.time() + 60)
    fetches.ask(cache, 1)
    left, fresh = (files(cache)[0].with_name(f".tmp-{name}") for name in ("left", "fresh"))
    for path in (left, fresh):
        path.write_bytes(bytes(100))
    os.utime(left, (1.0, 1.0))
    fetches.ask(cache, 2, 3)
    assert not left.exists()
    assert fresh.exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path, fetches: Fetches) -> None:
    (tmp_path / "file").touch()
    with counting() as tally:
        assert fetches.ask(cache_in(tmp_path / "file"), 1, 1) == [1, 1]
    assert len(tally.notes) == 1
    assert "is off (Not a directory); the shards are read from their storage." in tally.notes[0]


def test_a_folder_that_another_put_there_is_not_used(tmp_path: Path, fetches: Fetches) -> None:
    cache = cache_in(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "theirs").mkdir()
    os.symlink(tmp_path / "theirs", cache.root)
    with counting() as tally:
        assert fetches.ask(cache, 1, 1) == [1, 1]
    assert "it is not this user's own" in tally.notes[0]
    assert not list((tmp_path / "theirs").iterdir())


@pytest.fixture
def no_large_files() -> Iterator[None]:
    """The kernel lets this process write no file beyond 10,000 bytes, as a full disk would not."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_takes_nothing_is_a_sentence_and_nothing_is_left(
    tmp_path: Path, fetches: Fetches, no_large_files: None
) -> None:
    cache = cache_in(tmp_path)
    with counting() as tally:
        assert fetches.ask(cache, 1, 2, 1) == [1, 2, 1]
    assert len(tally.notes) == 1
    assert "takes nothing more (File too large); the rest is read from the storage." in tally.notes[0]
    assert not files(cache)


def test_a_disk_is_not_filled_to_its_end(tmp_path: Path, fetches: Fetches, monkeypatch: pytest.MonkeyPatch) -> None:
    fetches.ask(cache_in(tmp_path), 1)
    monkeypatch.setattr(cache_module, "LEFT_FREE", 2.0)
    with counting() as tally:
        assert fetches.ask(cache_in(tmp_path, since=time.time() - 60), 2, 1, 3) == [2, 3]
    assert len(tally.notes) == 1
    assert "its disk is nearly full" in tally.notes[0]


def test_what_the_storage_raises_is_raised_and_the_next_one_may_try(tmp_path: Path, fetches: Fetches) -> None:
    def broken() -> pa.Table:
        raise OSError("the store does not answer")

    cache = cache_in(tmp_path)
    with counting() as tally, pytest.raises(OSError, match="the store does not answer"):
        cache.table(["part", 1], broken)
    assert not tally.notes
    assert fetches.ask(cache, 1, 1) == [1]


def test_nobody_waits_for_ever(tmp_path: Path, fetches: Fetches, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_in(tmp_path)
    monkeypatch.setattr(cache_module, "WAIT_S", 0.05)
    monkeypatch.setattr(cache_module, "TURNS", 1)
    turn = Path(cache.root, "turns", "0")
    turn.parent.mkdir(parents=True)
    with turn.open("wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert fetches.ask(cache, 1, 1) == [1]


def test_the_settings_ask_for_a_cache() -> None:
    assert shard_cache(load_config(None, []).train) is None
    found = shard_cache(load_config(None, ["train.cache_gib=1.5", "train.cache_folder=/scratch"]).train)
    assert found is not None
    assert (found.limit, found.root) == (3 * 2**29, f"/scratch/segray-shards-{os.getuid()}")
    with pytest.raises(UsageError, match="is no folder on the disk of a node"):
        load_config(None, ["train.cache_folder=s3://bucket/cache"])
