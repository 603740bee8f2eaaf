"""What a command that goes through cases tells: lines in its log, numbers for Prometheus, and the user's watcher."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from segray import storage
from segray.engine.stage_clock import STAGES
from segray.errors import SegrayError
from segray.pipelines.failures import reason_for
from segray.pipelines.headers import Planned
from segray.pipelines.log_file import LogFile, WaitingLog, new_run_id
from segray.pipelines.run_metrics import RunMetrics

Row = dict[str, Any]
Watcher = Callable[[Row, int, int], None]
Say = Callable[[str], None]

PROGRESS_EVERY_S = 60.0
"""Between two lines of the log that say how far it is."""

PARTS: Mapping[str, str] = {"seconds": "case"} | {f"seconds_{part}": part for part in ("read", *STAGES, "write")}
"""Columns of a row to the parts of the work that they measure."""


class CaseWatch:
    """The log and the numbers of one call of ingest, predict or evaluate; called with every row of a case as it ends.

    Args:
        folder: of the outcome, where ``run.log`` and ``run.jsonl`` are appended to.
        stage: what runs.
        watcher: told of every case too.
        say: told every sentence too.
        run: the id of the run that this is a part of; empty: it is a run of its own.
    """

    def __init__(
        self, folder: str, stage: str, watcher: Watcher | None = None, say: Say | None = None, run: str = ""
    ) -> None:
        self.run = run or new_run_id(folder)
        self._stage, self._watcher, self._say = stage, watcher, say
        self._log = WaitingLog(LogFile(folder, self.run, stage), remote=storage.is_remote(folder))
        self._metrics = RunMetrics(self.run, stage)
        self._slices: dict[str, int] = {}
        self._failed = 0
        self._progress_at = time.monotonic()

    def __enter__(self) -> CaseWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, SegrayError):
            self._log.say(str(error), "error")
        elif isinstance(error, Exception):
            self._log.say(reason_for(error), "error")
        elif error is not None:
            self._log.say("interrupted", "warning")
        self.close()

    def close(self) -> None:
        """Write and tell what waits, while Ray still runs."""
        self._log.flush()
        self._metrics.close()

    def note(self, sentence: str) -> None:
        """A sentence for the log alone."""
        self._log.say(sentence)

    def say(self, sentence: str) -> None:
        """A sentence for the log and the user."""
        self._log.say(sentence)
        if self._say is not None:
            self._say(sentence)

    def failed(self, failures: Sequence[tuple[str, str]]) -> None:
        """Cases, or files, that failed before they were begun, with the reasons."""
        for case_id, reason in failures:
            self._fail(case_id, reason)
        self._metrics.add("segray_cases_failed", len(failures))

    def expect(self, planned: Sequence[Planned]) -> None:
        """The cases that are begun now."""
        self._slices = {case.source.case_id: case.size[0] for case in planned}
        self._metrics.set("segray_cases_waiting", len(planned))
        self._log.say(f"{self._stage}: {len(planned)} cases to do")
        self._log.flush()

    def __call__(self, row: Row, done: int, total: int) -> None:
        """Take the row of a case that has ended."""
        self._count(row, total - done)
        if row.get("reason"):
            self._fail(str(row["case_id"]), str(row["reason"]))
        if time.monotonic() - self._progress_at > PROGRESS_EVERY_S:
            self._progress_at = time.monotonic()
            self._log.say(f"{self._stage}: {done} of {total} cases, {self._failed} failed")
        if self._watcher is not None:
            self._watcher(row, done, total)

    def _fail(self, case_id: str, reason: str) -> None:
        self._failed += 1
        self._log.say(reason, "warning", case_id)

    def _count(self, row: Row, waiting: int) -> None:
        metrics = self._metrics
        metrics.set("segray_cases_waiting", waiting)
        seconds = 0.0
        for column, part in PARTS.items():
            if took := float(row.get(column) or 0.0):
                metrics.add("segray_part_seconds", took, part)
                seconds += took
        slices = self._slices.pop(str(row["case_id"]), 0)
        if row.get("reason"):
            metrics.add("segray_cases_failed")
            return
        metrics.add("segray_cases_done")
        metrics.add("segray_slices", slices)
        if seconds:
            metrics.observe("segray_case_seconds", seconds)
