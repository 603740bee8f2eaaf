"""Where structures lie in a volume: their voxels along each axis, boxes, centres, and what touches the border."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segray.evaluation.label_slabs import Place, Runs


class Extents:
    """Voxels of every structure in every plane across each of three axes, summed from runs.

    From these profiles come counts, boxes, centres and the first and last planes, exactly.
    """

    def __init__(self, shape: Place, structures: int) -> None:
        self._shape = shape
        self._profiles = [np.zeros((structures + 1) * (size + 1)) for size in shape]
        self._inner = np.zeros(structures + 1)

    def add(self, runs: Runs) -> None:
        """Take in the runs of a slab."""
        numbers, lengths = runs.numbers, runs.lengths
        for axis in (0, 1):
            self._count(axis, numbers, runs.starts[axis], lengths)
        x = runs.starts[2]
        # Along the runs only their ends are noted; a sum from the left fills what lies between.
        self._count(2, numbers, x, np.ones_like(x))
        self._count(2, numbers, x + lengths, np.full_like(x, -1))
        low, high = zip(*(_within(size) for size in self._shape), strict=True)
        inner = np.minimum(x + lengths, high[2]) - np.maximum(x, low[2])
        for axis in (0, 1):
            inner = np.where((runs.starts[axis] >= low[axis]) & (runs.starts[axis] < high[axis]), inner, 0)
        self._inner += np.bincount(numbers, weights=np.maximum(inner, 0), minlength=self._inner.size)

    def _count(self, axis: int, numbers: NDArray[np.int64], at: NDArray[np.int64], weights: NDArray[np.int64]) -> None:
        # Whole numbers below 2**53: the float64 sums are exact.
        keys = numbers * (self._shape[axis] + 1) + at
        self._profiles[axis] += np.bincount(keys, weights=weights, minlength=self._profiles[axis].size)

    def profiles(self) -> list[NDArray[np.int64]]:
        """An axis each: (structures, size) voxels in the planes across it."""
        found = [
            flat.astype(np.int64).reshape(-1, size + 1) for flat, size in zip(self._profiles, self._shape, strict=True)
        ]
        found[2] = np.cumsum(found[2], axis=1)
        return [profile[1:, :-1] for profile in found]

    def border(self) -> NDArray[np.int64]:
        """(structures,) voxels that lie in the first or last plane of any axis; an axis of one plane has no border."""
        return np.asarray(self.profiles()[0].sum(axis=1) - self._inner[1:], dtype=np.int64)


def boxes(profiles: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(structures, 3, 2) first and last index along each axis; -1 where the structure is absent."""
    found = np.full((len(profiles[0]), 3, 2), -1, dtype=np.int64)
    for axis, profile in enumerate(profiles):
        there = profile > 0
        ends = np.stack([there.argmax(axis=1), profile.shape[1] - 1 - there[:, ::-1].argmax(axis=1)], axis=1)
        found[:, axis] = np.where(there.any(axis=1, keepdims=True), ends, -1)
    return found


def centres(profiles: list[NDArray[np.int64]]) -> NDArray[np.float64]:
    """(structures, 3) mean index of the voxels along each axis; NaN where the structure is absent."""
    counts = profiles[0].sum(axis=1)
    sums = np.stack([profile @ np.arange(profile.shape[1]) for profile in profiles], axis=1)
    return np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], np.nan)


def sides(profiles: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """(structures, 3, 2) voxels in the first and the last plane across each axis; 0 across an axis of one plane."""
    found = [profile[:, [0, -1]] * (profile.shape[1] > 1) for profile in profiles]
    return np.stack(found, axis=1)


def _within(size: int) -> tuple[int, int]:
    """The indices of an axis that are not its border: from, and before."""
    return (1, size - 1) if size > 1 else (0, 1)
