"""DICOM files of the tests' own making: a series of a volume on any grid, and structures drawn on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRLittleEndian,
    RTStructureSetStorage,
    SegmentationStorage,
    generate_uid,
)

from segray.formats.source import CaseSource

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
START = (-20.0, -30.0, -100.0)
SPACING = (1.5, 0.8)
"""mm between rows, between columns."""


def ramp(count: int = 6, rows: int = 10, columns: int = 8) -> Any:
    """(slice, row, column) stored values, every one another."""
    return np.arange(count * rows * columns, dtype=np.int16).reshape(count, rows, columns)


def blank(sop_class: str, modality: str, series: str, frame: str) -> FileDataset:
    """A file with what every one needs."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    made.Modality, made.SeriesInstanceUID, made.FrameOfReferenceUID = modality, series, frame
    made.StudyInstanceUID = "1.2.3.4"
    made.PatientID, made.PatientName = "P1", "Name"
    made.SeriesNumber = 3
    return made


def pixels_into(made: Dataset, stored: Any) -> None:
    """Uncompressed pixels of 16 bits."""
    made.Rows, made.Columns = stored.shape[-2:]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated = made.BitsStored = 16
    made.HighBit = 15
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    made.PixelData = stored.astype(stored.dtype.newbyteorder("<")).tobytes()


def save_series(
    folder: Path,
    volume: Any,
    *,
    orientation: Sequence[float] = AXIAL,
    step: Sequence[float] = (0.0, 0.0, 2.5),
    series: str = "1.2.3.5",
    frame: str = "1.2.3.6",
    intercept: float = -1000.0,
    change: Callable[[int, FileDataset], None] | None = None,
    names: Callable[[int], str] = lambda number: f"IM{(number * 7) % 97:03d}",
) -> list[Path]:
    """One file a slice of a (slice, row, column) volume, without ending, named in another order than they lie."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, plane in enumerate(volume):
        made = blank(CTImageStorage, "CT", series, frame)
        pixels_into(made, plane)
        made.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        made.InstanceNumber = 500 - number
        made.ImageOrientationPatient = list(orientation)
        made.ImagePositionPatient = [float(a + number * b) for a, b in zip(START, step, strict=True)]
        made.PixelSpacing = list(SPACING)
        made.SliceThickness = float(np.linalg.norm(step))
        made.RescaleSlope, made.RescaleIntercept = 1.0, intercept
        if change is not None:
            change(number, made)
        paths.append(folder / names(number))
        pydicom.dcmwrite(paths[-1], made)
    return paths


def save_enhanced(path: Path, volume: Any, order: Sequence[int], spacing: float = 2.5) -> None:
    """One multi-frame file; frame number n holds slice ``order[n]``."""
    made = blank(EnhancedCTImageStorage, "CT", "1.2.3.5", "1.2.3.6")
    pixels_into(made, np.stack([volume[number] for number in order]))
    made.NumberOfFrames = len(order)
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = list(SPACING)
    shared.PixelMeasuresSequence[0].SliceThickness = 2.5
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(AXIAL)
    made.SharedFunctionalGroupsSequence = [shared]
    frames = []
    for number in order:
        frame = Dataset()
        frame.PlanePositionSequence = [Dataset()]
        frame.PlanePositionSequence[0].ImagePositionPatient = [START[0], START[1], START[2] + number * spacing]
        frame.PixelValueTransformationSequence = [Dataset()]
        frame.PixelValueTransformationSequence[0].RescaleSlope = 1.0
        frame.PixelValueTransformationSequence[0].RescaleIntercept = -1000.0 + number
        frames.append(frame)
    made.PerFrameFunctionalGroupsSequence = frames
    pydicom.dcmwrite(path, made)


Contours = dict[str, list[tuple[str, Any]]]
"""ROI name to contours: geometric type and (points, 3) in LPS mm."""


def save_rtstruct(path: Path, contours: Contours, series: str = "1.2.3.5", frame: str = "1.2.3.6") -> None:
    """A structure set."""
    made = blank(RTStructureSetStorage, "RTSTRUCT", "1.2.3.8", frame)
    del made.FrameOfReferenceUID
    one = Dataset()
    one.FrameOfReferenceUID = frame
    study, of_study = Dataset(), Dataset()
    of_study.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [of_study]
    one.RTReferencedStudySequence = [study]
    made.ReferencedFrameOfReferenceSequence = [one]
    made.StructureSetROISequence, made.ROIContourSequence = [], []
    for number, (name, drawn) in enumerate(contours.items(), start=5):
        roi, lines = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName, roi.ReferencedFrameOfReferenceUID = number, name, frame
        lines.ReferencedROINumber = number
        lines.ContourSequence = []
        for kind, points in drawn:
            line = Dataset()
            line.ContourGeometricType, line.NumberOfContourPoints = kind, len(points)
            line.ContourData = [f"{value:.6f}" for value in np.ravel(points)]
            lines.ContourSequence.append(line)
        made.StructureSetROISequence.append(roi)
        made.ROIContourSequence.append(lines)
    pydicom.dcmwrite(path, made)


def save_seg(
    path: Path,
    masks: dict[str, Any],
    *,
    kind: str = "BINARY",
    series: str = "1.2.3.5",
    frame: str = "1.2.3.6",
    spacing: Sequence[float] = SPACING,
    shift: float = 0.0,
) -> None:
    """A DICOM SEG of (slice, row, column) masks of the series of :func:`save_series`; empty frames are left out."""
    made = blank(SegmentationStorage, "SEG", "1.2.3.9", frame)
    made.SegmentationType = kind
    refers = Dataset()
    refers.SeriesInstanceUID = series
    made.ReferencedSeriesSequence = [refers]
    made.SegmentSequence = []
    for number, name in enumerate(masks, start=1):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel = number, name
        made.SegmentSequence.append(segment)
    planes, places = _seg_planes(masks, kind)
    shared = Dataset()
    shared.PixelMeasuresSequence = [Dataset()]
    shared.PixelMeasuresSequence[0].PixelSpacing = list(spacing)
    shared.PlaneOrientationSequence = [Dataset()]
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = list(AXIAL)
    made.SharedFunctionalGroupsSequence = [shared]
    made.PerFrameFunctionalGroupsSequence = [_seg_frame(number, place, shift) for number, place in places]
    stack = np.stack(planes)
    pixels_into(made, stack.astype(np.uint16))
    made.NumberOfFrames = len(stack)
    made.BitsAllocated = made.BitsStored = 8
    made.PixelData = stack.astype(np.uint8).tobytes()
    if kind == "BINARY":
        made.BitsAllocated = made.BitsStored = 1
        made.PixelData = np.packbits(stack.astype(np.uint8).reshape(-1), bitorder="little").tobytes()
    made.HighBit = made.BitsStored - 1
    made.PixelData += b"\0" * (len(made.PixelData) % 2)
    if kind == "FRACTIONAL":
        made.MaximumFractionalValue = 200
    pydicom.dcmwrite(path, made)


def _seg_planes(masks: dict[str, Any], kind: str) -> tuple[list[Any], list[tuple[int, int]]]:
    if kind == "LABELMAP":
        labels = sum((mask > 0) * number for number, mask in enumerate(masks.values(), start=1))
        return list(labels), [(0, place) for place in range(len(labels))]
    planes, places = [], []
    for number, mask in enumerate(masks.values(), start=1):
        for place in np.flatnonzero(mask.any(axis=(1, 2))).tolist():
            planes.append(mask[place])
            places.append((number, place))
    return planes, places


def _seg_frame(number: int, place: int, shift: float) -> Dataset:
    frame = Dataset()
    frame.PlanePositionSequence = [Dataset()]
    frame.PlanePositionSequence[0].ImagePositionPatient = [START[0] + shift, START[1], START[2] + 2.5 * place]
    if number:
        frame.SegmentIdentificationSequence = [Dataset()]
        frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber = number
    return frame


def case_of(folder: Path, **more: Any) -> CaseSource:
    """The series of a folder as a case."""
    return CaseSource("x", str(folder), kind="dicom", **more)
