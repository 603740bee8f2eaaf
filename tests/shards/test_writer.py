"""A case to a part."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from segray.shards import ShardError
from segray.shards.schema import ROW
from segray.shards.writer import _present, _present_bits, part_name, read_part_facts, write_part

from .conftest import make_case


def test_a_part_has_the_columns_and_groups_it_should(tmp_path: Path) -> None:
    facts = write_part(str(tmp_path), make_case("a", 10), rows_per_group=4)
    file = pq.ParquetFile(tmp_path / facts.file)
    assert file.schema_arrow.remove_metadata().equals(ROW)
    assert [file.metadata.row_group(n).num_rows for n in range(3)] == [4, 4, 2]
    rows = file.read().to_pylist()
    assert [row["z"] for row in rows] == list(range(10))
    assert rows[2]["z_mm"] == -60.0
    assert rows[5]["present"] == [1, 2]
    assert rows[5]["foreground"] == 33
    assert rows[0]["present"] == []
    assert rows[0]["case_sd"] == [300.0]


@given(hnp.arrays("u1", hnp.array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(0, 6)))
def test_the_present_labels_are_all_that_a_slice_holds(labels: np.ndarray) -> None:
    expected = [[int(value) for value in np.unique(plane) if value] for plane in labels]
    assert _present(labels) == expected


def test_the_footer_tells_the_facts_again(tmp_path: Path) -> None:
    written = write_part(str(tmp_path), make_case("a", 6))
    found = read_part_facts(str(tmp_path), "a")
    assert found is not None
    assert (found.fingerprint, found.recipe, found.slices) == ("print", "recipe", 6)
    assert found.bytes == written.bytes == os.path.getsize(tmp_path / written.file)
    assert (found.intensity[0].samples == written.intensity[0].samples).all()
    assert found.intensity[0].total == written.intensity[0].total


def test_no_part_and_half_a_part_are_none(tmp_path: Path) -> None:
    assert read_part_facts(str(tmp_path), "a") is None
    written = write_part(str(tmp_path), make_case("a", 6))
    path = tmp_path / written.file
    path.write_bytes(path.read_bytes()[:-40])
    assert read_part_facts(str(tmp_path), "a") is None
    path.write_bytes(b"")
    assert read_part_facts(str(tmp_path), "a") is None


def test_somebody_elses_parquet_is_none(tmp_path: Path) -> None:
    import pyarrow as pa

    pq.write_table(pa.table({"x": [1]}), tmp_path / part_name("a"))
    assert read_part_facts(str(tmp_path), "a") is None


def test_the_same_case_gives_the_same_bytes(tmp_path: Path) -> None:
    write_part(str(tmp_path / "one"), make_case("a", 6))
    write_part(str(tmp_path / "two"), make_case("a", 6))
    assert (tmp_path / "one" / part_name("a")).read_bytes() == (tmp_path / "two" / part_name("a")).read_bytes()


def test_a_write_that_fails_leaves_the_old_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_part(str(tmp_path), make_case("a", 6))
    before = (tmp_path / part_name("a")).read_bytes()

    def fail(*names: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Exception, match="No space left"):
        write_part(str(tmp_path), make_case("a", 6, seed=5))
    assert (tmp_path / part_name("a")).read_bytes() == before
    assert os.listdir(tmp_path) == [part_name("a")]


def test_lone_images_have_no_labels(tmp_path: Path) -> None:
    facts = write_part(str(tmp_path), make_case("a", 3, labelled=False))
    rows = pq.read_table(tmp_path / facts.file).to_pylist()
    assert [row["labels"] for row in rows] == [None] * 3
    assert [row["foreground"] for row in rows] == [0] * 3


def test_pixels_of_other_types_are_refused(tmp_path: Path) -> None:
    case = make_case("a", 3)
    with pytest.raises(ShardError, match="int64"):
        write_part(str(tmp_path), type(case)(**{**vars(case), "images": case.images.astype(np.int64)}))


@given(hnp.arrays("u4", hnp.array_shapes(min_dims=3, max_dims=3, max_side=5)))
def test_the_present_structures_of_bit_fields_are_numbered_from_1(labels: np.ndarray) -> None:
    expected = [[number + 1 for number in range(32) if (plane >> number & 1).any()] for plane in labels]
    assert _present_bits(labels) == expected
