"""Masks that segray writes: one file by the ending of its name, or any of the outputs of a case by its name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segray import storage
from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError, SegrayError, UsageError
from segray.formats.nifti import read_nifti_labels, write_nifti_mask
from segray.formats.nifti_bits import count_volumes, read_nifti_bits, write_nifti_bits
from segray.formats.picture_masks import read_picture_mask, write_picture_mask
from segray.formats.source import CaseSource
from segray.formats.structure_files import read_structures, write_structures

NIFTI = ".nii.gz"
DICOM = ".dcm"
PNG = ".png"


@dataclass(frozen=True)
class Output:
    """One way to write the mask of a case.

    Attributes:
        meaning: a line for the user.
        folder: below the prediction folder.
        ending: of the file, after the case id; empty: a folder of files.
        write: (path, label values or bit fields (z, y, x), geometry, label map, source), whole or not at all.
    """

    meaning: str
    folder: str
    ending: str
    write: Callable[[str, Volume, Geometry, LabelMap, CaseSource], None]

    def place(self, case_id: str) -> str:
        """Where it lies, from the prediction folder."""
        return f"{self.folder}/{case_id}{self.ending}"


def mask_place(kind: str, source: CaseSource) -> str:
    """Where the mask of a case lies, from the prediction folder.

    Args:
        kind: a key of :data:`OUTPUTS`, or ``auto``: what people who have such images can open, PNG for pictures, else
            NIfTI.
        source: the case.

    Raises:
        UsageError: no such output.
    """
    return _chosen(kind, source).place(source.case_id)


def mask_places(case_id: str) -> tuple[str, ...]:
    """Where the mask of a case may lie, from the prediction folder, whichever output was asked for."""
    return tuple(dict.fromkeys(output.place(case_id) for output in OUTPUTS.values()))


def mask_folder(kind: str) -> str:
    """The folder of all masks of an output, or of ``auto``, from the prediction folder."""
    return OUTPUTS["nifti" if kind == "auto" else kind].folder


def is_folder(place: str) -> bool:
    """Whether a mask is a folder of a file a structure (:func:`structure_files`): the folder that it lies in says so.

    ``place``: from the prediction folder, or the whole path. Case ids may end as files do, so no ending tells.
    """
    above = place.rpartition("/")[0].rpartition("/")[2]
    return any(output.folder == above and not output.ending for output in OUTPUTS.values())


def write_output(
    kind: str, folder: str, labels: Volume, geometry: Geometry, label_map: LabelMap, source: CaseSource
) -> str:
    """Write the mask of a case in one of the :data:`OUTPUTS`, whole or not at all.

    Args:
        kind: a key of :data:`OUTPUTS`, or ``auto``: PNG for pictures, else NIfTI.
        folder: the prediction folder, a path or URI.
        labels: label values, or bit fields where they overlap, (z, y, x), LPS.
        geometry: the grid of the case.
        label_map: what the values mean.
        source: the case.

    Returns:
        Where it lies, from ``folder``: :func:`read_mask` reads it there.

    Raises:
        UsageError: no such output, or structures that would share a file.
        CaseError: an output that such a case cannot have.
        SegrayError: it cannot be written.
    """
    output = _chosen(kind, source)
    place = output.place(source.case_id)
    path = storage.join(folder, place)
    try:
        output.write(path, labels, geometry, label_map, source)
    except OSError as error:
        raise SegrayError(f"{path} cannot be written ({error.strerror or error}).") from error
    return place


def read_mask(
    path: str, geometry: Geometry | None = None, label_map: LabelMap | None = None
) -> tuple[Volume, Geometry]:
    """A mask that :func:`write_mask` or :func:`write_output` wrote, (z, y, x), LPS, and its grid.

    Args:
        path: the file, or the folder of a file a structure.
        geometry: the grid of its image, on which it must lie; None: its own.
        label_map: what values the structures have; only a folder needs it.

    Returns:
        Label values, or bit fields where structures overlap, and the grid.

    Raises:
        CaseError: damaged, or on another grid.
    """
    if is_folder(path) or not path.endswith((DICOM, PNG, NIFTI, ".nii")):
        if label_map is None:
            raise CaseError(f"{path} is no mask that segray reads.")
        return read_structures(path, label_map, geometry)
    if path.endswith(DICOM):
        return _read_dicom(path, geometry)
    if path.endswith(PNG):
        return read_picture_mask(path, geometry)
    if count_volumes(path) > 1:
        return read_nifti_bits(path, geometry)
    labels, own, _ = read_nifti_labels(path, geometry)
    return labels, own


def write_mask(
    path: str,
    labels: Volume,
    geometry: Geometry,
    label_map: LabelMap | None = None,
    source: CaseSource | None = None,
) -> None:
    """Write label values (z, y, x) on the case's own grid, whole or not at all; the ending names the format.

    The bit field of an overlapping label map becomes one volume of 0 and 1 a structure (4D NIfTI), or a PNG as
    :mod:`segray.formats.picture_masks` has it. A DICOM SEG needs the label map and the ``source``, to whose series it
    refers.

    Raises:
        CaseError: a DICOM SEG of a case that is no DICOM series.
        SegrayError: it cannot be written.
    """
    try:
        if path.endswith(DICOM):
            if label_map is None or source is None:
                raise CaseError(f"{path}: a DICOM SEG needs a label map and the case that it belongs to.")
            from segray.formats.dicom_seg_write import write_segmentation

            write_segmentation(path, labels, geometry, label_map, source)
        elif path.endswith(PNG):
            write_picture_mask(path, labels, geometry, label_map)
        elif label_map is not None and label_map.overlapping:
            write_nifti_bits(path, labels, geometry, len(label_map.names))
        else:
            write_nifti_mask(path, labels, geometry)
    except OSError as error:
        raise SegrayError(f"{path} cannot be written ({error.strerror or error}).") from error


def _chosen(kind: str, source: CaseSource) -> Output:
    chosen = kind if kind != "auto" else "png" if source.kind == "picture" else "nifti"
    if chosen not in OUTPUTS:
        raise UsageError(f"There is no output {kind!r}.", mend=f"There are: auto, {', '.join(OUTPUTS)}.")
    return OUTPUTS[chosen]


def _read_dicom(path: str, geometry: Geometry | None) -> tuple[Volume, Geometry]:
    # pydicom and highdicom are imported only where a DICOM file is read or written.
    from segray.formats.dicom_file import read_dataset, text

    if text(read_dataset(path, tags=("Modality",)), "Modality") == "RTSTRUCT":
        from segray.formats.rtstruct_write import read_structure_set

        return read_structure_set(path, geometry)
    from segray.formats.dicom_seg_write import read_segmentation

    return read_segmentation(path, geometry)


def _write_structures(path: str, labels: Volume, geometry: Geometry, label_map: LabelMap, source: CaseSource) -> None:
    del source
    write_structures(path, labels, geometry, label_map)


def _write_structure_set(
    path: str, labels: Volume, geometry: Geometry, label_map: LabelMap, source: CaseSource
) -> None:
    from segray.formats.rtstruct_write import write_structure_set

    write_structure_set(path, labels, geometry, label_map, source)


OUTPUTS = {
    "nifti": Output("a NIfTI file of label values; a volume each where structures overlap", "masks", NIFTI, write_mask),
    "structures": Output(
        "a NIfTI file of 0 and 1 a structure, as TotalSegmentator writes them", "structures", "", _write_structures
    ),
    "rtstruct": Output("an RTSTRUCT on the slices of the series (DICOM)", "rtstruct", DICOM, _write_structure_set),
    "dicom-seg": Output("a DICOM SEG that refers to the series (DICOM)", "masks", DICOM, write_mask),
    "png": Output("a PNG of label values (pictures)", "masks", PNG, write_mask),
}
"""The ways to write the mask of a case, by the name that ``predict.output`` has for them."""
