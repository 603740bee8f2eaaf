"""DICOM SEG: segments as frames, each placed by its own position on the grid of the series."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from segray.case import Geometry
from segray.errors import CaseError
from segray.formats.dicom_file import Dataset, integer, items, numbers, text
from segray.formats.dicom_geometry import TO_RAS
from segray.formats.dicom_pixels import decoded
from segray.formats.label_grid import NEAR

MEND = "Export it on the grid of its series."


MOST_SLICES = 4
"""Slices of the series whose pixels a frame may have: it may reach beyond them, empty."""


def segment_names(dataset: Dataset) -> dict[int, str]:
    """Segment number to its label; the background of a label map is left out."""
    found: dict[int, str] = {}
    for item in items(dataset, "SegmentSequence"):
        number = integer(item, "SegmentNumber")
        if number > 0:
            found[number] = text(item, "SegmentLabel") or f"segment_{number}"
    return found


def references(dataset: Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """SeriesInstanceUIDs of its images, and its frames of reference."""
    series = tuple(text(item, "SeriesInstanceUID") for item in items(dataset, "ReferencedSeriesSequence"))
    frame = text(dataset, "FrameOfReferenceUID")
    return tuple(uid for uid in series if uid), (frame,) if frame else ()


def draw_segments(
    dataset: Dataset, path: str, wanted: tuple[int, ...], geometry: Geometry, notes: list[str]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Each wanted segment as (slice, row, column) of the series' files.

    Raises:
        CaseError: cut, without positions, or on another grid.
    """
    kind = text(dataset, "SegmentationType") or "BINARY"
    if kind == "FRACTIONAL":
        notes.append("The DICOM SEG holds fractions; voxels with at least half of the maximum are inside.")
    half = max(integer(dataset, "MaximumFractionalValue", 255), 1) / 2 if kind == "FRACTIONAL" else 1
    _check_frames(dataset, path, geometry)
    frames = items(dataset, "PerFrameFunctionalGroupsSequence")
    if not frames:
        raise CaseError(f"{path} has frames without a position.", mend="Export it again.")
    places = [_place(dataset, frame, geometry, path) for frame in frames]
    if kind == "LABELMAP":
        yield from _of_label_map(dataset, path, wanted, geometry, places)
        return
    members: dict[int, list[int]] = {number: [] for number in wanted}
    for number, frame in enumerate(frames):
        segment = _segment_of(dataset, frame)
        if segment in members:
            members[segment].append(number)
    for segment, of_it in members.items():
        inside = np.zeros(geometry.shape[::-1], np.bool_)
        for number in of_it:
            _put(inside, decoded(dataset, path, _index(frames, number)) >= half, places[number], path)
        yield segment, inside


def _check_frames(dataset: Dataset, path: str, geometry: Geometry) -> None:
    """Refuse frames that no slice of the series could hold, before one is unpacked. Raises CaseError."""
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    _, *sides = sorted(geometry.shape)
    if rows * columns > MOST_SLICES * sides[0] * sides[1]:
        raise CaseError(
            f"{path} claims frames of {rows}x{columns} pixels, far more than the slices of its series have.", mend=MEND
        )


def _of_label_map(
    dataset: Dataset,
    path: str,
    wanted: tuple[int, ...],
    geometry: Geometry,
    places: list[NDArray[np.int64]],
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    labels = np.zeros(geometry.shape[::-1], np.uint16)
    for number, place in enumerate(places):
        _put(labels, decoded(dataset, path, _index(places, number)), place, path)
    for segment in wanted:
        yield segment, labels == segment


def _index(frames: list[Dataset] | list[NDArray[np.int64]], number: int) -> int:
    return number if len(frames) > 1 else -1


def _segment_of(dataset: Dataset, frame: Dataset) -> int:
    for place in (frame, *items(dataset, "SharedFunctionalGroupsSequence")):
        for item in items(place, "SegmentIdentificationSequence"):
            return integer(item, "ReferencedSegmentNumber")
    return 0


def _place(dataset: Dataset, frame: Dataset, geometry: Geometry, path: str) -> NDArray[np.int64]:
    """(3, 3) voxel indices: of the first pixel, a step along a row, a step along a column; each (i, j, k)."""
    shared = items(dataset, "SharedFunctionalGroupsSequence")
    found = {}
    for group, name, count in (
        ("PlanePositionSequence", "ImagePositionPatient", 3),
        ("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        ("PixelMeasuresSequence", "PixelSpacing", 2),
    ):
        values = next((numbers(item, name, count) for place in (frame, *shared) for item in items(place, group)), None)
        if values is None:
            raise CaseError(f"{path} has frames without {name}.", mend="Export it again.")
        found[name] = np.array(values)
    position, directions, spacing = found.values()
    to_voxels = np.linalg.inv(TO_RAS @ geometry.affine)
    start = to_voxels[:3, :3] @ position + to_voxels[:3, 3]
    steps = [to_voxels[:3, :3] @ (directions[:3] * spacing[1]), to_voxels[:3, :3] @ (directions[3:] * spacing[0])]
    exact = np.array([start, *steps])
    place: NDArray[np.int64] = np.rint(exact).astype(np.int64)
    last = np.array([1, integer(dataset, "Columns") - 1, integer(dataset, "Rows") - 1])
    misses = max(float(np.abs(last * used @ (exact - place)).max()) for used in np.array([[1, 0, 0], [1, 1, 1]]))
    if misses > NEAR or np.abs(place[1:]).sum() != 2:
        raise CaseError(
            f"{path} does not lie on the grid of its series (it misses it by {misses:.1f} voxels).", mend=MEND
        )
    return place


def _put(target: NDArray[np.generic], pixels: NDArray[np.generic], place: NDArray[np.int64], path: str) -> None:
    """Write the nonzero pixels (row, column) of a frame into (slice, row, column)."""
    rows, columns = np.nonzero(pixels)
    if len(rows) == 0:
        return
    where = place[0] + columns[:, None] * place[1] + rows[:, None] * place[2]
    if where.min() < 0 or (where >= np.array(target.shape[::-1])).any():
        raise CaseError(f"{path} has voxels outside of its series.", mend=MEND)
    target[where[:, 2], where[:, 1], where[:, 0]] = pixels[rows, columns]
