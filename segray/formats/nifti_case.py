"""Cases of NIfTI files: an image of one or several channels, and a label volume, a one-hot file or masks."""

from __future__ import annotations

from segray.case import Case, Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats.channels import channels_header, read_channels
from segray.formats.label_bits import as_bits
from segray.formats.masks import stack_masks
from segray.formats.nifti import nifti_label_values, read_nifti_labels
from segray.formats.one_hot import label_volumes, one_hot_values, read_one_hot
from segray.formats.source import CaseHeader, CaseSource


def read_header(source: CaseSource) -> CaseHeader:
    """Size and spacing (z, y, x; mm) of the image. Raises CaseError."""
    return channels_header(source)


def read_image(source: CaseSource) -> Case:
    """The image without labels. Raises CaseError."""
    return read_channels(source)


def read_labels(
    source: CaseSource, geometry: Geometry, label_map: LabelMap | None, overlap: str
) -> tuple[Volume, list[str]]:
    """Label values (z, y, x), LPS, on the grid of the image, or bit fields of them, and notes. Raises CaseError."""
    if source.masks:
        known = label_map or LabelMap.of_names(sorted(source.masks))
        return stack_masks(source.masks, known, geometry, overlap=overlap)
    if source.labels is None:
        raise CaseError(f"The case {source.case_id} has no labels.")
    if label_volumes(source.labels) > 1:
        return read_one_hot(source.labels, geometry, label_map, source.dropped, overlap)
    labels, _, notes = read_nifti_labels(source.labels, geometry)
    return as_bits(labels, source, label_map) if overlap == "keep" else labels, notes


def label_values(source: CaseSource) -> list[int]:
    """The values in the label volume without background, sorted; [] without one. Raises CaseError."""
    if source.labels is None:
        return []
    several = label_volumes(source.labels) > 1
    return one_hot_values(source.labels) if several else nifti_label_values(source.labels)
