"""Cases of DICOM series: an image of many files or one, labels from DICOM SEG and RTSTRUCT."""

from __future__ import annotations

import numpy as np

from segray.case import Case, Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats.dicom_geometry import Stack, stack_slices
from segray.formats.dicom_labels import paint_structures, structure_numbers
from segray.formats.dicom_pixels import read_pixels
from segray.formats.dicom_scan import series_of_folder
from segray.formats.dicom_slices import SliceHeader, read_slices
from segray.formats.source import CaseHeader, CaseSource


def read_header(source: CaseSource) -> CaseHeader:
    """Size and spacing (z, y, x; mm) of the series, from the headers of all its slices. Raises CaseError."""
    slices, stack = series_of(source)
    geometry = stack.geometry
    voxel_bytes = int(np.prod(geometry.shape)) * (2 if all(one.is_integral for one in slices) else 4)
    return CaseHeader(geometry.size, geometry.spacing, voxel_bytes, geometry, source.image, stack.notes)


def read_image(source: CaseSource) -> Case:
    """The series without labels: HU of a CT as int16, else float32. Raises CaseError."""
    slices, stack = series_of(source)
    voxels, notes = read_pixels(slices, stack, source.case_id)
    return Case(source.case_id, voxels, stack.geometry, notes=[*stack.notes, *notes])


def series_of(source: CaseSource) -> tuple[list[SliceHeader], Stack]:
    """The slices of a case, and their order and grid. Raises CaseError."""
    paths = source.parts or series_of_folder(source.image)
    slices = read_slices(paths)
    if len({one.series for one in slices}) > 1:
        raise CaseError(f"{source.image} holds slices of several series.", mend="Name the files of one of them.")
    return slices, stack_slices(slices, source.case_id)


def read_labels(
    source: CaseSource, geometry: Geometry, label_map: LabelMap | None, overlap: str
) -> tuple[Volume, list[str]]:
    """Label values (z, y, x), LPS, or bit fields with ``overlap="keep"``, and notes. Raises CaseError."""
    return paint_structures(source, geometry, label_map, overlap)


def label_values(source: CaseSource) -> list[int]:
    """The numbers of the segments or ROIs where a case names its label file alone, else []. Raises CaseError."""
    return [] if source.labels is None else sorted(structure_numbers(source.labels).values())
