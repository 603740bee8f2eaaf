"""Rows as CSV and Parquet, whole or not at all, and the summaries of metric rows.

Column order is that of the first row, with columns that only later rows have at the end. Missing numbers (None or NaN)
are empty fields in CSV and nulls in Parquet.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from segray import storage
from segray.errors import SegrayError
from segray.evaluation.metrics import METRICS

SUMMARY_COLUMNS = ("structure", "metric", "mean", "sd", "median", "min", "max", "n", "n_missing")
"""The columns of ``summary.csv`` in their order."""

Row = Mapping[str, Any]


def write_table(folder: str, name: str, rows: Sequence[Row]) -> tuple[str, str]:
    """Write ``<folder>/<name>.parquet`` and ``<folder>/<name>.csv``; returns both paths.

    Raises SegrayError where the folder cannot be written, or a column mixes texts and numbers.
    """
    columns = column_names(rows)
    parquet, text = storage.join(folder, f"{name}.parquet"), storage.join(folder, f"{name}.csv")
    storage.write_bytes(parquet, _parquet_bytes(rows, columns))
    storage.write_text(text, csv_text(rows, columns))
    return parquet, text


def read_table(uri: str) -> list[dict[str, Any]]:
    """The rows of a table that :func:`write_table` wrote as Parquet; a missing number is NaN, a missing text None.

    Raises SegrayError where the file is missing or damaged.
    """
    try:
        table = pq.read_table(pa.BufferReader(storage.read_bytes(uri)))
    except pa.ArrowException as error:
        raise SegrayError(
            f"{uri} is no Parquet table ({error}).", mend="Run the command that wrote it again."
        ) from error
    numeric = {field.name for field in table.schema if pa.types.is_floating(field.type)}
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        row.update({name: math.nan for name in numeric if row[name] is None})
    return rows


def read_csv_rows(uri: str) -> list[dict[str, str]]:
    """The rows of a CSV file as texts; fields beyond the header are dropped, missing ones are ''."""
    rows = csv.DictReader(io.StringIO(storage.read_text(uri)), restval="")
    return [{str(name): str(text) for name, text in row.items() if name is not None} for row in rows]


def column_names(rows: Iterable[Row]) -> list[str]:
    """All columns of the rows, in the order in which they appear first."""
    return list(dict.fromkeys(name for row in rows for name in row))


def csv_text(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """The rows as CSV with a header line; numbers are written so that they read back exactly."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(["" if _missing(row.get(name)) else row[name] for name in columns] for row in rows)
    return stream.getvalue()


def summarise(rows: Sequence[Row], metrics: Sequence[str] = METRICS) -> list[dict[str, Any]]:
    """Rows of ``summary.csv`` (``SUMMARY_COLUMNS``): mean, sd, median, min, max over cases a structure and metric.

    ``n`` counts the cases with a number, ``n_missing`` those left out because the metric is NaN there (the structure is
    absent from truth and prediction). ``sd`` is the sample standard deviation, NaN for fewer than two cases.
    """
    summary: list[dict[str, Any]] = []
    for structure, of_structure in _grouped(rows, "structure").items():
        for metric in metrics:
            values = np.array([_number(row.get(metric)) for row in of_structure], dtype=np.float64)
            found = values[~np.isnan(values)]
            line = {"structure": structure, "metric": metric, **_moments(found)}
            summary.append({**line, "n": int(found.size), "n_missing": int(values.size - found.size)})
    return summary


def overall(rows: Sequence[Row]) -> dict[str, Any]:
    """The run in a few plain numbers.

    ``mean_<metric>`` for dice, iou, precision and recall is the mean over structures of the mean over cases, so that a
    structure that few cases hold counts as much as one that all hold; ``mean_dice_cases`` is the mean over cases of the
    mean over their structures. NaN where nothing could be measured.
    """
    result: dict[str, Any] = {
        "cases": len({row["case_id"] for row in rows}),
        "structures": len({row["structure"] for row in rows}),
    }
    by_structure = _grouped(rows, "structure").values()
    for metric in ("dice", "iou", "precision", "recall"):
        result[f"mean_{metric}"] = mean_present([_mean_of(group, metric) for group in by_structure])
    result["mean_dice_cases"] = mean_present(list(case_means(rows).values()))
    return result


def case_means(rows: Sequence[Row], metric: str = "dice") -> dict[str, float]:
    """Case id to the mean of ``metric`` over its structures; NaN where none could be measured."""
    return {case_id: _mean_of(group, metric) for case_id, group in _grouped(rows, "case_id").items()}


def mean_present(values: Iterable[float]) -> float:
    """The mean of the values that are not NaN; NaN where there are none."""
    found = [value for value in values if not math.isnan(value)]
    return sum(found) / len(found) if found else math.nan


def _mean_of(rows: Sequence[Row], metric: str) -> float:
    return mean_present(_number(row.get(metric)) for row in rows)


def _grouped(rows: Iterable[Row], column: str) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row[column]), []).append(row)
    return groups


def _moments(found: np.ndarray[Any, np.dtype[np.float64]]) -> dict[str, float]:
    if not found.size:
        return dict.fromkeys(("mean", "sd", "median", "min", "max"), math.nan)
    return {
        "mean": float(found.mean()),
        "sd": float(found.std(ddof=1)) if found.size > 1 else math.nan,
        "median": float(np.median(found)),
        "min": float(found.min()),
        "max": float(found.max()),
    }


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _parquet_bytes(rows: Sequence[Row], columns: Sequence[str]) -> bytes:
    arrays = {}
    for name in columns:
        values = [None if _missing(row.get(name)) else row[name] for row in rows]
        try:
            arrays[name] = pa.array(values, type=_number_type(rows, name))
        except pa.ArrowException as error:
            raise SegrayError(f"The column {name} cannot be a table column ({error}).") from error
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(arrays), sink, compression="zstd")
    return bytes(sink.getvalue())


def _number_type(rows: Sequence[Row], name: str) -> pa.DataType | None:
    """float64 for a column with a float in it, so that all-NaN columns stay numbers; None lets Arrow choose."""
    return pa.float64() if any(isinstance(row.get(name), float) for row in rows) else None
