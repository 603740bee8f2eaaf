"""Overlapping labels as 4D NIfTI files, against nibabel."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from made_niftis import Array, Save, affine_of

from segray import formats
from segray.case import Geometry, LabelMap
from segray.errors import CaseError, SegrayError
from segray.formats.nifti_bits import read_nifti_bits

SHAPE = (6, 5, 4)


def overlapping(count: int) -> LabelMap:
    return LabelMap({f"s{number:02}": number for number in range(1, count + 1)}, overlapping=True)


def fields(geometry: Geometry, count: int) -> Array:
    rng = np.random.default_rng(count)
    return rng.integers(0, 1 << count, geometry.size).astype(overlapping(count).dtype)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "AIL", "SRP"])
@pytest.mark.parametrize("count", [1, 2, 9, 32])
def test_masks_come_back_and_nibabel_sees_a_volume_a_structure(
    tmp_path: Path, save: Save, codes: str, count: int
) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16), affine_of(codes), sform_code=2, qform_code=1)
    case = formats.read_image(formats.lone_image(scan))
    bits = fields(case.geometry, count)
    path = str(tmp_path / "mask.nii.gz")
    formats.write_mask(path, bits, case.geometry, overlapping(count))
    image = nib.load(path)
    assert image.get_data_dtype() == np.uint8
    assert image.shape == ((*SHAPE, count) if count > 1 else SHAPE)
    assert np.array_equal(image.affine, nib.load(scan).affine)
    assert int(image.header["sform_code"]) == 2
    stored = np.asarray(image.dataobj).reshape(*SHAPE, count)
    for number in range(count):
        assert np.array_equal(stored[..., number], case.geometry.from_lps(bits >> number & 1))
    found, geometry = formats.read_mask(path, case.geometry)
    assert np.array_equal(overlapping(count).to_index(found), bits)
    assert np.array_equal(formats.read_mask(path)[0], bits)
    assert geometry.size == case.geometry.size


def test_plain_files_and_grids_without_a_header(tmp_path: Path) -> None:
    geometry = Geometry(np.diag([-1.0, -1.0, 1.0, 1.0]), (7, 5, 1))
    bits = fields(geometry, 3)
    path = str(tmp_path / "mask.nii")
    formats.write_mask(path, bits, geometry, overlapping(3))
    assert nib.load(path).shape == (7, 5, 1, 3)
    assert np.array_equal(formats.read_mask(path)[0], bits)


def test_a_volume_larger_than_a_slab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segray.formats.nifti_voxels.SLAB_BYTES", 70)
    geometry = Geometry(np.eye(4), SHAPE)
    bits = fields(geometry, 5)
    formats.write_mask(str(tmp_path / "mask.nii.gz"), bits, geometry, overlapping(5))
    assert np.array_equal(formats.read_mask(str(tmp_path / "mask.nii.gz"))[0], bits)


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    geometry = Geometry(np.eye(4), SHAPE)
    path = tmp_path / "mask.nii"
    with pytest.raises(SegrayError, match="do not lie on the grid"):
        formats.write_mask(str(path), np.zeros((4, 5, 7), np.uint8), geometry, overlapping(2))
    formats.write_mask(str(path), fields(geometry, 4), geometry, overlapping(4))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CaseError, match="too small for its header"):
        formats.read_mask(str(path))
    nib.save(nib.Nifti1Image(np.zeros((2, 2, 2, 33), np.uint8), np.eye(4)), path)
    with pytest.raises(CaseError, match="33 volumes"):
        formats.read_mask(str(path))
    (tmp_path / "no.nii").write_bytes(b"x" * 400)
    with pytest.raises(CaseError, match="no NIfTI"):
        read_nifti_bits(str(tmp_path / "no.nii"))
    moved = Geometry(np.diag([1.0, 1.0, 2.0, 1.0]), SHAPE)
    formats.write_mask(str(path), fields(geometry, 4), geometry, overlapping(4))
    with pytest.raises(CaseError, match="corners are up to"):
        formats.read_mask(str(path), moved)
