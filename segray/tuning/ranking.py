"""Which trials of a sweep count, how far each came, and which is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from segray.tuning.records import Objective, TrialRecord

Outcome = Literal["finished", "pruned", "failed", "out of memory", "lost", "running", "waiting"]

OUTCOMES: tuple[Outcome, ...] = ("finished", "pruned", "failed", "out of memory", "lost", "running", "waiting")


def outcome(record: TrialRecord) -> Outcome:
    """The state of a trial, where a net or batch that did not fit into memory is told apart from other failures."""
    return "out of memory" if record.infeasible else record.state


def measured(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """The finished trials that have a finite value of every objective, in the given order."""
    return [record for record in records if outcome(record) == "finished" and _complete(record, len(objectives))]


def _complete(record: TrialRecord, count: int) -> bool:
    values = record.values or ()
    return len(values) >= count > 0 and all(math.isfinite(value) for value in values[:count])


def value_of(record: TrialRecord, at: int = 0) -> float:
    """The value of an objective of a measured trial; NaN where there is none."""
    return record.values[at] if record.values is not None and len(record.values) > at else math.nan


def better(first: float, second: float, objective: Objective) -> bool:
    """Whether ``first`` is strictly better than ``second``."""
    return first > second if objective.maximise else first < second


def best_of(records: Sequence[TrialRecord], objectives: Sequence[Objective], at: int = 0) -> TrialRecord | None:
    """The measured trial that is best by objective ``at``, of equals the earliest; None where none is measured."""
    sign = -1.0 if objectives[at].maximise else 1.0
    found = measured(records, objectives)
    return min(found, key=lambda record: (sign * value_of(record, at), record.number), default=None)


def reached(record: TrialRecord) -> float:
    """The first objective where the trial stopped: its value, else the last finite one of its curve, else NaN."""
    value = value_of(record)
    if math.isfinite(value):
        return value
    return next((value for _, value in reversed(record.curve) if math.isfinite(value)), math.nan)


def trained_epochs(record: TrialRecord) -> int:
    """Epochs that the trial trained, as far as is known."""
    told = record.other.get("epochs", 0.0)
    of_curve = max((epoch for epoch, _ in record.curve), default=0)
    return max(of_curve, int(told) if math.isfinite(told) else 0)


def trial_seconds(record: TrialRecord) -> float:
    """Seconds from begin to end, never below 0 (clocks of hosts differ); NaN where one of them is not known."""
    if record.began is None or record.ended is None:
        return math.nan
    return max(record.ended - record.began, 0.0)
