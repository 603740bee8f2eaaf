"""Optuna's journal on a disk that may be away for a while, or be full."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.storages.journal._storage import JournalOperation

from segray.outage import waiting

BLOCK = 1 << 16
"""Bytes that are looked through at a time for the end of the last whole line."""

_WITH_THE_NEXT = frozenset(
    (
        JournalOperation.CREATE_TRIAL,
        JournalOperation.SET_TRIAL_PARAM,
        JournalOperation.SET_TRIAL_INTERMEDIATE_VALUE,
        JournalOperation.SET_TRIAL_SYSTEM_ATTR,
    )
)
"""Entries that need not be safe from a power cut before the next of another kind is.

A trial is drawn again as long as its settings, which are an attribute of the user, are not safe; and what it reports
stands in its run folder too, from which it is told again.
"""


class PatientJournal(JournalFileBackend):
    """A journal that waits for a disk that is away, as :mod:`segray.outage` has it, and mends its own end.

    A disk that was full, or a machine that lost its power, leaves half a line; what Optuna appends to it makes that
    line, and with it the study, unreadable.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._path, self._taken = path, JournalFileSymlinkLock(path)

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Entries from a number on."""
        yield from waiting(lambda: list(super(PatientJournal, self).read_logs(log_number_from)))

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, once also where the disk went away when they were written, but not yet safe."""
        at_once = any(log.get("op_code") not in _WITH_THE_NEXT for log in logs)
        text = "".join(f"{json.dumps(log, separators=(',', ':'))}\n" for log in logs).encode()
        began: list[int] = []

        def append() -> None:
            with self._alone():
                if began:
                    _take_back(self._path, began[0], text)
                began[:] = [_cut_torn_line(self._path)]
                with open(self._path, "ab") as stream:
                    stream.write(text)
                    stream.flush()
                    if at_once:
                        os.fsync(stream.fileno())

        waiting(append)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self._taken.acquire()
        try:
            yield
        finally:
            try:
                self._taken.release()
            except RuntimeError as error:
                # Optuna hides in it what the system said, by which one knows a disk that is away.
                raise error from error.__context__


def _take_back(path: str, begin: int, text: bytes) -> None:
    """Cut what an append that failed had written from ``begin`` on, unless somebody else has written since."""
    with open(path, "r+b") as stream:
        stream.seek(begin)
        if text.startswith(stream.read()):
            stream.truncate(begin)


def _cut_torn_line(path: str) -> int:
    """Cut what lies behind the last line break; the size that remains, in bytes."""
    with open(path, "rb") as stream:
        end = size = stream.seek(0, os.SEEK_END)
        while end > 0:
            begin = max(0, end - BLOCK)
            stream.seek(begin)
            place = stream.read(end - begin).rfind(b"\n")
            if place >= 0:
                end = begin + place + 1
                break
            end = begin
    if end < size:
        os.truncate(path, end)
    return end
