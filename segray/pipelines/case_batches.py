"""Small cases several at a time: what a task of Ray costs, tens of milliseconds, is more than a tiny case takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import pyarrow as pa

from segray import storage
from segray.errors import SegrayError
from segray.pipelines.runtime import MIB

Case = TypeVar("Case")

MOST_BYTES = 16 * MIB
"""Voxels of the cases of a group together; a larger case is a group of its own."""

MOST_CASES = 32
"""Cases of a group: so many are done again where a worker dies."""

GROUPS_A_WORKER = 4
"""Groups that each worker gets at least, where there are so many cases, so that all end together."""

SOURCES = "sources"
"""The column of a group's cases: one row, a list of CaseSources as JSON."""

Stage = Callable[[pa.Table], pa.Table]
"""From a table of one row to a table of one row."""


def grouped(
    cases: Sequence[Case], bytes_of: Callable[[Case], int], *, workers: int, most_bytes: int = MOST_BYTES
) -> list[list[Case]]:
    """Cases in groups, the largest cases first: a large case that begins last would keep all others waiting.

    Args:
        cases: in any order.
        bytes_of: bytes of the voxels of a case.
        workers: that share the groups.
        most_bytes: of the voxels of a group of several cases.
    """
    most = max(1, min(MOST_CASES, len(cases) // (GROUPS_A_WORKER * max(workers, 1))))
    groups: list[list[Case]] = []
    room = 0
    for case in sorted(cases, key=bytes_of, reverse=True):
        size = bytes_of(case)
        if not groups or len(groups[-1]) >= most or size > room:
            groups.append([])
            room = most_bytes
        groups[-1].append(case)
        room -= size
    return groups


def rows_of(table: pa.Table) -> Iterator[pa.Table]:
    """Each row as a table of its own that shares the memory of ``table``."""
    for number in range(table.num_rows):
        yield table.slice(number, 1)


def sources_of(table: pa.Table) -> Iterator[pa.Table]:
    """Each case of a group as a table of one row with ``source``."""
    for sources in table.column(SOURCES).to_pylist():
        for source in sources:
            yield pa.table({"source": pa.array([source], pa.string())})


@dataclass(frozen=True)
class EachRow:
    """A stage of one row for tables of several, or of none; what it returns is put together without a copy.

    Attributes:
        stage: for a table of one row.
        unpack: makes those of what comes in.
    """

    stage: Stage
    unpack: Callable[[pa.Table], Iterator[pa.Table]] = rows_of

    def __call__(self, table: pa.Table) -> pa.Table:
        """The results of all rows, one below the other; what they write is on the disk then."""
        rows = list(self.unpack(table))
        if len(rows) < 2:
            return self.stage(rows[0]) if rows else table
        try:
            # Tiny files wait for the disk longer than for all else: together they wait once.
            with storage.one_flush():
                done = [self.stage(row) for row in rows]
        except SegrayError:
            # One of them did not reach the disk. Alone, each says so itself.
            done = [self.stage(row) for row in rows]
        return pa.concat_tables(done)
