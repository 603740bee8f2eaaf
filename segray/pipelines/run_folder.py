"""The files of a training run: config, tables of steps and epochs, history, progress, log."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from segray import outage, storage
from segray.errors import SegrayError, UsageError
from segray.pipelines.log_file import Level, Line, LogFile, new_run_id, run_name

METRICS = "metrics.csv"
STEPS = "steps.csv"
HISTORY = "history.json"
PROGRESS = "progress.json"
CONFIG = "config.yaml"
BUNDLE = "bundle"
START = "start.safetensors"
"""The whole net that a run with ``train.start_from`` starts from, fitted to its structures."""
CHECKPOINTS = "checkpoints"
LIVE = "live"
FAILURES = "failures.csv"

PROGRESS_EVERY_S = 1.0

STEP_COLUMNS = (
    "epoch",
    "step",
    "loss",
    "dice_loss",
    "cross_entropy",
    "grad_norm",
    "lr",
    "slices",
    "step_s",
    "data_wait_s",
)


class RunFolder:
    """The run folder at ``path`` (a path on a shared disk, or a URI); every write is whole or not at all."""

    stage = "train"

    def __init__(self, path: str) -> None:
        self.path = storage.absolute(path)
        self._run_id = ""
        self._steps: list[Sequence[Any]] = []
        self._progress_at = 0.0
        self._matched: set[str] = set()

    def file(self, name: str) -> str:
        """The path of a file of the run."""
        return storage.join(self.path, name)

    @property
    def exists(self) -> bool:
        """True where a run has been started in the folder."""
        return storage.exists(self.file(CONFIG))

    def begin(self, config_yaml: str) -> None:
        """Start a run, with an id of its own. Raises UsageError as :meth:`refuse_second`."""
        self.refuse_second()
        if not self._run_id:
            self.name_run()
        storage.write_text(self.file(CONFIG), config_yaml)

    def name_run(self) -> None:
        """Give the run its id, before it begins: what is logged on the way there has it too."""
        self._run_id = new_run_id(self.path)
        self.write_history(run_id=self._run_id)

    def refuse_second(self) -> None:
        """Raise UsageError where the folder holds a run already, since Ray would silently go on with it."""
        if self.exists:
            raise UsageError(
                f"{self.path} holds a run already.",
                mend=f"Go on with it by `segray train --resume {self.path}`, or name another folder by --run.",
            )

    @property
    def run_id(self) -> str:
        """The id that the run was given at its start, the same for all resumes; of an older run its name."""
        if not self._run_id:
            self._run_id = str(self.history().get("run_id") or run_name(self.path))
        return self._run_id

    def log(self, text: str, level: Level = "info", case: str = "") -> None:
        """A line with the time in ``run.log``, and in ``run.jsonl``."""
        try:
            run = self.run_id
        except (SegrayError, ValueError):
            run = run_name(self.path)
        LogFile(self.path, run, self.stage).write(Line(text, level, case))

    def rewind(self, epoch: int) -> None:
        """Drop the rows of epochs after ``epoch``: a run that lost a worker makes them again."""
        for name in (METRICS, STEPS):
            rows = self.rows(name)
            kept = [row for row in rows if int(row["epoch"]) <= epoch]
            if len(kept) < len(rows):
                self._write_rows(name, list(rows[0]), [list(row.values()) for row in kept])

    def rows(self, name: str) -> list[dict[str, str]]:
        """The rows of a CSV file of the run; [] where it is not there yet."""
        # A patient process would take a disk that is away for a run without rows, and write its files anew.
        return outage.waiting(lambda: self._rows(name))

    def _rows(self, name: str) -> list[dict[str, str]]:
        if not storage.exists(self.file(name)):
            return []
        return list(csv.DictReader(io.StringIO(storage.read_text(self.file(name)))))

    def _write_rows(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        storage.write_text(self.file(name), text.getvalue())

    def add_step(self, row: Sequence[Any]) -> None:
        """Keep a row of :data:`STEP_COLUMNS` until :meth:`add_epoch` writes it."""
        self._steps.append(row)

    def add_epoch(self, row: Mapping[str, Any]) -> None:
        """Append an epoch to ``metrics.csv`` and the waiting steps to ``steps.csv``."""
        self._append(METRICS, list(row), [list(row.values())])
        self._append(STEPS, list(STEP_COLUMNS), self._steps)
        self._steps = []

    def _append(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if not outage.waiting(lambda: storage.exists(self.file(name))):
            writer.writerow(columns)
        elif name not in self._matched:
            self._match_columns(name, columns)
        self._matched.add(name)
        writer.writerows(rows)
        if text.getvalue():
            storage.append_line(self.file(name), text.getvalue().removesuffix("\n"))

    def _match_columns(self, name: str, columns: Sequence[str]) -> None:
        """Give a file that an older segray began the columns of this one, empty in the rows that lack them."""
        rows = self.rows(name)
        if rows and list(rows[0]) != list(columns):
            self._write_rows(name, columns, [[row.get(column, "") for column in columns] for row in rows])

    def history(self) -> dict[str, Any]:
        """The content of ``history.json``; {} where it is not there yet."""
        return outage.waiting(self._history)

    def _history(self) -> dict[str, Any]:
        if not storage.exists(self.file(HISTORY)):
            return {}
        found: dict[str, Any] = json.loads(storage.read_text(self.file(HISTORY)))
        return found

    def write_history(self, **changes: Any) -> None:
        """Set keys of ``history.json``."""
        storage.write_text(self.file(HISTORY), json.dumps(self.history() | changes, indent=1))

    def show_progress(self, *, force: bool = False, **facts: Any) -> None:
        """Write ``progress.json`` for whoever watches, at most once a second; on a local disk only."""
        now = time.monotonic()
        if storage.is_remote(self.path) or (not force and now - self._progress_at < PROGRESS_EVERY_S):
            return
        self._progress_at = now
        with outage.missed():
            storage.write_bytes(self.file(PROGRESS), json.dumps(facts).encode("utf-8"), durable=False)

    def progress(self) -> dict[str, Any]:
        """What :meth:`show_progress` wrote last; {} before."""
        if storage.is_remote(self.path) or not storage.exists(self.file(PROGRESS)):
            return {}
        found: dict[str, Any] = json.loads(storage.read_text(self.file(PROGRESS)))
        return found
