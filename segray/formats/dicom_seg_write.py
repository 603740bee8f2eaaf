"""DICOM SEG of a mask, which refers to the series that it belongs to, slice by slice."""

from __future__ import annotations

import io
import json
import warnings
from typing import Any

import numpy as np
import pydicom
from pydicom.uid import generate_uid

from segray import __version__, storage
from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.formats.dicom import series_of
from segray.formats.dicom_file import Dataset, read_dataset
from segray.formats.dicom_labels import draw_structures
from segray.formats.source import CaseSource

ENDING = ".dcm"

GROUP, CREATOR = 0x0071, "SEGRAY"
"""The private block that keeps what a DICOM SEG has no place for: the whole grid, and the label values."""

MAY_BE_EMPTY = (
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime"),
    *("AccessionNumber", "ReferringPhysicianName"),
)
UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")

SERIES_NUMBER = 9900


def write_segmentation(path: str, labels: Volume, geometry: Geometry, label_map: LabelMap, source: CaseSource) -> None:
    """Write label values, or the bit field of an overlapping map, (z, y, x) as one DICOM SEG, whole or not at all.

    Raises:
        CaseError: the case is no DICOM series, or its series lacks what a reference to it needs.
        SegrayError: it cannot be written.
    """
    if source.kind != "dicom":
        raise CaseError(
            f"{source.case_id} is no DICOM series, and a DICOM SEG must refer to one.", mend="Set predict.output=auto."
        )
    slices, stack = series_of(source)
    if labels.shape != geometry.size or stack.geometry.shape != geometry.shape:
        raise CaseError(f"The labels of {source.case_id} do not lie on the grid of its series.")
    order = [slices[group[0]] for group in stack.groups]
    images = _images([one.path for one in order], source)
    planes = np.ascontiguousarray(geometry.from_lps(labels).reshape(geometry.shape, order="F").T)
    if order[0].frame >= 0:
        # One multi-frame file: highdicom takes its frames in the order of the file.
        numbers = [one.frame for one in order]
        if len(images) > 1 or sorted(numbers) != list(range(len(slices))):
            raise CaseError(f"{source.case_id} lies in several multi-frame files, to which segray writes no DICOM SEG.")
        planes = planes[np.argsort(numbers)]
    dataset = _segmentation(images, planes, label_map, source)
    block = dataset.private_block(GROUP, CREATOR, create=True)
    kept = {"geometry": geometry.to_json(), "label_map": label_map.to_json()}
    block.add_new(0x01, "UT", json.dumps(kept))
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    storage.write_bytes(path, buffer.getvalue())


def read_segmentation(path: str, geometry: Geometry | None = None) -> tuple[Volume, Geometry]:
    """The labels of a file of :func:`write_segmentation` (z, y, x), LPS, and their grid.

    Args:
        path: the file.
        geometry: the grid of its image, on which it must lie; None: the one kept in the file.

    Raises:
        CaseError: damaged, on another grid, or not written by segray.
    """
    dataset = read_dataset(path, pixels=True)
    try:
        kept = json.loads(dataset.private_block(GROUP, CREATOR)[0x01].value)
        own, label_map = Geometry.from_json(kept["geometry"]), LabelMap.from_json(kept["label_map"])
    except (KeyError, ValueError, TypeError) as error:
        raise CaseError(f"{path} is no DICOM SEG that segray wrote.") from error
    grid = own if geometry is None else geometry
    overlap = "keep" if label_map.overlapping else "smallest"
    numbers = {name: number for number, name in enumerate(label_map.names, start=1)}
    return draw_structures(dataset, path, numbers, label_map, grid, overlap), grid


def _images(paths: list[str], source: CaseSource) -> list[Dataset]:
    images = [read_dataset(path) for path in dict.fromkeys(paths)]
    for image in images:
        absent = [name for name in UIDS if not image.get(name)]
        if absent:
            raise CaseError(
                f"The series of {source.case_id} has no {absent[0]}, and a DICOM SEG must refer to it.",
                mend="Set predict.output=nifti.",
            )
        for name in MAY_BE_EMPTY:
            if name not in image:
                setattr(image, name, "")
    return images


def _segmentation(images: list[Dataset], planes: Volume, label_map: LabelMap, source: CaseSource) -> Dataset:
    from highdicom.seg import Segmentation

    pixels = bits_apart(planes, len(label_map.names)) if label_map.overlapping else label_map.to_index(planes)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return Segmentation(
                source_images=images,
                pixel_array=pixels,
                segmentation_type="BINARY",
                segment_descriptions=_descriptions(label_map),
                series_instance_uid=generate_uid(),
                series_number=SERIES_NUMBER,
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer="segray",
                manufacturer_model_name="segray",
                software_versions=__version__,
                device_serial_number="0",
                content_label="SEGRAY",
            )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        words = " ".join(str(error).split())[:150]
        raise CaseError(
            f"No DICOM SEG can be made for the series of {source.case_id} ({words}).", mend="Set predict.output=nifti."
        ) from error


def bits_apart(fields: Volume, structures: int) -> Volume:
    """Bit fields (z, y, x) as (z, y, x, structures) uint8 of 0 and 1, in memory a structure after the other.

    Beside the result it takes the bits of one slice: those of a whole case in the type of the fields would be four
    times the result.
    """
    apart = np.empty((structures, *fields.shape), np.uint8)
    bits = np.arange(structures, dtype=fields.dtype)[:, None, None]
    for number, plane in enumerate(fields):
        np.copyto(apart[:, number], (plane >> bits) & 1, casting="unsafe")
    return np.moveaxis(apart, 0, -1)


def _descriptions(label_map: LabelMap) -> list[Any]:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.seg import SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    algorithm = AlgorithmIdentificationSequence(
        name="segray", version=__version__, family=codes.DCM.ArtificialIntelligence
    )
    structure = Code("91723000", "SCT", "Anatomical structure")
    return [
        SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=structure,
            segmented_property_type=structure,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
        )
        for number, name in enumerate(label_map.names, start=1)
    ]
