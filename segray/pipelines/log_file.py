"""The log of a run: lines for people in ``run.log``, the same as JSON for machines in ``run.jsonl``.

Both hold what :mod:`segray.privacy` lets pass.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from segray import privacy, storage
from segray.errors import SegrayError

LOG = "run.log"
JSON_LOG = "run.jsonl"

Level = Literal["info", "warning", "error"]

REMOTE_EVERY_S = 15.0
"""An object store cannot append: there the lines of some seconds are written together."""


@dataclass(frozen=True)
class Line:
    """What is said once.

    Attributes:
        message: in words.
        level: how bad it is.
        case: the id of the case that it is about; empty where it is about none.
    """

    message: str
    level: Level = "info"
    case: str = ""


class LogFile:
    """The log in a folder, written by any number of processes.

    Args:
        folder: a path or a URI.
        run: the id of the run, see :func:`new_run_id`.
        stage: what runs: ingest, train, tune, predict or evaluate.
    """

    def __init__(self, folder: str, run: str, stage: str) -> None:
        self._folder, self.run, self.stage = folder, run, stage

    def write(self, *lines: Line) -> None:
        """Append lines. Raises SegrayError where ``run.log`` cannot be written; ``run.jsonl`` may be missing lines."""
        now = datetime.now(UTC)
        hidden = [Line(privacy.hide(one.message), one.level, privacy.hide_case(one.case)) for one in lines]
        if not hidden:
            return
        text = (f"{now.isoformat(timespec='seconds')} {_with_case(one)}" for one in hidden)
        storage.append_line(storage.join(self._folder, LOG), "\n".join(text))
        records = (json.dumps(self._record(now, one), ensure_ascii=False) for one in hidden)
        with suppress(SegrayError):
            storage.append_line(storage.join(self._folder, JSON_LOG), "\n".join(records))

    def _record(self, now: datetime, line: Line) -> dict[str, str | int]:
        record: dict[str, str | int] = {
            "time": now.isoformat(timespec="milliseconds"),
            "level": line.level,
            "run": privacy.hide(self.run),
            "stage": self.stage,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "message": line.message,
        }
        return record | ({"case": line.case} if line.case else {})


def _with_case(line: Line) -> str:
    named = not line.case or re.search(rf"(?<!\w){re.escape(line.case)}(?!\w)", line.message)
    return line.message if named else f"{line.case}: {line.message}"


class WaitingLog:
    """A log whose lines may wait, and never stop the run: those of an object store are written some seconds later."""

    def __init__(self, file: LogFile, *, remote: bool) -> None:
        self._file, self._remote = file, remote
        self._waiting: list[Line] = []
        self._written_at = -REMOTE_EVERY_S

    def say(self, message: str, level: Level = "info", case: str = "") -> None:
        """Write a line, or keep it for the next ones."""
        self._waiting.append(Line(message, level, case))
        if not self._remote or time.monotonic() - self._written_at > REMOTE_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Write what waits; what cannot be written now is dropped."""
        waiting, self._waiting = self._waiting, []
        with suppress(SegrayError):
            self._file.write(*waiting)
        self._written_at = time.monotonic()


def run_name(folder: str) -> str:
    """What a run is called: the last part of its folder; of a trial or a fold with that of the whole before it."""
    parts = [part for part in folder.rstrip("/").split("/") if part and part != "trials"]
    nested = len(parts) > 1 and ("/trials/" in folder or parts[-1].startswith("fold_"))
    return "-".join(parts[-2:] if nested else parts[-1:]) or "run"


def new_run_id(folder: str) -> str:
    """An id for a run that begins in ``folder``: its name and four random hex digits."""
    return f"{run_name(folder)}-{secrets.token_hex(2)}"
