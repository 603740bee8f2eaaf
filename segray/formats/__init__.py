"""Files to cases and masks to files: what a folder holds, and how one case of it is read and written."""

from __future__ import annotations

from segray.case import Case, Geometry, LabelMap, Volume, check_case_id
from segray.config import IngestConfig
from segray.errors import CaseError, SegrayError
from segray.formats.folder import stem
from segray.formats.layouts import discover_folder
from segray.formats.masks import stack_masks
from segray.formats.nifti import (
    nifti_label_values,
    read_nifti_header,
    read_nifti_image,
    read_nifti_labels,
    write_nifti_mask,
)
from segray.formats.source import CaseHeader, CaseSource, Discovery

__all__ = [
    "CaseHeader",
    "CaseSource",
    "Discovery",
    "discover",
    "label_values",
    "read_case",
    "read_header",
    "read_image",
    "read_labels",
    "read_truth",
    "write_mask",
]


def discover(source: str, config: IngestConfig, *, labelled: bool = True) -> Discovery:
    """The cases of a folder (or one file), with what was understood and what is wrong with it.

    Raises:
        UsageError: nothing is there, or settings that do not fit the folder.
    """
    return discover_folder(source, config, labelled=labelled)


def read_header(source: CaseSource) -> CaseHeader:
    """Size and spacing (z, y, x; mm) of a case's image, without reading its voxels. Raises CaseError."""
    return read_nifti_header(source.image)


def read_case(source: CaseSource, label_map: LabelMap | None, *, overlap: str = "smallest") -> Case:
    """The voxels and the label values of a case, both (z, y, x), LPS.

    Args:
        source: its files.
        label_map: the structures to stack; None numbers the masks of this case by their sorted names.
        overlap: ``smallest``: a voxel in several masks goes to the smallest structure; ``refuse``: CaseError.

    Raises:
        CaseError: a file cannot be read or is damaged, or labels do not lie on the image's grid.
    """
    try:
        case = read_nifti_image(source.image, source.case_id)
        if source.masks:
            known = label_map or LabelMap.of_names(sorted(source.masks))
            case.labels, notes = stack_masks(source.masks, known, case.geometry, overlap=overlap)
            case.notes.extend(notes)
        elif source.labels is not None:
            case.labels, _, notes = read_nifti_labels(source.labels, case.geometry)
            case.notes.extend(note for note in notes if note not in case.notes)
            _drop(case.labels, source.dropped)
    except MemoryError as error:
        raise CaseError(f"{source.image} does not fit into memory.") from error
    return case


def label_values(source: CaseSource) -> list[int]:
    """The sorted label values of a case's label volume, background left out; [] without one. Raises CaseError."""
    return [] if source.labels is None else nifti_label_values(source.labels)


def read_image(path: str) -> Case:
    """A lone scan; its file name is the case id. Raises CaseError as :func:`read_case`."""
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    return read_nifti_image(path, check_case_id(stem(name) or name))


def read_labels(path: str, geometry: Geometry | None = None) -> tuple[Volume, Geometry]:
    """Label values (z, y, x), LPS, and their grid, which must be ``geometry`` if given. Raises CaseError."""
    labels, own, _ = read_nifti_labels(path, geometry)
    return labels, own


def read_truth(source: CaseSource, label_map: LabelMap) -> Volume:
    """The label values (z, y, x), LPS, of a case; of its image only the header is read. Raises CaseError."""
    geometry = read_nifti_header(source.image).geometry
    if source.masks:
        return stack_masks(source.masks, label_map, geometry)[0]
    if source.labels is None:
        raise CaseError(f"The case {source.case_id} has no labels.")
    labels, _, _ = read_nifti_labels(source.labels, geometry)
    _drop(labels, source.dropped)
    return labels


def write_mask(path: str, labels: Volume, geometry: Geometry) -> None:
    """Write label values (z, y, x) on the case's own grid, whole or not at all. Raises SegrayError."""
    try:
        write_nifti_mask(path, labels, geometry)
    except OSError as error:
        raise SegrayError(f"{path} cannot be written ({error.strerror or error}).") from error


def _drop(labels: Volume, values: tuple[int, ...]) -> None:
    """Set values to background, in place."""
    for value in values:
        labels[labels == value] = 0
