"""Gzip in pieces, damage in words, and no memory for what a small file claims."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segray.errors import CaseError
from segray.formats import gzip_bytes
from segray.formats.gzip_bytes import ByteReader, Packer, compress, compress_all, load, open_bytes, open_head

TEXT = bytes(range(256)) * 40


def read_text(data: bytes) -> None:
    reader = ByteReader("x.gz", data)
    reader.read(len(TEXT))
    reader.finish()


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_reads_come_in_order(data: bytes, cut: int) -> None:
    cut = min(cut, len(data))
    for packed in (compress(data), gzip.compress(data), gzip.compress(data[:cut]) + gzip.compress(data[cut:])):
        reader = ByteReader("x.gz", packed)
        assert reader.read(cut) + reader.read(len(data) - cut) == data
        reader.finish()


def test_other_programs_read_what_is_written() -> None:
    packed = compress(b"head", np.arange(100, dtype=np.uint8).reshape(10, 10))
    assert gzip.decompress(packed) == b"head" + bytes(range(100))


@given(st.lists(st.tuples(st.sampled_from(["noise", "rows", "zeros", "run"]), st.integers(0, 300_000)), max_size=6))
def test_pieces_of_any_kind_are_one_file(kinds: list[tuple[str, int]]) -> None:
    """What lies behind a run of zeros must not refer to what lies before it: repeated rows would."""
    rng = np.random.default_rng(len(kinds))
    row = rng.integers(0, 256, 700, np.uint8)
    packer, expected = Packer(), b""
    for kind, count in kinds:
        made = {"noise": rng.integers(0, 256, count, np.uint8), "rows": np.resize(row, count)}
        part = made.get(kind, np.zeros(count, np.uint8))
        if kind == "run":
            packer.zeros(count)
        else:
            packer.add(part)
            part = part.copy()
        expected += part.tobytes()
    packed = packer.finish()
    assert gzip.decompress(packed) == expected
    reader = ByteReader("x.gz", packed)
    assert reader.read(len(expected)) == expected
    reader.finish()


@pytest.mark.parametrize("value", [1, 2, 128, 255])
def test_only_zeros_are_zeros(value: int) -> None:
    for at in (0, 70_001, 131_071):
        part = np.zeros(131_072, np.uint8)
        part[at] = value
        assert gzip.decompress(compress(part)) == part.tobytes()


def test_long_runs_of_zeros_are_as_short_as_can_be() -> None:
    packer = Packer()
    packer.zeros(50_000_001)
    packed = packer.finish()
    assert len(gzip.decompress(packed)) == 50_000_001
    assert 50_000_001 / gzip_bytes.MAX_RATIO < len(packed) < 50_000_001 / 1000


def test_spans_that_threads_pack_are_one_file() -> None:
    parts = [np.random.default_rng(seed).integers(0, 3, 100_000, np.uint8) for seed in range(3)] + [np.zeros(99_999)]
    packed = compress_all([[b"head", parts[0]], parts[1:3], [], [parts[3].view(np.uint8)]])
    assert gzip.decompress(packed) == b"head" + b"".join(part.tobytes() for part in parts)


def test_plain_file_is_read_as_it_is() -> None:
    assert ByteReader("x.nii", TEXT).read(300) == TEXT[:300]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (TEXT, "is not gzip"),
        (gzip.compress(TEXT, mtime=0)[:60], "cut off"),
        (gzip.compress(TEXT, mtime=0)[:-3], "cut off"),
        (gzip.compress(TEXT, mtime=0)[:-8] + b"\0" * 8, "damaged"),
        (gzip.compress(TEXT, mtime=0)[:10] + b"\xff" * 200, "damaged"),
        (gzip.compress(TEXT[:-1], mtime=0), "ends too early: 1 bytes"),
    ],
    ids=["empty", "text", "head", "without its end", "checksum", "noise", "length"],
)
def test_damage_is_told_in_words(data: bytes, words: str) -> None:
    with pytest.raises(CaseError, match=words):
        read_text(data)


def test_bomb_costs_only_what_is_asked_for() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    tracemalloc.start()
    assert ByteReader("bomb.gz", bomb).read(100) == bytes(100)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2_000_000


def test_head_is_enough_for_the_first_bytes_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(300_000), 1))
    reader = open_head(str(path))
    assert reader.most == path.stat().st_size * 1032
    assert reader.read(348) == open_bytes(str(path)).read(348)


@pytest.mark.parametrize("opening", [open_bytes, open_head, load])
def test_absent_file_and_folder_are_told(tmp_path: Path, opening: object) -> None:
    assert callable(opening)
    for path in (tmp_path / "none.gz", tmp_path):
        with pytest.raises(CaseError, match="cannot be read"):
            opening(str(path))
