"""What the headers of a series say about each of its slices, of single files and of enhanced multi-frame ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from segray.errors import CaseError, SegrayError
from segray.formats.dicom_file import MEND, Dataset, integer, items, numbers, read_dataset, text
from segray.formats.folder import file_state
from segray.formats.limits import BOMB_RATIO

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


PLAIN = frozenset({"", ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian})
"""Transfer syntaxes that store pixels as they are; empty: old files that name none."""


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
        unpacked: bytes of pixels that the header of a packed file claims for it; 0: the file is not packed.
        stored: bytes of its file, of a multi-frame file its share.
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
    unpacked: int = 0
    stored: int = 0

    @property
    def is_integral(self) -> bool:
        """True where integers stay integers after slope and intercept."""
        return not self.table and self.slope.is_integer() and self.intercept.is_integer()


def read_slices(paths: Sequence[str]) -> list[SliceHeader]:
    """The slices in the files of one series, in the order of the files.

    Raises:
        CaseError: damaged, no image, or headers that claim more pixels than the files can hold.
    """
    with ThreadPoolExecutor(THREADS) as pool:
        slices = [one for found in pool.map(slices_of_file, paths) for one in found]
    # Packed slices are judged together: one of air alone may expand further than any scan does.
    if sum(one.unpacked for one in slices) > BOMB_RATIO * sum(one.stored for one in slices if one.unpacked):
        raise _too_small(next(one for one in slices if one.unpacked), len(slices))
    return slices


def slices_of_file(path: str) -> list[SliceHeader]:
    """The slices of one file. Raises CaseError: damaged, no image, or too small for the pixels that it claims."""
    dataset = read_dataset(path, tags=TAGS)
    try:
        frames = items(dataset, "PerFrameFunctionalGroupsSequence")
        shared = items(dataset, "SharedFunctionalGroupsSequence")
        if frames:
            found = [_slice(path, number, dataset, [frame, *shared, dataset]) for number, frame in enumerate(frames)]
        else:
            found = [_slice(path, -1, dataset, [dataset])]
        bits, count = integer(dataset, "BitsAllocated", 16), integer(dataset, "NumberOfFrames", 1)
    except CaseError as error:
        raise CaseError(f"{path}: {error.message}", mend=error.mend) from error
    claimed = found[0].rows * found[0].columns * found[0].samples * bits // 8
    plain = text(dataset.file_meta, "TransferSyntaxUID") in PLAIN
    return _with_room(found, claimed, max(count, len(found)), plain=plain)


def _with_room(slices: list[SliceHeader], claimed: int, frames: int, *, plain: bool) -> list[SliceHeader]:
    """The slices of a file with what is known of its room. Raises CaseError where plain pixels exceed it."""
    try:
        stored = file_state(slices[0].path)[0]
    except SegrayError as error:
        raise CaseError(str(error)) from error
    if plain and claimed * frames > stored:
        raise _too_small(slices[0], frames)
    unpacked = 0 if plain else claimed * frames // len(slices)
    return [replace(one, unpacked=unpacked, stored=stored // len(slices)) for one in slices]


def _too_small(header: SliceHeader, frames: int) -> CaseError:
    place = f" in {frames} frames" if header.frame >= 0 else ""
    return CaseError(
        f"{header.path} is too small for its header, which claims {header.rows}x{header.columns} pixels{place}.",
        mend=MEND,
    )


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
