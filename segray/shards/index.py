"""The light columns of all slices in memory: what order and sampling need without touching pixels."""

from __future__ import annotations

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from segray import storage
from segray.errors import UsageError
from segray.shards import ShardError
from segray.shards.manifest import INDEX, Manifest, PartEntry
from segray.shards.schema import INDEX_COLUMNS, check_schema

INDEX_SCHEMA = pa.schema(
    [
        ("part", pa.int32()),
        ("group", pa.int32()),
        ("row", pa.int32()),
        ("z", pa.int32()),
        ("foreground", pa.int32()),
        ("present", pa.list_(pa.int32())),
    ]
)
READ_THREADS = 8


@dataclass(frozen=True)
class Visit:
    """Rows of one row group to read; a row that comes twice is named twice."""

    part: str
    group: int
    rows: tuple[int, ...]


@dataclass(frozen=True)
class SliceIndex:
    """Every slice of a shard folder, in the order of the manifest's parts.

    Attributes:
        parts: the parts; ``part`` counts in them.
        part: (n,) the part of a slice.
        group: (n,) its row group.
        row: (n,) its row in the group.
        z: (n,) its place in the case.
        foreground: (n,) labelled pixels.
        present: values and (n + 1,) offsets of the channel indices present in each slice.
    """

    parts: Sequence[PartEntry]
    part: NDArray[np.int32]
    group: NDArray[np.int32]
    row: NDArray[np.int32]
    z: NDArray[np.int32]
    foreground: NDArray[np.int32]
    present: tuple[NDArray[np.int32], NDArray[np.int64]]

    def cases(self, split: str) -> list[str]:
        """Case ids of a split."""
        return [part.case_id for part in self.parts if part.split == split]

    def slices_of(self, split: str) -> NDArray[np.int64]:
        """The slices of a split."""
        chosen = np.array([part.split == split for part in self.parts], dtype=bool)
        return np.flatnonzero(chosen[self.part])

    def visits_of(self, case_ids: Sequence[str]) -> list[Visit]:
        """Visits that read whole cases, slice after slice, in the order given."""
        number = {part.case_id: position for position, part in enumerate(self.parts)}
        bounds = np.searchsorted(self.part, np.arange(len(self.parts) + 1))
        visits: list[Visit] = []
        for case_id in case_ids:
            position = number[case_id]
            visits += self.visits(np.arange(bounds[position], bounds[position + 1]))
        return visits

    def visits(self, slices: NDArray[np.int64]) -> list[Visit]:
        """Visits for slices (sorted, repeats allowed), one a row group."""
        if not slices.size:
            return []
        part, group, row = self.part[slices], self.group[slices], self.row[slices]
        cuts = np.flatnonzero((np.diff(part) != 0) | (np.diff(group) != 0)) + 1
        starts = [0, *cuts.tolist()]
        rows = np.split(row, cuts)
        return [
            Visit(self.parts[part[start]].file, int(group[start]), tuple(chunk.tolist()))
            for start, chunk in zip(starts, rows, strict=True)
        ]


def build_index(folder: str, parts: Sequence[PartEntry]) -> bytes:
    """Read the light columns of all parts, in parallel, into the bytes of ``index.parquet``."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        tables = list(pool.map(lambda item: _light_columns(folder, *item), enumerate(parts)))
    buffer = io.BytesIO()
    pq.write_table(pa.concat_tables(tables) if tables else INDEX_SCHEMA.empty_table(), buffer, compression="zstd")
    return buffer.getvalue()


def _light_columns(folder: str, number: int, part: PartEntry) -> pa.Table:
    fs, path = storage.filesystem(storage.join(folder, part.file))
    with fs.open_input_file(path) as stream:
        file = pq.ParquetFile(stream)
        check_schema(file.schema_arrow, part.file)
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
        light = file.read(columns=INDEX_COLUMNS)
    group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    row = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    columns = [np.full(len(row), number, dtype=np.int32), group, row, light["z"], light["foreground"], light["present"]]
    return pa.table(dict(zip(INDEX_SCHEMA.names, columns, strict=True)), schema=INDEX_SCHEMA)


def load_index(folder: str, manifest: Manifest) -> SliceIndex:
    """Read ``index.parquet``. Raises UsageError where it does not belong to the manifest."""
    path = storage.join(folder, INDEX)
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(path))).combine_chunks()
        if not table.schema.equals(INDEX_SCHEMA) or table.num_rows != manifest.slices:
            raise ShardError("it names other slices than the manifest")
    except (pa.ArrowException, ShardError) as error:
        raise UsageError(f"{path} is damaged ({error}).", mend="Run segray ingest again.") from error
    present = table["present"].chunk(0) if table.num_rows else pa.array([], pa.list_(pa.int32()))
    part, group, row, z, foreground = (table[name].to_numpy() for name in ("part", "group", "row", "z", "foreground"))
    labels = (present.flatten().to_numpy(), present.offsets.to_numpy().astype(np.int64))
    return SliceIndex(manifest.parts, part, group, row, z, foreground, labels)
