"""Binary masks to one label volume: who wins, what counts, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_niftis import Array, Save, affine_of

from segray import formats
from segray.case import Case, Geometry, LabelMap
from segray.errors import CaseError
from segray.formats import masks as masks_module
from segray.formats.source import CaseSource

SHAPE = (6, 5, 4)
COUNT = 63


def stacked(
    folder: Path, save: Save, masks: dict[str, Array], *, codes: str = "LPS", overlap: str = "smallest"
) -> Case:
    affine = affine_of(codes)
    scan = save(folder / "ct.nii.gz", np.zeros(SHAPE, np.int16), affine)
    paths = {name: save(folder / f"{name}.nii.gz", mask, affine) for name, mask in masks.items()}
    label_map = LabelMap.of_names(["big", "middle", "small", "absent"])
    return formats.read_case(CaseSource("x", scan, masks=paths), label_map, overlap=overlap)


def box(stop: int, value: int = 1, dtype: str = "u1") -> Array:
    mask = np.zeros(SHAPE, dtype)
    mask[:stop] = value
    return mask


@pytest.mark.parametrize("codes", ["LPS", "RAS", "AIL"])
def test_smallest_structure_wins_and_the_loss_is_noted(tmp_path: Path, save: Save, codes: str) -> None:
    masks = {"small": box(1), "big": box(5), "middle": box(3)}
    case = stacked(tmp_path, save, masks, codes=codes)
    expected = np.zeros(SHAPE, np.uint8)
    expected[:5], expected[:3], expected[:1] = 1, 2, 3
    assert case.labels is not None
    assert case.labels.dtype == np.uint8
    assert case.labels.flags.c_contiguous
    assert np.array_equal(case.geometry.from_lps(case.labels), expected)
    assert case.notes == [
        "Masks overlap in 80 voxels; the smaller structure has them: big gave 60, middle gave 20.",
    ]


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 256]))
def test_winner_is_the_smallest_of_all_masks_at_a_voxel(seed: int, highest: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c", "d"]
    masks = {name: (rng.random(COUNT) < rng.random()).astype(np.uint8) for name in names}
    label_map = LabelMap({name: index for index, name in enumerate(names, start=highest)})
    canvas = masks_module._Canvas(label_map, Geometry(affine_of("LPS"), (7, 3, 3)), refuse=False)
    for name in names:
        flat = np.zeros(masks_module.padded(COUNT), np.uint8)
        flat[:COUNT] = masks[name]
        assert canvas.paint(name, flat) == bool(masks[name].any())
    order = sorted(names, key=lambda name: (-int(masks[name].sum()), -names.index(name)))
    expected = np.zeros(COUNT, np.uint16)
    for name in order:
        expected[masks[name] > 0] = label_map.values[name]
    assert np.array_equal(canvas.volume().ravel(), expected)
    lost = sum(int(mask.sum()) for mask in masks.values()) - int(np.count_nonzero(expected))
    assert (f"overlap in {lost:,} voxels" in " ".join(canvas.notes())) == (lost > 0)


def test_large_masks_are_painted_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks_module, "BLOCK", 3)
    test_winner_is_the_smallest_of_all_masks_at_a_voxel()


@given(st.sets(st.integers(0, 63), max_size=3), st.integers(1, 64))
def test_range_of_a_mask_holds_all_its_words_and_little_more(full: set[int], length: int) -> None:
    words = np.zeros(length, np.uint64)
    words[[place for place in full if place < length]] = 1 << 40
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(masks_module, "STEP", 5)
        first, last = masks_module._reach(words)
    found = np.flatnonzero(words)
    assert not words[:first].any()
    assert not words[last:].any()
    if len(found):
        assert (first, last) == (found[0] // 5 * 5, min(found[-1] // 5 * 5 + 5, length))
    else:
        assert first == last


def test_structure_that_is_covered_is_named(tmp_path: Path, save: Save) -> None:
    notes = stacked(tmp_path, save, {"middle": box(2), "small": box(2)}).notes
    assert "Smaller structures cover all of small." in notes


def test_overlap_can_be_refused(tmp_path: Path, save: Save) -> None:
    with pytest.raises(CaseError, match="masks of big and small overlap"):
        stacked(tmp_path, save, {"small": box(1), "big": box(5)}, overlap="refuse")
    apart = box(5) - box(1)
    assert stacked(tmp_path, save, {"small": box(1), "big": apart}, overlap="refuse").notes == []


@pytest.mark.parametrize(
    ("dtype", "value"), [("u1", 1), ("u1", 255), ("i1", -1), ("i2", 256), ("f4", 0.25), ("f8", 1), ("i4", 65536)]
)
def test_any_nonzero_voxel_counts(tmp_path: Path, save: Save, dtype: str, value: float) -> None:
    mask = np.zeros(SHAPE, dtype)
    mask[2:4] = value
    case = stacked(tmp_path, save, {"big": mask})
    assert case.labels is not None
    assert np.array_equal(case.geometry.from_lps(case.labels), (mask != 0).astype(np.uint8))


def test_mixed_values_and_nan_in_one_mask(tmp_path: Path, save: Save) -> None:
    mask = np.zeros(SHAPE, np.float32)
    mask[0], mask[1, 0, 0], mask[5, 4, 3] = np.nan, 3.0, 255.0
    case = stacked(tmp_path, save, {"big": mask})
    assert case.labels is not None
    assert int(case.labels.sum()) == 2


def test_empty_masks_are_no_error(tmp_path: Path, save: Save) -> None:
    shape = (64, 64, 64)
    scan = save(tmp_path / "ct.nii.gz", np.zeros(shape, np.int16))
    names = [f"s{index}" for index in range(5)]
    full = np.ones(shape, np.uint8)
    paths = {name: save(tmp_path / f"{name}.nii.gz", full * (name == "s3")) for name in names}
    case = formats.read_case(CaseSource("x", scan, masks=paths), LabelMap.of_names(names))
    assert case.labels is not None
    assert set(np.unique(case.labels)) == {4}


def test_values_come_from_the_label_map(tmp_path: Path, save: Save) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16))
    source = CaseSource("x", scan, masks={"big": save(tmp_path / "big.nii.gz", box(2))})
    case = formats.read_case(source, LabelMap({"big": 300, "other": 1}))
    assert case.labels is not None
    assert case.labels.dtype == np.uint16
    assert set(np.unique(case.labels)) == {0, 300}


def test_truth_is_the_same_without_the_voxels(tmp_path: Path, save: Save) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16), affine_of("RAS"))
    source = CaseSource("x", scan, masks={"big": save(tmp_path / "big.nii.gz", box(2), affine_of("RAS"))})
    label_map = LabelMap({"big": 4})
    assert np.array_equal(formats.read_truth(source, label_map), formats.read_case(source, label_map).labels)
    with pytest.raises(CaseError, match="no labels"):
        formats.read_truth(CaseSource("x", scan), label_map)


def test_masks_in_other_axis_orders_and_headers_are_turned(tmp_path: Path, save: Save) -> None:
    rng = np.random.default_rng(0)
    affine = affine_of("RAS")
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16), affine)
    parts = {"a": rng.random(SHAPE) < 0.3, "b": rng.random(SHAPE) < 0.2, "c": rng.random(SHAPE) < 0.1}
    paths = {}
    for (name, mask), codes in zip(parts.items(), ("RAS", "LIP", "ASR"), strict=True):
        kind = nib.Nifti2Image if name == "b" else nib.Nifti1Image
        image = kind(mask.astype(np.uint8), affine).as_reoriented(
            nib.orientations.ornt_transform(
                nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(tuple(codes))
            )
        )
        paths[name] = str(tmp_path / f"{name}.nii.gz")
        image.to_filename(paths[name])
    expected = np.zeros(SHAPE, np.uint8)
    for value, name in enumerate("abc", start=1):
        expected[parts[name]] = value
    for order in itertools.permutations("abc"):
        source = CaseSource("x", scan, masks={name: paths[name] for name in order})
        case = formats.read_case(source, LabelMap.of_names("abc"))
        assert case.labels is not None
        assert np.array_equal(case.geometry.from_lps(case.labels), expected)


@pytest.mark.parametrize("wrong", ["shape", "place"])
def test_mask_on_another_grid_is_refused_by_name(tmp_path: Path, save: Save, wrong: str) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16))
    good = save(tmp_path / "a.nii.gz", box(2))
    affine = np.eye(4)
    affine[0, 3] = 4.0 if wrong == "place" else 0.0
    bad = save(tmp_path / "b.nii.gz", np.zeros((6, 5, 3) if wrong == "shape" else SHAPE, np.uint8), affine)
    with pytest.raises(CaseError, match=r"b\.nii\.gz has"):
        formats.read_case(CaseSource("x", scan, masks={"a": good, "b": bad}), None)


def test_broken_mask_breaks_the_case(tmp_path: Path, save: Save) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16))
    good, bad = save(tmp_path / "a.nii.gz", box(2)), tmp_path / "b.nii.gz"
    bad.write_bytes(Path(good).read_bytes()[:-9])
    with pytest.raises(CaseError, match=r"b\.nii\.gz is cut off"):
        formats.read_case(CaseSource("x", scan, masks={"a": good, "b": str(bad)}), None)


@pytest.mark.parametrize("codes", ["LPS", "RAS", "AIL"])
def test_kept_overlaps_lose_no_voxel(tmp_path: Path, save: Save, codes: str) -> None:
    masks = {"small": box(1, 255), "big": box(5), "middle": box(3, 7, "i2")}
    case = stacked(tmp_path, save, masks, codes=codes, overlap="keep")
    expected = box(5) + 2 * box(3) + 4 * box(1)
    assert case.labels is not None
    assert case.labels.dtype == np.uint8
    assert np.array_equal(case.geometry.from_lps(case.labels), expected)
    assert case.notes == []


@pytest.mark.parametrize(("count", "dtype"), [(8, "u1"), (9, "u2"), (17, "u4"), (32, "u4")])
def test_kept_overlaps_of_many_structures(tmp_path: Path, save: Save, count: int, dtype: str) -> None:
    rng = np.random.default_rng(count)
    names = [f"s{number:02}" for number in range(count)]
    parts = {name: (rng.random(SHAPE) < 0.4).astype(np.uint8) for name in names}
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16))
    source = CaseSource("x", scan, masks={name: save(tmp_path / f"{name}.nii.gz", parts[name]) for name in names})
    label_map = LabelMap({name: 40 + number for number, name in enumerate(names)}, overlapping=True)
    case = formats.read_case(source, label_map, overlap="keep")
    assert case.labels is not None
    assert case.labels.dtype == np.dtype(dtype)
    fields = label_map.to_index(case.labels)
    for number, name in enumerate(names):
        assert np.array_equal(case.geometry.from_lps(fields >> number & 1), parts[name])


def test_label_volumes_become_bits_without_what_is_dropped(tmp_path: Path, save: Save) -> None:
    scan = save(tmp_path / "ct.nii.gz", np.zeros(SHAPE, np.int16))
    labels = box(5, 9) - box(3, 5) - box(1, 1)
    source = CaseSource("x", scan, labels=save(tmp_path / "labels.nii.gz", labels), dropped=(3,))
    label_map = LabelMap({"a": 4, "b": 9}, overlapping=True)
    case = formats.read_case(source, label_map, overlap="keep")
    assert case.labels is not None
    expected = 2 * ((labels == 9).astype(np.uint8)) + (labels == 4)
    assert np.array_equal(case.geometry.from_lps(case.labels), expected)
    assert np.array_equal(formats.read_truth(source, label_map, overlap="keep"), case.labels)
