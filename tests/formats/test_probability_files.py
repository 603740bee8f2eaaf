"""Probabilities out and in again: the crop, its place in nibabel's eyes, and what rounding costs."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_niftis import Array, Save, affine_of

from segray import formats
from segray.case import Geometry
from segray.errors import CaseError, SegrayError
from segray.formats.probability_files import (
    THRESHOLD,
    ProbabilityCrop,
    quantised,
    read_probabilities,
    write_probabilities,
)

SHAPE = (17, 15, 13)
NAMES = ("liver", "left lung", "tumour")
STEP = {"uint8": 1 / 510, "uint16": 1 / 131070}


def scores(size: tuple[int, int, int]) -> Array:
    """(z, structures, y, x) of float32 with nothing near the border, and small values up to it."""
    rng = np.random.default_rng(2)
    made = (rng.random((size[0], 3, *size[1:])) * THRESHOLD).astype(np.float32)
    z, y, x = (slice(2, side - 3) for side in size)
    made[z, :, y, x] = rng.random(made[z, :, y, x].shape)
    made[:, 2] = 0
    return made


def kept(values: Array) -> Array:
    return np.where(values > np.float32(THRESHOLD), values, 0)


def gathered(values: Array, size: tuple[int, int, int], step: int, stored: Any = "uint8") -> Any:
    crop = ProbabilityCrop(NAMES, size, stored=stored)
    for start in range(0, size[0], step):
        crop.add(start, values[start : start + step])
    return crop.join()


@pytest.mark.parametrize("codes", ["LPS", "RAS", "AIL", "SRP", "LAS"])
@pytest.mark.parametrize("stored", ["uint8", "uint16"])
@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
def test_probabilities_come_back(tmp_path: Path, save: Save, codes: str, stored: Any, suffix: str) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16), affine_of(codes), sform_code=2, qform_code=1)
    geometry = formats.read_image(formats.lone_image(scan)).geometry
    values = scores(geometry.size)
    crop, offset = gathered(values, geometry.size, 4, stored)
    assert crop.shape == (3, *(side - 5 for side in geometry.size))
    path = str(tmp_path / f"p.{suffix}")
    write_probabilities(path, crop, offset, geometry, NAMES, stored=stored)
    found = read_probabilities(path)
    assert (found.names, found.offset, found.threshold) == (NAMES, (2, 2, 2), THRESHOLD)
    assert found.geometry.to_json() == geometry.to_json()
    assert np.array_equal(found.crop, crop)
    assert found.crop.dtype == np.dtype(stored)
    for number, name in enumerate(NAMES):
        assert np.abs(found.whole(name) - kept(values[:, number])).max() <= STEP[stored] * 1.01


@pytest.mark.parametrize("codes", ["LPS", "RAS", "AIL", "SRP"])
@pytest.mark.parametrize("forms", [(2, 1), (0, 1), (1, 0), (0, 0)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_nibabel_lays_the_crop_where_it_belongs(
    tmp_path: Path, save: Save, codes: str, forms: tuple[int, int], kind: Any
) -> None:
    affine = affine_of(codes)
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16), affine, kind=kind)
    path = tmp_path / "ct.nii.gz"
    image = nib.load(path)
    image.set_sform(affine, code=forms[0])
    image.set_qform(affine, code=forms[1])
    kind(np.zeros(SHAPE, np.int16), None, image.header).to_filename(tmp_path / "forms.nii.gz")
    del scan
    geometry = formats.read_image(formats.lone_image(str(tmp_path / "forms.nii.gz"))).geometry
    values = scores(geometry.size)
    crop, offset = gathered(values, geometry.size, 5)
    write_probabilities(str(tmp_path / "p.nii.gz"), crop, offset, geometry, NAMES)
    made = nib.load(tmp_path / "p.nii.gz")
    data = made.get_fdata()
    assert data.shape == (*(side - 5 for side in geometry.shape), 3)
    # The value of every voxel of the crop is that of the voxel at the same place in mm.
    places = np.stack(np.meshgrid(*map(np.arange, data.shape[:3]), indexing="ij"), axis=-1).reshape(-1, 3)
    world = nib.affines.apply_affine(made.affine, places)
    stored = nib.affines.apply_affine(np.linalg.inv(geometry.affine), world)
    nearest = np.rint(stored).astype(int)
    assert np.abs(stored - nearest).max() < 1e-3
    for number in range(3):
        whole = geometry.from_lps(kept(values[:, number])).reshape(geometry.shape, order="F")
        assert np.abs(data[..., number].reshape(-1) - whole[tuple(nearest.T)]).max() <= STEP["uint8"] * 1.01
    for form in (made.get_sform, made.get_qform):
        told, code = form(coded=True)
        assert code == 0 or np.allclose(told, made.affine, atol=1e-3)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 7), st.sampled_from(["u1", "u2", "f2", "f4"]), st.floats(0.001, 0.3))
def test_slabs_of_any_height_give_the_same(seed: int, step: int, dtype: str, share: float) -> None:
    rng = np.random.default_rng(seed)
    size = (7, 6, 5)
    values = rng.random((7, 3, 6, 5)) * (rng.random((7, 3, 6, 5)) < share)
    values = (values * (np.iinfo(dtype).max if dtype[0] == "u" else 1)).astype(dtype)
    crop, offset = gathered(values, size, step)
    whole, start = gathered(values, size, 7)
    assert offset == start
    assert np.array_equal(crop, whole)
    expected = np.moveaxis(quantised(values, np.dtype(np.uint8), THRESHOLD), 1, 0)
    z, y, x = (slice(a, a + side) for a, side in zip(offset, crop.shape[1:], strict=True))
    assert np.array_equal(expected[:, z, y, x], crop)
    expected[:, z, y, x] = 0
    assert not expected.any()
    if crop.any():
        assert all(crop.any(axis=axes)[[0, -1]].all() for axes in ((0, 2, 3), (0, 1, 3), (0, 1, 2)))


def test_rounding_is_to_the_nearest_and_to_nothing_below_the_threshold() -> None:
    byte, word = np.dtype(np.uint8), np.dtype(np.uint16)
    floats = np.array([0, 0.01, 0.0101, 0.5, 0.999, 1, 1.5, -3, np.nan, np.inf])
    assert quantised(floats, byte, 0.01).tolist() == [0, 0, 3, 128, 255, 255, 255, 0, 0, 255]
    assert quantised(floats[:6], byte, 0.0).tolist() == [0, 3, 3, 128, 255, 255]
    bytes_ = np.arange(256, dtype=np.uint8)
    assert quantised(bytes_, byte, 0.0).tolist() == bytes_.tolist()
    assert quantised(bytes_, word, 0.0).tolist() == (bytes_.astype(int) * 257).tolist()
    assert quantised(bytes_, byte, 0.01).tolist()[:5] == [0, 0, 0, 3, 4]
    halves = np.linspace(0, 1, 999).astype(np.float16)
    assert np.abs(quantised(halves, word, 0.0) / 65535 - halves.astype(float)).max() <= 1 / 131070 + 1e-7


def test_a_case_without_anything_and_one_structure(tmp_path: Path) -> None:
    geometry = Geometry(affine_of("RAS"), SHAPE)
    crop = ProbabilityCrop(["x"], geometry.size)
    crop.add(0, np.zeros((13, 1, 15, 17), np.uint8))
    write_probabilities(str(tmp_path / "p.nii.gz"), *crop.join(), geometry, ["x"])
    found = read_probabilities(str(tmp_path / "p.nii.gz"))
    assert found.crop.shape == (1, 1, 1, 1)
    assert not found.whole("x").any()
    assert found.whole("x").shape == geometry.size


def test_memory_is_that_of_the_crop() -> None:
    """A case of which 1 in 64 counts: far less than its canvas is held, and putting together takes no second crop."""
    size, slab = (64, 256, 256), np.zeros((8, 4, 256, 256), np.uint8)
    slab[:, :, 100:132, 64:128] = 200
    tracemalloc.start()
    crop = ProbabilityCrop("abcd", size)
    for start in range(0, size[0], len(slab)):
        crop.add(start, slab)
    joined, offset = crop.join()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (joined.shape, offset) == ((4, 64, 32, 64), (0, 100, 64))
    assert peak < 3 * joined.nbytes + 2 * slab[:, 0].nbytes < 64 * 4 * 256 * 256 / 4


def test_small_values_pack_to_little(tmp_path: Path) -> None:
    """They are noise in every voxel around a structure: a file that kept them would be many times larger."""
    geometry = Geometry(np.eye(4), (96, 96, 40))
    values = (np.random.default_rng(0).random((40, 1, 96, 96)) * 0.01).astype(np.float32)
    values[5:35:29, :, 5:90:84, 5:90:84] = 1
    crop, offset = ProbabilityCrop(["x"], geometry.size), None
    crop.add(0, values)
    joined, offset = crop.join()
    write_probabilities(str(tmp_path / "p.nii.gz"), joined, offset, geometry, ["x"])
    assert os.path.getsize(tmp_path / "p.nii.gz") < joined.size / 50


def test_what_cannot_be(tmp_path: Path, save: Save) -> None:
    geometry, path = Geometry(np.eye(4), SHAPE), str(tmp_path / "p.nii.gz")
    crop = ProbabilityCrop(NAMES, geometry.size)
    for start, shape in ((0, (2, 2, 15, 17)), (0, (2, 3, 15, 16)), (12, (2, 3, 15, 17)), (-1, (2, 3, 15, 17))):
        with pytest.raises(SegrayError, match="do not lie in 3 structures of size"):
            crop.add(start, np.zeros(shape, np.uint8))
    made = np.zeros((3, 4, 4, 4), np.uint8)
    for wrong, offset in ((made, (10, 0, 0)), (made, (0, 0, -1)), (made[:2], (0, 0, 0)), (made[0], (0, 0, 0))):
        with pytest.raises(SegrayError, match="do not lie on the grid"):
            write_probabilities(path, wrong, offset, geometry, NAMES)
    write_probabilities(path, made, (9, 11, 13), geometry, NAMES)
    (tmp_path / "cut.nii.gz").write_bytes(Path(path).read_bytes()[:-20])
    with pytest.raises(CaseError, match=r"cut off|too small"):
        read_probabilities(str(tmp_path / "cut.nii.gz"))
    with pytest.raises(CaseError, match="no file of probabilities"):
        read_probabilities(save(tmp_path / "x.nii.gz", np.zeros((3, 4, 5, 2), np.uint8)))
    write_probabilities(str(tmp_path / "p.nii"), made, (9, 11, 13), geometry, NAMES)
    data = (tmp_path / "p.nii").read_bytes()
    for old, new in (
        (b"[9, 11, 13]", b"[9, 12, 13]"),
        (b"tumour", b'","lung'),
        (b'"offset"', b'"offsex"'),
        (b"{", b"["),
    ):
        (tmp_path / "p.nii").write_bytes(data.replace(old, new, 1))
        with pytest.raises(CaseError, match="no file of probabilities"):
            read_probabilities(str(tmp_path / "p.nii"))
