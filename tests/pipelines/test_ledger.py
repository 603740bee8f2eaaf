from __future__ import annotations

from pathlib import Path

from segray.evaluation.tables import read_table
from segray.pipelines.ledger import LEDGER, Ledger, to_line


def test_the_last_row_of_a_case_counts(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.add(to_line({"case_id": "b", "status": "failed", "reason": "cut"}))
    ledger.add(to_line({"case_id": "a", "status": "ok", "reason": ""}))
    ledger.add(to_line({"case_id": "b", "status": "ok", "reason": ""}))
    again = Ledger(str(tmp_path))
    assert [(row["case_id"], row["status"]) for row in again.rows] == [("a", "ok"), ("b", "ok")]


def test_a_line_cut_by_a_crash_is_no_finished_case(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text(to_line({"case_id": "a", "status": "ok"}) + '\n{"case_id": "b", "sta')
    assert [row["case_id"] for row in Ledger(str(tmp_path)).rows] == ["a"]


def test_a_row_after_a_cut_line_is_kept(tmp_path: Path) -> None:
    (tmp_path / LEDGER).write_text('{"case_id": "b", "sta')
    Ledger(str(tmp_path)).add(to_line({"case_id": "c", "status": "ok"}))
    assert [row["case_id"] for row in Ledger(str(tmp_path)).rows] == ["c"]


def test_tables_hold_a_row_a_case(tmp_path: Path) -> None:
    ledger = Ledger(str(tmp_path))
    ledger.add(to_line({"case_id": "a", "status": "ok", "fingerprint": "x", "volume_ml_liver": 1.5}))
    ledger.write_tables()
    assert read_table(str(tmp_path / "cases.parquet")) == [{"case_id": "a", "status": "ok", "volume_ml_liver": 1.5}]
