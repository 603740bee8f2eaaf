"""What reading shards took from their storage: bytes, and sentences for the run's log, visit by visit."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from segray.shards.index import Visit

if TYPE_CHECKING:
    from segray.shards.reader import ReadVisit

READ_BYTES = "read_bytes"
"""int64 column beside the rows of a visit: in its first row what reading the visit took from the storage, else 0."""

READ_NOTES = "read_notes"
"""string column beside it: in the first row sentences for the log, a line each; else null."""


@dataclass
class Tally:
    """Bytes read of the shards' files, and sentences that the log of the run should have."""

    bytes: int = 0
    notes: list[str] = field(default_factory=list)

    def add(self, other: Tally) -> None:
        """Count the other's as well."""
        self.bytes += other.bytes
        self.notes += other.notes


_TALLY: ContextVar[Tally | None] = ContextVar("tally", default=None)


@contextmanager
def counting() -> Iterator[Tally]:
    """What this thread reads of shards within the block."""
    tally = Tally()
    token = _TALLY.set(tally)
    try:
        yield tally
    finally:
        _TALLY.reset(token)


def count(size: int) -> None:
    """``size`` bytes were read from the storage; counted where a :func:`counting` is open."""
    tally = _TALLY.get()
    if tally is not None:
        tally.bytes += size


def note(words: str) -> None:
    """A sentence for the log, kept where a :func:`counting` is open."""
    tally = _TALLY.get()
    if tally is not None:
        tally.notes.append(words)


class CountedFile:
    """A file of pyarrow that counts what is read of it, for :class:`pyarrow.PythonFile`.

    Its buffers are those of the file: what is mapped stays mapped and is not copied.
    """

    def __init__(self, source: Any) -> None:
        self._source, self._fresh = source, 0

    def taken(self) -> int:
        """Bytes since the last call.

        Not counted at once, since pyarrow may read in a thread of its own, of which no :func:`counting` knows.
        """
        fresh, self._fresh = self._fresh, 0
        return fresh

    def read_buffer(self, size: int | None = None) -> Any:
        """As pyarrow's own files."""
        found = self._source.read_buffer(size)
        self._fresh += found.size
        return found

    def read(self, size: int | None = None) -> bytes:
        """As pyarrow's own files."""
        return bytes(self.read_buffer(size))

    def seek(self, position: int, whence: int = 0) -> int:
        """As pyarrow's own files."""
        return int(self._source.seek(position, whence))

    def tell(self) -> int:
        """As pyarrow's own files."""
        return int(self._source.tell())

    def close(self) -> None:
        """As pyarrow's own files."""
        self._source.close()

    @property
    def closed(self) -> bool:
        """As pyarrow's own files."""
        return bool(self._source.closed)


class CountedVisits:
    """A reader of visits, for several threads, that keeps the sum of what they took from the storage."""

    def __init__(self, read: ReadVisit) -> None:
        self._read, self._lock, self._sum = read, threading.Lock(), Tally()

    def __call__(self, folder: str, visit: Visit) -> pa.Table:
        """As :data:`segray.shards.reader.ReadVisit`."""
        with counting() as tally:
            try:
                return self._read(folder, visit)
            finally:
                with self._lock:
                    self._sum.add(tally)

    def taken(self) -> Tally:
        """The sum since the last call."""
        with self._lock:
            found, self._sum = self._sum, Tally()
        return found


def with_tally(table: pa.Table, tally: Tally) -> pa.Table:
    """The rows of a visit with the columns :data:`READ_BYTES` and :data:`READ_NOTES`.

    Columns, not metadata: Ray Data cuts and joins blocks, and a sum over rows stays what it is.
    """
    rest = table.num_rows - 1
    sizes = pa.array([tally.bytes, *[0] * rest], pa.int64())
    words = pa.array(["\n".join(tally.notes) or None, *[None] * rest], pa.string())
    return table.append_column(READ_BYTES, sizes).append_column(READ_NOTES, words)
