"""DICOM SEG in and out."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from made_dicoms import case_of, ramp, save_enhanced, save_seg, save_series

from segray import formats
from segray.case import LabelMap
from segray.config import IngestConfig
from segray.errors import CaseError
from segray.formats.dicom_seg_write import bits_apart

SHAPE = (6, 10, 9)
"""Nine columns: frames of a binary DICOM SEG do not start at whole bytes."""


def masks() -> dict[str, Any]:
    one, two = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE, np.uint8)
    one[1:4, 2:6, 3:9] = 1
    two[4:, 7:9, :2] = 1
    two[0, 9, 8] = 1
    return {"liver": one, "left lung": two}


def found(folder: Path, **settings: Any) -> Any:
    return formats.discover(str(folder), IngestConfig(**settings))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segments_are_placed_by_position(tmp_path: Path, kind: str) -> None:
    save_series(tmp_path, ramp(*SHAPE))
    save_seg(tmp_path / "seg", masks(), kind=kind)
    discovery = found(tmp_path)
    assert discovery.label_map == LabelMap({"left lung": 1, "liver": 2})
    assert discovery.problems == []
    labels = formats.read_case(discovery.cases[0], discovery.label_map).labels
    assert np.array_equal(labels, masks()["left lung"] + 2 * masks()["liver"])


def test_highdicom_reads_our_files_as_we_do(tmp_path: Path) -> None:
    """The maker of the tests' files and segray could err together; highdicom is the judge."""
    save_series(tmp_path, ramp(*SHAPE))
    source = found(tmp_path).cases[0]
    geometry = formats.read_header(source).geometry
    label_map = LabelMap({"liver": 3, "left lung": 8})
    labels = (masks()["liver"] * 3 + masks()["left lung"] * 8).astype(np.uint8)
    path = tmp_path / "out" / "m.dcm"
    formats.write_mask(str(path), labels, geometry, label_map, source)
    read = hd.seg.segread(path)
    volume = read.get_volume(combine_segments=True)
    onto = volume.match_geometry(
        hd.Volume.from_components(
            np.zeros(SHAPE),
            spacing=(2.5, 1.5, 0.8),
            coordinate_system="PATIENT",
            position=(-20.0, -30.0, -100.0),
            direction=np.eye(3)[:, ::-1],
        )
    )
    expected = masks()["liver"] + 2 * masks()["left lung"]
    assert np.array_equal(onto.array, expected)
    slices = [pydicom.dcmread(part) for part in source.parts]
    assert {uids[2] for uids in read.get_source_image_uids()} <= {one.SOPInstanceUID for one in slices}
    assert (read.FrameOfReferenceUID, read.PatientID) == ("1.2.3.6", "P1")
    assert read.get_segment_description(2).segment_label == "left lung"


@pytest.mark.parametrize("step", [(0.0, 0.0, 2.5), (0.0, 1.0, 2.5)])
def test_a_mask_goes_out_and_comes_back(tmp_path: Path, step: Any) -> None:
    save_series(tmp_path / "s", ramp(*SHAPE), step=step)
    source = found(tmp_path / "s").cases[0]
    geometry = formats.read_header(source).geometry
    label_map = LabelMap({"liver": 3, "left lung": 300})
    labels = (masks()["liver"] * np.uint16(3) + masks()["left lung"] * np.uint16(300)).astype(np.uint16)
    path = str(tmp_path / "m.dcm")
    formats.write_mask(path, labels, geometry, label_map, source)
    for grid in (None, geometry):
        back, own = formats.read_mask(path, grid)
        assert np.array_equal(back, labels)
        assert np.array_equal(own.affine, geometry.affine)
    save_series(tmp_path / "other", ramp(*SHAPE), step=(0.0, 0.0, 3.0))
    with pytest.raises(CaseError, match="does not lie on the grid"):
        formats.read_mask(path, formats.read_header(case_of(tmp_path / "other")).geometry)


@pytest.mark.parametrize(("dtype", "structures"), [(np.uint8, 8), (np.uint32, 20)])
def test_bits_come_apart_in_the_memory_of_the_result(dtype: type, structures: int) -> None:
    fields = np.random.default_rng(0).integers(0, 1 << structures, (40, 30, 50)).astype(dtype)
    tracemalloc.start()
    apart = bits_apart(fields, structures)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (apart.shape, apart.dtype) == ((40, 30, 50, structures), np.uint8)
    assert all(((fields >> bit & 1) == apart[..., bit]).all() for bit in range(structures))
    assert peak < 1.4 * apart.nbytes


def test_overlapping_structures_go_out_and_come_back(tmp_path: Path) -> None:
    save_series(tmp_path / "s", ramp(*SHAPE))
    source = found(tmp_path / "s").cases[0]
    geometry = formats.read_header(source).geometry
    label_map = LabelMap({"body": 1, "liver": 2}, overlapping=True)
    bits = (np.ones(SHAPE, np.uint8) | (masks()["liver"] << 1)).astype(np.uint8)
    formats.write_mask(str(tmp_path / "s" / "m.dcm"), bits, geometry, label_map, source)
    assert np.array_equal(formats.read_mask(str(tmp_path / "s" / "m.dcm"))[0], bits)
    again = found(tmp_path / "s", overlap="keep")
    assert again.label_map is not None
    case = formats.read_case(again.cases[0], again.label_map, overlap="keep")
    assert np.array_equal(case.labels, bits)


def test_an_empty_mask_can_be_written(tmp_path: Path) -> None:
    save_series(tmp_path / "s", ramp(*SHAPE))
    source = found(tmp_path / "s").cases[0]
    geometry = formats.read_header(source).geometry
    formats.write_mask(str(tmp_path / "m.dcm"), np.zeros(SHAPE, np.uint8), geometry, LabelMap({"a": 1}), source)
    assert not formats.read_mask(str(tmp_path / "m.dcm"))[0].any()


def test_a_mask_of_a_multi_frame_file(tmp_path: Path) -> None:
    save_enhanced(tmp_path / "multi.dcm", ramp(*SHAPE), order=[3, 0, 5, 1, 2, 4])
    source = found(tmp_path).cases[0]
    geometry = formats.read_header(source).geometry
    labels = masks()["liver"]
    formats.write_mask(str(tmp_path / "m.dcm"), labels, geometry, LabelMap({"liver": 1}), source)
    assert np.array_equal(formats.read_mask(str(tmp_path / "m.dcm"))[0], labels)


def test_the_setting_chooses_the_ending(tmp_path: Path) -> None:
    source = case_of(tmp_path)
    assert formats.mask_place("auto", source) == f"masks/{source.case_id}.nii.gz"
    assert formats.mask_place("nifti", source) == f"masks/{source.case_id}.nii.gz"
    assert formats.mask_place("dicom-seg", source) == f"masks/{source.case_id}.dcm"


def test_a_case_that_is_no_series_gets_no_dicom_seg(tmp_path: Path) -> None:
    save_series(tmp_path, ramp(*SHAPE))
    geometry = formats.read_header(case_of(tmp_path)).geometry
    with pytest.raises(CaseError, match="no DICOM series"):
        formats.write_mask(
            str(tmp_path / "m.dcm"),
            masks()["liver"],
            geometry,
            LabelMap({"liver": 1}),
            formats.CaseSource("x", str(tmp_path / "x.nii.gz")),
        )
    assert not (tmp_path / "m.dcm").exists()


def test_fractions_are_cut_at_a_half(tmp_path: Path) -> None:
    save_series(tmp_path, ramp(*SHAPE))
    fractions = masks()["liver"] * 100
    fractions[1, 2, 3] = 99
    save_seg(tmp_path / "seg", {"liver": fractions}, kind="FRACTIONAL")
    discovery = found(tmp_path)
    case = formats.read_case(discovery.cases[0], discovery.label_map)
    assert np.array_equal(case.labels, fractions >= 100)
    assert any("fractions" in note for note in case.notes)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"spacing": (1.5, 0.9)}, "does not lie on the grid"), ({"shift": 0.4}, "does not lie on the grid")],
)
def test_segments_on_another_grid_are_refused(tmp_path: Path, more: Any, words: str) -> None:
    save_series(tmp_path, ramp(*SHAPE))
    save_seg(tmp_path / "seg", masks(), **more)
    discovery = found(tmp_path)
    with pytest.raises(CaseError, match=words):
        formats.read_case(discovery.cases[0], discovery.label_map)


def test_segments_beyond_the_series_are_refused(tmp_path: Path) -> None:
    save_series(tmp_path, ramp(*SHAPE))
    save_seg(tmp_path / "seg", masks(), shift=0.8)
    discovery = found(tmp_path)
    with pytest.raises(CaseError, match="voxels outside of its series"):
        formats.read_case(discovery.cases[0], discovery.label_map)


@pytest.mark.parametrize(
    ("more", "words"),
    [({"frame": "1.9"}, "another frame of reference"), ({"series": "1.9"}, "not among the cases")],
)
def test_segments_of_another_series_are_a_problem(tmp_path: Path, more: Any, words: str) -> None:
    save_series(tmp_path, ramp(*SHAPE))
    save_seg(tmp_path / "seg", masks(), **more)
    discovery = found(tmp_path)
    assert not discovery.cases[0].has_labels
    ((where, reason),) = discovery.problems
    assert where.endswith("seg")
    assert words in reason


def test_a_frame_of_reference_that_changed_since_is_refused(tmp_path: Path) -> None:
    save_series(tmp_path, ramp(*SHAPE))
    save_seg(tmp_path / "seg", masks())
    discovery = found(tmp_path)
    save_seg(tmp_path / "seg", masks(), frame="1.9")
    with pytest.raises(CaseError, match="another frame of reference"):
        formats.read_case(discovery.cases[0], discovery.label_map)
