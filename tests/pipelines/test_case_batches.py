"""Cases in groups and stages of one row on tables of several."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from segray import storage
from segray.errors import SegrayError
from segray.pipelines.case_batches import MOST_CASES, SOURCES, EachRow, grouped, rows_of, sources_of

MIB = 1 << 20


def test_small_cases_come_together_and_large_ones_alone() -> None:
    sizes = [1 * MIB] * 40 + [20 * MIB, 15 * MIB, 600 * MIB]
    groups = grouped(sizes, lambda size: size, workers=1, most_bytes=16 * MIB)
    assert groups[:3] == [[600 * MIB], [20 * MIB], [15 * MIB, 1 * MIB]]
    assert sorted(size for group in groups for size in group) == sorted(sizes)
    assert all(len(group) == 1 or sum(group) <= 16 * MIB for group in groups)
    assert all(len(group) <= 43 // 4 for group in groups)


def test_tiny_cases_are_counted() -> None:
    groups = grouped(list(range(10_000)), lambda _: 100, workers=4)
    assert [len(group) for group in groups[:-1]] == [MOST_CASES] * (len(groups) - 1)


def test_every_worker_gets_several_groups() -> None:
    assert [len(group) for group in grouped([8] * 40, lambda size: size, workers=5)] == [2] * 20
    assert [len(group) for group in grouped([8] * 7, lambda size: size, workers=64)] == [1] * 7
    assert grouped([], lambda size: size, workers=2) == []


def double(table: pa.Table) -> pa.Table:
    assert table.num_rows == 1
    value = table.column("value")[0].as_py()
    return pa.table({"value": [2 * value], "bytes": pa.array([bytes(value)], pa.large_binary())})


def test_a_stage_of_one_row_is_applied_to_each() -> None:
    table = pa.concat_tables([pa.table({"value": [1, 2]}), pa.table({"value": [3]})])
    result = EachRow(double)(table)
    assert result.column("value").to_pylist() == [2, 4, 6]
    assert [len(row.column("bytes")[0].as_py()) for row in rows_of(result)] == [1, 2, 3]
    assert EachRow(double)(table.slice(0, 0)).num_rows == 0


def test_rows_share_the_memory_of_their_table() -> None:
    voxels = np.arange(64, dtype=np.int16)
    table = pa.table({"voxels": pa.array([b"", voxels.tobytes()], pa.large_binary())})
    _, last = rows_of(table)
    whole, part = (one.column("voxels").chunk(0).buffers()[2] for one in (table, last))
    assert whole.address == part.address
    assert (np.frombuffer(last.column("voxels")[0].as_buffer(), np.int16) == voxels).all()


def test_a_group_becomes_a_row_a_case() -> None:
    table = pa.table({SOURCES: [["a", "b"], ["c"]]})
    assert [row.column("source").to_pylist() for row in sources_of(table)] == [["a"], ["b"], ["c"]]
    result = EachRow(lambda row: row, sources_of)(table)
    assert result.column("source").to_pylist() == ["a", "b", "c"]


def test_what_a_group_writes_is_on_the_disk_before_its_rows_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fsync", flushed.append)

    def write(table: pa.Table) -> pa.Table:
        storage.write_bytes(f"{tmp_path}/{table.column('value')[0].as_py()}", b"mask")
        return table

    table = pa.table({"value": ["a", "b", "c"]})
    assert EachRow(write)(table).num_rows == 3
    assert len(flushed) == 3
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "c"]


def test_a_disk_that_cannot_take_one_file_of_a_group_fails_that_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(file: int) -> None:
        if os.fstat(file).st_size == 2:
            raise OSError(28, "No space left on device")

    def write(table: pa.Table) -> pa.Table:
        number, told = table.column("value")[0].as_py(), ""
        try:
            storage.write_bytes(f"{tmp_path}/{number}", b"x" * number)
        except SegrayError as error:
            told = str(error)
        return pa.table({"reason": [told]})

    monkeypatch.setattr(os, "fsync", fsync)
    reasons = EachRow(write)(pa.table({"value": [1, 2, 3]})).column("reason").to_pylist()
    assert (reasons[0], reasons[2]) == ("", "")
    assert "No space left on device" in reasons[1]
