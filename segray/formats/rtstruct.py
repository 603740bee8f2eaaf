"""RTSTRUCT: closed planar contours to voxels. A voxel belongs to a structure when its centre lies inside.

Inside means enclosed an odd number of times by all contours of the slice together: a contour in another is a hole, and
the channel of a keyhole contour has no width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataelem import RawDataElement

from segray.case import Geometry
from segray.errors import CaseError
from segray.formats.dicom_file import Dataset, element, integer, items, text
from segray.formats.dicom_geometry import TO_RAS
from segray.formats.note import Note

CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")

FLAT = 0.25
"""Slices by which the points of a contour may leave its plane."""

SAME_PLANE = 0.01
"""Slices between contours of one plane."""

Contour = NDArray[np.float64]
"""(points, 3) voxel indices (i, j, k) of a closed line."""


def roi_names(dataset: Dataset) -> tuple[dict[int, str], list[str]]:
    """ROI number to name of those with closed contours, and the names of the others."""
    drawn = {
        integer(item, "ReferencedROINumber")
        for item in items(dataset, "ROIContourSequence")
        if any(text(contour, "ContourGeometricType") in CLOSED for contour in items(item, "ContourSequence"))
    }
    named: dict[int, str] = {}
    empty: list[str] = []
    for item in items(dataset, "StructureSetROISequence"):
        number = integer(item, "ROINumber")
        name = text(item, "ROIName") or f"roi_{number}"
        if number in drawn:
            named[number] = name
        else:
            empty.append(name)
    return named, empty


def references(dataset: Dataset) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """SeriesInstanceUIDs of its images, and the frames of reference of its structures."""
    series: list[str] = []
    frames = [text(item, "ReferencedFrameOfReferenceUID") for item in items(dataset, "StructureSetROISequence")]
    for frame in items(dataset, "ReferencedFrameOfReferenceSequence"):
        frames.append(text(frame, "FrameOfReferenceUID"))
        for study in items(frame, "RTReferencedStudySequence"):
            series += [text(one, "SeriesInstanceUID") for one in items(study, "RTReferencedSeriesSequence")]
    return tuple(dict.fromkeys(filter(None, series))), tuple(dict.fromkeys(filter(None, frames)))


def draw_rois(
    dataset: Dataset, path: str, wanted: tuple[int, ...], geometry: Geometry, notes: list[str]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Each wanted ROI as (slice, row, column) of the series' files.

    Raises:
        CaseError: contours that are no points, or that cross the slices.
    """
    drawn = {integer(item, "ReferencedROINumber"): item for item in items(dataset, "ROIContourSequence")}
    names = roi_names(dataset)[0]
    for number in wanted:
        if number not in drawn:
            raise CaseError(f"{path} has no contours of the structure number {number}.")
        contours = _contours(drawn[number], geometry, path, names.get(number, str(number)), notes)
        yield number, _drawn(contours, geometry, names.get(number, str(number)), notes)


def _contours(roi: Dataset, geometry: Geometry, path: str, name: str, notes: list[str]) -> list[Contour]:
    to_voxels = np.linalg.inv(TO_RAS @ geometry.affine)
    found: list[Contour] = []
    ignored: Counter[str] = Counter()
    for item in items(roi, "ContourSequence"):
        kind = text(item, "ContourGeometricType")
        points = _points(item, path)
        if kind not in CLOSED or len(points) < 3:
            ignored[kind if kind not in CLOSED else "closed ones of less than three points"] += 1
            continue
        voxels = points @ to_voxels[:3, :3].T + to_voxels[:3, 3]
        if np.ptp(voxels[:, 2]) > FLAT:
            raise CaseError(
                f"{path}: a contour of {name} crosses {np.ptp(voxels[:, 2]):.1f} slices.",
                mend="segray draws contours in the plane of the slices; export them so.",
            )
        found.append(voxels)
    if ignored:
        shown = ", ".join(f"{count} {kind}" for kind, count in sorted(ignored.items()))
        notes.append(f"Contours of {name} that enclose nothing are ignored: {shown}.")
    return found


def _points(item: Dataset, path: str) -> NDArray[np.float64]:
    try:
        points = np.array(_coordinates(item), dtype=np.float64).reshape(-1, 3)
    except (TypeError, ValueError) as error:
        raise CaseError(f"{path} has a contour that is no list of points.", mend="Export it again.") from error
    if not np.isfinite(points).all():
        raise CaseError(f"{path} has a contour with points that are not finite.", mend="Export it again.")
    return points


def _coordinates(item: Dataset) -> Any:
    """The numbers of a contour, as texts where nobody has read them yet: pydicom makes an object of each."""
    raw = item.get_item("ContourData")
    if not isinstance(raw, RawDataElement):
        data = element(item, "ContourData")
        return [] if data is None else data
    told = bytes(raw.value or b"").decode("ascii").strip(" \0")
    return told.split("\\") if told else []


def _drawn(contours: list[Contour], geometry: Geometry, name: str, notes: list[str]) -> NDArray[np.bool_]:
    columns, rows, count = geometry.shape
    inside = np.zeros((count, rows, columns), np.bool_)
    planes, outside, crowded = _by_slice(contours, count)
    for place, members in planes.items():
        inside[place] = fill_contours([one[:, :2] for one in members], rows, columns)
    if outside:
        notes.append(Note(f"{outside} contours of {name} lie above or below the series and are left out.", "lost"))
    if crowded:
        sentence = f"{crowded} contours of {name} lie between slices whose own contours are nearer; they are left out."
        notes.append(Note(sentence, "between"))
    if planes:
        between = max(planes) - min(planes) + 1 - len(planes)
        if between:
            notes.append(Note(f"{name} has no contour on {between} slices between others; they stay empty.", "gap"))
    return inside


def _by_slice(contours: list[Contour], count: int) -> tuple[dict[int, list[Contour]], int, int]:
    """Contours by the slice to which they are nearest; of several planes at one slice the nearest alone."""
    planes: dict[int, tuple[float, list[Contour]]] = {}
    outside = crowded = 0
    for contour in contours:
        height = float(contour[:, 2].mean())
        place = int(np.floor(height + 0.5))
        if not 0 <= place < count:
            outside += 1
            continue
        distance = height - place
        held = planes.get(place)
        if held is None or abs(distance) < abs(held[0]) - SAME_PLANE:
            crowded += 0 if held is None else len(held[1])
            planes[place] = (distance, [contour])
        elif abs(distance - held[0]) <= SAME_PLANE:
            held[1].append(contour)
        else:
            crowded += 1
    return {place: members for place, (_, members) in planes.items()}, outside, crowded


def fill_contours(contours: list[NDArray[np.float64]], rows: int, columns: int) -> NDArray[np.bool_]:
    """The pixels (rows, columns) whose centres lie inside an odd number of closed lines.

    Args:
        contours: each (points, 2) as (column, row); the centre of the first pixel is (0, 0).
        rows: of the slice.
        columns: of the slice.

    A centre on a line counts as inside on the left and upper side, as outside on the right and lower one, so that
    structures that touch share no pixel.
    """
    ends = np.concatenate([np.stack([line, np.roll(line, -1, axis=0)], axis=1) for line in contours])
    upper = np.where((ends[:, 0, 1] <= ends[:, 1, 1])[:, None], ends[:, 0], ends[:, 1])
    lower = np.where((ends[:, 0, 1] <= ends[:, 1, 1])[:, None], ends[:, 1], ends[:, 0])
    first = np.clip(np.ceil(upper[:, 1]), 0, rows).astype(np.int64)
    counts = np.clip(np.ceil(lower[:, 1]), 0, rows).astype(np.int64) - first
    edges = np.repeat(np.arange(len(ends)), counts)
    row = np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts) + first[edges]
    share = (row - upper[edges, 1]) / (lower[edges, 1] - upper[edges, 1])
    crossing = upper[edges, 0] + share * (lower[edges, 0] - upper[edges, 0])
    column = np.clip(np.ceil(crossing), 0, columns).astype(np.int64)
    inside = np.zeros((rows, columns), np.bool_)
    if len(row):
        # Closed lines cross a row an even number of times: beyond the last crossing there is nothing.
        top, left = int(row.min()), int(column.min())
        height, width = int(row.max()) - top + 1, int(column.max()) - left
        places = (row - top) * (width + 1) + column - left
        toggles = np.bincount(places, minlength=height * (width + 1)).reshape(height, width + 1)
        inside[top : top + height, left : left + width] = np.cumsum(toggles, axis=1)[:, :width] & 1
    return inside
