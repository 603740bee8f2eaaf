"""Where each structure of a mask lies, so that who looks at one after the other need not see the whole volume."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segray.case import LabelMap, Volume

Box = tuple[slice, slice, slice]
"""A place in a volume along its three axes."""

VALUES = 1 << 16
"""Label values that there can be."""


def structure_boxes(labels: Volume, label_map: LabelMap) -> dict[str, Box]:
    """The smallest box around each structure of label values, or of bit fields where they overlap.

    Args:
        labels: three axes in any order, in any layout.
        label_map: which value, or which bit, a structure has.

    Returns:
        Name to box, in the order of the label map; structures that are not there are left out.
    """
    if label_map.overlapping:
        return _bit_boxes(labels, label_map)
    lowest, highest = _corners(labels)
    boxes = {}
    for name, value in label_map.values.items():
        if highest[0, value] >= 0:
            first, second, third = (slice(int(lowest[axis, value]), int(highest[axis, value]) + 1) for axis in range(3))
            boxes[name] = first, second, third
    return boxes


def inside(labels: Volume, label_map: LabelMap, name: str) -> NDArray[np.bool_]:
    """Where a structure is in (a part of) the label values or bit fields."""
    if not label_map.overlapping:
        return np.asarray(labels == label_map.values[name])
    return (labels >> label_map.names.index(name) & 1).astype(np.bool_)


def _corners(labels: Volume) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(3, values): the lowest and the highest place along each axis of every label value; -1 where it is not there.

    A plane is looked at as runs of equal values, of which there are a hundredth of its voxels.
    """
    lowest = np.full((3, VALUES), np.iinfo(np.int64).max)
    highest = np.full((3, VALUES), -1, np.int64)
    columns = labels.shape[2]
    for place, turned in enumerate(labels):
        plane = np.ascontiguousarray(turned).reshape(-1)
        starts = np.concatenate([[0], np.flatnonzero(plane[1:] != plane[:-1]) + 1])
        values = plane[starts]
        ends = np.concatenate([starts[1:], [len(plane)]]) - 1
        kept = np.flatnonzero(values)
        values, starts, ends = values[kept], starts[kept], ends[kept]
        rows, last_rows = starts // columns, ends // columns
        # A run that goes on in the next row reaches from the last column to the first one.
        broken = last_rows > rows
        left = np.where(broken, 0, starts - rows * columns)
        right = np.where(broken, columns - 1, ends - last_rows * columns)
        lowest[0, values] = np.minimum(lowest[0, values], place)
        highest[0, values] = place
        np.minimum.at(lowest[1], values, rows)
        np.maximum.at(highest[1], values, last_rows)
        np.minimum.at(lowest[2], values, left)
        np.maximum.at(highest[2], values, right)
    return lowest, highest


def _bit_boxes(labels: Volume, label_map: LabelMap) -> dict[str, Box]:
    planes = np.bitwise_or.reduce(labels, axis=2)
    along = (
        np.bitwise_or.reduce(planes, axis=1),
        np.bitwise_or.reduce(planes, axis=0),
        np.bitwise_or.reduce(np.bitwise_or.reduce(labels, axis=1), axis=0),
    )
    boxes = {}
    for number, name in enumerate(label_map.names):
        places = [np.flatnonzero(line >> number & 1) for line in along]
        if len(places[0]):
            first, second, third = (slice(int(found[0]), int(found[-1]) + 1) for found in places)
            boxes[name] = first, second, third
    return boxes
