"""NIfTI-1 and -2 files, plain or gzip: headers by nibabel, voxels and masks by segray."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import nibabel as nib
import numpy as np

from segray import storage
from segray.case import Case, Geometry, Volume
from segray.errors import SegrayError
from segray.formats import gzip_bytes
from segray.formats.label_grid import match_grids
from segray.formats.limits import check_label_size
from segray.formats.nifti_header import SIZES, read_header
from segray.formats.nifti_voxels import label_values, read_label_voxels, read_voxels, stored_spans
from segray.formats.source import CaseHeader


def read_nifti_header(path: str) -> CaseHeader:
    """The header of a scan; only the first 64 KiB of the file are read. Raises CaseError."""
    header = read_header(gzip_bytes.open_head(path))
    geometry = header.geometry
    return CaseHeader(geometry.size, geometry.spacing, header.voxel_bytes, geometry, path, header.notes)


def read_nifti_image(path: str, case_id: str) -> Case:
    """A scan without labels: voxels (z, y, x), LPS, int16 where that holds all values, else float32.

    Raises:
        CaseError: the file cannot be read, is damaged, or holds no single volume of real numbers.
    """
    reader = gzip_bytes.open_bytes(path)
    header = read_header(reader)
    voxels, notes = read_voxels(reader, header)
    return Case(case_id, voxels, header.geometry, notes=[*header.notes, *notes])


def read_nifti_labels(path: str, geometry: Geometry | None) -> tuple[Volume, Geometry, list[str]]:
    """Label values (z, y, x), LPS, uint8 or uint16; their own grid; notes.

    Args:
        path: the label volume.
        geometry: the image's grid, on which the labels must lie; files may store its axes in another order.

    Raises:
        CaseError: as :func:`read_nifti_image`; values that are no labels; another grid; without ``geometry``
            labels that expand beyond all that labels do.
    """
    reader = gzip_bytes.open_bytes(path)
    header = read_header(reader)
    notes = list(header.notes)
    if geometry is not None:
        match = match_grids(geometry, header.geometry, path)
        notes.extend(match.notes)
        if match.same_order:
            header = replace(header, geometry=geometry)
    else:
        check_label_size(reader, header.count, header.dtype.itemsize)
    return read_label_voxels(reader, header), header.geometry, notes


def nifti_label_values(path: str) -> list[int]:
    """The label values of a volume without background, sorted. Raises CaseError as :func:`read_nifti_labels`."""
    reader = gzip_bytes.open_bytes(path)
    return label_values(reader, read_header(reader))


def write_nifti_mask(path: str, labels: Volume, geometry: Geometry) -> None:
    """Write label values (z, y, x) as ``.nii.gz`` (or ``.nii``) on the grid of the case, whole or not at all.

    Shape, affine, both forms with their codes and the units are those of ``geometry.header`` bit for bit; values
    above 255 are stored as uint16, else uint8.

    Raises:
        SegrayError: the labels have another shape than the grid, hold no label values, or cannot be written.
    """
    if labels.shape != geometry.size:
        raise SegrayError(f"{path}: labels of shape {labels.shape} do not lie on the grid {geometry.size}.")
    stored = as_labels(path, labels)
    first, *others = stored_spans(stored, geometry)
    head: list[gzip_bytes.Part] = [header_of(geometry, stored.dtype)]
    storage.write_bytes(path, gzip_bytes.file_bytes(path, [chain(head, first), *others]))


def encode_volume(volume: Volume, geometry: Geometry) -> bytes:
    """The bytes of an uncompressed NIfTI file of a (z, y, x) volume on ``geometry``, little-endian, unscaled."""
    slabs = chain.from_iterable(stored_spans(volume, geometry))
    return b"".join([header_of(geometry, volume.dtype), *(slab.tobytes() for slab in slabs)])


def as_labels(path: str, labels: Volume) -> Volume:
    """Label values as uint8, or uint16 where one is above 255. Raises SegrayError, naming ``path``, on other values."""
    if labels.dtype in (np.uint8, np.uint16):
        return labels
    lowest, highest = labels.min(), labels.max()
    if labels.dtype.kind not in "iub" or lowest < 0 or highest > 65535:
        raise SegrayError(f"{path}: {labels.dtype} values from {lowest} to {highest} are no labels.")
    return labels.astype(np.uint8 if highest <= 255 else np.uint16)


def header_of(geometry: Geometry, dtype: np.dtype[Any], volumes: int = 1) -> bytes:
    """The header and the four bytes that say that no extension follows, little-endian.

    With several ``volumes`` of unscaled values on the grid the file is 4D, (i, j, k, volumes).
    """
    if geometry.header is None:
        header = nib.Nifti1Header()
        header.set_data_shape(geometry.stored_shape or geometry.shape)
        header.set_xyzt_units("mm")
        header.set_sform(geometry.affine, code=1)
        header.set_qform(geometry.affine, code=1, strip_shears=True)
    else:
        header = SIZES[len(geometry.header)](geometry.header, check=False).as_byteswapped("<")
    if volumes > 1:
        header.set_data_shape((*geometry.shape, volumes))
    header.set_data_dtype(dtype)
    cleared = {"scl_slope": 1.0, "scl_inter": 0.0, "cal_max": 0.0, "cal_min": 0.0, "intent_code": 0}
    for name, value in cleared.items():
        header[name] = value
    for name in ("intent_p1", "intent_p2", "intent_p3"):
        header[name] = 0.0
    for name, text in (("intent_name", b""), ("aux_file", b""), ("descrip", b"segray")):
        header[name] = text
    header["vox_offset"] = len(header.binaryblock) + 4
    return bytes(header.binaryblock) + b"\0\0\0\0"
