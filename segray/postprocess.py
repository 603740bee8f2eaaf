"""Masks of whole cases made plausible: small and stray components removed, holes filled."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segray.case import LabelMap, Volume
from segray.config import ALL, PredictConfig

Window = tuple[slice, slice, slice]

FACES = ((-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
"""Steps (z, y, x) to the six voxels that share a face with one."""

ROUNDING = 1e-9
"""Share by which a volume may miss its limit: 0.1 ml in voxels of 0.001 ml are 100 voxels, not 101."""


@dataclass(frozen=True)
class Cleaning:
    """What is removed from masks and filled in them; structures by their place in the label map, from 1.

    The components of a structure are 26-connected. A hole is a 6-connected component of the background that does not
    reach the border of the case and lies against one structure only; in a case of one slice only the border and the
    neighbours in its plane count. Where structures overlap, each is cleaned as if it were alone.

    Attributes:
        largest: structures of which only the largest component is kept; of equals, the first by z, y and x.
        smallest_ml: structures and the volume in ml below which a component is removed, the largest too.
        filled: structures that take the holes in them, after components were removed.
        overlapping: the labels are bit fields.
    """

    largest: frozenset[int] = frozenset()
    smallest_ml: Mapping[int, float] = field(default_factory=dict)
    filled: frozenset[int] = frozenset()
    overlapping: bool = False

    @classmethod
    def of(cls, config: PredictConfig, label_map: LabelMap) -> Cleaning:
        """What the settings ask for. Raises UsageError where they name no structure of the label map."""
        every = range(1, len(label_map.names) + 1)

        def numbers(names: Iterable[str], setting: str) -> frozenset[int]:
            found = {label_map.number(name, f"predict.{setting}") for name in names if name != ALL}
            return frozenset(every if ALL in names else found)

        named = {name: ml for name, ml in config.smallest_ml.items() if name != ALL}
        smallest = dict.fromkeys(every, config.smallest_ml.get(ALL, 0.0))
        smallest |= {label_map.number(name, "predict.smallest_ml"): ml for name, ml in named.items()}
        return cls(
            numbers(config.largest_component, "largest_component"),
            {number: ml for number, ml in smallest.items() if ml > 0},
            numbers(config.fill_holes, "fill_holes"),
            label_map.overlapping,
        )

    def clean(self, labels: Volume, voxel_ml: float) -> None:
        """Clean the mask of a whole case, in place; the same mask always comes out the same.

        Beside the labels it takes about 7 bytes a voxel of the box around the structures that it looks at.

        Args:
            labels: (z, y, x) channel indices, or bit fields, of an unsigned type.
            voxel_ml: volume of a voxel; on a sheared grid less than the product of its spacing.
        """
        least = {number: least_voxels(ml, voxel_ml) for number, ml in self.smallest_ml.items()}
        if not self.overlapping:
            remove_components(labels, self.largest, least)
            fill_holes(labels, self.filled)
            return
        numbers = sorted(self.largest | least.keys() | self.filled)
        seen = [np.bitwise_or.reduce(labels, axis=axes) for axes in ((1, 2), (0, 2), (0, 1))] if numbers else []
        for number in numbers:
            bit = labels.dtype.type(1 << (number - 1))
            window = _box_of_bit(seen, bit)
            if window is None:
                continue
            fields = labels[window]
            inside = ((fields & bit) > 0).astype(np.uint8)
            remove_components(inside, {1} if number in self.largest else (), {1: least.get(number, 1)})
            fill_holes(inside, {1} if number in self.filled else (), planar=len(labels) == 1)
            np.bitwise_and(fields, ~bit, out=fields)
            np.bitwise_or(fields, inside * bit, out=fields)


def least_voxels(ml: float, voxel_ml: float) -> int:
    """The voxels of a volume in ml that a component of at least so many ml has."""
    return math.ceil(ml / voxel_ml * (1.0 - ROUNDING))


def remove_components(labels: Volume, largest: Iterable[int], least: Mapping[int, int]) -> None:
    """Make components of structures background, in place; all structures in one pass over the voxels.

    Args:
        labels: (z, y, x) channel indices.
        largest: structures of which only the largest component is kept.
        least: structures and the voxels that a component must have to be kept.
    """
    largest = set(largest)
    wanted = largest | {number for number, voxels in least.items() if voxels > 1}
    window = _box(labels, wanted)
    if window is None:
        return
    part = labels[window]
    components, count = cc3d.connected_components(_only(part, wanted), connectivity=26, return_N=True)
    sizes = cc3d.statistics(components, no_slice_conversion=True)["voxel_counts"]
    owners = np.zeros(count + 1, labels.dtype)
    for plane, numbers in zip(part, components, strict=True):
        owners[numbers] = plane
    kept = np.ones(count + 1, labels.dtype)
    for number in wanted:
        mine = np.flatnonzero(owners[1:] == number) + 1
        if number in largest and mine.size:
            # Components are numbered in the order of their first voxels, and argmax takes the first of equals.
            kept[mine] = 0
            kept[mine[np.argmax(sizes[mine])]] = 1
        kept[mine[sizes[mine] < least.get(number, 1)]] = 0
    if not kept.all():
        for plane, numbers in zip(part, components, strict=True):
            plane *= kept[numbers]


def fill_holes(labels: Volume, filled: Iterable[int], *, planar: bool | None = None) -> None:
    """Give the holes in structures to them, in place.

    Args:
        labels: (z, y, x) channel indices.
        filled: structures that are filled.
        planar: look at the plane alone; None: where the labels are one slice.
    """
    filled = set(filled)
    planar = len(labels) == 1 if planar is None else planar
    window = _box(labels, filled)
    if window is None:
        return
    part = labels[window]
    # A hole lies inside of the box of its structure; background at a face of the box goes on to the border of the case.
    rooms, count = cc3d.connected_components(np.ascontiguousarray(part == 0), connectivity=6, return_N=True)
    closed = np.ones(count + 1, np.bool_)
    closed[0] = False
    for axis in (1, 2) if planar else (0, 1, 2):
        for end in (0, -1):
            closed[rooms.take(end, axis)] = False
    if not closed.any():
        return
    takers = _takers(part, rooms, closed, FACES[2:] if planar else FACES)
    takers[~np.isin(takers, list(filled))] = 0
    for plane, numbers in zip(part, rooms, strict=True):
        np.maximum(plane, takers[numbers], out=plane)


def _takers(
    part: Volume, rooms: NDArray[Any], closed: NDArray[np.bool_], faces: Iterable[tuple[int, int, int]]
) -> NDArray[Any]:
    """The one structure against which each closed room lies, or 0; slice by slice, since rooms may be large."""
    lowest = np.full(len(closed), np.iinfo(part.dtype).max, part.dtype)
    highest = np.zeros(len(closed), part.dtype)
    for z, plane in enumerate(rooms):
        y, x = np.nonzero(closed[plane])
        if not len(y):
            continue
        own = plane[y, x]
        for down, back, right in faces:
            beside = part[z + down, y + back, x + right]
            wall = beside > 0
            np.minimum.at(lowest, own[wall], beside[wall])
            np.maximum.at(highest, own[wall], beside[wall])
    return np.where(closed & (lowest == highest), highest, 0).astype(part.dtype)


def _only(part: Volume, wanted: Iterable[int]) -> Volume:
    """The labels of the wanted structures, all others 0; contiguous in memory."""
    lookup = np.zeros(int(part.max(initial=0)) + 1, part.dtype)
    numbers = np.array([number for number in wanted if number < len(lookup)], part.dtype)
    lookup[numbers] = numbers
    chosen = np.empty(part.shape, part.dtype)
    # A slice a time: numpy makes 8 bytes of each index.
    for plane, target in zip(part, chosen, strict=True):
        target[...] = lookup[plane]
    return chosen


def _box(labels: Volume, wanted: Iterable[int]) -> Window | None:
    """The smallest box around structures; None where there are none."""
    wanted = set(wanted)
    boxes = ndimage.find_objects(labels, max(wanted)) if wanted else []
    found = [box for number, box in enumerate(boxes, start=1) if box is not None and number in wanted]
    if not found:
        return None
    z, y, x = (
        slice(min(side.start for side in sides), max(side.stop for side in sides)) for sides in zip(*found, strict=True)
    )
    return z, y, x


def _box_of_bit(seen: Sequence[NDArray[Any]], bit: Any) -> Window | None:
    """The smallest box around what has a bit, of the bits seen along z, y and x; None where nothing has it."""
    places = [np.flatnonzero(along & bit) for along in seen]
    if not len(places[0]):
        return None
    z, y, x = (slice(int(along[0]), int(along[-1]) + 1) for along in places)
    return z, y, x
