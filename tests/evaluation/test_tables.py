from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from segray import storage
from segray.errors import SegrayError
from segray.evaluation import tables

ROWS = [
    {"case_id": "a", "structure": "liver", "dice": 0.8},
    {"case_id": "a", "structure": "spleen", "dice": math.nan},
    {"case_id": "b", "structure": "liver", "dice": 0.6},
    {"case_id": "b", "structure": "spleen", "dice": 0.5},
]


def test_rows_come_back_from_parquet_and_csv(tmp_path: Path) -> None:
    rows = [{"case_id": "a", "n": 1, "dice": 0.1}, {"case_id": "b", "n": 2, "dice": math.nan, "note": 'x, "y"\nz'}]
    parquet, text = tables.write_table(str(tmp_path), "metrics", rows)
    back = tables.read_table(parquet)
    assert back[0] == {"case_id": "a", "n": 1, "dice": 0.1, "note": None}
    assert math.isnan(back[1]["dice"])
    with open(text, newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert lines[0] == {"case_id": "a", "n": "1", "dice": "0.1", "note": ""}
    assert lines[1]["dice"] == ""
    assert lines[1]["note"] == 'x, "y"\nz'
    assert tables.read_csv_rows(text) == lines


def test_a_column_of_nothing_but_nan_stays_a_number(tmp_path: Path) -> None:
    parquet, _ = tables.write_table(str(tmp_path), "t", [{"case_id": "a", "dice": math.nan}])
    assert math.isnan(tables.read_table(parquet)[0]["dice"])


def test_no_rows_make_an_empty_table(tmp_path: Path) -> None:
    parquet, _ = tables.write_table(str(tmp_path), "t", [])
    assert tables.read_table(parquet) == []


def test_a_damaged_table_is_an_error_in_words(tmp_path: Path) -> None:
    path = str(tmp_path / "t.parquet")
    storage.write_text(path, "no parquet")
    with pytest.raises(SegrayError, match="no Parquet table"):
        tables.read_table(path)


def test_a_column_of_texts_and_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SegrayError, match="column x"):
        tables.write_table(str(tmp_path), "t", [{"x": 1.5}, {"x": "word"}])


def test_summary_counts_what_is_missing() -> None:
    liver, spleen = tables.summarise(ROWS, ["dice"])
    assert tuple(liver) == tables.SUMMARY_COLUMNS
    assert liver["mean"] == pytest.approx(0.7)
    assert liver["sd"] == pytest.approx(math.sqrt(0.02))
    assert (liver["min"], liver["max"], liver["n"], liver["n_missing"]) == (0.6, 0.8, 2, 0)
    assert (spleen["n"], spleen["n_missing"]) == (1, 1)
    assert math.isnan(spleen["sd"])


def test_overall_weighs_structures_and_cases_equally() -> None:
    result = tables.overall(ROWS)
    assert result["mean_dice"] == pytest.approx((0.7 + 0.5) / 2)
    assert result["mean_dice_cases"] == pytest.approx((0.8 + 0.55) / 2)
    assert (result["cases"], result["structures"]) == (2, 2)
    assert math.isnan(tables.overall([])["mean_dice"])


def test_case_means_leave_missing_structures_out() -> None:
    assert tables.case_means(ROWS) == pytest.approx({"a": 0.8, "b": 0.55})
