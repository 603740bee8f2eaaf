"""Files to cases and masks to files: what a folder holds, and how one case of it is read and written."""

from __future__ import annotations

from segray.case import Case, Geometry, LabelMap, Volume, check_case_id
from segray.config import IngestConfig
from segray.errors import CaseError
from segray.formats.discovery import discover_folder
from segray.formats.folder import kind_of, stem
from segray.formats.identifying import know_discovery, know_folder
from segray.formats.mask_files import (
    OUTPUTS,
    is_folder,
    mask_folder,
    mask_place,
    mask_places,
    read_mask,
    write_mask,
    write_output,
)
from segray.formats.readers import reader_of
from segray.formats.source import CaseHeader, CaseSource, Discovery

__all__ = [
    "OUTPUTS",
    "CaseHeader",
    "CaseSource",
    "Discovery",
    "discover",
    "is_folder",
    "label_values",
    "lone_image",
    "mask_folder",
    "mask_place",
    "mask_places",
    "read_case",
    "read_header",
    "read_image",
    "read_mask",
    "read_truth",
    "write_mask",
    "write_output",
]


def discover(source: str, config: IngestConfig, *, labelled: bool = True) -> Discovery:
    """The cases of a folder (or one file), with what was understood and what is wrong with it.

    Raises:
        UsageError: nothing is there, or settings that do not fit the folder.
    """
    know_folder(source)
    return know_discovery(source, discover_folder(source, config, labelled=labelled))


def lone_image(path: str) -> CaseSource:
    """A scan without labels; its file name is the case id. Raises CaseError where that cannot be one."""
    name = path.replace("\\", "/").rsplit("/", 1)[-1]
    return CaseSource(check_case_id(stem(name) or name), path, kind=kind_of(path))


def read_header(source: CaseSource) -> CaseHeader:
    """Size and spacing (z, y, x; mm) of a case's image, without reading its voxels. Raises CaseError."""
    return reader_of(source.kind).read_header(source)


def read_image(source: CaseSource) -> Case:
    """The image of a case, without its labels. Raises CaseError."""
    try:
        return reader_of(source.kind).read_image(source)
    except MemoryError as error:
        raise CaseError(f"{source.image} does not fit into memory.") from error


def read_case(source: CaseSource, label_map: LabelMap | None, *, overlap: str = "smallest") -> Case:
    """The voxels of a case, and its labels (z, y, x), LPS: label values, or bit fields where they overlap.

    Args:
        source: its files.
        label_map: the structures to stack; None numbers the masks of this case by their sorted names.
        overlap: ``smallest``: a voxel in several masks goes to the smallest structure; ``refuse``: CaseError;
            ``keep``: it keeps all of them, and the labels are a bit field in the order of ``label_map.names``.

    Raises:
        CaseError: a file cannot be read or is damaged, or labels do not lie on the image's grid.
    """
    case = read_image(source)
    if source.has_labels:
        case.labels, notes = _labels(source, case.geometry, label_map, overlap)
        case.notes.extend(note for note in notes if note not in case.notes)
    return case


def read_truth(
    source: CaseSource, label_map: LabelMap, *, overlap: str = "smallest", geometry: Geometry | None = None
) -> Volume:
    """The labels of a case as :func:`read_case` has them; of its image at most the header is read.

    ``geometry``: of the image, where it is known. Raises CaseError.
    """
    if not source.has_labels:
        raise CaseError(f"The case {source.case_id} has no labels.")
    return _labels(source, geometry or read_header(source).geometry, label_map, overlap)[0]


def _labels(
    source: CaseSource, geometry: Geometry, label_map: LabelMap | None, overlap: str
) -> tuple[Volume, list[str]]:
    try:
        labels, notes = reader_of(source.label_kind).read_labels(source, geometry, label_map, overlap)
    except MemoryError as error:
        raise CaseError(f"The labels of {source.case_id} do not fit into memory.") from error
    if overlap != "keep":
        for value in source.dropped:
            labels[labels == value] = 0
    return labels, notes


def label_values(source: CaseSource) -> list[int]:
    """The sorted label values of a case's labels, background left out; [] without any. Raises CaseError."""
    return reader_of(source.label_kind).label_values(source) if source.has_labels else []
