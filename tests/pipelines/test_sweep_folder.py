from __future__ import annotations

from segray.pipelines.sweep_folder import table_rows
from segray.pipelines.sweep_view import KNOWN
from segray.tuning.records import Objective, State, TrialRecord


def _record(number: int, state: State, values: tuple[float, ...] | None) -> TrialRecord:
    return TrialRecord(number, state, {}, {"optim.lr": 0.1}, values)


def test_the_table_says_which_trials_are_the_front() -> None:
    records = [
        _record(0, "finished", (0.9, 30.0)),
        _record(1, "finished", (0.8, 40.0)),
        _record(2, "failed", None),
        _record(3, "finished", (0.7, 5.0)),
    ]
    rows = table_rows(records, [Objective("val_dice"), Objective("latency")])
    assert [row["front"] for row in rows] == [True, False, False, True]
    assert "front" in KNOWN, "a view takes it for a setting"


def test_of_one_objective_there_is_no_front() -> None:
    assert "front" not in table_rows([_record(0, "finished", (0.9,))], [Objective("val_dice")])[0]
