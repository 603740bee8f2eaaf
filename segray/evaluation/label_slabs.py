"""Label volumes cut into slabs with a border of background, in which runs of voxels and 2x2x2 neighbourhoods are found.

All arrays here are in the order of memory, whatever axes of the patient that is: :func:`memory_order` says it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import Volume

SLAB_VOXELS = 1 << 20
"""Voxels of a slab: its labels and the flags beside them stay in the cache, and a carried plane costs little."""

Place = tuple[int, int, int]
Window = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Runs:
    """Runs of equal labels along the last axis, background left out; arrays of one length, in the order of memory.

    Attributes:
        numbers: the structure of each run, from 1.
        lengths: its voxels.
        starts: the place of its first voxel in the volume: three arrays, an axis each.
    """

    numbers: NDArray[np.int64]
    lengths: NDArray[np.int64]
    starts: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]


@dataclass(frozen=True)
class LabelSlab:
    """Some planes of a label volume; the buffer behind it is used again for the next slab.

    Attributes:
        padded: (1 + planes, rows + 2, columns + 2) structures, 0 at the border of every plane; its first plane is the
            last one of the slab before, or 0. The last slab of a volume has another plane of 0 at its end.
        planes: the planes that are this slab's own.
        first: the place in the volume of the first voxel of its own.
    """

    padded: Volume
    planes: int
    first: Place

    @property
    def own(self) -> Volume:
        """The (planes, rows, columns) structures of this slab, as a view."""
        return self.padded[1 : 1 + self.planes, 1:-1, 1:-1]

    @property
    def window(self) -> Window:
        """Where :attr:`own` lies in the volume."""
        z, y, x = (slice(at, at + size) for at, size in zip(self.first, self.own.shape, strict=True))
        return z, y, x

    @property
    def flat(self) -> NDArray[Any]:
        """:attr:`padded` as one row; the border keeps runs and neighbourhoods from going on in the next row."""
        return self.padded.reshape(-1)

    def runs(self) -> Runs:
        """The runs of the slab's own planes."""
        plane, row = self.padded[0].size, self.padded.shape[2]
        begin, end = plane, (1 + self.planes) * plane
        flat = self.flat[begin:end]
        starts = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        numbers = flat[starts].astype(np.int64)
        kept = np.flatnonzero(numbers)
        # A row ends with background, so that behind every run another one starts.
        lengths = starts[kept + 1] - starts[kept] if kept.size else kept
        z, inside = np.divmod(starts[kept], plane)
        y, x = np.divmod(inside, row)
        return Runs(numbers[kept], lengths, (z + self.first[0], y - 1 + self.first[1], x - 1 + self.first[2]))

    def mixed_corners(self) -> NDArray[Any]:
        """(8, n) structures at the corners of all 2x2x2 neighbourhoods that are not all of one structure.

        Corner 4 a + 2 b + c lies a planes, b rows and c columns from the first. Every neighbourhood of the volume and
        its border, which counts as background, belongs to one slab.
        """
        flat, plane, row = self.flat, self.padded[0].size, self.padded.shape[2]
        along = flat[1:] != flat[:-1]
        mixed = along[:-row] | along[row:]
        mixed |= (flat[row:] != flat[:-row])[:-1]
        mixed = mixed[:-plane] | mixed[plane:]
        mixed |= (flat[plane:] != flat[:-plane])[: mixed.size]
        cells = np.flatnonzero(mixed)
        corners = np.empty((8, cells.size), flat.dtype)
        for corner in range(8):
            step = (corner >> 2) * plane + (corner >> 1 & 1) * row + (corner & 1)
            np.take(flat[step:], cells, out=corners[corner], mode="clip")  # "raise" would copy
        return corners


def memory_order(labels: Volume) -> Place:
    """The axes of a volume from the one of the largest step in memory to that of the smallest."""
    z, y, x = (int(axis) for axis in np.argsort([-abs(step) for step in labels.strides], kind="stable"))
    return z, y, x


def label_slabs(labels: Volume, window: Window, bit: int | None = None) -> Iterator[LabelSlab]:
    """The part of a volume in ``window``, slab by slab; nothing outside of the window is looked at.

    Args:
        labels: 3 axes in the order of memory, structures from 1, 0 is background; or bit fields.
        window: slices with a start and a stop.
        bit: of bit fields the one to give; its structure is ``bit + 1``.
    """
    part = labels[window]
    step = max(1, SLAB_VOXELS // max(part[0].size, 1))
    dtype = np.uint8 if labels.dtype.itemsize == 1 or bit is not None else np.uint16
    buffer = np.zeros((min(step, len(part)) + 2, part.shape[1] + 2, part.shape[2] + 2), dtype)
    for start in range(0, len(part), step):
        planes = min(step, len(part) - start)
        if start:
            buffer[0] = buffer[step]
        own = buffer[1 : 1 + planes, 1:-1, 1:-1]
        _fill(own, part[start : start + planes], bit)
        last = start + planes == len(part)
        if last:
            buffer[1 + planes] = 0
        first = (window[0].start + start, window[1].start, window[2].start)
        yield LabelSlab(buffer[: 1 + planes + last], planes, first)


def is_inside(labels: Volume, number: int, *, overlapping: bool) -> NDArray[np.bool_]:
    """Where a structure, from 1, is: of the shape of ``labels``."""
    if overlapping:
        return np.asarray(labels & labels.dtype.type(1 << (number - 1)), dtype=np.bool_)
    return np.asarray(labels == number, dtype=np.bool_)


def windows(labels: Volume, structures: int, *, overlapping: bool) -> list[tuple[Window, int | None]]:
    """Boxes to look at: one around all structures, or of bit fields one around each bit that is set, with the bit."""
    seen = [np.bitwise_or.reduce(labels, axis=axes).astype(np.uint64) for axes in ((1, 2), (0, 2), (0, 1))]
    if not overlapping:
        window = _window(seen)
        return [] if window is None else [(window, None)]
    found: list[tuple[Window, int | None]] = []
    for bit in range(structures):
        window = _window([along & np.uint64(1 << bit) for along in seen])
        if window is not None:
            found.append((window, bit))
    return found


def _window(seen: Sequence[NDArray[np.uint64]]) -> Window | None:
    places = [np.flatnonzero(along) for along in seen]
    if not places[0].size:
        return None
    z, y, x = (slice(int(along[0]), int(along[-1]) + 1) for along in places)
    return z, y, x


def _fill(own: Volume, part: Volume, bit: int | None) -> None:
    if bit is None:
        own[...] = part
    else:
        np.multiply(is_inside(part, bit + 1, overlapping=True), bit + 1, out=own, casting="unsafe")
