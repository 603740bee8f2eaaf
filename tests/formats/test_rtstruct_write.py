"""RTSTRUCT out and in again: the same voxels on straight, oblique, flipped and tilted series, and what it refers to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from made_dicoms import SPACING, START, case_of, ramp, save_enhanced, save_series
from matplotlib.path import Path as Outline
from scipy import ndimage

from segray import formats
from segray.case import Geometry, LabelMap
from segray.config import IngestConfig
from segray.errors import CaseError
from segray.formats.dicom_seg_write import CREATOR, GROUP
from segray.formats.rtstruct_write import read_structure_set, write_structure_set

SHAPE = (6, 24, 31)
TURN = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
SERIES: dict[str, dict[str, Any]] = {
    "axial": {},
    "flipped": {"orientation": (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0), "step": (0.0, 0.0, -2.5)},
    "coronal": {"orientation": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0), "step": (0.0, 2.5, 0.0)},
    "sagittal": {"orientation": (0.0, 1.0, 0.0, 0.0, 0.0, -1.0), "step": (2.5, 0.0, 0.0)},
    "oblique": {"orientation": (*TURN[:, 0], *TURN[:, 1]), "step": 2.5 * np.cross(TURN[:, 0], TURN[:, 1])},
    "tilted": {"step": (0.0, 1.0, 2.5)},
}
MAP = LabelMap({"liver": 3, "left lung": 8, "dust": 300, "absent": 5})


def blobs(geometry: Any, label_map: LabelMap = MAP) -> Any:
    """Blobs with holes, single voxels and voxels that touch at corners, up to the border."""
    rng = np.random.default_rng(4)
    fields = [ndimage.gaussian_filter(rng.normal(size=geometry.size), (0.5, 2, 2)) for _ in range(3)]
    masks = [field > np.quantile(field, 0.6) for field in fields]
    masks[0] &= rng.random(geometry.size) > 0.05
    masks[2] = rng.random(geometry.size) < 0.2
    if label_map.overlapping:
        return sum((mask.astype(label_map.dtype) << number) for number, mask in enumerate(masks)).astype(
            label_map.dtype
        )
    labels = np.zeros(geometry.size, np.uint16)
    for mask, name in zip(masks, ("liver", "left lung", "dust"), strict=True):
        labels[mask] = label_map.values[name]
    return labels


def written(folder: Path, label_map: LabelMap = MAP, **series: Any) -> tuple[Any, Any, str, Any]:
    save_series(folder / "s", ramp(*SHAPE), **series)
    source = formats.discover(str(folder / "s"), IngestConfig()).cases[0]
    geometry = formats.read_header(source).geometry
    labels, path = blobs(geometry, label_map), str(folder / "rs.dcm")
    write_structure_set(path, labels, geometry, label_map, source)
    return labels, geometry, path, source


@pytest.mark.parametrize("kind", sorted(SERIES))
def test_every_voxel_comes_back(tmp_path: Path, kind: str) -> None:
    labels, geometry, path, source = written(tmp_path, **SERIES[kind])
    back, own = read_structure_set(path)
    assert np.array_equal(back, labels)
    assert np.array_equal(own.affine, geometry.affine)
    assert np.array_equal(formats.read_mask(path, geometry)[0], labels)
    again = formats.CaseSource("x", source.image, kind="dicom", parts=source.parts, labels=path)
    notes = formats.read_case(again, None).notes
    assert not [note for note in notes if "left out" in note or "ignored" in note]


@pytest.mark.parametrize("kind", sorted(SERIES))
def test_contours_lie_in_the_plane_of_the_slice_that_they_name(tmp_path: Path, kind: str) -> None:
    _, _, path, source = written(tmp_path, **SERIES[kind])
    slices = {one.SOPInstanceUID: one for one in map(pydicom.dcmread, source.parts)}
    count = 0
    for roi in pydicom.dcmread(path).ROIContourSequence:
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            (named,) = contour.ContourImageSequence
            image = slices[named.ReferencedSOPInstanceUID]
            assert named.ReferencedSOPClassUID == image.SOPClassUID
            axes = np.array(image.ImageOrientationPatient, float).reshape(2, 3)
            off = (points - np.array(image.ImagePositionPatient, float)) @ np.cross(*axes)
            assert np.abs(off).max() < 2e-6
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            assert contour.NumberOfContourPoints == len(points)
            count += 1
    assert count > 100


def test_the_rest_of_the_file_is_that_of_the_study(tmp_path: Path) -> None:
    def change(_: int, made: Any) -> None:
        made.SpecificCharacterSet = "ISO_IR 100"
        made.PatientName, made.StudyDate, made.StudyDescription = "Müller^Änne", "20200102", "Abdomen"

    _, _, path, source = written(
        tmp_path, LabelMap({"Körper": 1, "left lung": 2, "liver": 3, "dust": 4}), change=change
    )
    made, image = pydicom.dcmread(path), pydicom.dcmread(source.parts[0])
    assert (made.Modality, made.StudyDate, made.StudyDescription) == ("RTSTRUCT", "20200102", "Abdomen")
    assert str(made.PatientName) == "Müller^Änne"
    assert made.StudyInstanceUID == image.StudyInstanceUID
    assert made.SeriesInstanceUID != image.SeriesInstanceUID
    (frame,) = made.ReferencedFrameOfReferenceSequence
    assert frame.FrameOfReferenceUID == image.FrameOfReferenceUID
    (series,) = frame.RTReferencedStudySequence[0].RTReferencedSeriesSequence
    assert series.SeriesInstanceUID == image.SeriesInstanceUID
    named = {one.ReferencedSOPInstanceUID for one in series.ContourImageSequence}
    assert named == {pydicom.dcmread(part).SOPInstanceUID for part in source.parts}
    rois = {roi.ROINumber: roi.ROIName for roi in made.StructureSetROISequence}
    assert rois == {1: "Körper", 2: "left lung", 3: "liver", 4: "dust"}
    assert [roi.ReferencedROINumber for roi in made.ROIContourSequence] == [1, 2, 3, 4]
    assert [one.ReferencedROINumber for one in made.RTROIObservationsSequence] == [1, 2, 3, 4]
    assert len({tuple(roi.ROIDisplayColor) for roi in made.ROIContourSequence}) == 4
    assert "ContourSequence" not in made.ROIContourSequence[0]
    assert made.file_meta.MediaStorageSOPInstanceUID == made.SOPInstanceUID


def test_another_maker_finds_the_voxels_each_contour_on_its_own(tmp_path: Path) -> None:
    """matplotlib's test of points, in mm, contours united: a reader that knows no holes is right too."""
    labels, _, path, _ = written(tmp_path)
    made = pydicom.dcmread(path)
    names = {roi.ROINumber: roi.ROIName for roi in made.StructureSetROISequence}
    x, y = np.meshgrid(START[0] + np.arange(SHAPE[2]) * SPACING[1], START[1] + np.arange(SHAPE[1]) * SPACING[0])
    centres = np.stack([x, y], axis=-1).reshape(-1, 2)
    found = np.zeros(SHAPE, np.uint16)
    for roi in made.ROIContourSequence:
        for contour in roi.get("ContourSequence", []):
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            place = round((points[0, 2] - START[2]) / 2.5)
            inside = Outline(points[:, :2], closed=False).contains_points(centres).reshape(SHAPE[1:])
            found[place][inside] = MAP.values[names[roi.ReferencedROINumber]]
    assert np.array_equal(found, labels)


def test_segray_discovers_it_as_the_labels_of_its_series(tmp_path: Path) -> None:
    label_map = LabelMap({"liver": 1, "lung": 2, "dust": 3}, overlapping=True)
    bits, _, path, _ = written(tmp_path, label_map)
    assert np.array_equal(read_structure_set(path)[0], bits)
    (tmp_path / "s" / "rs.dcm").write_bytes(Path(path).read_bytes())
    found = formats.discover(
        str(tmp_path / "s"), IngestConfig(labels={"liver": 1, "lung": 2, "dust": 3}, overlap="keep")
    )
    assert found.problems == []
    assert np.array_equal(formats.read_case(found.cases[0], label_map, overlap="keep").labels, bits)


def test_uneven_slices_have_contours_at_their_own_places(tmp_path: Path) -> None:
    def change(number: int, made: Any) -> None:
        made.ImagePositionPatient = [START[0], START[1], START[2] + 2.5 * number + 0.1 * (number % 2)]

    labels, _, path, _ = written(tmp_path, change=change)
    assert np.array_equal(read_structure_set(path)[0], labels)
    heights = {
        float(c.ContourData[2]) for roi in pydicom.dcmread(path).ROIContourSequence[:1] for c in roi.ContourSequence
    }
    assert heights <= {START[2] + 2.5 * number + 0.1 * (number % 2) for number in range(SHAPE[0])}


def test_a_multi_frame_file_is_referred_to_by_frames(tmp_path: Path) -> None:
    save_enhanced(tmp_path / "multi.dcm", ramp(*SHAPE), order=[3, 0, 5, 1, 2, 4])
    source = formats.discover(str(tmp_path), IngestConfig()).cases[0]
    geometry = formats.read_header(source).geometry
    labels, path = blobs(geometry), str(tmp_path / "rs.dcm")
    write_structure_set(path, labels, geometry, MAP, source)
    assert np.array_equal(read_structure_set(path)[0], labels)
    contour = pydicom.dcmread(path).ROIContourSequence[0].ContourSequence[0]
    assert round((contour.ContourData[2] - START[2]) / 2.5) == 0
    assert contour.ContourImageSequence[0].ReferencedFrameNumber == 2


def test_a_mask_without_a_voxel(tmp_path: Path) -> None:
    _, geometry, path, source = written(tmp_path)
    write_structure_set(path, np.zeros(geometry.size, np.uint8), geometry, MAP, source)
    assert not read_structure_set(path)[0].any()
    assert len(pydicom.dcmread(path).ROIContourSequence) == 4


def test_a_line_of_many_points_is_one_contour(tmp_path: Path) -> None:
    """More than the 64 KiB that an element of numbers may have where types are written."""
    save_series(tmp_path / "s", ramp(2, 128, 128))
    source = case_of(tmp_path / "s")
    geometry = formats.read_header(source).geometry
    labels = np.ones(geometry.size, np.uint8)
    labels[:, 1::2, 1::2] = 0
    write_structure_set(str(tmp_path / "rs.dcm"), labels, geometry, LabelMap({"x": 1}), source)
    (contour, _) = pydicom.dcmread(tmp_path / "rs.dcm").ROIContourSequence[0].ContourSequence
    assert contour.NumberOfContourPoints >= 64 * 64 * 4
    assert np.array_equal(read_structure_set(str(tmp_path / "rs.dcm"))[0], labels)


def test_a_file_that_is_not_as_it_was_written_is_no_mask(tmp_path: Path) -> None:
    labels, geometry, path, _ = written(tmp_path)
    data = Path(path).read_bytes()
    for share in (0.3, 0.6, 0.9, 0.99):
        Path(path).write_bytes(data[: int(share * len(data))])
        with pytest.raises(CaseError):
            formats.read_mask(path, geometry)
    Path(path).write_bytes(data)
    made = pydicom.dcmread(path)
    made.ROIContourSequence[0].ContourSequence.pop()
    made.save_as(path)
    with pytest.raises(CaseError, match=r"its contours enclose \d+ voxels of liver, not \d+\. Predict the case again"):
        formats.read_mask(path)
    Path(path).write_bytes(data)
    moved = Geometry(geometry.affine + np.eye(4)[:, [3, 0, 1, 2]] * 9, geometry.shape)
    with pytest.raises(CaseError, match="lies elsewhere"):
        formats.read_mask(path, moved)
    assert np.array_equal(formats.read_mask(path, geometry)[0], labels)


def test_a_file_from_before_the_counts_is_read(tmp_path: Path) -> None:
    labels, _, path, _ = written(tmp_path)
    made = pydicom.dcmread(path)
    block = made.private_block(GROUP, CREATOR)
    kept = json.loads(block[0x01].value.decode() if isinstance(block[0x01].value, bytes) else block[0x01].value)
    del kept["voxels"], made[0x00711001]
    block.add_new(0x01, "UT", json.dumps(kept))
    made.save_as(path)
    assert np.array_equal(read_structure_set(path)[0], labels)


def test_what_cannot_be(tmp_path: Path) -> None:
    labels, geometry, path, source = written(tmp_path)
    other = formats.CaseSource("x", str(tmp_path / "x.nii.gz"))
    with pytest.raises(CaseError, match=r"x is no DICOM series, .* Choose another output"):
        write_structure_set(path, labels, geometry, MAP, other)
    with pytest.raises(CaseError, match="do not lie on the grid of its series"):
        write_structure_set(path, labels[:3], geometry, MAP, source)
    made = pydicom.dcmread(path)
    del made[0x00710010], made[0x00711001]
    made.save_as(path)
    with pytest.raises(CaseError, match="no RTSTRUCT that segray wrote"):
        formats.read_mask(path)

    def change(_: int, made: Any) -> None:
        del made.StudyInstanceUID

    save_series(tmp_path / "t", ramp(*SHAPE), change=change)
    with pytest.raises(CaseError, match="has no StudyInstanceUID"):
        write_structure_set(path, labels, geometry, MAP, case_of(tmp_path / "t"))
