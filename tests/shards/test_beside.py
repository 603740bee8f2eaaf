"""Slices come with their neighbours, whatever row group these lie in, and at the ends of a case with its last slice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segray.shards import ShardError
from segray.shards.beside import groups_of, neighbours_of
from segray.shards.reader import Mixer, decode_batch, iterate_batches, read_visit, slices_of
from tests.shards.conftest import Folder, MakeFolder


def expected(images: np.ndarray, z: int, each_side: int) -> np.ndarray:
    """(2 * each_side + 1, H, W), slice by slice."""
    return np.stack([images[min(max(z + step, 0), len(images) - 1)] for step in range(-each_side, each_side + 1)])


@pytest.mark.parametrize("each_side", [1, 2, 5])
@pytest.mark.parametrize("rows_per_group", [1, 3, 4, 500])
def test_whole_cases(make_folder: MakeFolder, each_side: int, rows_per_group: int) -> None:
    folder = make_folder({"a": 10, "b": 7, "c": 1}, rows_per_group=rows_per_group)
    index = replace(folder.index, beside=each_side)
    seen = 0
    for batch in iterate_batches(folder.path, index.visits_of(["c", "a", "b"]), 4, threads=2):
        assert batch.images.shape[1] == 2 * each_side + 1
        for image, labels, case_id, z in zip(batch.images, batch.labels, batch.case_ids, batch.z, strict=True):
            case = folder.cases[case_id]
            np.testing.assert_array_equal(image, expected(case.images, int(z), each_side))
            np.testing.assert_array_equal(labels, case.labels[z])  # type: ignore[index]
            seen += 1
    assert seen == 18


def test_drawn_slices_twice_and_mixed(folder: Folder) -> None:
    index = replace(folder.index, beside=1)
    drawn = np.array([1, 3, 3, 4, 9, 12, 17])
    rows = [one for visit in index.visits(drawn) for one in slices_of(read_visit(folder.path, visit))]
    mixed = list(Mixer(2000, (1,)).mix(rows))
    assert mixed[0].bytes > 2 * len(mixed[0].image)
    batch = decode_batch(mixed)
    assert sorted(zip(batch.case_ids, batch.z.tolist(), strict=True)) == [
        ("a", 1), ("a", 3), ("a", 3), ("a", 4), ("a", 9), ("b", 2), ("c", 0),
    ]  # fmt: skip
    for image, case_id, z in zip(batch.images, batch.case_ids, batch.z, strict=True):
        np.testing.assert_array_equal(image, expected(folder.cases[case_id].images, int(z), 1))


def test_tables_that_are_cut_and_joined_keep_every_neighbour(folder: Folder) -> None:
    """Ray Data does both to its blocks."""
    index = replace(folder.index, beside=2)
    table = pa.concat_tables([read_visit(folder.path, visit) for visit in index.visits_of(["a", "b"])])
    pieces = [table.slice(0, 3), table.slice(3, 6).combine_chunks(), table.slice(9)]
    batch = decode_batch([one for piece in pieces for one in slices_of(piece)])
    for image, case_id, z in zip(batch.images, batch.case_ids, batch.z, strict=True):
        np.testing.assert_array_equal(image, expected(folder.cases[case_id].images, int(z), 2))


def test_a_damaged_neighbour_is_noticed(folder: Folder) -> None:
    (visit, *_) = replace(folder.index, beside=1).visits(np.array([5]))
    (row,) = slices_of(read_visit(folder.path, visit))
    damaged = bytearray(row.beside[1])
    damaged[-1] ^= 1
    with pytest.raises(ShardError, match="case a, slice 5"):
        decode_batch([replace(row, beside=(row.beside[0], bytes(damaged)))])
    with pytest.raises(ShardError):
        decode_batch([row, replace(row, beside=(), beside_crcs=())])


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 4), st.data())
def test_the_groups_hold_all_neighbours(sizes: list[int], each_side: int, data: st.DataObject) -> None:
    group = data.draw(st.integers(0, len(sizes) - 1))
    first = sum(sizes[:group])
    rows = np.array(data.draw(st.lists(st.integers(first, first + sizes[group] - 1), min_size=1)), dtype=np.int64)
    near = neighbours_of(rows, sum(sizes), each_side)
    groups = groups_of(near, sizes)
    low = sum(sizes[: groups[0]])
    assert (near >= low).all()
    assert (near < low + sum(sizes[number] for number in groups)).all()
