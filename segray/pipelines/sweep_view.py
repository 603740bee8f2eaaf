"""What the files of a sweep's folder say, while it runs and afterwards; needs neither Ray nor torch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from segray import storage
from segray.errors import UsageError
from segray.pipelines.run_folder import CONFIG, RunFolder
from segray.tuning.records import Objective

SPACE, TABLE = "space.py", "trials.csv"

KNOWN = ("trial", "state", "front", "last_value", "minutes", "out_of_memory", "host", "reason", "run")
COSTS = ("epochs", "best_epoch", "seconds", "parameters", "gflops", "latency")


@dataclass(frozen=True)
class TrialLine:
    """A trial as its row tells of it.

    Attributes:
        number: from 0.
        state: as :class:`segray.tuning.records.TrialRecord`.
        value: the first objective at its end; NaN before.
        last: the first objective at the latest validation; NaN before the first.
        minutes: from its begin to its end; NaN before.
        settings: what it was drawn, as text, by dotted key.
        epoch: the epoch under way, of a running trial; else 0.
        epochs: how many it may have; 0 where that is not known.
    """

    number: int
    state: str
    value: float
    last: float
    minutes: float
    settings: Mapping[str, str]
    epoch: int = 0
    epochs: int = 0


@dataclass(frozen=True)
class SweepView:
    """A sweep at one moment.

    Attributes:
        run: its folder.
        state: running, finished, interrupted or failed.
        objective: the first.
        trials: how many there are to be.
        lines: those that were drawn, by number.
        seconds: wall-clock time over all resumes.
        quiet_s: seconds since the driver wrote something; NaN where that is not known.
    """

    run: str
    state: str
    objective: Objective
    trials: int
    lines: Sequence[TrialLine]
    seconds: float
    quiet_s: float

    @property
    def ended(self) -> bool:
        """Nothing more will come, unless someone resumes it."""
        return self.state != "running"

    @property
    def best(self) -> TrialLine | None:
        """The finished trial with the best first objective."""
        known = [one for one in self.lines if one.state == "finished" and not math.isnan(one.value)]
        sign = -1.0 if self.objective.maximise else 1.0
        return min(known, key=lambda one: sign * one.value, default=None)

    def count(self, state: str) -> int:
        """Trials in a state."""
        return sum(one.state == state for one in self.lines)


def is_sweep(path: str) -> bool:
    """Whether a folder holds a sweep."""
    run = RunFolder(path)
    return run.exists and storage.exists(run.file(SPACE))


class SweepReader:
    """Reads the folder of a sweep. Raises UsageError where it holds none."""

    def __init__(self, path: str) -> None:
        self._run = RunFolder(path)
        if not is_sweep(path):
            raise UsageError(f"{self._run.path} holds no sweep.", mend="Name the folder given to segray tune by --run.")
        self._text = ""
        self._look()

    def _look(self) -> None:
        """Take what the config says; a resume may have raised the number of trials."""
        text = storage.read_text(self._run.file(CONFIG))
        if text == self._text:
            return
        self._text = text
        tree = yaml.safe_load(text) or {}
        tune = tree.get("tune") or {}
        self._objective = Objective(str((tune.get("objectives") or ["val_dice"])[0]))
        self._names = {str(name) for name in tune.get("objectives") or ["val_dice"]}
        self._trials = int(tune.get("trials", 0))
        self._epochs = int((tree.get("train") or {}).get("epochs", 0))

    def view(self) -> SweepView:
        """The sweep as it stands now. Raises UsageError where the folder has been removed."""
        if not self._run.exists:
            raise UsageError(f"{self._run.path} has been removed.", mend="Watch another one.")
        self._look()
        history, progress = self._run.history(), self._run.progress()
        at = float(progress.get("at", math.nan))
        return SweepView(
            run=self._run.path,
            state=str(history.get("state", "running")),
            objective=self._objective,
            trials=self._trials,
            lines=[self._line(row) for row in self._run.rows(TABLE) if None not in row.values()],
            seconds=float(progress.get("seconds", history.get("seconds", 0.0))),
            quiet_s=max(time.time() - at, 0.0),
        )

    def _line(self, row: Mapping[str, str]) -> TrialLine:
        running = row["state"] == "running"
        progress: dict[str, Any] = RunFolder(row["run"]).progress() if running and row.get("run") else {}
        plain = {*KNOWN, *COSTS, *self._names}
        return TrialLine(
            int(row["trial"]),
            row["state"],
            _number(row.get(self._objective.name, "")),
            _number(row.get("last_value", "")),
            _number(row.get("minutes", "")),
            {name: value for name, value in row.items() if _is_setting(name) and name not in plain and value != ""},
            int(progress.get("epoch", 0)),
            int(progress.get("epochs", self._epochs if running else 0)),
        )


def _is_setting(name: str) -> bool:
    # A sweep over a bundle's prediction has a column a structure.
    return not name.startswith("val_dice_")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
