"""What the doctor prints: that it fits into 80 columns, with one structure and with a hundred."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from segray import cli_doctor
from segray.cli_doctor import BIN_ROWS, BINS, MOST_STRUCTURES, PLAIN_BLOCKS, histogram, print_doctor
from segray.doctor.cost import IngestPlan
from segray.doctor.diagnosis import Diagnosis
from segray.doctor.examine import CaseReport
from segray.doctor.findings import Finding
from segray.doctor.intensity import measure_intensity
from segray.doctor.whole import StructureRow

LONG = "portal_vein_and_splenic_vei"
"""With its number as long as the longest name of TotalSegmentator."""


def hu() -> np.ndarray:
    """(z, y, x): a fifth air, the rest tissue."""
    voxels = np.full((10, 20, 20), 40, np.int16)
    voxels[:2] = -1000
    voxels[5, 0] = np.arange(20) * 50
    return voxels


def diagnosed(structures: int, page: str = "doctor/index.html") -> Diagnosis:
    """Four cases of different size; of the structures the first is in three of them, the second in none."""
    reports = [
        CaseReport(
            f"case_{number}",
            "p",
            "",
            "nifti",
            "a",
            shape=(100 + number, 512, 512),
            spacing=(2.5, 0.7, 0.7 + number / 10),
            orientation="LPS",
            intensities=(measure_intensity(hu()),),
        )
        for number in range(4)
    ]
    rows = [StructureRow(f"{LONG}{number}", 3, 1, 0, 1234.5, 0.25, 20345.0) for number in range(structures)]
    rows[1:2] = [StructureRow("absent", 0, 1, 3, 0.0, 0.0, 0.0)] if structures > 1 else []
    found = [Finding("reader", "note", "case_0", "A note [with] brackets.")]
    files = {"report": page} if page else {}
    return Diagnosis("a", "totalseg", ["Four cases."], found, reports, rows, {}, IngestPlan(0, 0), 1.0, files)


def printed(diagnosis: Diagnosis, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    console = Console(highlight=False, width=80, record=True, quiet=False)
    monkeypatch.setattr(cli_doctor, "console", console)
    monkeypatch.setattr("segray.cli_display.console", console)
    print_doctor(diagnosis)
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("structures", [1, 104])
def test_what_is_there_fits_into_80_columns(structures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(diagnosed(structures), monkeypatch)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for words in ("4 readable cases", "100x512x512 (1)", "and 1 others", "LPS (4)", "HU (4)", "nifti (4)", "1 note"):
        assert words in text, words
    assert "A note [with] brackets." in " ".join(text.replace("│", " ").split())
    (row,) = (line.split() for line in lines if line.startswith(f" {LONG}0"))
    assert row == [f"{LONG}0", "3", "1", "0", "1,234", "0.25", "20,345"]


def test_more_structures_than_fit_are_counted_and_it_says_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = printed(diagnosed(104), monkeypatch)
    assert sum(line.startswith(f" {LONG}") for line in lines) == MOST_STRUCTURES - 1
    assert next(line.split() for line in lines if line.startswith(" absent")) == [
        "absent",
        "0",
        "1",
        "3",
        "-",
        "-",
        "-",
    ]
    assert f"and {104 - MOST_STRUCTURES} more in doctor/index.html" in "\n".join(lines)
    assert "more on the page that --out writes" in "\n".join(printed(diagnosed(104, ""), monkeypatch))
    assert "more in" not in "\n".join(printed(diagnosed(1), monkeypatch))


def test_a_histogram_stands_highest_where_most_voxels_are() -> None:
    title, *lines, ends = histogram("HU", measure_intensity(hu()).bins)
    assert title.startswith("Values: HU")
    assert (len(lines), {len(line) for line in lines}, len(ends)) == (BIN_ROWS, {BINS}, BINS)
    low, high = (float(word.replace(",", "")) for word in ends.split())
    air, tissue = (int((value - low) / (high - low) * BINS) for value in (-1000, 40))
    assert lines[0].index("█") == tissue
    assert {lines[-1][air], lines[-1][tissue]} == {"█"}
    assert " " in lines[-1]
    assert "\n".join(histogram("HU", measure_intensity(hu()).bins, PLAIN_BLOCKS)).isascii()
