"""What a command that goes through cases writes into its log and counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from segray.errors import UsageError
from segray.formats.source import CaseSource
from segray.pipelines.case_watch import CaseWatch
from segray.pipelines.headers import Planned
from segray.pipelines.log_file import JSON_LOG


def planned(case: str, slices: int) -> Planned:
    return Planned(CaseSource(case, f"/data/{case}.nii.gz"), (slices, 8, 8), (1.0, 1.0, 1.0), 1)


def records(folder: Path) -> list[tuple[str, str, str]]:
    lines = (folder / JSON_LOG).read_text().splitlines()
    return [(record["level"], record.get("case", ""), record["message"]) for record in map(json.loads, lines)]


def test_cases_are_counted_and_failures_are_lines(tmp_path: Path) -> None:
    told: list[tuple[Any, ...]] = []
    with CaseWatch(str(tmp_path), "predict", lambda *seen: told.append(seen), told.append) as watch:
        watch.failed([("z", "no image")])
        watch.expect([planned("a", 4), planned("b", 6)])
        watch.say("torch computes")
        watch({"case_id": "a", "reason": "", "seconds_read": 0.5, "seconds_forward": 1.5, "seconds_predict": 9}, 1, 2)
        watch({"case_id": "b", "reason": "it is cut off", "seconds_read": 0.25}, 2, 2)
        metrics = watch._metrics
        assert metrics._sums == {
            ("segray_cases_failed", ""): 2.0,
            ("segray_cases_done", ""): 1.0,
            ("segray_slices", ""): 4.0,
            ("segray_part_seconds", "read"): 0.75,
            ("segray_part_seconds", "forward"): 1.5,
        }
        assert metrics._values == {"segray_case_seconds": [2.0]}
        assert metrics._last == {"segray_cases_waiting": 0}
    assert records(tmp_path) == [
        ("warning", "z", "no image"),
        ("info", "", "predict: 2 cases to do"),
        ("info", "", "torch computes"),
        ("warning", "b", "it is cut off"),
    ]
    assert told[0] == "torch computes"
    assert [seen[1:] for seen in told[1:]] == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("error", "level", "words"),
    [
        (UsageError("No cases.", mend="Look."), "error", "No cases. Look."),
        (ValueError("odd"), "error", "Unexpected ValueError: odd"),
        (KeyboardInterrupt(), "warning", "interrupted"),
    ],
)
def test_what_ends_a_run_is_its_last_line(tmp_path: Path, error: BaseException, level: str, words: str) -> None:
    with pytest.raises(type(error)), CaseWatch(str(tmp_path), "ingest"):
        raise error
    assert records(tmp_path) == [(level, "", words)]


def test_a_part_of_a_run_has_the_id_of_the_run(tmp_path: Path) -> None:
    assert CaseWatch(str(tmp_path), "ingest", run="one-1a2b").run == "one-1a2b"
    assert CaseWatch(str(tmp_path), "ingest").run.startswith(f"{tmp_path.name}-")
