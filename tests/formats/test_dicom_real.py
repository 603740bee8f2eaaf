"""Public DICOM series of other makers, against the NIfTI files that those made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from segray import formats
from segray.config import IngestConfig
from segray.formats.source import CaseSource

pytestmark = pytest.mark.realdata


def test_dicom_and_nifti_of_one_scan_are_equal(shared_data: Path) -> None:
    folder = shared_data / "dicom_rtstruct_lung"
    (source,) = formats.discover(str(folder / "dicom"), IngestConfig()).cases
    (path,) = (folder / "nifti" / "image").glob("*.nii.gz")
    case, other = formats.read_image(source), formats.read_image(formats.lone_image(str(path)))
    assert np.array_equal(case.voxels, other.voxels)
    assert np.allclose(case.geometry.lps_affine, other.geometry.lps_affine, atol=1e-4)


def test_rtstruct_equals_the_mask_of_its_makers(shared_data: Path) -> None:
    folder = shared_data / "dicom_rtstruct_lung"
    discovery = formats.discover(str(folder / "dicom"), IngestConfig())
    assert discovery.label_map is not None
    assert discovery.label_map.names == ("GTV-1",)
    case = formats.read_case(discovery.cases[0], discovery.label_map)
    (path,) = (folder / "nifti" / "mask").glob("*.nii.gz")
    given, _ = formats.read_mask(str(path))
    assert case.labels is not None
    ours, theirs = case.labels > 0, given > 0
    dice = 2 * np.count_nonzero(ours & theirs) / (np.count_nonzero(ours) + np.count_nonzero(theirs))
    print(f"Dice of the RTSTRUCT and the given mask: {dice:.6f}")
    assert dice >= 0.98
    assert dice == 1.0  # every voxel, by the rule that a voxel is inside when its centre is


def test_jpeg2000_series_has_the_spacing_of_its_positions(shared_data: Path) -> None:
    folder = shared_data / "dicom_jpeg2000"
    path = folder / "example_seg_dicom.nii.gz"
    source = CaseSource("x", str(folder / "series"), kind="dicom", labels=str(path), label_kind="nifti")
    case = formats.read_case(source, None)
    labels: Any = nib.load(path)
    assert case.geometry.spacing == pytest.approx((2.0, 0.9765625, 0.9765625))
    assert any("3 mm thick and lie 2 mm apart" in note for note in case.notes)
    assert case.voxels.shape == (20, 512, 512)
    assert case.geometry.spacing[0] == pytest.approx(labels.header.get_zooms()[2])
    assert case.labels is not None
    # Values of TotalSegmentator's label map: bone is bright, liver and muscle are not, on every slice that has them.
    assert 60 < case.voxels[case.labels == 5].mean() < 120
    assert case.voxels[case.labels == 33].mean() > 200
    assert case.voxels.min() == -1024


def test_a_mask_of_a_real_series_as_dicom_seg(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom_rtstruct_lung" / "dicom"
    discovery = formats.discover(str(folder), IngestConfig())
    assert discovery.label_map is not None
    case = formats.read_case(discovery.cases[0], discovery.label_map)
    assert case.labels is not None
    path = str(tmp_path / "m.dcm")
    formats.write_mask(path, case.labels, case.geometry, discovery.label_map, discovery.cases[0])
    assert np.array_equal(formats.read_mask(path)[0], case.labels)


def test_a_mask_of_a_real_series_as_rtstruct(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom_rtstruct_lung" / "dicom"
    discovery = formats.discover(str(folder), IngestConfig())
    source, label_map = discovery.cases[0], discovery.label_map
    assert label_map is not None
    case = formats.read_case(source, label_map)
    assert case.labels is not None
    place = formats.write_output("rtstruct", str(tmp_path), case.labels, case.geometry, label_map, source)
    assert np.array_equal(formats.read_mask(str(tmp_path / place), case.geometry)[0], case.labels)
