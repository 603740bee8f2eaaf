"""The light columns of all slices."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from segray import storage
from segray.errors import SegrayError, UsageError
from segray.shards import ShardError
from segray.shards.index import Visit, build_index, load_index
from segray.shards.manifest import INDEX, Manifest
from segray.shards.schema import ROW

from .conftest import Folder, MakeFolder, make_case


def test_the_index_knows_every_slice(folder: Folder) -> None:
    index = folder.index
    assert index.z.tolist() == [*range(10), *range(7), 0]
    assert index.group.tolist() == [0] * 4 + [1] * 4 + [2] * 2 + [0] * 4 + [1] * 3 + [0]
    assert index.slices_of("train").tolist() == [*range(10), 17]
    assert index.cases("validation") == ["b"]
    values, offsets = index.present
    assert values[offsets[5] : offsets[6]].tolist() == [1, 2]
    assert index.foreground[5] == 33


def test_visits_of_cases_come_in_the_order_asked_for(folder: Folder) -> None:
    parts = {part.case_id: part for part in folder.manifest.parts}
    assert folder.index.visits_of(["c", "b"]) == [
        Visit("part-c.parquet", 0, (0,), parts["c"].bytes, content=parts["c"].content),
        Visit("part-b.parquet", 0, (0, 1, 2, 3), parts["b"].bytes, content=parts["b"].content),
        Visit("part-b.parquet", 1, (0, 1, 2), parts["b"].bytes, content=parts["b"].content),
    ]


def test_a_slice_that_comes_twice_is_named_twice(folder: Folder) -> None:
    assert folder.index.visits(np.array([1, 1, 3]))[0].rows == (1, 1, 3)
    assert folder.index.visits(np.array([], dtype=np.int64)) == []


def test_an_index_of_other_parts_is_refused(folder: Folder) -> None:
    """As left by an ingest that was killed between index and manifest."""
    fewer = folder.manifest.parts[1:]
    storage.write_bytes(storage.join(folder.path, INDEX), build_index(folder.path, fewer))
    with pytest.raises(UsageError, match="other parts"):
        load_index(folder.path, folder.manifest)


@pytest.mark.parametrize("data", [b"", b"PAR1 nonsense PAR1"])
def test_a_damaged_index_is_told_in_words(folder: Folder, data: bytes) -> None:
    storage.write_bytes(storage.join(folder.path, INDEX), data)
    with pytest.raises(UsageError, match="damaged"):
        load_index(folder.path, folder.manifest)


def test_a_missing_index_is_an_error_in_words(folder: Folder) -> None:
    storage.delete(storage.join(folder.path, INDEX))
    with pytest.raises(SegrayError, match="cannot be read"):
        load_index(folder.path, folder.manifest)


def test_no_parts_give_an_empty_index(folder: Folder) -> None:
    empty = Manifest(folder.manifest.label_map, folder.manifest.grid, folder.manifest.intensity, [])
    storage.write_bytes(storage.join(folder.path, INDEX), build_index(folder.path, []))
    assert load_index(folder.path, empty).part.size == 0


def test_a_part_of_other_columns_is_not_read(folder: Folder) -> None:
    table = pq.read_table(Path(folder.path) / "part-a.parquet")
    pq.write_table(table.drop_columns(["z_mm"]), Path(folder.path) / "part-a.parquet")
    with pytest.raises(ShardError, match="columns differ"):
        build_index(folder.path, folder.manifest.parts)


def test_extension_types_are_refused() -> None:
    from segray.shards.schema import check_schema

    typed = pa.schema([*list(ROW)[:-1], pa.field("case_sd", pa.fixed_shape_tensor(pa.float32(), (1,)))])
    with pytest.raises(ShardError, match="columns differ"):
        check_schema(typed, "part-a.parquet")


def test_damage_to_the_light_columns_is_noticed(folder: Folder) -> None:
    """The counts of foreground pixels, four of 4 bytes, each byte flipped in turn."""
    path = Path(folder.path) / "part-a.parquet"
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    (column,) = [one for one in columns if one.path_in_schema == "foreground"]
    whole = path.read_bytes()
    end = column.data_page_offset + column.total_compressed_size
    for place in range(end - 16, end):
        broken = bytearray(whole)
        broken[place] ^= 1
        path.write_bytes(broken)
        with pytest.raises(ShardError, match=r"part-a\.parquet cannot be read"):
            build_index(folder.path, folder.manifest.parts)


def test_another_folder_reads_alike(folder: Folder, tmp_path: Path) -> None:
    """A shard folder may be moved: nothing in it names its place."""
    moved = tmp_path / "moved"
    shutil.move(folder.path, moved)
    assert (load_index(str(moved), folder.manifest).z == folder.index.z).all()
    assert make_case("a", 10).case_id == "a"


def test_the_structures_that_a_split_shows(make_folder: MakeFolder) -> None:
    """A case of one slice shows no liver."""
    index = make_folder({"a": 10, "b": 1}, {"b": "validation"}).index
    assert index.structures_of("train") == {1, 2}
    assert index.structures_of("validation") == {2}
    assert index.structures_of("test") == set()
