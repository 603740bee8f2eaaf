"""What the files of a run folder say about a training, while it runs and afterwards; needs neither Ray nor torch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import yaml

from segray import storage
from segray.errors import UsageError
from segray.pipelines.log_file import read_log
from segray.pipelines.run_folder import CONFIG, METRICS, STEPS, RunFolder

Row = Mapping[str, str]

DICE = "val_dice"
RECENT_EPOCHS = 5
"""Epochs whose mean duration tells the time left."""

LOG_LINES = 6


@dataclass(frozen=True)
class Scored:
    """Validation Dice of a structure, or the mean over all; NaN where there is none yet.

    Attributes:
        name: of the structure.
        last: in the latest validation.
        best: the highest so far.
        best_epoch: the epoch of the highest; 0 before the first.
    """

    name: str
    last: float
    best: float
    best_epoch: int


@dataclass(frozen=True)
class RunView:
    """A training at one moment.

    Attributes:
        run: the run folder.
        state: running, finished, stopped (halted on purpose), interrupted or failed.
        reason: why it failed; else empty.
        epoch: the epoch under way, or the last one; from 1, 0 before the first step.
        epochs: how many there are to be.
        step: steps done of the epoch.
        steps: steps of an epoch; 0 where it is not known yet.
        seconds_left: until the last epoch; None where it cannot be told yet.
        loss: of the latest step, or of the latest epoch; NaN before.
        losses: (step over the whole run, loss), for a curve.
        dice: the mean.
        structures: Dice of each.
        lr: learning rate; NaN before the first step.
        slices_per_s: of all workers.
        wait_share: share of the latest epoch's time that waited for data, 0..1; NaN before.
        gpu_memory_mib: the most that the latest epoch took on the GPU of the first worker; NaN where there is none.
        workers: host and device of each.
        starts: how often workers were started: 1, and 1 for every replacement and resume.
        quiet_s: seconds since the run wrote something; NaN where that is not known.
        log: the last lines of run.log.
    """

    run: str
    state: str
    reason: str
    epoch: int
    epochs: int
    step: int
    steps: int
    seconds_left: float | None
    loss: float
    losses: Sequence[tuple[float, float]]
    dice: Scored
    structures: Sequence[Scored]
    lr: float
    slices_per_s: float
    wait_share: float
    gpu_memory_mib: float
    workers: Sequence[str]
    starts: int
    quiet_s: float
    log: Sequence[str]

    @property
    def ended(self) -> bool:
        """Nothing more will come, unless someone resumes it."""
        return self.state != "running"


class RunReader:
    """Reads the run folder at ``path``, a path or a URI; the long ``steps.csv`` only after an epoch has ended.

    Raises UsageError where the folder holds no run.
    """

    def __init__(self, path: str) -> None:
        self._run = RunFolder(path)
        self._steps: list[tuple[float, float]] = []
        self._steps_of = -1
        self._require_run()
        settings = yaml.safe_load(storage.read_text(self._run.file(CONFIG))) or {}
        train = settings.get("train") or {}
        patch = (settings.get("net") or {}).get("patch") or [1]
        self._epochs, self._minutes = int(train.get("epochs", 0)), float(train.get("minutes", 0.0))
        self._batch = int(train.get("batch_size", 1)) * int(patch[0])
        self._workers = train.get("workers", 1)

    def _working(self) -> int:
        """Workers; of an elastic run those of its last start."""
        if isinstance(self._workers, int):
            return self._workers
        return len(self._run.history().get("workers") or ()) or int(self._workers[0])

    def _require_run(self) -> None:
        if not self._run.exists:
            raise UsageError(
                f"{self._run.path} holds no run of segray train.", mend="Name the folder given to it by --run."
            )

    def view(self) -> RunView:
        """The run as it stands now. Raises UsageError where the folder has been removed."""
        self._require_run()
        # A row that is being written lacks its last columns.
        rows = [row for row in self._run.rows(METRICS) if None not in row.values()]
        progress, history, log = self._run.progress(), self._run.history(), self._log()
        last = rows[-1] if rows else {}
        done = int(last.get("epoch", 0))
        state = _state(history)
        ahead = progress if state == "running" and progress.get("epoch", 0) > done else {}
        steps = int(progress.get("steps", 0))
        return RunView(
            run=self._run.path,
            state=state,
            reason=str(history.get("fatal") or ""),
            epoch=int(ahead.get("epoch", done)),
            epochs=self._epochs,
            step=int(ahead.get("step", steps if done else 0)),
            steps=steps,
            seconds_left=None if state != "running" else self._seconds_left(rows, ahead),
            loss=float(ahead.get("loss", _number(last, "train_loss"))),
            losses=self._losses(rows),
            dice=_scored(rows, DICE, "mean"),
            structures=[_scored(rows, name, name[len(DICE) + 1 :]) for name in last if name.startswith(f"{DICE}_")],
            lr=float(ahead.get("lr", _number(last, "lr"))),
            slices_per_s=float(ahead.get("slices_per_s", _number(last, "slices_per_s"))),
            wait_share=_wait_share(last),
            gpu_memory_mib=_number(last, "gpu_memory_mib") or math.nan,
            workers=[f"{worker['host']} ({worker['device']})" for worker in history.get("workers", [])],
            starts=len(history.get("starts", [])),
            quiet_s=_quiet_s(progress, log),
            log=log[-LOG_LINES:],
        )

    def _log(self) -> list[str]:
        return (read_log(self._run.path) or "").splitlines()

    def _losses(self, rows: Sequence[Row]) -> Sequence[tuple[float, float]]:
        if len(rows) != self._steps_of:
            self._steps_of = len(rows)
            found = [row for row in self._run.rows(STEPS) if None not in row.values()]
            self._steps = [(_number(row, "step"), _number(row, "loss")) for row in found]
        return self._steps

    def _seconds_left(self, rows: Sequence[Row], ahead: Mapping[str, Any]) -> float | None:
        """By the mean duration of the last epochs; before the first has ended by the speed of the latest step."""
        share = ahead["step"] / max(ahead["steps"], 1) if ahead else 0.0
        if not rows:
            speed = float(ahead.get("slices_per_s", 0.0))
            steps = (self._epochs - share) * ahead["steps"] if ahead else 0.0
            left = steps * self._batch * self._working() / speed if speed > 0 else None
            elapsed = 0.0
        else:
            ends = [0.0, *(_number(row, "seconds") for row in rows)][-RECENT_EPOCHS - 1 :]
            epoch_s = (ends[-1] - ends[0]) / (len(ends) - 1)
            left = (self._epochs - int(rows[-1]["epoch"]) - share) * epoch_s
            elapsed = ends[-1] + share * epoch_s
        if self._minutes and left is not None:
            left = min(left, 60.0 * self._minutes - elapsed)
        return None if left is None else max(left, 0.0)


def _state(history: Mapping[str, Any]) -> str:
    if history.get("fatal"):
        return "failed"
    return str(history.get("state") or ("finished" if history.get("finished") else "running"))


def _number(row: Row, name: str) -> float:
    try:
        return float(row.get(name) or math.nan)
    except ValueError:
        return math.nan


def _scored(rows: Sequence[Row], column: str, name: str) -> Scored:
    measured = [(value, int(row["epoch"])) for row in rows if not math.isnan(value := _number(row, column))]
    if not measured:
        return Scored(name, math.nan, math.nan, 0)
    best, epoch = max(measured, key=lambda one: one[0])
    return Scored(name, measured[-1][0], best, epoch)


def _wait_share(row: Row) -> float:
    waited, stepped = _number(row, "data_wait_s"), _number(row, "step_s")
    return waited / (waited + stepped) if waited + stepped > 0 else math.nan


def _quiet_s(progress: Mapping[str, Any], log: Sequence[str]) -> float:
    """Since the latest of progress.json and the last dated line of run.log."""
    signs = [float(progress["at"])] if "at" in progress else []
    for line in reversed(log):
        try:
            signs.append(datetime.fromisoformat(line.split(" ", 1)[0]).timestamp())
        except ValueError:
            continue
        break
    return max(time.time() - max(signs), 0.0) if signs else math.nan
