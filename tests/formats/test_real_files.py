"""Public files of other makers: what nibabel says they hold is what segray reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from made_niftis import CODES, Turn

from segray import formats
from segray.config import IngestConfig
from segray.errors import CaseError
from segray.formats.source import CaseSource

pytestmark = pytest.mark.realdata


def test_one_image_in_48_orientations_is_one_volume(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "robust" / "orientations"
    discovery = formats.discover(str(folder), IngestConfig())
    assert sorted(case.case_id for case in discovery.cases) == sorted(CODES)
    first = formats.read_case(discovery.cases[0], None).voxels
    for source in discovery.cases:
        case = formats.read_case(source, None)
        assert case.geometry.axis_codes == source.case_id
        assert np.array_equal(case.voxels, first)
        formats.write_mask(str(tmp_path / "m.nii.gz"), (case.voxels > 30).astype(np.uint8), case.geometry)
        mask: Any = nib.load(tmp_path / "m.nii.gz")
        scan: Any = nib.load(source.image)
        assert np.array_equal(mask.affine, scan.affine)
        assert np.array_equal(np.asarray(mask.dataobj), (scan.get_fdata() > 30).astype(np.uint8))


@pytest.mark.parametrize(("name", "words"), [("complex", "complex numbers"), ("ct_perfusion", "colours")])
def test_what_is_no_scan_is_one_sentence(shared_data: Path, name: str, words: str) -> None:
    with pytest.raises(CaseError, match=words):
        formats.read_image(formats.lone_image(str(shared_data / "robust" / f"{name}.nii.gz")))


def test_sheared_scan_is_used_as_it_is(shared_data: Path) -> None:
    path = shared_data / "robust" / "shear.nii.gz"
    case = formats.read_image(formats.lone_image(str(path)))
    scan: Any = nib.load(path)
    assert np.array_equal(case.geometry.affine, scan.affine)
    assert any("sheared by 18.5 degrees" in note for note in case.notes)


@pytest.mark.parametrize("case_id", ["s0001", "s0002"])
def test_totalsegmentator_case_equals_a_stack_by_nibabel(shared_data: Path, in_lps: Turn, case_id: str) -> None:
    discovery = formats.discover(str(shared_data / "totalseg" / case_id), IngestConfig())
    assert discovery.label_map is not None
    (source,) = discovery.cases
    case = formats.read_case(source, discovery.label_map)
    counts = {name: int(np.count_nonzero(nib.load(path).dataobj)) for name, path in source.masks.items()}  # type: ignore[attr-defined]
    expected = np.zeros(case.voxels.shape, np.uint8)
    for name in sorted(source.masks, key=lambda name: (-counts[name], -discovery.label_map.values[name])):
        expected[in_lps(nib.load(source.masks[name])) > 0] = discovery.label_map.values[name]
    assert np.array_equal(case.labels, expected)
    assert np.array_equal(case.voxels, in_lps(nib.load(source.image)))
    assert case.voxels.dtype == np.int16


def test_pairs_are_read(shared_data: Path, in_lps: Turn) -> None:
    discovery = formats.discover(str(shared_data / "hippocampus_mr"), IngestConfig())
    assert discovery.format == "pairs"
    for source in discovery.cases[::20]:
        case = formats.read_case(source, None)
        assert source.labels is not None
        assert np.array_equal(case.labels, in_lps(nib.load(source.labels)))
        assert np.allclose(case.voxels, in_lps(nib.load(source.image)))
        assert formats.label_values(source) == [1, 2]


def test_header_extensions_of_other_makers_are_skipped(shared_data: Path, in_lps: Turn) -> None:
    path = str(shared_data / "dicom_jpeg2000" / "example_seg_dicom.nii.gz")
    labels, _ = formats.read_mask(path)
    assert np.array_equal(labels, in_lps(nib.load(path)))
    assert formats.read_header(CaseSource("x", path)).size == labels.shape


@pytest.mark.parametrize("ending", ["nrrd", "mha", "mhd"])
@pytest.mark.parametrize("folder", ["sts", "hippocampus_mr"])
def test_scans_that_itk_wrote_in_other_formats_are_the_same(
    shared_data: Path, tmp_path: Path, folder: str, ending: str
) -> None:
    import SimpleITK

    path = sorted((shared_data / folder).rglob("*.nii*"))[0]
    scan = SimpleITK.ReadImage(str(path), imageIO="NiftiImageIO")
    SimpleITK.WriteImage(scan, str(tmp_path / f"x.{ending}"), useCompression=True)
    case, other = (formats.read_image(formats.lone_image(str(p))) for p in (path, tmp_path / f"x.{ending}"))
    assert np.array_equal(case.voxels, other.voxels)
    assert np.allclose(case.geometry.lps_affine, other.geometry.lps_affine, atol=1e-3)
