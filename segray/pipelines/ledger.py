"""The ledger of a prediction folder: a row a finished case, from which a second run knows what is missing.

A run writes its own parts (:mod:`segray.ledger_parts`), whole or not at all, so what a row costs does not depend on how
many there are. On a disk a row is also a line of the run's own tail until its part is written; an object store cannot
append, and there the last part is written again every few seconds until it is full.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from segray import ledger_parts, storage
from segray.errors import SegrayError
from segray.ledger_parts import DROPPED, FINISHED, PART_ROWS, DamagedPartError, Row
from segray.outage import waiting
from segray.pipelines.case_table import write_case_table

FLUSH_S = 15.0
"""Seconds after which rows are written to an object store though their part is not full."""

KNOWN = ("case_id", "status", "reason", "mask", "further", "fingerprint")
"""What stays in memory of every row."""


class Entry(NamedTuple):
    """What the driver remembers of a case.

    Attributes:
        status: ok or failed.
        mask: its path below the folder; empty where there is none.
        fingerprint: of its input when it was read; empty where that is not known.
        reason: why it failed.
        further: what was written beside the mask, kinds of files and ``confidence``, joined by commas.
    """

    status: str
    mask: str
    fingerprint: str
    reason: str
    further: str = ""

    @property
    def done(self) -> bool:
        """True for a case with a mask."""
        return self.status == "ok"


def to_line(row: Row) -> str:
    """A row as one line of JSON."""
    return json.dumps(row, ensure_ascii=True)


class Ledger:
    """The rows of finished cases in ``folder``; the last row of a case counts.

    Args:
        folder: the prediction folder.
        run: the id under which rows are added, from a claim; empty: a new one with the first row.
        bundle_id: whose masks are made, for the rows that are added.

    Attributes:
        damaged: parts that cannot be read: their cases count as not done.
        replaced: rows that a later one of the same case took the place of.

    Raises:
        SegrayError: a file of the ledger cannot be reached.
    """

    def __init__(self, folder: str, *, run: str = "", bundle_id: str = "") -> None:
        self._folder = folder
        self._run = run
        self._bundle_id = bundle_id
        self._entries: dict[str, Entry] = {}
        self._waiting: list[Row] = []
        self._written = 0
        self._number = 0
        self._flushed_at = time.monotonic()
        self._tail: FileIO | None = None
        self._lock = threading.Lock()
        self.damaged: list[str] = []
        self.replaced = 0
        for path in ledger_parts.ledger_files(folder):
            try:
                rows = ledger_parts.rows_in(folder, path, KNOWN)
            except DamagedPartError:
                self.damaged.append(path)
                continue
            for row in rows:
                self._take(row)

    def _take(self, row: Row) -> None:
        case_id = row["case_id"]
        self.replaced += case_id in self._entries
        if row.get("status") == DROPPED:
            self._entries.pop(case_id, None)
        else:
            texts = (str(row.get(name) or "") for name in Entry._fields)
            entry = Entry(*texts)
            # Who can write one row of the folder must not choose a file elsewhere to be read or deleted.
            self._entries[case_id] = entry if _is_inside(entry.mask) else entry._replace(mask="")

    @property
    def entries(self) -> Mapping[str, Entry]:
        """Case id to what is remembered of it; not in order."""
        return self._entries

    @property
    def rows(self) -> list[Row]:
        """All rows with all that they hold, sorted by case id, read from the parts: for some thousand cases."""
        self.flush()
        found: list[Row] = []
        for rows in ledger_parts.last_rows(self._folder, ledger_parts.ledger_files(self._folder)):
            found += rows
        return sorted(found, key=lambda row: str(row["case_id"]))

    def entry(self, case_id: str) -> Entry | None:
        """What is remembered of a case, or None."""
        return self._entries.get(case_id)

    def add(self, line: str | Row) -> Row:
        """Append a row, which may be given as a line of JSON, and return it with what the ledger adds."""
        row: Row = json.loads(line) if isinstance(line, str) else dict(line)
        with self._lock:
            if not self._run:
                self._run = ledger_parts.new_run(self._folder)
            if self._bundle_id:
                row["bundle_id"] = self._bundle_id
            row |= {"run": self._run, FINISHED: round(time.time(), 3)}
            if not storage.is_remote(self._folder):
                self._append(to_line(row))
            self._waiting.append(row)
            self._take(row)
            if len(self._waiting) >= PART_ROWS or self._is_due():
                self._write_part()
        return row

    def drop(self, case_ids: Sequence[str], reason: str) -> None:
        """Let cases count as not done, so that the next run does them again; what they were stays in the ledger."""
        for case_id in case_ids:
            self.add(to_line({"case_id": case_id, "status": DROPPED, "reason": reason}))

    def tick(self) -> None:
        """Write what waits too long; for a thread that comes by now and then."""
        with self._lock:
            if self._is_due():
                self._write_part()

    def _is_due(self) -> bool:
        late = time.monotonic() - self._flushed_at > FLUSH_S
        return late and storage.is_remote(self._folder) and len(self._waiting) > self._written

    def _append(self, line: str) -> None:
        path = storage.join(storage.absolute(self._folder), ledger_parts.tail_name(self._run))
        with storage.asking(path, "written"):
            if self._tail is None:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                self._tail = waiting(lambda: open(path, "ab", buffering=0))  # noqa: SIM115
            tail = self._tail
            waiting(lambda: _write_all(tail, f"{line}\n".encode()))

    def _write_part(self) -> None:
        """Write the rows that wait as a part; a full one is left for good, and the lines that it holds go."""
        name = ledger_parts.part_name(self._run, self._number)
        storage.write_bytes(storage.join(self._folder, name), ledger_parts.encode(self._waiting))
        self._flushed_at = time.monotonic()
        self._written = len(self._waiting)
        if len(self._waiting) >= PART_ROWS or not storage.is_remote(self._folder):
            self._waiting.clear()
            self._written = 0
            self._number += 1
        self._close_tail()

    def _close_tail(self) -> None:
        if self._tail is not None:
            self._tail.close()
            self._tail = None
            storage.delete(storage.join(self._folder, ledger_parts.tail_name(self._run)))

    def flush(self) -> None:
        """Write all rows that wait."""
        with self._lock:
            if len(self._waiting) > self._written:
                self._write_part()

    def write_tables(self) -> bool:
        """``cases.csv`` and ``cases.parquet`` with a row a case; False where they are there and hold these rows."""
        self.flush()
        return write_case_table(self._folder)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.flush()
            return
        # What ended the run is what the user is told of, even where the disk is full now.
        with suppress(SegrayError):
            self.flush()


def _write_all(file: FileIO, data: bytes) -> None:
    """Unbuffered, so that a disk that is away has either taken all or none of it, and it can be tried again."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _is_inside(place: str) -> bool:
    """Whether a path that is meant from the prediction folder stays in it."""
    return not place.startswith("/") and "://" not in place and ".." not in place.split("/")
