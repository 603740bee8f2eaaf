"""The slices of a series in order, and the grid on which they lie, from their positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.case import Geometry
from segray.errors import CaseError
from segray.formats.dicom_slices import SliceHeader

SAME_MM = 1e-3
"""Slices that are nearer to each other have the same position."""

PARALLEL = 1e-3
"""Difference of direction cosines up to which slices are parallel, and axes at right angles."""

UNEVEN = 0.1
"""Share of the spacing up to which a position may miss its place; beyond 1 % a note says so."""

MISSING = 1.5
"""A gap of this many spacings lacks a slice."""

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """A series in order.

    Attributes:
        groups: for each slice along the normal the numbers of the headers at that position; several: duplicates.
        geometry: axes (column index, row index, slice) to RAS mm.
        notes: what is odd about the positions.
    """

    groups: tuple[tuple[int, ...], ...]
    geometry: Geometry
    notes: tuple[str, ...]


def stack_slices(slices: Sequence[SliceHeader], name: str) -> Stack:
    """Sort slices along the normal of their plane and find their grid; the thickness of a slice plays no part.

    Args:
        slices: all slices of one series.
        name: the case, for the reasons.

    Raises:
        CaseError: no position, mixed sizes or orientations, slices missing, uneven positions, a single slice.
    """
    if len(slices) < 2:
        raise CaseError(f"{name} has {len(slices)} slices; a volume needs two.")
    _check_alike(slices, name)
    row, column = _directions(slices, name)
    positions = np.array([one.position for one in slices], dtype=np.float64)
    along = positions @ np.cross(row, column)
    order = np.argsort(along, kind="stable")
    starts = np.flatnonzero(np.diff(along[order], prepend=-np.inf) > SAME_MM)
    if len(starts) < 2:
        raise CaseError(f"{name} has {len(slices)} slices at one position.", mend="It is no volume; leave it out.")
    groups = tuple(tuple(part.tolist()) for part in np.split(order, starts[1:]))
    firsts = np.array([group[0] for group in groups])
    step, notes = _check_steps(along[firsts], name)
    vector = (positions[firsts[-1]] - positions[firsts[0]]) / (len(firsts) - 1)
    spacing = np.array(slices[0].spacing)
    _check_line(positions, along, positions[firsts[0]], vector / step, float(spacing.min()), name)
    affine = np.eye(4)
    affine[:3, 0] = row * spacing[1]
    affine[:3, 1] = column * spacing[0]
    affine[:3, 2] = vector
    affine[:3, 3] = positions[firsts[0]]
    shape = (slices[0].columns, slices[0].rows, len(groups))
    notes += _tilt(vector, step, len(groups), float(spacing.min())) + _thickness(slices[0].thickness, step)
    return Stack(groups, Geometry(TO_RAS @ affine, shape), tuple(notes))


def _check_alike(slices: Sequence[SliceHeader], name: str) -> None:
    placeless = [one for one in slices if one.position is None or one.orientation is None]
    if placeless:
        raise CaseError(
            f"{len(placeless)} of the {len(slices)} slices of {name} have no position, such as {placeless[0].path}.",
            mend="Without ImagePositionPatient and ImageOrientationPatient a slice has no place; export it again.",
        )
    sizes = sorted({(one.rows, one.columns) for one in slices})
    if len(sizes) > 1:
        shown = ", ".join(f"{rows}x{columns}" for rows, columns in sizes[:4])
        raise CaseError(f"The slices of {name} have different sizes: {shown}.", mend="Split the series.")
    if len({one.frame_of_reference for one in slices}) > 1:
        raise CaseError(f"The slices of {name} lie in different frames of reference.", mend="Split the series.")
    spacings = np.array([one.spacing for one in slices if one.spacing is not None])
    if len(spacings) < len(slices) or spacings.min() <= 0:
        raise CaseError(f"{name} has slices without a valid PixelSpacing.", mend="Export it again.")
    if np.ptp(spacings, axis=0).max() > 1e-4 * spacings.min():
        raise CaseError(f"The slices of {name} have different pixel spacings.", mend="Split the series.")
    if any(one.samples != 1 for one in slices):
        raise CaseError(f"{name} holds colours, not one value a pixel.")


def _directions(slices: Sequence[SliceHeader], name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Unit vectors along a row and along a column, LPS."""
    all_of_them = np.array([one.orientation for one in slices], dtype=np.float64)
    first = all_of_them[0]
    others = int(np.count_nonzero(np.abs(all_of_them - first).max(axis=1) > PARALLEL))
    if others:
        raise CaseError(
            f"{name} mixes slices of different orientation: {others} of {len(slices)} differ from the first.",
            mend="Split the series.",
        )
    row, column = first[:3], first[3:]
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1)) > 10 * PARALLEL or abs(row @ column) > PARALLEL:
        raise CaseError(f"{name} has an ImageOrientationPatient that is no pair of axes.", mend="Export it again.")
    return row / lengths[0], column / lengths[1]


def _check_steps(along: NDArray[np.float64], name: str) -> tuple[float, list[str]]:
    """The spacing of evenly placed slices, mm, and a note where they are a little uneven."""
    steps = np.diff(along)
    usual = float(np.median(steps))
    gaps = np.flatnonzero(steps > MISSING * usual)
    if len(gaps):
        missing = int(np.rint(steps[gaps] / usual - 1).sum())
        shown = ", ".join(f"between {along[gap]:.1f} and {along[gap + 1]:.1f} mm" for gap in gaps[:5])
        more = f" and at {len(gaps) - 5} more places" if len(gaps) > 5 else ""
        raise CaseError(
            f"{name} lacks {missing} slices: {shown}{more} along the normal, at a spacing of {usual:.4g} mm.",
            mend="Fetch the series again.",
        )
    step = float(along[-1] - along[0]) / (len(along) - 1)
    misses = float(np.abs(along - along[0] - step * np.arange(len(along))).max()) / step
    if misses > UNEVEN:
        raise CaseError(
            f"The slices of {name} are not evenly spaced: from {steps.min():.4g} to {steps.max():.4g} mm.",
            mend="Split the series, or resample it.",
        )
    if misses <= 0.01:
        return step, []
    return step, [f"The slices lie {steps.min():.4g} to {steps.max():.4g} mm apart; {step:.4g} mm is used."]


def _check_line(
    positions: NDArray[np.float64],
    along: NDArray[np.float64],
    start: NDArray[np.float64],
    slope: NDArray[np.float64],
    pixel: float,
    name: str,
) -> None:
    """Refuse slices that are shifted in their own plane against the others."""
    expected = start + np.outer(along - along.min(), slope)
    distance = float(np.linalg.norm(positions - expected, axis=1).max())
    if distance > UNEVEN * pixel + SAME_MM:
        raise CaseError(
            f"The slices of {name} do not lie behind each other: some are shifted by {distance:.3g} mm in their plane.",
            mend="Split the series.",
        )


def _tilt(vector: NDArray[np.float64], step: float, count: int, pixel: float) -> list[str]:
    length = float(np.linalg.norm(vector))
    if np.sqrt(max(length**2 - step**2, 0.0)) * (count - 1) < UNEVEN * pixel:
        return []
    angle = float(np.degrees(np.arccos(min(step / length, 1.0))))
    return [f"The gantry is tilted by {angle:.1f} degrees; the sheared grid is used as it is."]


def _thickness(thickness: float | None, step: float) -> list[str]:
    if not thickness or abs(thickness - step) <= 0.01 * step:
        return []
    return [f"Slices are {thickness:.4g} mm thick and lie {step:.4g} mm apart; their distance is the spacing."]
