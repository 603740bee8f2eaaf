"""The outlines of a plane of voxels: closed lines along the edges of voxels, which enclose exactly the same voxels.

Pieces that touch at a corner alone are apart. A hole is reached by a channel without width (the keyhole of DICOM
PS3.3, section C.8.8.6.3), so that one line encloses a piece without its holes whatever rule a reader fills by: odd
number, winding number, or each line on its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Line = NDArray[np.float64]
"""(points, 2) as (column, row); the centre of the first voxel is (0, 0), and the first point is not repeated."""

LEFT_UP, RIGHT_DOWN = 1, 8
"""Bits of the voxels around a corner that is looked at; those right of the upper and below the left one are 2 and 4."""

ONE_TURN = (1, 2, 4, 7, 8, 11, 13, 14)
TWO_TURNS = (6, 9)
"""Which voxels around a corner are inside where a line turns, once or twice."""


def outlines(plane: NDArray[np.bool_]) -> list[Line]:
    """The closed lines around the voxels of a plane (rows, columns), corners only; [] where none is inside.

    Points lie half a voxel beside the centres. Whoever walks along a line has inside on the right, in a picture whose
    rows run downwards.
    """
    corners = _corners(plane)
    if not len(corners.rows):
        return []
    walk = _Walk(corners)
    outer: list[int] = []
    holes: list[int] = []
    for start, hollow in enumerate(corners.hollow.tolist()):
        if walk.after[start] < 0:
            walk.follow(start)
            (holes if hollow else outer).append(start)
    if holes:
        walk.join(holes)
    return [walk.line(start) for start in outer]


@dataclass(frozen=True)
class _Corners:
    """Where lines turn, sorted by row and column. A corner where two lines touch stands there twice.

    Attributes:
        rows: above which row of voxels, from 0 to the number of rows.
        columns: left of which column of voxels.
        across: the corner at the other end of the edge along the row.
        down: the corner at the other end of the edge along the column.
        hollow: the voxel right below is outside: a line whose first corner it is runs around a hole.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    across: NDArray[np.int64]
    down: NDArray[np.int64]
    hollow: NDArray[np.bool_]


def _corners(plane: NDArray[np.bool_]) -> _Corners:
    padded = np.pad(plane.astype(np.uint8), 1)
    around = padded[:-1, :-1] | padded[:-1, 1:] << 1 | padded[1:, :-1] << 2 | padded[1:, 1:] << 3
    turns = np.zeros(16, np.int64)
    turns[list(ONE_TURN)], turns[list(TWO_TURNS)] = 1, 2
    count = turns[around]
    rows, columns = np.nonzero(count)
    times = count[rows, columns]
    rows, columns = np.repeat(rows, times), np.repeat(columns, times)
    around = around[rows, columns]
    numbers = np.arange(len(rows))
    # Of two at one place the first ends an edge that comes from the left, the second begins the one to the right. The
    # edge from above belongs to the voxel that shares it: to the first where the upper left one is inside.
    second = np.concatenate([[False], (rows[1:] == rows[:-1]) & (columns[1:] == columns[:-1])])
    rank = np.where((around & LEFT_UP) == 0, 1 - second, second)
    order = np.lexsort((rank, rows, columns))
    down = np.empty(len(rows), np.int64)
    # In every row, and in every column, edges join the first corner to the second, the third to the fourth, ...
    down[order[0::2]], down[order[1::2]] = order[1::2], order[0::2]
    return _Corners(rows, columns, numbers ^ 1, down, (around & RIGHT_DOWN) == 0)


class _Walk:
    """Lines as the corner that comes after each corner, with inside on the right."""

    def __init__(self, corners: _Corners) -> None:
        self._hollow = corners.hollow.tolist()
        self._across, self._down = corners.across.tolist(), corners.down.tolist()
        self._rows, self._columns = corners.rows.tolist(), corners.columns.tolist()
        self._last: dict[int, int] = {}
        self._joined = False
        self.after = [-1] * len(self._rows)

    def follow(self, start: int) -> None:
        """Join the corners of the line whose uppermost and leftmost one is ``start``."""
        first, second = (self._down, self._across) if self._hollow[start] else (self._across, self._down)
        at = start
        while True:
            middle = first[at]
            self.after[at] = middle
            at = second[middle]
            self.after[middle] = at
            if at == start:
                self._last[start] = middle
                return

    def join(self, holes: list[int]) -> None:
        """Join every hole to the line above it: from its uppermost corner straight up, where all is inside.

        Holes come from above to below: a line above that runs around a hole has been joined itself.
        """
        edges = _Edges(self._rows, self._columns, self.after, len(holes))
        for hole in holes:
            row, column = self._rows[hole], self._columns[hole]
            edge = edges.above(row, column)
            at = edges.start[edge]
            if column == edges.right[edge]:
                at = self.after[at]
            elif column > edges.left[edge]:
                at = self._insert(at, edges.row[edge], column)
            back = self._insert(at, edges.row[edge], column)
            self.after[at] = hole
            end = self._insert(self._last[hole], row, column)
            self.after[end] = back
            edges.cut(edge, column, back)
        self._joined = True

    def _insert(self, before: int, row: int, column: int) -> int:
        """A new corner right after another one."""
        self._rows.append(row)
        self._columns.append(column)
        self.after.append(self.after[before])
        self.after[before] = len(self.after) - 1
        return self.after[before]

    def line(self, start: int) -> Line:
        """The points from ``start`` on, those left out at which a line that was joined goes straight on."""
        found, at = [start], self.after[start]
        while at != start:
            found.append(at)
            at = self.after[at]
        points = np.array([[self._columns[one], self._rows[one]] for one in found], np.float64)
        if self._joined:
            ahead = np.sign(np.roll(points, -1, axis=0) - points)
            points = points[(ahead != np.roll(ahead, 1, axis=0)).any(axis=1)]
        return points - 0.5


class _Edges:
    """The edges along rows that have inside below them, which are walked from left to right.

    Attributes:
        row: of each.
        left: the column where it begins.
        right: the column where it ends.
        start: the corner where it begins.
    """

    def __init__(self, rows: list[int], columns: list[int], after: list[int], more: int) -> None:
        row, column, ends = np.array(rows), np.array(columns), np.array(after)
        found = np.flatnonzero((row[ends] == row) & (column[ends] > column))
        room = np.zeros(more, np.int64)
        self.row = np.concatenate([row[found], room])
        self.left = np.concatenate([column[found], room])
        self.right = np.concatenate([column[ends[found]], room - 1])
        self.start = found.tolist()

    def above(self, row: int, column: int) -> int:
        """The lowest edge above a corner, and there is one above every hole."""
        near = np.flatnonzero((self.row < row) & (self.left <= column) & (self.right >= column))
        return int(near[np.argmax(self.row[near])])

    def cut(self, edge: int, column: int, start: int) -> None:
        """What lies right of ``column`` begins at the corner ``start`` from now on."""
        if column == self.left[edge]:
            self.start[edge] = start
        elif column < self.right[edge]:
            new = len(self.start)
            self.row[new], self.left[new], self.right[new] = self.row[edge], column, self.right[edge]
            self.right[edge] = column
            self.start.append(start)
