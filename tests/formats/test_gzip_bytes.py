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
from segray.formats.gzip_bytes import ByteReader, compress, load, open_bytes, open_head

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


def test_plain_file_is_read_as_it_is() -> None:
    assert ByteReader("x.nii", TEXT).read(300) == TEXT[:300]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (TEXT, "is not gzip"),
        (gzip.compress(TEXT)[:60], "cut off"),
        (gzip.compress(TEXT)[:-3], "cut off"),
        (gzip.compress(TEXT)[:-8] + b"\0" * 8, "damaged"),
        (gzip.compress(TEXT)[:10] + b"\xff" * 200, "damaged"),
        (gzip.compress(TEXT[:-1]), "ends too early: 1 bytes"),
    ],
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
