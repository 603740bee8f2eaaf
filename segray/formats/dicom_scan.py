"""What the files below a folder are, by their DICOM headers: slices of which series, labels of which series."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from segray import storage
from segray.errors import CaseError, SegrayError
from segray.formats.dicom_file import MEND, Dataset, element, integer, numbers, read_dataset, text
from segray.formats.dicom_signature import ENDINGS, PREAMBLE, looks_like_dicom
from segray.formats.dicom_slices import THREADS
from segray.formats.folder import Left, is_file, walk

TAGS = (
    "SOPClassUID",
    "Modality",
    "ImageType",
    "SeriesInstanceUID",
    "StudyInstanceUID",
    "FrameOfReferenceUID",
    "PatientID",
    "SeriesNumber",
    "SeriesDescription",
    "ImagePositionPatient",
    "InstanceNumber",
    "Rows",
    "NumberOfFrames",
)

LABELS = {"SEG": "DICOM SEG", "RTSTRUCT": "RTSTRUCT"}
"""Modality of a file of labels to its name in sentences."""

NAMELESS = "folder:"
"""What stands before the folder of images without SeriesInstanceUID, in place of it."""

SCOUTS = ("LOCALIZER", "SCOUT")
"""Words of ImageType that mark an overview image."""


@dataclass(frozen=True)
class ScannedFile:
    """One DICOM file, as far as its place among the others matters.

    Attributes:
        path: the file.
        modality: CT, SEG, RTSTRUCT, ...
        series: SeriesInstanceUID; where the file has none :data:`NAMELESS` and its folder.
        frame_of_reference: FrameOfReferenceUID, or empty.
        patient: PatientID, or empty.
        number: SeriesNumber, or empty.
        description: SeriesDescription, or empty.
        order: height of the slice where it has one, then InstanceNumber.
        frames: slices in the file; 0: it is no image.
        scout: an overview image.
    """

    path: str
    modality: str
    series: str
    frame_of_reference: str
    patient: str
    number: str
    description: str
    order: tuple[float, float]
    frames: int
    scout: bool


@dataclass
class Scan:
    """All files below a folder.

    Attributes:
        files: the DICOM files, sorted by path.
        others: files that are no DICOM, counted by their ending.
        broken: (path, reason) of files that claim to be DICOM and cannot be read.
    """

    files: list[ScannedFile] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[str, str]] = field(default_factory=list)


def scan_folder(root: str, left: Left | None = None) -> Scan:
    """Read the headers of all files below ``root``, or of the one file that it is."""
    paths = [root] if is_file(root) else list(_paths(root, left))
    return scan_files(paths)


def scan_files(paths: Sequence[str]) -> Scan:
    """Read the headers of files, several at once."""
    scan = Scan()
    with ThreadPoolExecutor(THREADS) as pool:
        for path, found in zip(paths, pool.map(_scan_file, paths), strict=True):
            if isinstance(found, ScannedFile):
                scan.files.append(found)
            elif found is None:
                name = path.rsplit("/", 1)[-1]
                scan.others["." + name.rsplit(".", 1)[-1].lower() if "." in name else ""] += 1
            else:
                scan.broken.append((path, found))
    return scan


def series_of_folder(folder: str) -> tuple[str, ...]:
    """The files of the one series in a folder (or below it). Raises CaseError: none, or several."""
    scan = scan_folder(folder)
    series = group_slices(scan.files)
    if len(series) != 1:
        raise CaseError(
            f"{folder} holds {len(series)} DICOM series with pixels, not one.",
            mend="Name the folder of one series, or let segray find them with ingest.format=dicom.",
        )
    if scan.broken:
        raise CaseError(f"{len(scan.broken)} files of {folder} cannot be read; the first: {scan.broken[0][1]}")
    return next(tuple(one.path for one in files) for files in series.values())


def group_slices(files: Sequence[ScannedFile]) -> dict[str, list[ScannedFile]]:
    """The files of each series of images, overviews left out, in the order of their heights."""
    series: dict[str, list[ScannedFile]] = {}
    for one in files:
        if one.frames and not one.scout and one.modality not in LABELS:
            series.setdefault(one.series, []).append(one)
    return {uid: sorted(of_it, key=lambda one: (one.order, one.path)) for uid, of_it in series.items()}


def _paths(root: str, left: Left | None) -> Iterator[str]:
    for below, names in walk(root, left):
        place = storage.join(root, below) if below else root
        yield from (storage.join(place, name) for name in names)


def _scan_file(path: str) -> ScannedFile | str | None:
    """The file; None where it clearly is no DICOM; a reason where it claims to be and cannot be used."""
    try:
        if not looks_like_dicom(storage.read_head(path, PREAMBLE)):
            claims = path.lower().endswith(ENDINGS)
            return f"{path} is no DICOM file, although its name says so. {MEND}" if claims else None
        return _scanned(path, read_dataset(path, tags=TAGS))
    except CaseError as error:
        return f"{path}: {error}" if path not in str(error) else str(error)
    except SegrayError as error:
        return str(error)


def _scanned(path: str, dataset: Dataset) -> ScannedFile | str | None:
    if text(dataset.file_meta, "MediaStorageSOPClassUID") == "1.2.840.10008.1.3.10":
        return None  # DICOMDIR: a table of contents.
    series, modality = text(dataset, "SeriesInstanceUID"), text(dataset, "Modality")
    rows = integer(dataset, "Rows")
    if not series and rows < 1:
        return f"{path} names no series and holds no image; it may be cut. {MEND}"
    position = numbers(dataset, "ImagePositionPatient", 3)
    kind = element(dataset, "ImageType") or ()
    return ScannedFile(
        path=path,
        modality=modality,
        # Some anonymisers empty it: then the images of one folder are one series.
        series=series or f"{NAMELESS}{path.rpartition('/')[0]}",
        frame_of_reference=text(dataset, "FrameOfReferenceUID"),
        patient=text(dataset, "PatientID"),
        number=text(dataset, "SeriesNumber"),
        description=text(dataset, "SeriesDescription"),
        order=(position[2] if position else 0.0, float(integer(dataset, "InstanceNumber"))),
        frames=integer(dataset, "NumberOfFrames", 1) if rows > 0 else 0,
        scout=any(word in str(part).upper() for part in kind for word in SCOUTS)
        if not isinstance(kind, str)
        else False,
    )
