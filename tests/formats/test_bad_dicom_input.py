"""What DICOM archives hold: each bad series is a row with a reason, and the good one beside it is ingested."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from ingested import rows_of
from isal import isal_zlib
from made_dicoms import ramp, save_enhanced, save_seg, save_series
from pydicom.dataset import FileDataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless, JPEGLSLossless, RLELossless

from segray import formats
from segray.config import IngestConfig
from segray.pipelines.headers import read_header_row
from segray.shards.writer import read_part_facts

Change = Callable[[int, FileDataset], None]

VOLUME = ramp()
MASK = VOLUME > 200
MASK[5] = False


class Archive:
    """A folder of series with a DICOM SEG each, one of them good, beside which bad ones are put."""

    def __init__(self, tmp_path: Path) -> None:
        self.root = tmp_path / "archive"
        self.target = tmp_path / "shards"
        self._count = 0
        self.put("good")

    def put(self, name: str, change: Change | None = None, volume: Any = VOLUME) -> list[Path]:
        self._count += 1
        uids: dict[str, Any] = {"series": f"1.1.{self._count}", "frame": f"1.2.{self._count}"}
        paths = save_series(self.root / name, volume, change=change, **uids)
        (self.root / "labels").mkdir(exist_ok=True)
        save_seg(self.root / "labels" / f"{name}.dcm", {"liver": MASK}, **uids)
        return paths

    def rows(self) -> dict[str, str]:
        """The reasons of all but the good case, which must be in the shards."""
        reasons = rows_of(self.root, self.target)
        assert reasons.pop("good") == ""
        assert read_part_facts(str(self.target), "good") is not None
        return reasons

    def header_reason(self, case_id: str) -> str:
        """Why a case is refused while headers are read; empty where it is not."""
        cases = formats.discover(str(self.root), IngestConfig()).cases
        source = next(case for case in cases if case.case_id == case_id)
        return str(read_header_row({"number": 0, "source": source.to_json()}, with_label_values=False)["reason"])


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path)


def each(**values: Any) -> Change:
    """Set elements of every slice."""

    def change(number: int, made: FileDataset) -> None:
        for name, value in values.items():
            setattr(made, name, value)

    return change


def without(*names: str, only: int | None = None) -> Change:
    def change(number: int, made: FileDataset) -> None:
        for name in names if only in (None, number) else ():
            delattr(made, name)

    return change


def small(number: int, made: FileDataset) -> None:
    if number == 4:
        made.Rows, made.PixelData = 5, made.PixelData[: 5 * 8 * 2]


def two_planes(number: int, made: FileDataset) -> None:
    if number == 4:
        made.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


BAD: dict[str, tuple[Change, str]] = {
    "no pixels in a slice": (without("PixelData", only=3), "holds no pixels"),
    "no pixels at all": (without("PixelData"), "holds no pixels"),
    "no position in a slice": (without("ImagePositionPatient", only=3), "1 of the 6 slices of bad have no position"),
    "no position at all": (without("ImagePositionPatient"), "6 of the 6 slices of bad have no position"),
    "mixed sizes": (small, "different sizes: 5x8, 10x8"),
    "mixed orientations": (two_planes, "mixes slices of different orientation"),
    "one position": (each(ImagePositionPatient=[0, 0, 0]), "6 slices at one position"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_series_is_a_row(archive: Archive, name: str) -> None:
    change, words = BAD[name]
    archive.put("bad", change)
    reasons = archive.rows()
    assert list(reasons) == ["bad"]
    assert words in reasons["bad"]
    assert read_part_facts(str(archive.target), "bad") is None


def test_slices_without_image_are_rows_of_their_own(archive: Archive) -> None:
    paths = archive.put("bad", without("PixelData", "Rows", "Columns", only=5))
    assert archive.rows() == {"bad": "", str(paths[5]): "The DICOM file holds no pixels."}


def test_a_gap_is_a_row(archive: Archive) -> None:
    archive.put("bad")[2].unlink()
    assert "lacks 1 slices: between -97.5 and -92.5 mm" in archive.rows()["bad"]


@pytest.mark.parametrize(("kept", "where"), [(-100, "bad"), (300, "file")])
def test_a_cut_file_is_a_row(archive: Archive, kept: int, where: str) -> None:
    """Cut in its pixels it is still a slice; cut in its header it is a row of its own, and the series lacks it."""
    path = archive.put("bad")[3]
    path.write_bytes(path.read_bytes()[:kept])
    reasons = archive.rows()
    assert set(reasons) == ({"bad"} if where == "bad" else {"bad", str(path)})
    assert path.name in reasons["bad" if where == "bad" else str(path)]


def test_a_slice_that_lies_there_twice_is_dropped(archive: Archive) -> None:
    path = archive.put("twice")[3]
    (path.parent / "copy").write_bytes(path.read_bytes())
    assert archive.rows() == {"twice": ""}
    part = read_part_facts(str(archive.target), "twice")
    assert part is not None
    assert part.notes == ["1 slices lie there twice, with the same pixels; one of each is used."]


def test_another_slice_at_the_same_position_is_a_row(archive: Archive) -> None:
    archive.put("bad", volume=np.concatenate([VOLUME, VOLUME + 5]), change=_over_again)
    assert "different slices at one position" in archive.rows()["bad"]


def _over_again(number: int, made: FileDataset) -> None:
    made.ImagePositionPatient[2] = -100 + 2.5 * (number % len(VOLUME))


def test_series_that_share_a_folder_are_cases_of_their_own(archive: Archive) -> None:
    archive.put("mixed", each(SeriesNumber=1))
    save_series(
        archive.root / "mixed", VOLUME, series="1.9", change=each(SeriesNumber=2), names=lambda number: f"other{number}"
    )
    assert archive.rows() == {"mixed_1": "", "mixed_2": "The image has no labels."}


def packed(syntax: str) -> Change:
    """Compressed slices whose header claims a thousand times their pixels afterwards."""

    def change(number: int, made: FileDataset) -> None:
        made.compress(syntax)
        made.Rows, made.Columns = 4000, 4000

    return change


PACKED = {"jpeg 2000": JPEG2000Lossless, "jpeg-ls": JPEGLSLossless, "rle": RLELossless}
LIES: dict[str, Change] = {
    "plain": each(Rows=4000, Columns=4000),
    "a little": each(Rows=200),
    "bits": each(BitsAllocated=64, Rows=100),
    "colours": each(SamplesPerPixel=30),
    **{name: packed(syntax) for name, syntax in PACKED.items()},
}


@pytest.mark.parametrize("name", LIES)
def test_a_header_that_claims_more_than_its_file_holds_is_refused_with_the_headers(archive: Archive, name: str) -> None:
    """Later, it would have shaped the grid of the good case."""
    archive.put("bad", LIES[name], ramp(6, 64, 64) if name in PACKED else VOLUME)
    assert "too small for its header" in archive.header_reason("bad")
    assert "too small for its header" in archive.rows()["bad"]


def test_a_multi_frame_header_that_lies_is_refused_with_the_headers(archive: Archive) -> None:
    save_enhanced(archive.root / "multi.dcm", ramp(40, 64, 64), list(range(40)))
    assert archive.header_reason("multi") == ""
    path = archive.root / "multi.dcm"
    rows = b"\x28\x00\x10\x00US\x02\x00"
    assert path.read_bytes().count(rows + b"\x40\x00") == 1
    path.write_bytes(path.read_bytes().replace(rows + b"\x40\x00", rows + b"\x80\x00"))
    assert "128x64 pixels in 40 frames" in archive.header_reason("multi")


@pytest.mark.parametrize("syntax", ["", RLELossless])
def test_labels_that_claim_more_than_their_file_holds_are_a_row(archive: Archive, syntax: str) -> None:
    archive.put("bad")
    path = archive.root / "labels" / "bad.dcm"
    made = pydicom.dcmread(path)
    if syntax:
        made.BitsAllocated, made.BitsStored, made.HighBit, made.SegmentationType = 8, 8, 7, "FRACTIONAL"
        made.MaximumFractionalValue = 1
        made.PixelData = (MASK[MASK.any(axis=(1, 2))] > 0).astype(np.uint8).tobytes()
        made.compress(syntax)
    made.Rows, made.Columns = 20000, 20000
    made.save_as(path)
    tracemalloc.start()
    reason = archive.rows()["bad"]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "bad.dcm claims frames of 20000x20000 pixels" in reason
    assert peak < 100_000_000


@pytest.mark.parametrize("syntax", PACKED.values())
def test_slices_of_air_between_others_are_read_however_well_they_pack(archive: Archive, syntax: str) -> None:
    volume = np.zeros((6, 1024, 1024), np.int16)
    volume[4:] = np.random.default_rng(0).integers(0, 2000, (2, 1024, 1024))
    archive.put("airy", lambda number, made: made.compress(syntax), volume)
    assert archive.header_reason("airy") == ""


ZEROS = bytes(1 << 24)
PIXELS = b"\xe0\x7f\x10\x00OW\0\0"
PRIVATE = b"\xdf\x7f\x10\x10OB\0\0"
"""An element that stands before the pixels and that nobody reads."""


def deflated(number: int, made: FileDataset) -> None:
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian


def swell(path: Path, tag: bytes, count: int) -> None:
    """Put ``count`` zeros into an element of a deflated file, in place of its pixels."""
    data = path.read_bytes()
    start = data.index(DeflatedExplicitVRLittleEndian.encode()) + len(DeflatedExplicitVRLittleEndian)
    start = next(at for at in range(start, len(data)) if _inflates(data[at:]))
    inside = isal_zlib.decompress(data[start:], wbits=-15)
    packer = isal_zlib.compressobj(1, isal_zlib.DEFLATED, -15)
    with open(path, "wb") as stream:
        stream.write(data[:start])
        stream.write(packer.compress(inside[: inside.index(PIXELS)] + tag + count.to_bytes(4, "little")))
        for begin in range(0, count, len(ZEROS)):
            stream.write(packer.compress(ZEROS[: min(len(ZEROS), count - begin)]))
        stream.write(packer.compress(PIXELS + bytes(4)) + packer.flush())


def _inflates(data: bytes) -> bool:
    try:
        return PIXELS in isal_zlib.decompress(data, wbits=-15)
    except isal_zlib.IsalError:
        return False


BOMBS: dict[str, tuple[Change | None, bytes, str]] = {
    "pixels": (each(Rows=12000, Columns=12000), PIXELS, "too small for its header"),
    "pixels that nobody claims": (None, PIXELS, ""),
    "before the pixels": (None, PRIVATE, "expands to more than 134.2 MB"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_deflated_bomb_costs_little_memory_while_headers_are_read(archive: Archive, name: str) -> None:
    change, tag, words = BOMBS[name]

    def packed(number: int, made: FileDataset) -> None:
        deflated(number, made)
        if change is not None:
            change(number, made)

    for path in archive.put("bomb", packed)[:2]:
        swell(path, tag, 12000 * 12000 * 2)
        assert path.stat().st_size < 700_000
    tracemalloc.start()
    problems = dict(formats.discover(str(archive.root), IngestConfig()).problems)
    reason = next((found for where, found in problems.items() if "/bomb/" in where), "")
    if not reason:
        reason = archive.header_reason("bomb")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert words in reason
    assert bool(words) is bool(reason)
    assert peak < 350_000_000


def test_a_deflated_bomb_is_a_row(archive: Archive) -> None:
    early, late = archive.put("early", deflated)[0], archive.put("late", deflated)[0]
    swell(early, PRIVATE, 200_000_000)
    swell(late, PIXELS, 1_200_000_000)
    reasons = archive.rows()
    assert "expands to more than 134.2 MB" in reasons[str(early)]
    assert "expands to more than 1.1 GB" in reasons["late"]


@pytest.mark.parametrize("kept", [-3, -100])
def test_a_cut_deflated_file_is_a_row(archive: Archive, kept: int) -> None:
    path = archive.put("bad", deflated)[5]
    path.write_bytes(path.read_bytes()[:kept])
    reasons = archive.rows()
    assert "no whole DICOM file" in reasons[str(path)]
    assert reasons["bad"] == ""
