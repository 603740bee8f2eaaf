"""The rows of a CSV or Parquet file: text by the names of its columns, whatever the columns mean."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence

from segray import storage
from segray.errors import SegrayError, UsageError

MOST_BYTES = 1 << 28
"""Bytes of a table; a row has about 200."""

MOST_CELL = 4096
"""Characters of a cell: the longest path of Linux."""

MEND = "A table has the columns case_id, image and label (or mask_<structure>), and may have patient and split."

Row = Mapping[str, str]


def read_rows(path: str) -> list[Row]:
    """The rows of a CSV or Parquet file as text, in order, with the names of its columns.

    Raises:
        UsageError: it cannot be read, is no table, holds other types than text and whole numbers, or no rows.
    """
    try:
        data = storage.read_bytes(path)
    except SegrayError as error:
        raise UsageError(str(error)) from error
    if len(data) > MOST_BYTES:
        raise UsageError(f"{path} has {len(data):,} bytes; segray reads tables of up to {MOST_BYTES:,}.")
    rows = list(_csv_rows(path, data) if path.lower().endswith(".csv") else _parquet_rows(path, data))
    if not rows:
        raise UsageError(f"{path} has no rows.", mend=MEND)
    return rows


def _csv_rows(path: str, data: bytes) -> Iterator[Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no text in UTF-8 (byte {error.start}).", mend="Save it as CSV UTF-8.") from error
    if "\0" in text:
        raise UsageError(f"{path} holds zero bytes, so it is no CSV file.", mend="Save it as CSV UTF-8.")
    first = text.split("\n", 1)[0]
    # Spreadsheets of many countries write a semicolon, because their comma is the decimal point.
    sign = max(",;\t", key=first.count)
    try:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=sign, strict=True)
        names = _names(path, next(lines, []))
        for number, line in enumerate(lines, start=2):
            if not any(cell.strip() for cell in line):
                continue
            if len(line) != len(names):
                raise UsageError(f"{path} has {len(line)} cells in row {number}, but {len(names)} columns.")
            yield {name: _cell(path, number, cell) for name, cell in zip(names, line, strict=True)}
    except csv.Error as error:
        raise UsageError(f"{path} is no CSV file that segray understands ({error}).", mend=MEND) from error


def _parquet_rows(path: str, data: bytes) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        schema = file.schema_arrow
        names = _names(path, schema.names)
        for name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            # Plain types only: an extension type could make a reader unpickle what a stranger wrote.
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind)):
                if pa.types.is_null(kind):
                    continue
                raise UsageError(
                    f"{path} has the column {name[:40]!r} of the type {str(kind)[:40]}.",
                    mend="segray reads columns of text and whole numbers.",
                )
        number = 0
        for batch in file.iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                cells = ("" if value is None else str(value) for value in values.values())
                yield {name: _cell(path, number, cell) for name, cell in zip(names, cells, strict=True)}
    except (OSError, pa.ArrowException, UnicodeDecodeError, KeyError, OverflowError) as error:
        told = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise UsageError(f"{path} is no Parquet file that segray reads ({told}).") from error


def _names(path: str, told: Sequence[str]) -> list[str]:
    names = [name.strip() for name in told]
    twice = {name for name in names if names.count(name) > 1} if len(names) < 10_000 else {"..."}
    if twice:
        raise UsageError(f"{path} has the column {min(twice)[:40]!r} twice.", mend=MEND)
    return names


def _cell(path: str, number: int, cell: str) -> str:
    if len(cell) > MOST_CELL:
        raise UsageError(f"{path} has a cell of {len(cell):,} characters in row {number}.", mend=MEND)
    return cell.strip()
