"""What the headers of a series say about each of its slices, of single files and of enhanced multi-frame ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from segray.errors import CaseError
from segray.formats.dicom_file import Dataset, integer, items, numbers, read_dataset, text

THREADS = 8
"""Headers read at once: they wait for the disk or the network, not for each other."""

TAGS = (
    "SOPClassUID",
    "SOPInstanceUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "SliceThickness",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "NumberOfFrames",
    "PhotometricInterpretation",
    "PixelRepresentation",
    "BitsAllocated",
    "RescaleSlope",
    "RescaleIntercept",
    "ModalityLUTSequence",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "SharedFunctionalGroupsSequence",
    "PerFrameFunctionalGroupsSequence",
)


@dataclass(frozen=True)
class SliceHeader:
    """One slice of a series.

    Attributes:
        path: its file.
        frame: its number in a multi-frame file, from 0; -1: the file is the slice.
        series: SeriesInstanceUID.
        frame_of_reference: FrameOfReferenceUID, empty where it is absent.
        modality: CT, MR, ...
        rows: pixels along y of the file.
        columns: pixels along x of the file.
        position: LPS mm of the centre of the first pixel, or None.
        orientation: direction of a row, then of a column, LPS; or None.
        spacing: mm between rows, then between columns; or None.
        thickness: mm, or None.
        slope: of the stored values.
        intercept: of the stored values.
        padding: lowest and highest stored value that mean no data, or None.
        inverted: the photometric interpretation is MONOCHROME1.
        samples: values a pixel.
        table: stored values go through a modality LUT instead of slope and intercept.
    """

    path: str
    frame: int
    series: str
    frame_of_reference: str
    modality: str
    rows: int
    columns: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    slope: float
    intercept: float
    padding: tuple[int, int] | None
    inverted: bool
    samples: int
    table: bool

    @property
    def is_integral(self) -> bool:
        """True where integers stay integers after slope and intercept."""
        return not self.table and self.slope.is_integer() and self.intercept.is_integer()


def read_slices(paths: Sequence[str]) -> list[SliceHeader]:
    """The slices in the files of one series, in the order of the files. Raises CaseError."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [one for found in pool.map(slices_of_file, paths) for one in found]


def slices_of_file(path: str) -> list[SliceHeader]:
    """The slices of one file. Raises CaseError: damaged, or no image."""
    dataset = read_dataset(path, tags=TAGS)
    try:
        frames = items(dataset, "PerFrameFunctionalGroupsSequence")
        shared = items(dataset, "SharedFunctionalGroupsSequence")
        if not frames:
            return [_slice(path, -1, dataset, [dataset])]
        return [_slice(path, number, dataset, [frame, *shared, dataset]) for number, frame in enumerate(frames)]
    except CaseError as error:
        raise CaseError(f"{path}: {error.message}", mend=error.mend) from error


def _slice(path: str, frame: int, dataset: Dataset, places: list[Dataset]) -> SliceHeader:
    rows, columns = integer(dataset, "Rows"), integer(dataset, "Columns")
    if rows < 1 or columns < 1:
        raise CaseError("the file holds no image.")
    if frame < 0 and integer(dataset, "NumberOfFrames", 1) > 1:
        raise CaseError("the file holds several frames without a position.")
    transform = _group(places, "PixelValueTransformationSequence")
    measures = _group(places, "PixelMeasuresSequence")
    slope, intercept = _first(transform, "RescaleSlope", 1.0), _first(transform, "RescaleIntercept", 0.0)
    if slope == 0:
        raise CaseError("the rescale slope is 0.")
    return SliceHeader(
        path=path,
        frame=frame,
        series=text(dataset, "SeriesInstanceUID"),
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        modality=text(dataset, "Modality"),
        rows=rows,
        columns=columns,
        position=numbers(_group(places, "PlanePositionSequence"), "ImagePositionPatient", 3),
        orientation=numbers(_group(places, "PlaneOrientationSequence"), "ImageOrientationPatient", 6),
        spacing=numbers(measures, "PixelSpacing", 2),
        thickness=(numbers(measures, "SliceThickness", 1) or (None,))[0],
        slope=slope,
        intercept=intercept,
        padding=_padding(dataset),
        inverted=text(dataset, "PhotometricInterpretation") == "MONOCHROME1",
        samples=integer(dataset, "SamplesPerPixel", 1),
        table=bool(items(dataset, "ModalityLUTSequence")),
    )


def _group(places: Iterable[Dataset], name: str) -> Dataset:
    """The first item of a functional group, of the frame or shared by all; else the file itself."""
    *groups, dataset = places
    return next((found[0] for place in groups if (found := items(place, name))), dataset)


def _first(dataset: Dataset, name: str, default: float) -> float:
    found = numbers(dataset, name, 1)
    return default if found is None else found[0]


def _padding(dataset: Dataset) -> tuple[int, int] | None:
    if dataset.get("PixelPaddingValue") in (None, ""):
        return None
    value = integer(dataset, "PixelPaddingValue")
    limit = integer(dataset, "PixelPaddingRangeLimit", value)
    if integer(dataset, "PixelRepresentation") == 1:
        # Some files write the two's complement of a negative value as an unsigned one.
        bits = integer(dataset, "BitsAllocated", 16)
        value, limit = (one - (1 << bits) if one >= 1 << (bits - 1) else one for one in (value, limit))
    return min(value, limit), max(value, limit)
