"""NRRD and MetaImage files: the geometry by SimpleITK, the voxels by segray.

ITK is shown the header only, in a folder of its own and with the reader named: it cannot open what lies beside the
file. The voxels are streamed as those of NIfTI are, because ITK hands on what a damaged zlib stream left in the buffer
without an error, and holds the volume a second time.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from segray import storage
from segray.case import Case, Geometry, LabelMap, Volume
from segray.errors import CaseError, SegrayError
from segray.formats.channels import channels_header, read_channels
from segray.formats.detached import beside
from segray.formats.folder import file_state, kind_of
from segray.formats.gzip_bytes import MAX_RATIO, ByteReader, load
from segray.formats.label_bits import as_bits
from segray.formats.label_grid import match_grids
from segray.formats.limits import check_label_size, check_size
from segray.formats.nifti import nifti_label_values, read_nifti_labels
from segray.formats.nifti_header import NiftiHeader, spans_volume
from segray.formats.nifti_voxels import label_values as volume_label_values
from segray.formats.nifti_voxels import read_label_voxels, read_voxels
from segray.formats.painting import Painting
from segray.formats.source import CaseHeader, CaseSource
from segray.formats.turning import contiguous
from segray.formats.volume_header import MOST_HEADER, VolumeHeader, parse_volume_header

if TYPE_CHECKING:
    import SimpleITK

RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""ITK's LPS millimetres to RAS."""


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
        return _stacked(source, geometry, label_map or LabelMap.of_names(sorted(source.masks)), overlap)
    if source.labels is None:
        raise CaseError(f"The case {source.case_id} has no labels.")
    labels, notes = read_volume_labels(source.labels, geometry)
    return as_bits(labels, source, label_map) if overlap == "keep" else labels, notes


def label_values(source: CaseSource) -> list[int]:
    """The values in the label volume without background, sorted; [] without one. Raises CaseError."""
    if source.labels is None:
        return []
    if kind_of(source.labels) == "nifti":
        return nifti_label_values(source.labels)
    return volume_label_values(*_open(source.labels))


def read_volume_header(path: str) -> CaseHeader:
    """The header of a scan; of a remote file only the first 64 KiB are read.

    Raises:
        CaseError: it cannot be read, or claims more than its file or the machine can hold, or than a scan expands to.
    """
    header, geometry, _, room = _header(path)
    needed = _as_nifti(header, geometry).voxel_bytes
    # Before the voxels are read: a claim that passes here shapes the grid of all other cases.
    check_size(path, needed, stored=room, packed=header.packing != "plain")
    return CaseHeader(geometry.size, geometry.spacing, needed, geometry, path)


def read_volume(path: str, case_id: str) -> Case:
    """A scan without labels: voxels (z, y, x), LPS, int16 where that holds all values, else float32.

    Raises:
        CaseError: the file cannot be read, is damaged, or holds no volume of real numbers.
    """
    reader, header = _open(path)
    check_size(path, header.voxel_bytes, stored=reader.stored, packed=reader.packed)
    voxels, notes = read_voxels(reader, header)
    return Case(case_id, voxels, header.geometry, notes=notes)


def read_volume_labels(path: str, geometry: Geometry | None) -> tuple[Volume, list[str]]:
    """Label values (z, y, x), LPS, turned to the image's grid ``geometry`` where it is given, and notes.

    Raises:
        CaseError: as :func:`read_volume`; values that are no labels; another grid; without ``geometry`` labels that
            expand beyond all that labels do.
    """
    if kind_of(path) == "nifti":
        labels, _, found = read_nifti_labels(path, geometry)
        return labels, found
    reader, header = _open(path)
    notes: list[str] = []
    if geometry is not None:
        match = match_grids(geometry, header.geometry, path)
        notes.extend(match.notes)
        if match.same_order:
            header = replace(header, geometry=geometry)
    else:
        check_label_size(reader, header.count, header.dtype.itemsize)
    return contiguous(read_label_voxels(reader, header)), notes


def _stacked(source: CaseSource, geometry: Geometry, label_map: LabelMap, overlap: str) -> tuple[Volume, list[str]]:
    """The labels of a mask file a structure, one in memory at a time."""
    painting = Painting(label_map, geometry.size, overlap)
    notes: list[str] = []
    for name in label_map.names:
        if name in source.masks:
            mask, found = read_volume_labels(source.masks[name], geometry)
            painting.add(name, mask != 0)
            notes += [note for note in found if note not in notes]
    return painting.labels, painting.notes() + notes


def _header(path: str) -> tuple[VolumeHeader, Geometry, str, int]:
    """The header, the grid, the file that holds the voxels, and its bytes, enough for them. Raises CaseError."""
    try:
        head = storage.read_head(path, MOST_HEADER)
    except SegrayError as error:
        raise CaseError(str(error)) from error
    header = parse_volume_header(head, path)
    place = beside(path, header.data_file) if header.data_file else path
    room = _room(path, header, _stored(place))
    return header, _geometry(path, header), place, room


def _stored(place: str) -> int:
    try:
        return file_state(place)[0]
    except SegrayError as error:
        raise CaseError(str(error)) from error


def _room(path: str, header: VolumeHeader, stored: int) -> int:
    """The bytes of a file that can be voxels. Raises CaseError where they cannot hold what its header claims."""
    room = max(stored - max(header.offset, 0), 0)
    if header.bytes > (room if header.packing == "plain" else room * MAX_RATIO):
        shown = "x".join(str(side) for side in header.shape)
        raise CaseError(
            f"{path} is too small for its header, which claims {shown} voxels.", mend="Copy it again from its source."
        )
    return room


def _open(path: str) -> tuple[ByteReader, NiftiHeader]:
    """The voxels of a file, ready to be inflated, and the header in the words of the NIfTI room. Raises CaseError."""
    header, geometry, place, _ = _header(path)
    data = load(place)
    _room(path, header, len(data))
    start = len(data) - header.bytes if header.offset < 0 else header.offset
    reader = ByteReader(path, memoryview(data)[start:], packing=header.packing)
    return reader, _as_nifti(header, geometry)


def _as_nifti(header: VolumeHeader, geometry: Geometry) -> NiftiHeader:
    return NiftiHeader(b"", header.dtype, 0, 1.0, 0.0, geometry, ())


def _geometry(path: str, header: VolumeHeader) -> Geometry:
    """The grid as ITK reads it from the header alone. Raises CaseError where it spans no volume."""
    itk, io, suffix = _itk(), "NrrdImageIO", ".nrrd"
    text = header.text
    if not path.lower().endswith(".nrrd"):
        io, suffix = "MetaImageIO", ".mha"
        text = text[: text.index(b"ElementDataFile")] + b"ElementDataFile = LOCAL\n"
    reader = itk.ImageFileReader()
    reader.SetImageIO(io)
    with tempfile.TemporaryDirectory(prefix="segray-") as folder:
        alone = os.path.join(folder, f"header{suffix}")
        with open(alone, "wb") as stream:
            stream.write(text)
        reader.SetFileName(alone)
        try:
            reader.ReadImageInformation()
        except RuntimeError as error:
            raise CaseError(f"{path} has a header that ITK does not understand ({_reason(error)}).") from error
    return _as_geometry(path, header, reader)


def _as_geometry(path: str, header: VolumeHeader, reader: SimpleITK.ImageFileReader) -> Geometry:
    axes = 2 if header.flat else 3
    if tuple(reader.GetSize()) != header.shape[:axes] or reader.GetNumberOfComponents() != 1:
        raise CaseError(f"{path} has a header that segray and ITK read differently.")
    affine = np.eye(4)
    directions = np.array(reader.GetDirection(), dtype=np.float64).reshape(axes, axes)
    affine[:axes, :axes] = directions * np.array(reader.GetSpacing(), dtype=np.float64)
    affine[:axes, 3] = reader.GetOrigin()
    affine = RAS @ affine
    if not spans_volume(affine):
        raise CaseError(
            f"{path} has no usable affine: its spacing or directions are zero, not finite or span no volume.",
            mend="Set them in its header.",
        )
    return Geometry(affine, header.shape, stored_shape=header.shape[:axes])


def _reason(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:160].rstrip(".") if lines else "no reason given"


@lru_cache(maxsize=1)
def _itk() -> Any:
    import SimpleITK

    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    return SimpleITK
