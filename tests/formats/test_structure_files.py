"""A file a structure: what nibabel and segray read of it, names, folders that are whole, and stores."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from made_niftis import Array, Save, affine_of

from segray import formats, storage
from segray.case import Geometry, LabelMap
from segray.config import IngestConfig
from segray.errors import CaseError, SegrayError, UsageError
from segray.formats.structure_files import read_structures, structure_files, write_structures

SHAPE = (7, 6, 5)
MAP = LabelMap({"liver": 1, "spleen": 4, "nowhere": 7, "kidney left": 300})


def labels_of(geometry: Geometry, label_map: LabelMap = MAP) -> Array:
    rng = np.random.default_rng(5)
    if label_map.overlapping:
        return rng.integers(0, 1 << len(label_map.names), geometry.size).astype(label_map.dtype)
    return rng.choice([0, 0, 0, 1, 4, 300], geometry.size).astype(np.uint16)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "AIL", "SRP", "LAS"])
def test_every_structure_lies_on_the_grid_of_the_case(tmp_path: Path, save: Save, codes: str) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16), affine_of(codes), sform_code=2, qform_code=1)
    case = formats.read_image(formats.lone_image(scan))
    labels = labels_of(case.geometry)
    folder = tmp_path / "out" / "case"
    write_structures(str(folder), labels, case.geometry, MAP)
    assert sorted(os.listdir(folder)) == ["kidney left.nii.gz", "liver.nii.gz", "nowhere.nii.gz", "spleen.nii.gz"]
    assert os.listdir(folder.parent) == ["case"]
    for name, value in MAP.values.items():
        image = nib.load(folder / f"{name}.nii.gz")
        assert image.get_data_dtype() == np.uint8
        assert np.array_equal(image.affine, nib.load(scan).affine)
        assert int(image.header["sform_code"]) == 2
        assert np.array_equal(np.asarray(image.dataobj), case.geometry.from_lps(labels == value))
    found, geometry = read_structures(str(folder), MAP, case.geometry)
    assert np.array_equal(found, labels)
    assert np.array_equal(geometry.affine, case.geometry.affine)
    assert np.array_equal(formats.read_mask(str(folder), label_map=MAP)[0], labels)


@pytest.mark.parametrize("count", [3, 9, 32])
def test_overlapping_structures(tmp_path: Path, count: int) -> None:
    geometry = Geometry(affine_of("RAS"), SHAPE)
    label_map = LabelMap({f"s{number:02}": number + 1 for number in range(count)}, overlapping=True)
    bits = labels_of(geometry, label_map)
    write_structures(str(tmp_path / "c"), bits, geometry, label_map)
    for number, name in enumerate(label_map.names):
        stored = np.asarray(nib.load(tmp_path / "c" / f"{name}.nii.gz").dataobj)
        assert np.array_equal(stored, geometry.from_lps(bits >> number & 1))
    assert np.array_equal(read_structures(str(tmp_path / "c"), label_map)[0], bits)


def test_large_planes_with_small_structures(tmp_path: Path) -> None:
    """Empty places around a box are pieces that were packed before, those within are not."""
    geometry = Geometry(affine_of("LAS"), (320, 310, 9))
    labels = np.zeros(geometry.size, np.uint8)
    labels[2:5, 100:120, 7:300], labels[0, 0, 0], labels[8, 309, 319], labels[6, 155, 160] = 1, 2, 2, 3
    label_map = LabelMap({"box": 1, "ends": 2, "one": 3, "none": 4})
    write_structures(str(tmp_path / "c"), labels, geometry, label_map)
    for name, value in label_map.values.items():
        stored = np.asarray(nib.load(tmp_path / "c" / f"{name}.nii.gz").dataobj)
        assert np.array_equal(stored, geometry.from_lps(labels == value))
    assert os.path.getsize(tmp_path / "c" / "none.nii.gz") < labels.size / 800


def test_the_folder_is_a_case_of_masks(tmp_path: Path, save: Save) -> None:
    """The layout is TotalSegmentator's: beside the scan it is found as a case with its structures."""
    scan = save(tmp_path / "data" / "c1" / "ct.nii.gz", np.zeros(SHAPE, np.int16), affine_of("LPS"))
    geometry = formats.read_header(formats.lone_image(scan)).geometry
    labels = labels_of(geometry)
    write_structures(str(tmp_path / "data" / "c1" / "segmentations"), labels, geometry, MAP)
    found = formats.discover(str(tmp_path / "data"), IngestConfig(labels=dict(MAP.values)))
    assert np.array_equal(formats.read_case(found.cases[0], found.label_map).labels, labels)


def test_a_second_writing_takes_the_place_of_the_first(tmp_path: Path) -> None:
    geometry = Geometry(affine_of("LPS"), SHAPE)
    folder = str(tmp_path / "c")
    write_structures(folder, labels_of(geometry), geometry, MAP)
    write_structures(folder, np.zeros(geometry.size, np.uint8), geometry, LabelMap({"liver": 1}))
    assert os.listdir(tmp_path) == ["c"]
    assert os.listdir(folder) == ["liver.nii.gz"]


def test_a_failing_writing_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = Geometry(affine_of("LPS"), SHAPE)
    folder, labels = str(tmp_path / "c"), labels_of(geometry)
    write_structures(folder, labels, geometry, MAP)
    real = os.replace

    def no_space(old: str, new: str) -> None:
        if "spleen" in new:
            raise OSError(28, "No space left on device")
        real(old, new)

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(SegrayError, match="No space left on device"):
        write_structures(folder, np.zeros_like(labels), geometry, MAP)
    assert os.listdir(tmp_path) == ["c"]
    assert np.array_equal(read_structures(folder, MAP)[0], labels)


def test_a_folder_that_lacks_a_structure_is_no_mask(tmp_path: Path) -> None:
    geometry = Geometry(affine_of("LPS"), SHAPE)
    write_structures(str(tmp_path / "c"), labels_of(geometry), geometry, MAP)
    (tmp_path / "c" / "liver.nii.gz").unlink()
    with pytest.raises(CaseError, match=r"lacks 1 of 4 structures, such as liver\.nii\.gz"):
        read_structures(str(tmp_path / "c"), MAP)
    with pytest.raises(CaseError, match="no mask"):
        formats.read_mask(str(tmp_path / "c"))


def test_names_are_made_safe_and_collisions_refused() -> None:
    names = {"a/b": 1, "../up": 2, "Körper": 3, "": 4, "c:d*": 5, "x" * 300: 6, " tail. ": 7, "..": 8}
    files = structure_files(LabelMap(names))
    kept = {name: files[name].removesuffix(".nii.gz") for name in names}
    assert (kept["a/b"], kept["Körper"], kept["c:d*"], kept[" tail. "]) == ("a_b", "Körper", "c_d_", "tail")
    assert (kept[""], kept["x" * 300]) == ("structure_4", "x" * 64)
    for file in files.values():
        assert "/" not in file
        assert ".." not in file
        assert len(file.encode()) < 255
    with pytest.raises(UsageError, match="'a/b' and 'a:b' would both be written to a_b"):
        structure_files(LabelMap({"a/b": 1, "a:b": 2}))
    with pytest.raises(UsageError, match="Rename one"):
        structure_files(LabelMap({"Liver": 1, "liver": 2}))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    geometry = Geometry(affine_of("LPS"), SHAPE)
    with pytest.raises(SegrayError, match="do not lie on the grid"):
        write_structures(str(tmp_path / "c"), np.zeros((1, 2, 3), np.uint8), geometry, MAP)
    with pytest.raises(SegrayError, match="are no labels"):
        write_structures(str(tmp_path / "c"), np.full(geometry.size, -1), geometry, MAP)
    assert os.listdir(tmp_path) == []


def test_structures_on_a_store(s3: str) -> None:
    geometry = Geometry(affine_of("RAS"), SHAPE)
    labels, folder = labels_of(geometry), f"{s3}/run/structures/c 1"
    storage.write_bytes(f"{folder}/of an older label map.nii.gz", b"x")
    write_structures(folder, labels, geometry, MAP)
    assert set(storage.names(folder)) == set(structure_files(MAP).values())
    assert np.array_equal(formats.read_mask(folder, label_map=MAP)[0], labels)
