"""``structures.parquet`` and ``structures.csv``: a row a case and structure, and the review list made from them."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from segray import ledger_parts, storage
from segray.evaluation.review import review
from segray.evaluation.tables import write_table

TABLE = "structures"
STRUCTURE_FILES = (f"{TABLE}.csv", f"{TABLE}.parquet")
REVIEW = "review"
STRUCTURES = "structures"
"""The key of a ledger row's structures: columns, lists by their names."""

WHOLE = ("voxels", "box_", "border_")
"""Beginnings of the names of counts and places; all other numbers are float64."""

JUDGED = ("case_id", "structure", "voxels", "volume_ml", "mean_hu", "border_", "confidence_")
"""Beginnings of the names of the columns that the review looks at."""


def write_structure_table(folder: str) -> pa.Table:
    """Write both tables, sorted by case id and then as the label map has the structures; returns the rows.

    Where no case has structures, there are no tables.
    In memory are an Arrow table of all rows, 8 bytes a number, and the text of the CSV file.

    Raises SegrayError where the folder cannot be written.
    """
    pieces = list(_pieces(folder))
    if not pieces:
        for name in STRUCTURE_FILES:
            storage.delete(storage.join(folder, name))
        return pa.table({})
    # Arrow's sort is stable: the structures of a case keep their order.
    table = pa.concat_tables(pieces, promote_options="permissive").sort_by("case_id")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    storage.write_bytes(storage.join(folder, f"{TABLE}.parquet"), memoryview(sink.getvalue()))
    text = io.BytesIO()
    pa_csv.write_csv(table, text, pa_csv.WriteOptions(quoting_style="needed"))
    storage.write_bytes(storage.join(folder, f"{TABLE}.csv"), text.getbuffer())
    return table


def _pieces(folder: str) -> Iterator[pa.Table]:
    files = ledger_parts.ledger_files(folder)
    for rows in ledger_parts.last_rows(folder, files, ("case_id", STRUCTURES)):
        columns: dict[str, list[Any]] = {"case_id": []}
        for row in rows:
            found = row.get(STRUCTURES) or {}
            before, count = len(columns["case_id"]), len(found.get("structure", ()))
            columns["case_id"] += [row["case_id"]] * count
            for name in [*columns, *(name for name in found if name not in columns)]:
                if name != "case_id":
                    columns.setdefault(name, [None] * before).extend(found.get(name) or [None] * count)
        if columns["case_id"]:
            yield pa.table({name: _array(name, values) for name, values in columns.items()})


def _array(name: str, values: list[Any]) -> pa.Array:
    """A column of one type, whatever the numbers of one part happen to be."""
    if name in ("case_id", "structure"):
        return pa.array(values, pa.string())
    return pa.array(values, pa.int64() if name.startswith(WHOLE) else pa.float64())


def _values(column: pa.ChunkedArray) -> Any:
    """An array of 8 bytes a row: numbers, NaN where there is none, or texts of which each is there once.

    As lists of Python objects the columns of 200,000 cases of 117 structures would be 8 GiB.
    """
    if not pa.types.is_string(column.type):
        return column.cast(pa.float64()).to_numpy()
    texts = column.combine_chunks().dictionary_encode()
    return np.array(texts.dictionary.to_pylist(), object)[texts.indices.to_numpy()]


def write_review(folder: str, structures: pa.Table) -> list[dict[str, Any]]:
    """Write ``review.csv`` and ``review.parquet``, the most conspicuous case first; returns their rows.

    Raises SegrayError where the folder cannot be written.
    """
    cases: dict[str, list[Any]] = {"case_id": [], "status": [], "reason": []}
    for rows in ledger_parts.last_rows(folder, ledger_parts.ledger_files(folder), tuple(cases)):
        for row in rows:
            for name, column in cases.items():
                column.append(row.get(name) or "")
    columns = {name: _values(structures.column(name)) for name in structures.column_names if name.startswith(JUDGED)}
    ranked = review(cases, columns or {"case_id": [], "structure": []})
    write_table(folder, REVIEW, ranked)
    return ranked
