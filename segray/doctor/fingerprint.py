"""A small picture of a case by which nearly equal cases are found among many."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from segray.case import Volume

SOLID = (8, 8, 8)
FLAT = (1, 24, 24)
"""Cells of a volume, and of a few slices."""

FLAT_SLICES = 4

ALIKE = 0.998
"""Correlation of two fingerprints from which two cases count as nearly the same."""

AT_ONCE = 1024
"""Fingerprints that are compared with all others at a time."""


def fingerprint(image: Volume) -> str:
    """The mean of each cell of the (thinned) image as a byte, in base64; only cases of as many cells are compared."""
    cells = FLAT if len(image) < FLAT_SLICES else SOLID
    means = _cell_means(image.astype(np.float32), cells)
    low, high = float(means.min()), float(means.max())
    scaled = (means - low) * (255 / (high - low)) if high > low else np.zeros(cells)
    return base64.b64encode(np.rint(scaled).astype(np.uint8).tobytes()).decode("ascii")


def _cell_means(image: NDArray[np.float32], cells: tuple[int, int, int]) -> NDArray[np.float32]:
    """Means over ``cells`` parts a side; a side shorter than that repeats its voxels."""
    for axis, count in enumerate(cells):
        side = image.shape[axis]
        if side < count:
            image = np.repeat(image, -(-count // side), axis=axis)
            side = image.shape[axis]
        starts = np.arange(count) * side // count
        widths = np.diff([*starts, side]).reshape([-1 if at == axis else 1 for at in range(3)])
        image = (np.add.reduceat(image, starts, axis=axis) / widths).astype(np.float32)
    return image


def near_pairs(prints: Sequence[str], shapes: Sequence[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Pairs (first, second) of positions whose images look the same; of one number of cells and like proportions.

    Images without contrast (all cells equal) look like nothing.
    """
    raw = [np.frombuffer(base64.b64decode(one), np.uint8).astype(np.float32) for one in prints]
    for length in sorted({len(one) for one in raw}):
        places = np.array([at for at, one in enumerate(raw) if len(one) == length and one.min() < one.max()])
        if len(places) < 2:
            continue
        rows = np.stack([raw[at] - raw[at].mean() for at in places])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        for start in range(0, len(rows), AT_ONCE):
            alike = rows[start : start + AT_ONCE] @ rows.T > ALIKE
            for first, second in zip(*(axis.tolist() for axis in np.nonzero(alike)), strict=True):
                one, two = int(places[start + first]), int(places[second])
                if one < two and _same_proportions(shapes[one], shapes[two]):
                    yield one, two


def _same_proportions(one: tuple[int, int, int], two: tuple[int, int, int]) -> bool:
    ratios = np.array(one) / np.array(two)
    return bool(ratios.max() <= 1.5 * ratios.min())


def clusters(pairs: Iterator[tuple[int, int]]) -> list[list[int]]:
    """The positions that pairs connect, each group in order."""
    parent: dict[int, int] = {}

    def root(one: int) -> int:
        while parent.setdefault(one, one) != one:
            parent[one] = parent[parent[one]]
            one = parent[one]
        return one

    for one, two in pairs:
        parent[max(root(one), root(two))] = min(root(one), root(two))
    groups: dict[int, list[int]] = {}
    for one in sorted(parent):
        groups.setdefault(root(one), []).append(one)
    return list(groups.values())
