"""The ledger of a prediction folder: a line a finished case, from which a second run knows what is missing."""

from __future__ import annotations

import json
from typing import Any

from segray import storage
from segray.evaluation.tables import write_table

LEDGER = "ledger.jsonl"
NOT_SHOWN = ("fingerprint", "source")
"""What a second run and the report need, and no table shows."""

Row = dict[str, Any]


def to_line(row: Row) -> str:
    """A row as one line of JSON."""
    return json.dumps(row, ensure_ascii=True)


class Ledger:
    """The rows of finished cases in ``folder``; the last row of a case counts."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._rows: dict[str, Row] = {}
        path = storage.join(folder, LEDGER)
        if storage.exists(path):
            text = storage.read_text(path)
            for line in text.splitlines():
                self._take(line)
            if text and not text.endswith("\n"):
                # A crash cut the last line: end it, so that the next row does not grow onto it.
                storage.append_line(path, "")

    def _take(self, line: str) -> None:
        """A line cut by a crash in the middle of writing is no finished case."""
        try:
            row = json.loads(line)
        except ValueError:
            return
        if isinstance(row, dict) and isinstance(row.get("case_id"), str):
            self._rows[row["case_id"]] = row

    @property
    def rows(self) -> list[Row]:
        """All rows, sorted by case id."""
        return [self._rows[case_id] for case_id in sorted(self._rows)]

    def row(self, case_id: str) -> Row | None:
        """The row of a case, or None."""
        return self._rows.get(case_id)

    def add(self, line: str) -> Row:
        """Append a line and return its row."""
        storage.append_line(storage.join(self._folder, LEDGER), line)
        self._take(line)
        row: Row = json.loads(line)
        return row

    def write_tables(self) -> None:
        """``cases.csv`` and ``cases.parquet`` with a row a case."""
        rows = [{key: value for key, value in row.items() if key not in NOT_SHOWN} for row in self.rows]
        write_table(self._folder, "cases", rows)
