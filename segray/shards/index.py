"""The light columns of all slices in memory: what order and sampling need without touching pixels."""

from __future__ import annotations

import hashlib
import io
import json
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
from segray.shards.codec import MEND
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
PARTS_KEY = b"parts"


@dataclass(frozen=True)
class Visit:
    """Rows of one row group to read; a row that comes twice is named twice.

    Attributes:
        part: the name of the part.
        group: the row group.
        rows: rows in the group.
        bytes: the size that the manifest gives for the part, else 0; a part of another size is not read.
        beside: slices on each side that come along with every row.
        content: what the part holds, as :attr:`segray.shards.manifest.PartEntry.content` tells.
    """

    part: str
    group: int
    rows: tuple[int, ...]
    bytes: int = 0
    beside: int = 0
    content: str = ""


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
        present: values and (n + 1,) offsets of the structures present in each slice, numbered from 1.
        beside: slices on each side that its visits bring along with every slice.
    """

    parts: Sequence[PartEntry]
    part: NDArray[np.int32]
    group: NDArray[np.int32]
    row: NDArray[np.int32]
    z: NDArray[np.int32]
    foreground: NDArray[np.int32]
    present: tuple[NDArray[np.int32], NDArray[np.int64]]
    beside: int = 0

    @property
    def hollow(self) -> bool:
        """True where the pixels are not in the parts, but made from the cases' files each time."""
        return any(part.left_out for part in self.parts)

    @property
    def pixel_bytes(self) -> int:
        """Compressed bytes of all slices."""
        return sum(part.left_out or part.bytes for part in self.parts)

    def cases(self, split: str) -> list[str]:
        """Case ids of a split."""
        return [part.case_id for part in self.parts if part.split == split]

    def slices_of(self, split: str) -> NDArray[np.int64]:
        """The slices of a split."""
        chosen = np.array([part.split == split for part in self.parts], dtype=bool)
        return np.flatnonzero(chosen[self.part])

    def structures_of(self, split: str) -> set[int]:
        """The structures, numbered from 1, that a slice of the split shows."""
        values, offsets = self.present
        shows = np.zeros(self.part.size, dtype=bool)
        shows[self.slices_of(split)] = True
        return set(np.unique(values[np.repeat(shows, np.diff(offsets))]).tolist())

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
        entries = [self.parts[part[start]] for start in starts]
        return [
            Visit(entry.file, int(group[start]), tuple(chunk.tolist()), entry.bytes, self.beside, entry.content)
            for entry, start, chunk in zip(entries, starts, rows, strict=True)
        ]


def build_index(folder: str, parts: Sequence[PartEntry]) -> bytes:
    """Read the light columns of all parts, in parallel, into the bytes of ``index.parquet``."""
    with ThreadPoolExecutor(READ_THREADS) as pool:
        tables = list(pool.map(lambda item: _light_columns(folder, *item), enumerate(parts)))
    buffer = io.BytesIO()
    table = pa.concat_tables(tables) if tables else INDEX_SCHEMA.empty_table()
    pq.write_table(table.replace_schema_metadata({PARTS_KEY: _digest(parts)}), buffer, compression="zstd")
    return buffer.getvalue()


def _digest(parts: Sequence[PartEntry]) -> bytes:
    """Names and sizes of the parts: the index of an ingest that died before its manifest belongs to no manifest."""
    return hashlib.sha256(json.dumps([(part.file, part.bytes) for part in parts]).encode("utf-8")).hexdigest().encode()


def _light_columns(folder: str, number: int, part: PartEntry) -> pa.Table:
    fs, path = storage.filesystem(storage.join(folder, part.file))
    try:
        with fs.open_input_file(path) as stream:
            file = pq.ParquetFile(stream, page_checksum_verification=True)
            check_schema(file.schema_arrow, part.file)
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            light = file.read(columns=INDEX_COLUMNS)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise ShardError(f"{part.file} cannot be read ({error}).", mend=MEND) from error
    group = np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)
    row = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    columns = [np.full(len(row), number, dtype=np.int32), group, row, light["z"], light["foreground"], light["present"]]
    return pa.table(dict(zip(INDEX_SCHEMA.names, columns, strict=True)), schema=INDEX_SCHEMA)


def load_index(folder: str, manifest: Manifest) -> SliceIndex:
    """Read ``index.parquet``. Raises UsageError where it does not belong to the manifest."""
    path = storage.join(folder, INDEX)
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(path))).combine_chunks()
        metadata = table.schema.metadata or {}
        if not table.schema.equals(INDEX_SCHEMA) or metadata.get(PARTS_KEY) != _digest(manifest.parts):
            raise ShardError("it names other parts than the manifest")
    except (OSError, pa.ArrowException, ShardError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is damaged ({error}).", mend="Run segray ingest again.") from error
    present = table["present"].chunk(0) if table.num_rows else pa.array([], pa.list_(pa.int32()))
    part, group, row, z, foreground = (table[name].to_numpy() for name in ("part", "group", "row", "z", "foreground"))
    labels = (present.flatten().to_numpy(), present.offsets.to_numpy().astype(np.int64))
    return SliceIndex(manifest.parts, part, group, row, z, foreground, labels)
