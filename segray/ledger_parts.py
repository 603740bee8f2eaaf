"""The files of a ledger: rows of finished cases in parts that are written once, and lines that no part holds yet.

``<folder>/ledger/part-<run>-<number>.parquet``: up to :data:`PART_ROWS` rows of one run, whole or not there.
``<folder>/ledger/tail-<run>.jsonl``: a row a line, of a run that works or was killed. ``<folder>/ledger.jsonl``: all
rows of a folder from before there were parts. No file is written by two runs, so that none can cut another's rows.

A part has a column for what a second run, or a table of costs, asks for (case, status, reason, files, fingerprint,
bundle, seconds and MiB a stage), one of JSON for each long value, and one of JSON, ``more``, for all else.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from segray import storage
from segray.errors import SegrayError

LEDGER = "ledger"
"""The folder of the parts, in a prediction folder."""

PREDICTION = "prediction.json"
"""Beside it: what the masks were made of and with which settings."""

OLD = "ledger.jsonl"
"""The whole ledger of a folder from before there were parts."""

PART_ROWS = 256

DROPPED = "dropped"
"""The status of a case whose earlier rows count no longer: it is as if it had never been done."""

TEXTS = (
    "case_id", "status", "reason", "image", "mask", "further", "source", "fingerprint", "notes", "bundle_id", "run",
    "host",
)  # fmt: skip
MORE = "more"
ABSENT = "absent"
"""Of a row those kinds of ``further`` that the case cannot have, joined by commas; only rows of such cases have it."""

NESTED = ("structures",)
"""Long values, each a column of JSON of its own, so that only who asks for them waits until they are parsed."""

SECONDS, MEBIBYTES, FINISHED = "seconds_", "peak_mib", "at"
"""Beginnings of the names of numbers that have a column: seconds, MiB, and the second (Unix time) of the row."""

_NAME = re.compile(r"(part|tail)-((\d+)-[0-9a-f]+)(?:-(\d+))?\.(?:parquet|jsonl)")
_RUN = re.compile(r"[a-z]+-(\d+)-[0-9a-f]+\b.*")

Row = dict[str, Any]


class DamagedPartError(SegrayError):
    """A part that is no Parquet file of rows: its cases count as not done."""


def new_run(folder: str) -> str:
    """The id of a run that begins now, after all runs that the ledger of ``folder`` knows: ``0003-5f0c9a1e``."""
    found = (_RUN.fullmatch(name) for name in storage.names(storage.join(folder, LEDGER)))
    last = max((int(match[1]) for match in found if match), default=0)
    return f"{last + 1:04d}-{uuid.uuid4().hex[:8]}"


def part_name(run: str, number: int) -> str:
    """The path of a part below the prediction folder."""
    return f"{LEDGER}/part-{run}-{number:06d}.parquet"


def tail_name(run: str) -> str:
    """The path of the lines of a run that no part holds yet."""
    return f"{LEDGER}/tail-{run}.jsonl"


def sizes(uri: str) -> dict[str, int]:
    """Names of the files directly below ``uri`` and their bytes, from one listing; {} where it is not there."""
    with storage.asking(uri):
        if storage.is_remote(uri):
            fs, path = storage.filesystem(uri)
            infos = fs.get_file_info(pafs.FileSelector(path, allow_not_found=True))
            return {info.base_name: int(info.size) for info in infos if info.type == pafs.FileType.File}
        try:
            listed = os.scandir(storage.absolute(uri))
        except (FileNotFoundError, NotADirectoryError):
            return {}
        with listed as entries:
            return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


def ledger_files(folder: str) -> dict[str, int]:
    """Paths of the files below ``folder`` that hold rows and their bytes, in the order in which rows count: last wins.

    Runs follow each other by their number, so that no clock of a host decides; the lines of a run follow its parts.
    """
    named = []
    for name, size in sizes(storage.join(folder, LEDGER)).items():
        match = _NAME.fullmatch(name)
        if match:
            kind, run, ordinal, number = match.groups()
            named.append(((int(ordinal), run, kind, int(number or 0)), f"{LEDGER}/{name}", size))
    before = {name: size for name, size in sizes(folder).items() if name == OLD}
    return before | {path: size for _, path, size in sorted(named)}


def state(files: dict[str, int]) -> str:
    """32 hex digits that change when a row is added to the files of :func:`ledger_files`."""
    return hashlib.sha256(json.dumps(list(files.items())).encode()).hexdigest()[:32]


def clear(folder: str) -> None:
    """Forget all rows."""
    for path in ledger_files(folder):
        storage.delete(storage.join(folder, path))


def rows_in(folder: str, path: str, names: Sequence[str] | None = None, *, nested: bool = True) -> list[Row]:
    """The rows of one file of the ledger in their order.

    Args:
        folder: the prediction folder.
        path: of the file, as :func:`ledger_files` has it.
        names: the columns of :data:`TEXTS` and :data:`NESTED` that are wanted; None: all that a row holds.
        nested: False leaves :data:`NESTED` out of "all"; lines have them all the same.

    Raises:
        DamagedPartError: a part that cannot be read as one.
        SegrayError: the file cannot be reached.
    """
    uri = storage.join(folder, path)
    if not path.endswith(".parquet"):
        return list(_lines(storage.read_bytes(uri)))
    data = storage.read_bytes(uri)
    try:
        part = pq.ParquetFile(pa.BufferReader(data))
        _check_columns(part.schema_arrow)
        wanted = [name for name in part.schema_arrow.names if nested or name not in NESTED]
        rows: list[Row] = part.read(columns=wanted if names is None else list(names)).to_pylist()
        return [_parsed(row, whole=names is None) for row in rows]
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        raise DamagedPartError(f"{uri} is no part of a ledger ({type(error).__name__}).") from error


def _check_columns(schema: pa.Schema) -> None:
    """Texts and numbers alone: a value of a type that a library has registered could run what lies in the file."""
    absent = {*TEXTS, MORE} - set(schema.names)
    foreign = [field.name for field in schema if field.type not in (pa.string(), pa.float64(), pa.int64())]
    if absent or foreign:
        raise ValueError(f"columns {sorted(absent) or foreign}")


def _parsed(row: Row, *, whole: bool) -> Row:
    """A row with its JSON parsed; a whole one as it was added: without columns in which it has no value."""
    row |= {name: json.loads(row[name]) for name in NESTED if row.get(name) is not None}
    if not whole:
        return row
    more: Row = json.loads(row.pop(MORE))
    return {name: value for name, value in row.items() if value is not None} | more


def _lines(text: bytes) -> Iterator[Row]:
    """The rows of lines; what a crash cut in the middle of writing, or a disk filled with zeros, is no row."""
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("case_id"), str):
            yield row


def encode(rows: Sequence[Row]) -> bytes:
    """The bytes of a part."""
    numbers = sorted({name for row in rows for name in row if _is_number(name)})
    columns: dict[str, pa.Array] = {name: pa.array([_text(row, name) for row in rows], pa.string()) for name in TEXTS}
    for name in numbers:
        whole = name.startswith(MEBIBYTES)
        values = [None if row.get(name) is None else float(row[name]) for row in rows]
        columns[name] = (
            pa.array([None if value is None else round(value) for value in values], pa.int64())
            if whole
            else pa.array(values, pa.float64())
        )
    for name in NESTED:
        columns[name] = pa.array([json.dumps(row[name]) if name in row else None for row in rows], pa.string())
    columns[MORE] = pa.array([_rest(row) for row in rows], pa.string())
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return bytes(sink.getvalue())


def _is_number(name: str) -> bool:
    return name == FINISHED or name.startswith((SECONDS, MEBIBYTES))


def _text(row: Row, name: str) -> str | None:
    value = row.get(name)
    return None if value is None else str(value)


def _rest(row: Row) -> str:
    rest = {name: value for name, value in row.items() if name not in (*TEXTS, *NESTED) and not _is_number(name)}
    return json.dumps(rest, ensure_ascii=True)


def last_rows(
    folder: str, files: Iterable[str], names: Sequence[str] | None = None, *, nested: bool = True
) -> Iterator[list[Row]]:
    """Of each file the rows that count: the last of a case, unless that says that it was dropped.

    ``names`` and ``nested`` are those of :func:`rows_in`. The files are read twice, so that a ledger of 200,000 cases
    is never in memory. Damaged parts are left out.
    """
    last: dict[str, tuple[int, int]] = {}
    paths = list(files)
    for number, path in enumerate(paths):
        for at, row in enumerate(_readable(folder, path, ("case_id", "status"))):
            if row.get("status") == DROPPED:
                last.pop(row["case_id"], None)
            else:
                last[row["case_id"]] = number, at
    for number, path in enumerate(paths):
        rows = enumerate(_readable(folder, path, names, nested=nested))
        yield [row for at, row in rows if last.get(row["case_id"]) == (number, at)]


def _readable(folder: str, path: str, names: Sequence[str] | None, *, nested: bool = True) -> list[Row]:
    """The rows of a file; none of a damaged one, or of lines that became a part while others were read."""
    try:
        return rows_in(folder, path, names, nested=nested)
    except DamagedPartError:
        return []
    except SegrayError:
        if storage.exists(storage.join(folder, path)):
            raise
        return []


def sources(folder: str) -> dict[str, str]:
    """Case id to its CaseSource as JSON, of all rows that count."""
    found: dict[str, str] = {}
    for rows in last_rows(folder, ledger_files(folder), ("case_id", "source")):
        found |= {row["case_id"]: row["source"] for row in rows if isinstance(row.get("source"), str)}
    return found
