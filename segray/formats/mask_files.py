"""Masks that segray writes, by the ending of their name."""

from __future__ import annotations

from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError, SegrayError
from segray.formats.nifti import read_nifti_labels, write_nifti_mask
from segray.formats.nifti_bits import count_volumes, read_nifti_bits, write_nifti_bits
from segray.formats.picture_masks import read_picture_mask, write_picture_mask
from segray.formats.source import CaseSource

NIFTI = ".nii.gz"
DICOM = ".dcm"
PNG = ".png"


def mask_ending(source: CaseSource, output: str = "auto") -> str:
    """The ending of a case's mask file: what people who have such images can open, or what ``output`` asks for."""
    if output == "png" or (output == "auto" and source.kind == "picture"):
        return PNG
    return DICOM if output == "dicom-seg" else NIFTI


def read_mask(path: str, geometry: Geometry | None = None) -> tuple[Volume, Geometry]:
    """A mask that :func:`write_mask` wrote: label values, or bit fields (z, y, x), LPS, and its grid.

    Args:
        path: the file.
        geometry: the grid of its image, on which it must lie; None: its own.

    Raises:
        CaseError: damaged, or on another grid.
    """
    if path.endswith(DICOM):
        # pydicom and highdicom are imported only where a DICOM SEG is read or written.
        from segray.formats.dicom_seg_write import read_segmentation

        return read_segmentation(path, geometry)
    if path.endswith(PNG):
        return read_picture_mask(path, geometry)
    if not path.endswith((NIFTI, ".nii")):
        raise CaseError(f"{path} is no mask that segray reads.")
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
