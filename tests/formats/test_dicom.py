"""DICOM series: order, grid and values of files that the tests make themselves."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import gdcm
import numpy as np
import pydicom
import pytest
from made_dicoms import START, case_of, ramp, save_enhanced, save_series
from pydicom.dataset import FileDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from segray import formats
from segray.config import IngestConfig
from segray.errors import CaseError


def test_slices_are_ordered_by_position_and_become_hu(tmp_path: Path) -> None:
    save_series(tmp_path, ramp())
    case = formats.read_image(case_of(tmp_path))
    assert case.voxels.dtype == np.int16
    assert np.array_equal(case.voxels, ramp() - 1000)
    assert case.geometry.spacing == pytest.approx((2.5, 1.5, 0.8))
    assert case.geometry.axis_codes == "LPS"
    assert np.allclose(case.geometry.affine @ [0, 0, 0, 1], [20, 30, -100, 1])
    assert np.allclose(case.geometry.affine @ [1, 2, 3, 1], [19.2, 27, -92.5, 1])
    header = formats.read_header(case_of(tmp_path))
    assert (header.size, header.voxel_bytes) == ((6, 10, 8), 960)


def test_slice_thickness_is_not_the_spacing(tmp_path: Path) -> None:
    def thick(number: int, made: FileDataset) -> None:
        made.SliceThickness = 5.0

    save_series(tmp_path, ramp(), change=thick)
    case = formats.read_image(case_of(tmp_path))
    assert case.geometry.spacing[0] == 2.5
    assert case.notes == ["Slices are 5 mm thick and lie 2.5 mm apart; their distance is the spacing."]


@pytest.mark.parametrize(
    ("orientation", "step", "codes"),
    [
        ((1, 0, 0, 0, 0, -1), (0, 2.5, 0), "LIP"),
        ((0, 1, 0, 0, 0, -1), (-2.5, 0, 0), "PIR"),
        ((-1, 0, 0, 0, -1, 0), (0, 0, 2.5), "RAS"),
        ((0.8, 0.6, 0, -0.6, 0.8, 0), (0, 0, 2.5), "LPS"),
    ],
)
def test_other_planes_turn_to_lps(tmp_path: Path, orientation: Any, step: Any, codes: str) -> None:
    """Every voxel has the world position that its file gives it."""
    volume = ramp()
    save_series(tmp_path, volume, orientation=orientation, step=step)
    case = formats.read_image(case_of(tmp_path))
    assert case.geometry.axis_codes == codes
    back = np.linalg.inv(case.geometry.lps_affine)
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    for number, r, c in [(0, 0, 0), (2, 3, 4), (5, 9, 1), (1, 0, 7)]:
        lps = np.array(START) + number * np.array(step) + c * 0.8 * row + r * 1.5 * column
        z, y, x = np.rint(back @ [-lps[0], -lps[1], lps[2], 1])[:3].astype(int)
        assert case.voxels[z, y, x] == volume[number, r, c] - 1000


def test_gantry_tilt_shears_the_grid(tmp_path: Path) -> None:
    save_series(tmp_path, ramp(), step=(0.0, 1.0, 2.5))
    case = formats.read_image(case_of(tmp_path))
    assert np.allclose(case.geometry.affine[:3, 2], [0, -1.0, 2.5])
    assert any("tilted by 21.8 degrees" in note for note in case.notes)
    assert np.array_equal(case.voxels, ramp() - 1000)


def test_slope_and_intercept_are_those_of_each_slice(tmp_path: Path) -> None:
    def own(number: int, made: FileDataset) -> None:
        made.RescaleSlope, made.RescaleIntercept = 0.5 if number == 1 else 2.0, -number

    save_series(tmp_path, ramp(), change=own)
    case = formats.read_image(case_of(tmp_path))
    slopes = np.where(np.arange(6) == 1, 0.5, 2.0)[:, None, None]
    assert case.voxels.dtype == np.float32
    assert np.array_equal(case.voxels, ramp() * slopes - np.arange(6)[:, None, None])


def test_values_beyond_int16_become_float32(tmp_path: Path) -> None:
    volume = ramp().astype(np.uint16)
    volume[3, 0, 0] = 65000
    save_series(tmp_path, volume)
    case = formats.read_image(case_of(tmp_path))
    assert case.voxels.dtype == np.float32
    assert case.voxels[3, 0, 0] == 64000
    assert np.array_equal(case.voxels[4], volume[4] - 1000.0)


def test_bits_stored_and_sign(tmp_path: Path) -> None:
    """12 bits of which the highest is the sign; the four above them hold something else."""

    def narrow(number: int, made: FileDataset) -> None:
        made.BitsStored, made.HighBit, made.PixelRepresentation = 12, 11, 1

    values = ramp() - 240
    stored = (values.astype(np.uint16) & 0x0FFF) | 0x5000
    save_series(tmp_path, stored, change=narrow, intercept=0)
    assert np.array_equal(formats.read_image(case_of(tmp_path)).voxels, values)


def test_padding_counts_as_air(tmp_path: Path) -> None:
    def padded(number: int, made: FileDataset) -> None:
        made.add_new(0x00280120, "SS", -2000)

    volume = ramp()
    volume[:, 0, :3] = -2000
    save_series(tmp_path, volume, change=padded)
    case = formats.read_image(case_of(tmp_path))
    assert (case.voxels[:, 0, :3] == -1024).all()
    assert np.array_equal(case.voxels[:, 1:], volume[:, 1:] - 1000)
    assert "18 pixels hold no data (PixelPaddingValue); they count as -1024 HU." in case.notes


def test_monochrome1_keeps_its_values(tmp_path: Path) -> None:
    def inverted(number: int, made: FileDataset) -> None:
        made.PhotometricInterpretation = "MONOCHROME1"

    save_series(tmp_path, ramp(), change=inverted)
    case = formats.read_image(case_of(tmp_path))
    assert np.array_equal(case.voxels, ramp() - 1000)
    assert any("MONOCHROME1" in note for note in case.notes)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_compressed_slices_are_the_same(tmp_path: Path, syntax: str) -> None:
    def packed(number: int, made: FileDataset) -> None:
        made.compress(syntax)

    volume = ramp(4, 64, 48)
    save_series(tmp_path, volume, change=packed)
    case = formats.read_image(case_of(tmp_path))
    assert np.array_equal(case.voxels, volume - 1000)


def _twelve_bits(number: int, made: FileDataset) -> None:
    made.BitsStored, made.HighBit = 12, 11


def test_lossless_jpeg_is_the_same(tmp_path: Path) -> None:
    volume = ramp(4, 16, 16).astype(np.uint16)
    for path in save_series(tmp_path, volume, change=_twelve_bits):
        repack(path, gdcm.TransferSyntax.JPEGLosslessProcess14_1)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGLosslessSV1
    assert np.array_equal(formats.read_image(case_of(tmp_path)).voxels, volume.astype(int) - 1000)


def test_lossy_jpeg_of_8_bits_is_nearly_the_same(tmp_path: Path) -> None:
    def eight_bits(number: int, made: FileDataset) -> None:
        made.BitsAllocated = made.BitsStored = 8
        made.HighBit = 7
        made.PixelData = volume[number].astype(np.uint8).tobytes()

    volume = ramp(4, 16, 16).astype(np.uint16) // 4
    for path in save_series(tmp_path, volume, change=eight_bits, intercept=0):
        repack(path, gdcm.TransferSyntax.JPEGBaselineProcess1)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == JPEGBaseline8Bit
    found = formats.read_image(case_of(tmp_path)).voxels
    assert np.abs(found - volume.astype(int)).max() <= 12


def test_lossy_jpeg_of_12_bits_is_refused(tmp_path: Path) -> None:
    for path in save_series(tmp_path, ramp(4, 16, 16).astype(np.uint16), change=_twelve_bits):
        repack(path, gdcm.TransferSyntax.JPEGExtendedProcess2_4)
    with pytest.raises(CaseError, match="lossy JPEG of 12 bits"):
        formats.read_image(case_of(tmp_path))


def repack(path: Path, kind: int) -> None:
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def test_deflated_files_are_the_same(tmp_path: Path) -> None:
    def deflated(number: int, made: FileDataset) -> None:
        made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    save_series(tmp_path, ramp(), change=deflated)
    (source,) = formats.discover(str(tmp_path), IngestConfig(), labelled=False).cases
    assert np.array_equal(formats.read_image(source).voxels, ramp() - 1000)


def test_enhanced_multi_frame_is_a_series_of_its_own(tmp_path: Path) -> None:
    volume = ramp()
    save_enhanced(tmp_path / "multi.dcm", volume, order=[3, 0, 5, 1, 2, 4])
    (source,) = formats.discover(str(tmp_path), IngestConfig()).cases
    case = formats.read_image(source)
    assert source.case_id == "multi"
    assert case.geometry.spacing == pytest.approx((2.5, 1.5, 0.8))
    assert np.array_equal(case.voxels, volume - 1000 + np.arange(6)[:, None, None])
    assert formats.discover(str(tmp_path / "multi.dcm"), IngestConfig(), labelled=False).format == "dicom"


def test_the_same_slice_twice_is_dropped_with_a_note(tmp_path: Path) -> None:
    paths = save_series(tmp_path, ramp())
    (tmp_path / "copy").write_bytes(paths[2].read_bytes())
    case = formats.read_image(case_of(tmp_path))
    assert np.array_equal(case.voxels, ramp() - 1000)
    assert case.notes == ["1 slices lie there twice, with the same pixels; one of each is used."]


def test_nearly_even_spacing_is_noted(tmp_path: Path) -> None:
    def moved(number: int, made: FileDataset) -> None:
        made.ImagePositionPatient[2] += 0.1 * (number == 2)

    save_series(tmp_path, ramp(), change=moved)
    case = formats.read_image(case_of(tmp_path))
    assert case.geometry.spacing[0] == pytest.approx(2.5)
    assert case.notes == ["The slices lie 2.4 to 2.6 mm apart; 2.5 mm is used."]


def test_masks_lie_on_the_grid_of_the_series(tmp_path: Path) -> None:
    save_series(tmp_path / "s", ramp(), orientation=(0, 1, 0, 0, 0, -1), step=(-2.5, 0.5, 0))
    case = formats.read_image(case_of(tmp_path / "s"))
    labels = (case.voxels > -800).astype(np.uint8)
    formats.write_mask(str(tmp_path / "m.nii.gz"), labels, case.geometry)
    back, grid = formats.read_mask(str(tmp_path / "m.nii.gz"), case.geometry)
    assert np.array_equal(back, labels)
    assert np.allclose(grid.affine, case.geometry.affine)


def test_a_changed_slice_changes_the_fingerprint(tmp_path: Path) -> None:
    paths = save_series(tmp_path, ramp())
    (source,) = formats.discover(str(tmp_path), IngestConfig()).cases
    before = source.fingerprint()
    assert source.fingerprint() == before
    paths[3].write_bytes(paths[3].read_bytes() + b"\0\0")
    assert source.fingerprint() != before


def _drop(name: str, only: int | None = None) -> Any:
    def change(number: int, made: FileDataset) -> None:
        if only in (None, number):
            delattr(made, name)

    return change


def _shift_in_plane(number: int, made: FileDataset) -> None:
    made.ImagePositionPatient[0] += 3.0 * (number > 2)


def _two_planes(number: int, made: FileDataset) -> None:
    if number == 4:
        made.ImageOrientationPatient = [1, 0, 0, 0, 0, -1]


def _small(number: int, made: FileDataset) -> None:
    if number == 4:
        made.Rows, made.PixelData = 5, made.PixelData[: 5 * 8 * 2]


def _uneven(number: int, made: FileDataset) -> None:
    made.ImagePositionPatient[2] = -100 + 2.5 * number + 0.9 * (number > 2)


def _set(**values: Any) -> Any:
    def change(number: int, made: FileDataset) -> None:
        for name, value in values.items():
            setattr(made, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_drop("PixelData", 3), "holds no pixels"),
        (_drop("ImagePositionPatient", 3), "1 of the 6 slices of x have no position"),
        (_drop("ImageOrientationPatient"), "6 of the 6 slices of x have no position"),
        (_drop("PixelSpacing"), "without a valid PixelSpacing"),
        (_set(PixelSpacing=[0.0, 1.0]), "without a valid PixelSpacing"),
        (_small, "different sizes: 5x8, 10x8"),
        (_two_planes, "mixes slices of different orientation: 1 of 6"),
        (_shift_in_plane, "do not lie behind each other"),
        (_uneven, "not evenly spaced: from 2.5 to 3.4 mm"),
        (_set(ImagePositionPatient=[0, 0, 0]), "6 slices at one position"),
        (_set(RescaleSlope=0), "rescale slope is 0"),
        (_set(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "no pair of axes"),
        (_set(Rows=20), "cannot be decoded"),
    ],
)
def test_what_is_no_volume_is_one_sentence(tmp_path: Path, change: Any, words: str) -> None:
    paths = save_series(tmp_path, ramp(), change=change)
    with pytest.raises(CaseError, match=words):
        formats.read_image(case_of(tmp_path, parts=tuple(map(str, paths))))


def test_missing_slices_are_named(tmp_path: Path) -> None:
    paths = save_series(tmp_path, ramp(9))
    for number in (2, 5, 6):
        paths[number].unlink()
    with pytest.raises(CaseError, match=r"lacks 3 slices: between -97.5 and -92.5 mm, between -90.0 and -82.5 mm"):
        formats.read_header(case_of(tmp_path))


def test_different_slices_at_one_position_are_refused(tmp_path: Path) -> None:
    save_series(tmp_path, ramp())
    save_series(tmp_path, ramp()[:2] + 5, names=lambda number: f"again{number}")
    with pytest.raises(CaseError, match="different slices at one position"):
        formats.read_image(case_of(tmp_path))


@pytest.mark.parametrize("share", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("syntax", ["", JPEG2000Lossless, JPEGLSLossless, RLELossless])
def test_a_cut_file_is_refused(tmp_path: Path, share: float, syntax: str) -> None:
    def packed(number: int, made: FileDataset) -> None:
        if syntax:
            made.compress(syntax)

    rough = np.random.default_rng(0).integers(0, 3000, (4, 64, 64), dtype=np.int16)
    paths = save_series(tmp_path, rough, change=packed)
    data = paths[1].read_bytes()
    paths[1].write_bytes(data[: int(len(data) * share)])
    with pytest.raises(CaseError, match=paths[1].name):
        formats.read_image(case_of(tmp_path, parts=tuple(map(str, paths))))


def test_rle_that_unpacks_to_more_than_a_slice_is_refused(tmp_path: Path) -> None:
    """Some decoders panic on it, which is no Exception and would end the whole run."""

    def swollen(number: int, made: FileDataset) -> None:
        if number == 1:
            segment = b"\x81\x00" * 40
            frame = struct.pack("<16L", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2
            made.compress(RLELossless)
            made.PixelData = encapsulate([frame])

    paths = save_series(tmp_path, ramp(4, 32, 32), change=swollen)
    with pytest.raises(CaseError, match=f"{paths[1].name} cannot be decoded"):
        formats.read_image(case_of(tmp_path))


def test_two_series_named_as_one_are_refused(tmp_path: Path) -> None:
    one = save_series(tmp_path / "a", ramp())
    two = save_series(tmp_path / "b", ramp(), series="1.2.3.55")
    with pytest.raises(CaseError, match="several series"):
        formats.read_image(case_of(tmp_path, parts=tuple(map(str, [*one, *two]))))
    with pytest.raises(CaseError, match="2 DICOM series"):
        formats.read_image(case_of(tmp_path))
