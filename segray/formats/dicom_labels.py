"""Labels of a DICOM series: which structures a DICOM SEG or RTSTRUCT holds, and their voxels on the series' grid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import Geometry, LabelMap, Volume, unnamed_values
from segray.errors import CaseError
from segray.formats import dicom_seg, rtstruct
from segray.formats.dicom_file import Dataset, read_dataset, text
from segray.formats.label_names import is_safe
from segray.formats.painting import Painting
from segray.formats.source import CaseSource

KINDS = {"SEG": "DICOM SEG", "RTSTRUCT": "RTSTRUCT"}
"""Modality of a file of labels to its name in sentences."""


@dataclass(frozen=True)
class LabelFile:
    """What a DICOM SEG or RTSTRUCT says about itself.

    Attributes:
        path: the file.
        kind: a key of :data:`KINDS`.
        series: SeriesInstanceUIDs of the images that it refers to.
        frames_of_reference: in which its coordinates are.
        numbers: structure name, made safe, to the number of its segment or ROI.
        empty: names of structures without any contour.
    """

    path: str
    kind: str
    series: tuple[str, ...]
    frames_of_reference: tuple[str, ...]
    numbers: dict[str, int]
    empty: tuple[str, ...] = ()


def describe_labels(path: str) -> LabelFile:
    """The structures of a file of labels. Raises CaseError: damaged, no such file, or without any structure."""
    return _described(path, read_dataset(path))


def structure_numbers(path: str) -> dict[str, int]:
    """Structure name to the number of its segment or ROI. Raises CaseError as :func:`describe_labels`."""
    return describe_labels(path).numbers


def _described(path: str, dataset: Dataset) -> LabelFile:
    kind = text(dataset, "Modality")
    empty: list[str] = []
    if kind == "SEG":
        named = dicom_seg.segment_names(dataset)
        series, frames = dicom_seg.references(dataset)
    elif kind == "RTSTRUCT":
        named, empty = rtstruct.roi_names(dataset)
        series, frames = rtstruct.references(dataset)
    else:
        raise CaseError(f"{path} holds no labels: it is neither DICOM SEG nor RTSTRUCT.")
    if not named:
        what = "segments" if kind == "SEG" else "contours"
        raise CaseError(f"{path} is a {KINDS[kind]} without {what}.", mend="Draw at least one structure.")
    return LabelFile(path, kind, series, frames, _safe(named), tuple(empty))


def _safe(named: dict[int, str]) -> dict[str, int]:
    """Names that can stand in file names, tables and pages; of equal ones the later get their number."""
    found: dict[str, int] = {}
    for number, told in named.items():
        name = re.sub(r"[^\w .+()-]", "_", told.strip())[:48].strip(" .")
        name = name.replace("..", "_").lstrip(" .+()-")
        if not is_safe(name):
            name = f"structure_{number}"
        while name in found:
            name = f"{name}_{number}"
        found[name] = number
    return found


def paint_structures(
    source: CaseSource, geometry: Geometry, label_map: LabelMap | None, overlap: str
) -> tuple[Volume, list[str]]:
    """Label values (z, y, x), LPS, or bit fields with ``overlap="keep"``, and notes.

    ``source.masks`` names the file of each structure. Where ``source.labels`` names a file alone, its structures are
    found in the label map by name; where the map knows none of the names, by the numbers of the segments or ROIs.

    Raises:
        CaseError: damaged, on another grid, of another frame of reference, of values without name.
    """
    notes: list[str] = []
    frame = str(source.details.get("frame_of_reference", ""))
    if source.labels is None:
        known = label_map or LabelMap.of_names(sorted(source.masks))
        wanted = _by_file(source, known)
    else:
        numbers = structure_numbers(source.labels)
        if label_map is not None and not set(numbers) & set(label_map.values):
            return _by_number(source, geometry, label_map, overlap, numbers, frame)
        known = label_map or LabelMap(numbers)
        wanted = {source.labels: {name: number for name, number in numbers.items() if name in known.values}}
    painting = Painting(known, geometry.size, overlap)
    for path, numbers in wanted.items():
        for name, inside in _structures(path, numbers, geometry, frame, notes):
            painting.add(name, inside)
    return painting.labels, notes + painting.notes()


def draw_structures(
    dataset: Dataset, path: str, numbers: dict[str, int], label_map: LabelMap, geometry: Geometry, overlap: str
) -> Volume:
    """The labels (z, y, x), LPS, of a DICOM SEG that is read already, as :func:`paint_structures` has them."""
    painting = Painting(label_map, geometry.size, overlap)
    of_number = {number: name for name, number in numbers.items()}
    for number, stored in dicom_seg.draw_segments(dataset, path, tuple(of_number), geometry, []):
        painting.add(of_number[number], geometry.to_lps(stored.reshape(-1)))
    return painting.labels


def _by_file(source: CaseSource, known: LabelMap) -> dict[str, dict[str, int]]:
    """File to the names and numbers of the structures that are wanted of it."""
    told: dict[str, int] = dict(source.details.get("structures", {}))
    wanted: dict[str, dict[str, int]] = {}
    for name, path in source.masks.items():
        if name in known.values:
            if name not in told:
                told |= structure_numbers(path)
            if name not in told:
                raise CaseError(f"{path} holds no structure {name}.")
            wanted.setdefault(path, {})[name] = told[name]
    return wanted


def _by_number(
    source: CaseSource,
    geometry: Geometry,
    label_map: LabelMap,
    overlap: str,
    numbers: dict[str, int],
    frame: str,
) -> tuple[Volume, list[str]]:
    """Labels whose values are the numbers of the structures in the file."""
    if overlap == "keep":
        return _bits_by_number(source, geometry, label_map, numbers, frame)
    notes: list[str] = []
    painting = Painting(LabelMap(numbers), geometry.size, overlap)
    for name, inside in _structures(str(source.labels), numbers, geometry, frame, notes):
        painting.add(name, inside)
    return painting.labels, notes + painting.notes()


def _bits_by_number(
    source: CaseSource, geometry: Geometry, label_map: LabelMap, numbers: dict[str, int], frame: str
) -> tuple[Volume, list[str]]:
    """Bit fields of the label map, whose values are the numbers of the structures in the file."""
    notes: list[str] = []
    unnamed: list[int] = []
    names = {value: name for name, value in label_map.values.items()}
    wanted = {told: number for told, number in numbers.items() if number not in source.dropped}
    painting = Painting(label_map, geometry.size, "keep")
    for told, inside in _structures(str(source.labels), wanted, geometry, frame, notes):
        if wanted[told] in names:
            painting.add(names[wanted[told]], inside)
        elif inside.any():
            unnamed.append(wanted[told])
    if unnamed:
        raise unnamed_values(sorted(unnamed))
    return painting.labels, notes


def _structures(
    path: str, numbers: dict[str, int], geometry: Geometry, frame: str, notes: list[str]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """The voxels (z, y, x), LPS, of each structure of a file."""
    dataset = read_dataset(path, pixels=True)
    described = _described(path, dataset)
    if frame and described.frames_of_reference and frame not in described.frames_of_reference:
        raise CaseError(
            f"{path} is drawn in another frame of reference than its series.",
            mend="Its coordinates mean other places; export it for this series.",
        )
    draw: Any = dicom_seg.draw_segments if described.kind == "SEG" else rtstruct.draw_rois
    for number, stored in draw(dataset, path, tuple(numbers.values()), geometry, notes):
        name = next(known for known, its in numbers.items() if its == number)
        yield name, geometry.to_lps(stored.reshape(-1))
