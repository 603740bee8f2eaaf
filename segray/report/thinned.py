"""A label volume thinned to what a picture of some hundred pixels can show, one structure a voxel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import Volume
from segray.evaluation.counting import pair_chunks, run_ends, sums_of_bits

MOST_IN_PLANE = 256
MOST_SLICES = 384
"""Voxels of a thinned volume along y and x, and along z: whole bodies have many slices."""

RIM = 2
"""Empty voxels around a thinned volume, so that neighbours of its voxels can be asked for without a check."""


@dataclass(frozen=True)
class Thinned:
    """Every n-th voxel of a label volume.

    Attributes:
        indices: (y, z, x), so that planes from front to back lie behind each other in memory; 0 is background and
            ``RIM`` empty voxels lie around.
        steps: of (z, y, x), the n.
        spacing: (z, y, x) mm of the thinned grid.
    """

    indices: NDArray[Any]
    steps: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @property
    def inner(self) -> NDArray[Any]:
        """The indices without the rim, a view."""
        return self.indices[RIM:-RIM, RIM:-RIM, RIM:-RIM]

    @cached_property
    def filled(self) -> NDArray[np.bool_]:
        """Where any structure is, (y, z, x) with the rim."""
        return np.asarray(self.indices != 0, dtype=np.bool_)

    @cached_property
    def fullest(self) -> tuple[int, int, int]:
        """The (z, y, x) of the full volume where the slice, the row and the column with the most foreground lie.

        The middle where there is none. Of slices and columns every fourth row is counted.
        """
        over_y = np.add.reduce(self.filled[RIM:-RIM:4, RIM:-RIM, RIM:-RIM], axis=0, dtype=np.uint16)
        of_planes = np.array([np.count_nonzero(plane) for plane in self.filled[RIM:-RIM]])
        counts = (over_y.sum(axis=1), of_planes, over_y.sum(axis=0))
        at = [int(count.argmax()) if count.any() else len(count) // 2 for count in counts]
        z, y, x = (place * step for place, step in zip(at, self.steps, strict=True))
        return z, y, x


def thin(labels: Volume, spacing: tuple[float, float, float], structures: int, *, overlapping: bool = False) -> Thinned:
    """Thin a volume to at most ``MOST_SLICES`` x ``MOST_IN_PLANE`` x ``MOST_IN_PLANE`` voxels.

    Args:
        labels: (z, y, x) channel indices or bit fields; indices beyond ``structures`` become background. Of bit
            fields the smallest structure of a voxel remains.
        spacing: (z, y, x) mm.
        structures: how many there are.
        overlapping: the labels are bit fields.
    """
    limits = (MOST_SLICES, MOST_IN_PLANE, MOST_IN_PLANE)
    steps = tuple(max(1, -(-size // most)) for size, most in zip(labels.shape, limits, strict=True))
    z, y, x = steps
    found = labels[::z, ::y, ::x].transpose(1, 0, 2)
    kind = np.uint8 if structures < 256 else np.uint16
    if overlapping:
        found = smallest_of_bits(found, structures).astype(kind)
    elif found.size and found.max() > structures:
        found = np.where(found > structures, 0, found)
    padded = np.zeros([size + 2 * RIM for size in found.shape], kind)
    padded[RIM:-RIM, RIM:-RIM, RIM:-RIM] = found
    dz, dy, dx = spacing
    return Thinned(padded, (z, y, x), (dz * z, dy * y, dx * x))


def smallest_of_bits(fields: NDArray[Any], structures: int) -> NDArray[np.uint8]:
    """Bit fields to the index, from 1, of the smallest structure of each voxel; 0 where no bit is set.

    Size is that within ``fields``, any shape. Runs of equal fields are looked at once.
    """
    flat = np.ascontiguousarray(fields).reshape(-1)
    if not flat.size:
        return np.zeros(fields.shape, np.uint8)
    ends = run_ends(flat)
    lengths = np.diff(ends, prepend=-1)
    runs = flat[ends]
    sizes = sums_of_bits(runs, lengths, structures)
    chosen = np.zeros(len(runs), np.uint8)
    for number in np.argsort(-sizes, kind="stable"):
        chosen[(runs >> runs.dtype.type(number) & 1) > 0] = number + 1
    return np.repeat(chosen, lengths).reshape(fields.shape)


def count_voxels(labels: Volume, structures: int, *, overlapping: bool = False) -> NDArray[np.int64]:
    """(structures,) voxels of every structure, by runs of equal labels."""
    counts = np.zeros(structures + 1, np.float64)
    for chunk, _ in pair_chunks(labels, labels):
        ends = run_ends(chunk)
        lengths, runs = np.diff(ends, prepend=-1), chunk[ends]
        if overlapping:
            counts[1:] += sums_of_bits(runs, lengths, structures)
        else:
            counts += np.bincount(runs, weights=lengths, minlength=structures + 1)[: structures + 1]
    return counts[1:].astype(np.int64)
