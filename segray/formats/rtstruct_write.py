"""RTSTRUCT of a mask on the slices of the series that it belongs to.

Contours run along the edges of voxels (:mod:`segray.formats.contours`), so that a reader which asks for the centres of
voxels finds the same mask again, and the area of a contour is that of its voxels. They lie in the plane of the slice's
own position, half a voxel off the centres, in mm to a millionth.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ImplicitVRLittleEndian, RTStructureSetStorage, generate_uid

from segray import __version__, storage
from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats.contours import outlines
from segray.formats.dicom import series_of
from segray.formats.dicom_file import read_dataset, text
from segray.formats.dicom_geometry import TO_RAS
from segray.formats.dicom_seg_write import CREATOR, GROUP, MAY_BE_EMPTY, UIDS
from segray.formats.dicom_slices import SliceHeader
from segray.formats.label_grid import match_grids
from segray.formats.picture_masks import label_colours
from segray.formats.rtstruct import draw_rois, roi_names
from segray.formats.source import CaseSource
from segray.formats.structure_boxes import inside, structure_boxes
from segray.formats.turning import contiguous

IF_KNOWN = ("StudyDescription", "PatientAge", "PatientSize", "PatientWeight")

SERIES_NUMBER = 9901

CONTOUR_SEQUENCE = 0x30060040

DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
"""The class that readers expect in the reference to a study."""


def write_structure_set(path: str, labels: Volume, geometry: Geometry, label_map: LabelMap, source: CaseSource) -> None:
    """Write label values, or the bit field of an overlapping map, (z, y, x) as one RTSTRUCT, whole or not at all.

    Structures that are nowhere in the case are named without contours.

    Raises:
        CaseError: the case is no DICOM series, its series lacks what a reference to it needs, or lies elsewhere.
        SegrayError: it cannot be written.
    """
    if source.kind != "dicom":
        raise CaseError(
            f"{source.case_id} is no DICOM series, and an RTSTRUCT must refer to one.",
            mend="Choose another output, such as nifti.",
        )
    slices, stack = series_of(source)
    if labels.shape != geometry.size or stack.geometry.shape != geometry.shape:
        raise CaseError(f"The labels of {source.case_id} do not lie on the grid of its series.")
    order = [slices[group[0]] for group in stack.groups]
    images = {one.path: _image(one.path, source) for one in order}
    made = _header(next(iter(images.values())), list(images.values()))
    planes = geometry.from_lps(labels).reshape(geometry.shape, order="F").T
    pages = [_Page(one, images[one.path], stack.geometry) for one in order]
    voxels = _add_structures(made, planes, label_map, pages)
    block = made.private_block(GROUP, CREATOR, create=True)
    kept = {"geometry": geometry.to_json(), "label_map": label_map.to_json(), "voxels": voxels}
    block.add_new(0x01, "UT", json.dumps(kept))
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, made, enforce_file_format=True)
    storage.write_bytes(path, buffer.getvalue())


def read_structure_set(path: str, geometry: Geometry | None = None) -> tuple[Volume, Geometry]:
    """The labels of a file of :func:`write_structure_set` (z, y, x), LPS, and their grid.

    A file says how many voxels its contours enclose, since contours that are lost leave a file that can be read.

    Args:
        path: the file.
        geometry: the grid of its image, on which it must lie; None: the one kept in the file.

    Raises:
        CaseError: damaged, changed by another program, on another grid, or not written by segray.
    """
    dataset = read_dataset(path)
    try:
        # Of a private element of this transfer syntax nothing says that it is text.
        kept = dataset.private_block(GROUP, CREATOR)[0x01].value
        kept = json.loads(kept.rstrip(b"\0 ").decode() if isinstance(kept, bytes) else kept)
        own, label_map = Geometry.from_json(kept["geometry"]), LabelMap.from_json(kept["label_map"])
        # Files from before there were counts have none.
        counts = {name: int(count) for name, count in dict(kept.get("voxels", {})).items()}
    except (KeyError, ValueError, TypeError) as error:
        raise CaseError(f"{path} is no RTSTRUCT that segray wrote.") from error
    grid = own if geometry is None else geometry
    match_grids(grid, own, path)
    planes = np.zeros(grid.shape[::-1], label_map.dtype)
    drawn = tuple(number for number in roi_names(dataset)[0] if number <= len(label_map.names))
    found = dict.fromkeys(counts, 0)
    for number, stored in draw_rois(dataset, path, drawn, grid, []):
        name = label_map.names[number - 1]
        found[name] = int(np.count_nonzero(stored))
        value = 1 << number - 1 if label_map.overlapping else label_map.values[name]
        for place in np.flatnonzero(stored.any(axis=(1, 2))):
            planes[place] |= stored[place] * planes.dtype.type(value)
    if counts:
        _check_counts(found, counts, path)
    return contiguous(grid.to_lps(planes.reshape(-1))), grid


def _check_counts(found: Mapping[str, int], counts: Mapping[str, int], path: str) -> None:
    other = [name for name in found if found[name] != counts.get(name, 0)]
    if other:
        raise CaseError(
            f"{path} is not as it was written: its contours enclose {found[other[0]]} voxels of {other[0]}, "
            f"not {counts.get(other[0], 0)}.",
            mend="Predict the case again.",
        )


class _Page:
    """A slice of the series: how it is referred to, and where its voxels lie.

    Args:
        header: of the slice.
        image: the elements of its file.
        geometry: the grid of the series, axes (column, row, slice).
    """

    def __init__(self, header: SliceHeader, image: Any, geometry: Geometry) -> None:
        parts = [_uid(0x0008, 0x1150, text(image, "SOPClassUID")), _uid(0x0008, 0x1155, text(image, "SOPInstanceUID"))]
        if header.frame >= 0:
            parts.append(_element(0x0008, 0x1160, str(header.frame + 1).encode()))
        self.reference = _element(0x3006, 0x0016, _item(b"".join(parts)))
        self._start = np.array(header.position, np.float64)
        self._steps = (TO_RAS @ geometry.affine)[:3, :2].T

    def contour(self, line: NDArray[np.float64]) -> bytes:
        """One item of the contour sequence. ``line``: (points, 2) as (column, row)."""
        points = np.round(self._start + line @ self._steps, 6) + 0.0
        data = "\\".join(f"{value:.10g}" for value in points.ravel().tolist())
        parts = [
            self.reference,
            _element(0x3006, 0x0042, b"CLOSED_PLANAR"),
            _element(0x3006, 0x0046, str(len(points)).encode()),
            _element(0x3006, 0x0050, data.encode()),
        ]
        return _item(b"".join(parts))


def _element(group: int, number: int, value: bytes, fill: bytes = b" ") -> bytes:
    """An element of the transfer syntax Implicit VR Little Endian.

    There are tens of thousands of contours in a case, each of six elements: pydicom takes seconds for them.
    """
    value += fill * (len(value) % 2)
    return struct.pack("<HHI", group, number, len(value)) + value


def _uid(group: int, number: int, value: str) -> bytes:
    return _element(group, number, value.encode(), b"\0")


def _item(value: bytes) -> bytes:
    return _element(0xFFFE, 0xE000, value)


def _image(path: str, source: CaseSource) -> Any:
    wanted = (*UIDS, *MAY_BE_EMPTY, *IF_KNOWN, "PositionReferenceIndicator", "SpecificCharacterSet")
    image = read_dataset(path, tags=wanted)
    for name in UIDS:
        if not image.get(name):
            raise CaseError(
                f"The series of {source.case_id} has no {name}, and an RTSTRUCT must refer to it.",
                mend="Choose another output, such as nifti.",
            )
    return image


def _header(first: Any, images: Sequence[Any]) -> Dataset:
    """A structure set without structures, which refers to its images."""
    now = datetime.now()
    made = Dataset()
    # Contours of thousands of points are longer than the 64 KiB that an explicit syntax has for them.
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = made.SOPClassUID = RTStructureSetStorage
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID = generate_uid()
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian
    made.SpecificCharacterSet = "ISO_IR 192"
    made.InstanceCreationDate = made.StructureSetDate = now.strftime("%Y%m%d")
    made.InstanceCreationTime = made.StructureSetTime = now.strftime("%H%M%S")
    for name in (*MAY_BE_EMPTY, "PositionReferenceIndicator"):
        setattr(made, name, text(first, name))
    for name in IF_KNOWN:
        if text(first, name):
            setattr(made, name, text(first, name))
    made.StudyInstanceUID = text(first, "StudyInstanceUID")
    made.FrameOfReferenceUID = text(first, "FrameOfReferenceUID")
    made.Modality, made.SeriesInstanceUID, made.SeriesNumber = "RTSTRUCT", generate_uid(), SERIES_NUMBER
    made.OperatorsName, made.InstanceNumber, made.SeriesDescription = "", 1, "segray"
    made.Manufacturer = made.ManufacturerModelName = "segray"
    made.SoftwareVersions, made.DeviceSerialNumber = __version__, "0"
    made.StructureSetLabel, made.ApprovalStatus = "SEGRAY", "UNAPPROVED"
    made.ReferencedFrameOfReferenceSequence = [_frame(first, images)]
    return made


def _frame(first: Any, images: Sequence[Any]) -> Dataset:
    series, study, frame = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = text(first, "SeriesInstanceUID")
    series.ContourImageSequence = []
    for image in images:
        one = Dataset()
        one.ReferencedSOPClassUID = text(image, "SOPClassUID")
        one.ReferencedSOPInstanceUID = text(image, "SOPInstanceUID")
        series.ContourImageSequence.append(one)
    study.ReferencedSOPClassUID, study.ReferencedSOPInstanceUID = DETACHED_STUDY, text(first, "StudyInstanceUID")
    study.RTReferencedSeriesSequence = [series]
    frame.FrameOfReferenceUID = text(first, "FrameOfReferenceUID")
    frame.RTReferencedStudySequence = [study]
    return frame


def _add_structures(made: Dataset, planes: Volume, label_map: LabelMap, pages: Sequence[_Page]) -> dict[str, int]:
    """The three sequences of structures: their names, their contours, and what is observed of them.

    Returns:
        The number of voxels of each.
    """
    voxels = dict.fromkeys(label_map.names, 0)
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    boxes = structure_boxes(planes, label_map)
    colours = label_colours(len(label_map.names)).tolist()
    for number, name in enumerate(label_map.names, start=1):
        roi, lines, observed = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = number, name.replace("\\", "_")[:64], "AUTOMATIC"
        roi.ReferencedFrameOfReferenceUID = made.FrameOfReferenceUID
        lines.ReferencedROINumber, lines.ROIDisplayColor = number, colours[number]
        if name in boxes:
            contours = b"".join(_contours(planes, label_map, name, boxes[name], pages))
            # Items that are bytes already: this transfer syntax writes no types of elements.
            lines.add_new(CONTOUR_SEQUENCE, "OB", contours)
            voxels[name] = int(np.count_nonzero(inside(planes[boxes[name]], label_map, name)))
        observed.ObservationNumber = observed.ReferencedROINumber = number
        observed.RTROIInterpretedType, observed.ROIInterpreter = "", ""
        made.StructureSetROISequence.append(roi)
        made.ROIContourSequence.append(lines)
        made.RTROIObservationsSequence.append(observed)
    return voxels


def _contours(
    planes: Volume, label_map: LabelMap, name: str, box: tuple[slice, slice, slice], pages: Sequence[_Page]
) -> Iterator[bytes]:
    """The contours of a structure within its box, slice by slice."""
    places, rows, columns = box
    start = np.array([columns.start, rows.start])
    for place in range(places.start, places.stop):
        for line in outlines(inside(planes[place, rows, columns], label_map, name)):
            yield pages[place].contour(line + start)
