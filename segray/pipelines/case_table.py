"""``cases.parquet`` and ``cases.csv`` of a prediction folder, made from the parts of its ledger."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from segray import ledger_parts, storage
from segray.errors import SegrayError
from segray.evaluation.tables import column_names, csv_text
from segray.ledger_parts import ABSENT, FINISHED, MEBIBYTES, SECONDS, Row

TABLE = "cases"
NOT_SHOWN = ("further", "fingerprint", "source", "bundle_id", "run", "structures", ABSENT, FINISHED)
"""What a second run, the report and other tables need, and no table of cases shows."""

FIRST = ("case_id", "status", "reason", "image", "mask", "notes")
STATE = b"segray_ledger"
"""The key in the Parquet file's metadata of the ledger's state from which the tables were made."""

CSV_ROWS = 1000
"""Rows that are turned into text at a time."""


def write_case_table(folder: str) -> bool:
    """Write both tables, a row a case that counts, sorted by case id; False where they hold the same rows already.

    In memory is one Arrow table of all rows, 8 bytes a number, and the text of the CSV file.

    Raises:
        SegrayError: the folder cannot be written, or a column mixes texts and numbers.
    """
    files = ledger_parts.ledger_files(folder)
    state = ledger_parts.state(files).encode()
    parquet, text = (storage.join(folder, f"{TABLE}.{ending}") for ending in ("parquet", "csv"))
    if storage.exists(text) and _state_of(parquet) == state:
        return False
    table = _table(folder, list(files))
    storage.write_text(text, "".join(_csv(table)))
    sink = pa.BufferOutputStream()
    pq.write_table(table.replace_schema_metadata({STATE: state}), sink, compression="zstd")
    storage.write_bytes(parquet, memoryview(sink.getvalue()))
    return True


def _state_of(parquet: str) -> bytes | None:
    """The state from which a table was made; None where there is none, or an unreadable or older one."""
    if not storage.exists(parquet):
        return None
    fs, path = storage.filesystem(parquet)
    try:
        with fs.open_input_file(path) as file:
            metadata = pq.read_schema(file).metadata
    except (OSError, pa.ArrowException):
        return None
    found: bytes | None = (metadata or {}).get(STATE)
    return found


def _table(folder: str, files: Sequence[str]) -> pa.Table:
    pieces = [_piece(rows) for rows in ledger_parts.last_rows(folder, files, nested=False) if rows]
    if not pieces:
        return pa.table({})
    try:
        table = pa.concat_tables(pieces, promote_options="permissive")
    except pa.ArrowException as error:
        raise SegrayError(f"A column of the table of cases mixes texts and numbers ({error}).") from error
    return table.select(_ordered(table.column_names)).sort_by("case_id")


def _piece(rows: Sequence[Row]) -> pa.Table:
    names = [name for name in column_names(rows) if name not in NOT_SHOWN]
    try:
        # from_pandas: NaN is a missing number, as None is.
        return pa.table({name: pa.array([row.get(name) for row in rows], from_pandas=True) for name in names})
    except pa.ArrowException as error:
        raise SegrayError(f"A column of the table of cases mixes texts and numbers ({error}).") from error


def _ordered(names: Sequence[str]) -> list[str]:
    """What says how it went first, then what was measured, then what it cost."""
    cost = [name for begin in (SECONDS, MEBIBYTES, "host") for name in names if name.startswith(begin)]
    first = [name for name in FIRST if name in names]
    return [*first, *(name for name in names if name not in first and name not in cost), *cost]


def _csv(table: pa.Table) -> Iterator[str]:
    yield csv_text([], table.column_names)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for start in range(0, table.num_rows, CSV_ROWS):
        columns: list[list[Any]] = [column.to_pylist() for column in table.slice(start, CSV_ROWS).columns]
        writer.writerows(zip(*columns, strict=True))
        yield stream.getvalue()
        stream.seek(0)
        stream.truncate()
