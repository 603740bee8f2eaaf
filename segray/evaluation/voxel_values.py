"""Mean, standard deviation and percentiles of the voxels of every structure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import Volume
from segray.evaluation.label_slabs import Window, is_inside

PERCENTILES = (5, 50, 95)

LEAST_TABLE = 1 << 20
"""Entries that a table of counts may always have; beyond, no more bytes than the voxels of a CT take."""

_PIECE = 1 << 18


@dataclass(frozen=True)
class ValueSummary:
    """Of every structure; NaN where it is absent, or a voxel in it is NaN. Units are those of the voxels, HU for CT.

    Attributes:
        mean: (structures,) float64.
        sd: (structures,) float64, over all voxels (divided by their number).
        percentiles: (structures, 3) float64: ``PERCENTILES``, between two voxels linear as numpy's default.
    """

    mean: NDArray[np.float64]
    sd: NDArray[np.float64]
    percentiles: NDArray[np.float64]


class ValueCounts:
    """How often every structure has every value: exact for integers, from which all of the summary follows."""

    def __init__(self, structures: int, lowest: int, highest: int) -> None:
        self._lowest = lowest
        self._bins = highest - lowest + 1
        self._counts = np.zeros((structures + 1) * self._bins, dtype=np.int32)

    @classmethod
    def fitting(cls, voxels: Volume, structures: int) -> ValueCounts | None:
        """A table for all values of ``voxels``; None for values that are no integers, or of too wide a range."""
        if voxels.dtype.kind not in "iub" or voxels.dtype.str[1:] == "u8" or not 0 < voxels.size < 1 << 31:
            return None
        lowest, highest = int(voxels.min()), int(voxels.max())
        entries = (structures + 1) * (highest - lowest + 1)
        return cls(structures, lowest, highest) if entries <= max(LEAST_TABLE, voxels.size // 2) else None

    def add(self, numbers: NDArray[np.int64], lengths: NDArray[np.int64], values: NDArray[Any]) -> None:
        """Count the ``values`` of runs: their structures (from 1), their lengths, and all their voxels in one row."""
        keys = np.repeat(numbers * self._bins - self._lowest, lengths)
        keys += values
        np.add.at(self._counts, keys, np.int32(1))  # a plain 1 is 25 times slower

    def summary(self) -> ValueSummary:
        """What the counts say of each structure."""
        table = self._counts.reshape(-1, self._bins)[1:]
        values = np.arange(self._lowest, self._lowest + self._bins, dtype=np.int64)
        rows = [_summary_of_counts(counts, values) for counts in table]
        return _stacked(rows)


def summary_by_box(voxels: Volume, labels: Volume, boxes: NDArray[np.int64], *, overlapping: bool) -> ValueSummary:
    """The summary for values of any kind, cut out of the box around each structure: exact, but slower.

    Args:
        voxels: 3 axes, any real dtype.
        labels: as ``voxels``, structures from 1, or bit fields.
        boxes: (structures, 3, 2) as :func:`segray.evaluation.extents.boxes` gives them.
        overlapping: the labels are bit fields.
    """
    rows = []
    for number, box in enumerate(boxes, start=1):
        if box[0, 0] < 0:
            rows.append(_ABSENT)
            continue
        z, y, x = (slice(int(first), int(last) + 1) for first, last in box)
        window: Window = (z, y, x)
        rows.append(_summary_of_values(voxels[window][is_inside(labels[window], number, overlapping=overlapping)]))
    return _stacked(rows)


_Summary = tuple[float, float, tuple[float, ...]]
_ABSENT: _Summary = (math.nan, math.nan, (math.nan,) * len(PERCENTILES))


def _stacked(rows: list[_Summary]) -> ValueSummary:
    mean, sd = (np.array([row[place] for row in rows], dtype=np.float64) for place in (0, 1))
    percentiles = np.array([row[2] for row in rows], dtype=np.float64).reshape(len(rows), len(PERCENTILES))
    return ValueSummary(mean, sd, percentiles)


def _summary_of_counts(counts: NDArray[np.int32], values: NDArray[np.int64]) -> _Summary:
    there = np.flatnonzero(counts)
    if not there.size:
        return _ABSENT
    found, times = values[there], counts[there].astype(np.int64)
    upto = np.cumsum(times)
    voxels = int(upto[-1])
    mean = int(found @ times) / voxels
    sd = math.sqrt(float(((found - mean) ** 2) @ times) / voxels)
    return mean, sd, tuple(_percentile(found, upto, percent) for percent in PERCENTILES)


def _percentile(found: NDArray[np.int64], upto: NDArray[np.int64], percent: float) -> float:
    at = percent / 100 * (int(upto[-1]) - 1)
    below = math.floor(at)
    low, high = (int(found[np.searchsorted(upto, rank, side="right")]) for rank in (below, math.ceil(at)))
    return low + (high - low) * (at - below)


def _summary_of_values(values: NDArray[Any]) -> _Summary:
    exact = np.int64 if values.dtype.kind in "iub" else np.float64
    mean = float(values.sum(dtype=exact)) / values.size
    square = math.fsum(float(((piece - mean) ** 2).sum()) for piece in _pieces(values))
    percentiles = np.percentile(values, PERCENTILES, overwrite_input=True)
    return mean, math.sqrt(square / values.size), tuple(float(value) for value in percentiles)


def _pieces(values: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    for start in range(0, values.size, _PIECE):
        yield values[start : start + _PIECE].astype(np.float64)
