"""The log of a run: lines for people in ``run.log``, the same as JSON for machines in ``run.jsonl``.

An object store cannot append, and of two processes that write one file anew one loses its lines: there each process has
a file of its own in the folder ``log``, of JSON alone, and :func:`read_log` puts them together.

All of them hold what :mod:`segray.privacy` lets pass.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from segray import privacy, storage
from segray.errors import SegrayError

LOG = "run.log"
JSON_LOG = "run.jsonl"
PARTS = "log"

PART_BYTES = 2**20
"""After which a process begins another file: each is written whole with every line."""

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
        """Append lines. Raises SegrayError where they cannot be written; ``run.jsonl`` may be missing lines.

        On an object store those that could not be written go with the next ones.
        """
        now = datetime.now(UTC)
        hidden = [Line(privacy.hide(one.message), one.level, privacy.hide_case(one.case)) for one in lines]
        if not hidden:
            return
        records = "\n".join(json.dumps(self._record(now, one), ensure_ascii=False) for one in hidden)
        if storage.is_remote(self._folder):
            _add_to_part(self._folder, records + "\n")
            return
        text = "\n".join(_for_people(now, one) for one in hidden)
        storage.append_line(storage.join(self._folder, LOG), text)
        with suppress(SegrayError):
            storage.append_line(storage.join(self._folder, JSON_LOG), records)

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


def _for_people(when: datetime, line: Line) -> str:
    named = not line.case or re.search(rf"(?<!\w){re.escape(line.case)}(?!\w)", line.message)
    message = line.message if named else f"{line.case}: {line.message}"
    return f"{when.isoformat(timespec='seconds')} {message}"


class _Part:
    """The file of one process in the log of a folder on an object store."""

    def __init__(self, folder: str, stem: str = "", number: int = 0) -> None:
        """The first of a process, or with the ``stem`` of that one the ``number``-th: names are in their order."""
        self.process, self._folder, self._number = os.getpid(), folder, number
        process = f"{socket.gethostname()}-{self.process}-{secrets.token_hex(2)}"
        self._stem = stem or f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{process}"
        self._place, self._text = storage.join(folder, PARTS, f"{self._stem}-{number:03d}.jsonl"), ""

    @property
    def full(self) -> bool:
        """Whether another file should be begun."""
        return len(self._text) > PART_BYTES

    def next(self) -> _Part:
        """Another file of the same process."""
        return _Part(self._folder, self._stem, self._number + 1)

    def add(self, text: str) -> None:
        """Write the file anew, with more lines."""
        self._text += text
        storage.write_text(self._place, self._text)


_parts: dict[str, _Part] = {}
_adding = threading.Lock()


def _add_to_part(folder: str, text: str) -> None:
    with _adding:
        part = _parts.get(folder)
        # A process that was forked has the files of the one it came from.
        if part is None or part.process != os.getpid():
            part = _parts[folder] = _Part(folder)
        elif part.full:
            part = _parts[folder] = part.next()
        part.add(text)


def log_place(folder: str) -> str:
    """Where a user finds what happened: the file, or the folder of an object store."""
    return storage.join(folder, PARTS if storage.is_remote(folder) else LOG)


def read_log(folder: str) -> str | None:
    """The lines for people, of all processes by time; None where there are none.

    Raises:
        SegrayError: a store or a disk does not answer.
    """
    before = storage.join(folder, LOG)
    text = storage.read_text(before) if storage.exists(before) else None
    if not (parts := _read_parts(folder)):
        return text
    return (text or "") + "".join(f"{_told_again(json.loads(record))}\n" for record in parts)


def read_records(folder: str) -> str:
    """The same as lines of JSON; empty where there are none. Raises as :func:`read_log`."""
    before = storage.join(folder, JSON_LOG)
    text = storage.read_text(before) if storage.exists(before) else ""
    return text + "".join(f"{record}\n" for record in _read_parts(folder))


def _read_parts(folder: str) -> list[str]:
    """The records of all processes in an object store, by time."""
    if not storage.is_remote(folder):
        return []
    place = storage.join(folder, PARTS)
    files = (storage.read_text(storage.join(place, name)) for name in storage.names(place, ".jsonl"))
    records = (record for text in files for record in text.split("\n") if record)
    return sorted(records, key=lambda record: str(json.loads(record)["time"]))


def _told_again(record: dict[str, str]) -> str:
    line = Line(record["message"], case=record.get("case", ""))
    return _for_people(datetime.fromisoformat(record["time"]), line)


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
