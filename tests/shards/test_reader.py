"""Rows to batches."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from segray.errors import SegrayError
from segray.shards import ShardError
from segray.shards.index import Visit
from segray.shards.reader import (
    CompressedSlice,
    Mixer,
    SliceBatch,
    decode_batch,
    iterate_batches,
    read_case_volume,
    read_visit,
    slices_of,
)
from segray.shards.writer import part_name, read_part_facts, write_part

from .conftest import Folder, make_case


def everything(folder: Folder) -> list[Visit]:
    return folder.index.visits_of(["a", "b", "c"])


def check(folder: Folder, batch: SliceBatch) -> None:
    for number, (case_id, z) in enumerate(zip(batch.case_ids, batch.z, strict=True)):
        case = folder.cases[case_id]
        assert case.labels is not None
        assert (batch.images[number] == case.images[z]).all()
        assert (batch.labels[number] == case.labels[z]).all()
        assert (batch.mean[number], batch.sd[number]) == (3.5, 300.0)


@pytest.mark.parametrize("threads", [1, 2])
def test_batches_hold_what_was_written(folder: Folder, threads: int) -> None:
    batches = list(iterate_batches(folder.path, everything(folder), 5, threads=threads))
    assert [len(batch.images) for batch in batches] == [5, 5, 5, 3]
    for batch in batches:
        assert (batch.images.dtype, batch.labels.dtype) == (np.int16, np.uint8)
        check(folder, batch)
    assert [case for batch in batches for case in batch.case_ids] == ["a"] * 10 + ["b"] * 7 + ["c"]


def test_a_visit_brings_its_rows_in_its_order(folder: Folder) -> None:
    table = read_visit(folder.path, Visit("part-a.parquet", 1, (3, 0, 3)))
    assert [one.z for one in slices_of(table)] == [7, 4, 7]
    check(folder, decode_batch(list(slices_of(table))))


def test_a_slice_of_a_table_reads_alike(folder: Folder) -> None:
    table = read_visit(folder.path, Visit("part-a.parquet", 0, (0, 1, 2, 3))).slice(1, 2)
    rows = list(slices_of(table))
    assert [one.z for one in rows] == [1, 2]
    check(folder, decode_batch(rows))


def test_a_block_reads_only_its_slices(folder: Folder) -> None:
    images, labels = read_case_volume(folder.path, folder.index, "a", 3, 6)
    case = folder.cases["a"]
    assert case.labels is not None
    assert (images == case.images[3:6]).all()
    assert (labels == case.labels[3:6]).all()
    whole, _ = read_case_volume(folder.path, folder.index, "b", threads=2)
    assert (whole == folder.cases["b"].images).all()
    for case_id, z0 in (("a", 99), ("nobody", 0)):
        with pytest.raises(ShardError, match="no slices"):
            read_case_volume(folder.path, folder.index, case_id, z0)


def mixed(folder: Folder, limit: int, seed: int) -> list[tuple[str, int]]:
    rows = (one for visit in everything(folder) for one in slices_of(read_visit(folder.path, visit)))
    return [(one.case_id, one.z) for one in Mixer(limit, (seed,)).mix(rows)]


def test_the_mixer_loses_nothing_and_the_seed_fixes_its_order(folder: Folder) -> None:
    once = {(name, z) for name, case in folder.cases.items() for z in range(len(case.images))}
    order = mixed(folder, 10**9, 1)
    assert Counter(order) == Counter(once)
    assert order == mixed(folder, 10**9, 1)
    assert order != mixed(folder, 10**9, 2)
    assert Counter(mixed(folder, 1, 1)) == Counter(once)
    assert len({place for place, (name, _) in enumerate(order) if name == "b"} & set(range(9))) >= 1


def test_the_mixer_holds_no_more_than_its_limit(folder: Folder) -> None:
    rows = [one for visit in everything(folder) for one in slices_of(read_visit(folder.path, visit))]
    largest = max(one.bytes for one in rows)
    limit = 5 * largest
    taken = 0

    def counted() -> object:
        nonlocal taken
        for one in rows:
            taken += one.bytes
            yield one

    given = 0
    for one in Mixer(limit, (1,)).mix(counted()):  # type: ignore[arg-type]
        assert taken - given <= limit + largest
        given += one.bytes
    assert given == taken


def test_mixing_batches_in_process(folder: Folder) -> None:
    batches = list(iterate_batches(folder.path, everything(folder), 6, mixer=Mixer(10**6, (3,))))
    for batch in batches:
        check(folder, batch)
    assert sum(len(batch.images) for batch in batches) == 18


def test_float_and_int_slices_make_a_float_batch(tmp_path: Path) -> None:
    write_part(str(tmp_path), make_case("a", 2))
    write_part(str(tmp_path), make_case("m", 2, dtype="float32"))
    visits = [Visit(part_name(name), 0, (0, 1)) for name in ("a", "m")]
    (batch,) = iterate_batches(str(tmp_path), visits, 4)
    assert batch.images.dtype == np.float32
    assert (batch.images[:2] == make_case("a", 2).images).all()
    assert (batch.images[2:] == make_case("m", 2, dtype="float32").images).all()


def test_a_slice_without_labels_is_background(tmp_path: Path) -> None:
    write_part(str(tmp_path), make_case("a", 2, labelled=False))
    (batch,) = iterate_batches(str(tmp_path), [Visit("part-a.parquet", 0, (0, 1))], 4)
    assert batch.labels.sum() == 0


def test_slices_of_two_sizes_are_refused(folder: Folder) -> None:
    rows = list(slices_of(read_visit(folder.path, Visit("part-a.parquet", 0, (0, 1)))))
    with pytest.raises(ShardError, match=r"slice 1 is 24x10"):
        decode_batch([rows[0], replace(rows[1], width=10)])


def spoil(folder: Folder, z: int, column: str) -> None:
    """Flip one byte in the middle of a slice's compressed pixels."""
    path = Path(folder.path) / "part-a.parquet"
    data = bytearray(path.read_bytes())
    stored = pq.read_table(path)[column][z].as_py()
    place = data.find(stored) + len(stored) // 2
    data[place] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("column", ["image", "labels"])
def test_a_flipped_byte_names_part_case_and_slice(folder: Folder, column: str) -> None:
    spoil(folder, 5, column)
    with pytest.raises(ShardError, match=r"part-a\.parquet, case a, slice 5: .*checksum"):
        list(iterate_batches(folder.path, everything(folder), 4))


def test_no_flipped_byte_anywhere_changes_pixels_in_silence(folder: Folder) -> None:
    path = Path(folder.path) / "part-a.parquet"
    whole = path.read_bytes()
    (visit,) = folder.index.visits(np.arange(2))
    before = decode_batch(list(slices_of(read_visit(folder.path, visit))))
    noticed = 0
    for place in np.random.default_rng(0).integers(0, len(whole), 150):
        broken = bytearray(whole)
        broken[place] ^= 1 << (place % 8)
        path.write_bytes(broken)
        try:
            after = decode_batch(list(slices_of(read_visit(folder.path, visit))))
        except SegrayError:
            noticed += 1
        else:
            assert (after.images == before.images).all()
            assert (after.labels == before.labels).all()
    assert noticed > 5


def test_a_part_of_another_size_is_not_read(folder: Folder) -> None:
    path = Path(folder.path) / "part-b.parquet"
    write_part(folder.path, make_case("b", 8, seed=9), rows_per_group=4)
    assert path.exists()
    with pytest.raises(ShardError, match=r"part-b\.parquet has .* the manifest says"):
        list(iterate_batches(folder.path, folder.index.visits_of(["b"]), 4))


def test_a_cut_off_part_is_told_in_words(folder: Folder) -> None:
    path = Path(folder.path) / "part-b.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ShardError, match=r"part-b\.parquet"):
        read_visit(folder.path, Visit("part-b.parquet", 0, (0,)))
    path.unlink()
    with pytest.raises(ShardError, match=r"part-b\.parquet cannot be read"):
        read_visit(folder.path, Visit("part-b.parquet", 0, (0,)))


def test_own_bytes_outlive_the_table(folder: Folder) -> None:
    own: list[CompressedSlice] = []
    for one in slices_of(read_visit(folder.path, Visit("part-a.parquet", 0, (0, 1, 2, 3)))):
        own.append(one.own())
    assert all(isinstance(one.image, bytes) for one in own)
    check(folder, decode_batch(own))


def test_bit_fields_of_32_structures_come_back(tmp_path: Path) -> None:
    case = make_case("a", 3)
    labels = np.random.default_rng(0).integers(0, 1 << 32, case.images.shape, dtype=np.uint32)
    labels[1] = 0
    facts = write_part(str(tmp_path), replace(case, labels=labels, overlapping=True))
    rows = list(slices_of(read_visit(str(tmp_path), Visit(facts.file, 0, (0, 1, 2)))))
    batch = decode_batch(rows)
    assert batch.labels.dtype == np.uint32
    assert (batch.labels == labels).all()
    table = pq.read_table(tmp_path / facts.file, columns=["present", "foreground"]).to_pylist()
    assert table[0] == {"present": list(range(1, 33)), "foreground": labels[0].size}
    assert table[1] == {"present": [], "foreground": 0}


def test_slices_of_several_channels_come_back(tmp_path: Path) -> None:
    one = make_case("a", 5)
    images = np.stack([one.images, one.images // 2, -one.images], axis=1)
    case = replace(one, images=images, mean=[1.0, 2.0, 3.0], sd=[4.0, 5.0, 6.0], intensity=list(one.intensity) * 3)
    facts = write_part(str(tmp_path), case, rows_per_group=2)
    rows = [row for group in range(3) for row in slices_of(read_visit(str(tmp_path), Visit(facts.file, group, (0,))))]
    batch = decode_batch(rows, threads=2)
    assert batch.images.shape == (3, 3, *one.images.shape[1:])
    assert (batch.images == images[[0, 2, 4]]).all()
    assert batch.labels.shape == (3, *one.images.shape[1:])
    assert batch.mean.tolist() == [[1.0, 2.0, 3.0]] * 3
    assert batch.sd.tolist() == [[4.0, 5.0, 6.0]] * 3
    found = read_part_facts(str(tmp_path), "a")
    assert found is not None
    assert len(found.intensity) == 3


def test_slices_of_other_channels_do_not_mix(tmp_path: Path) -> None:
    one = make_case("a", 1)
    two = replace(make_case("b", 1), images=np.stack([one.images] * 2, axis=1), mean=[1.0, 1.0], sd=[1.0, 1.0])
    rows = []
    for case in (one, two):
        facts = write_part(str(tmp_path), case)
        rows += list(slices_of(read_visit(str(tmp_path), Visit(facts.file, 0, (0,)))))
    with pytest.raises(ShardError, match=r"part-b\.parquet, case b, slice 0 is 2x24x20"):
        decode_batch(rows)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dtype": "int08"}, "the type 'int08'"),
        ({"dtype": None}, "the type 'None'"),
        ({"height": 1 << 30}, "does not hold the"),
        ({"height": -24, "width": -20}, "is incomplete"),
        ({"width": None}, "is incomplete"),
        ({"image": None}, "is incomplete"),
        ({"image_crc": None}, "is incomplete"),
        ({"mean": ()}, "is incomplete"),
        ({"sd": (None,)}, "is incomplete"),
        ({"labels_dtype": "object"}, "the type 'object'"),
        ({"image": b"no chunk"}, "cannot be decompressed"),
    ],
)
def test_a_row_that_lies_is_refused_before_it_costs_memory(folder: Folder, change: dict[str, Any], words: str) -> None:
    rows = list(slices_of(read_visit(folder.path, Visit("part-a.parquet", 0, (0, 1)))))
    with pytest.raises(ShardError, match=words):
        decode_batch([replace(rows[1], **change)])
