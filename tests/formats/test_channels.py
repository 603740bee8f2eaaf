"""Images of several channels, and label files with a volume a structure."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from made_niftis import Array, Save, Turn, affine_of

from segray import formats
from segray.case import LabelMap
from segray.config import IngestConfig
from segray.errors import CaseError, UsageError
from segray.formats.source import CaseSource

RNG = np.random.default_rng(0)
SCAN = RNG.integers(-500, 500, (3, 4, 5, 2)).astype(np.int16)
AFFINE = affine_of("PIR")


def turned(in_lps: Turn, array: Array) -> Array:
    return in_lps(nib.Nifti1Image(array, AFFINE))


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_volumes_of_a_4d_file_are_channels(tmp_path: Path, save: Save, in_lps: Turn, ending: str, dtype: str) -> None:
    array = SCAN.astype(dtype) + (0.5 if dtype == "float32" else 0)
    path = save(tmp_path / f"x.{ending}", array.astype(dtype), AFFINE)
    case = formats.read_image(formats.lone_image(path))
    assert case.voxels.shape == (4, 2, 3, 5)
    assert case.voxels.dtype == dtype
    for number in range(2):
        assert np.array_equal(case.voxels[:, number], turned(in_lps, array[..., number]))
    assert case.channels == ("channel_0", "channel_1")
    assert any("2 volumes are taken for channels" in note for note in case.notes)
    header = formats.read_header(CaseSource("x", path))
    assert (header.size, header.channels) == ((4, 3, 5), case.channels)
    assert header.voxel_bytes == case.voxels.nbytes


def test_a_mask_of_a_4d_image_is_one_volume_on_its_grid(tmp_path: Path, save: Save) -> None:
    path = save(tmp_path / "x.nii.gz", SCAN, AFFINE)
    case = formats.read_image(formats.lone_image(path))
    labels = (case.voxels[:, 1] > 0).astype(np.uint8)
    formats.write_mask(str(tmp_path / "m.nii.gz"), labels, case.geometry)
    mask: Any = nib.load(tmp_path / "m.nii.gz")
    assert np.array_equal(np.asarray(mask.dataobj), SCAN[..., 1] > 0)
    assert np.array_equal(mask.affine, AFFINE)


def test_a_narrow_and_a_wide_channel_become_float(tmp_path: Path, save: Save) -> None:
    wide = save(tmp_path / "b.nii", SCAN[..., 1] / np.float32(4), AFFINE)
    source = CaseSource("x", save(tmp_path / "a.nii", SCAN[..., 0], AFFINE), parts=(wide,))
    case = formats.read_image(source)
    assert case.voxels.dtype == np.float32
    assert set(np.unique(case.voxels[:, 0])) == set(np.unique(SCAN[..., 0]))


def dataset(folder: Path, **table: Any) -> None:
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tumour": 1}, **table}))


@pytest.mark.parametrize(
    "told", [{"modality": {"0": "FLAIR", "1": "T1w"}}, {"channel_names": {"1": "T1w", "0": "FLAIR"}}]
)
@pytest.mark.parametrize("style", ["msd", "nnunet"])
def test_names_come_from_dataset_json(tmp_path: Path, save: Save, in_lps: Turn, style: str, told: Any) -> None:
    if style == "msd":
        save(tmp_path / "imagesTr" / "a.nii.gz", SCAN, AFFINE)
    else:
        for number in range(2):
            save(tmp_path / "imagesTr" / f"a_{number:04d}.nii.gz", SCAN[..., number], AFFINE)
    save(tmp_path / "labelsTr" / "a.nii.gz", (SCAN[..., 0] > 0).astype(np.uint8), AFFINE)
    dataset(tmp_path, **told)
    (source,) = formats.discover(str(tmp_path), IngestConfig()).cases
    assert CaseSource.from_json(source.to_json()) == source
    case = formats.read_case(source, LabelMap({"tumour": 1}))
    assert case.channels == ("FLAIR", "T1w") == formats.read_header(source).channels
    assert np.array_equal(case.voxels[:, 1], turned(in_lps, SCAN[..., 1]))
    assert np.array_equal(case.labels, case.voxels[:, 0] > 0)
    assert not any("without names" in note for note in case.notes)


@pytest.mark.parametrize("style", ["msd", "nnunet"])
def test_another_number_of_channels_than_named_is_refused(tmp_path: Path, save: Save, style: str) -> None:
    save(tmp_path / "imagesTr" / ("a.nii.gz" if style == "msd" else "a_0000.nii.gz"), SCAN[..., :1], AFFINE)
    save(tmp_path / "imagesTr" / ("b.nii.gz" if style == "msd" else "b_0000.nii.gz"), SCAN[..., :1], AFFINE)
    save(tmp_path / "labelsTr" / "a.nii.gz", np.zeros((3, 4, 5), np.uint8), AFFINE)
    dataset(tmp_path, modality={"0": "FLAIR", "1": "T1w"})
    if style == "nnunet":
        with pytest.raises(UsageError, match="lacks the channels _0001"):
            formats.discover(str(tmp_path), IngestConfig())
        return
    source = formats.discover(str(tmp_path), IngestConfig()).cases[0]
    for reading in (formats.read_header, formats.read_image):
        with pytest.raises(CaseError, match="has 1 channels, but 2 are named: FLAIR, T1w"):
            reading(source)


@pytest.mark.parametrize(
    "told", [{"modality": "T1"}, {"modality": {"a": "T1"}}, {"channel_names": {"1": "T1"}}, {"modality": 3}]
)
def test_channels_that_are_not_understood_are_told(tmp_path: Path, save: Save, told: Any) -> None:
    save(tmp_path / "imagesTr" / "a.nii.gz", SCAN[..., 0])
    dataset(tmp_path, **told)
    with pytest.raises(UsageError, match=r"dataset\.json"):
        formats.discover(str(tmp_path), IngestConfig())


@pytest.mark.parametrize("change", ["shape", "grid"])
def test_channels_must_lie_on_one_grid(tmp_path: Path, save: Save, change: str) -> None:
    other = AFFINE.copy()
    other[0, 3] += 9.0 * (change == "grid")
    second = save(tmp_path / "b.nii", SCAN[: 2 if change == "shape" else 3, ..., 1], other)
    source = CaseSource("x", save(tmp_path / "a.nii", SCAN[..., 0], AFFINE), parts=(second,))
    for reading in (formats.read_header, formats.read_image):
        with pytest.raises(CaseError, match="all channels of a case must lie on one grid"):
            reading(source)


def test_channels_may_be_of_several_formats(tmp_path: Path, save: Save) -> None:
    sitk: Any = pytest.importorskip("SimpleITK")
    first = save(tmp_path / "a.nii", SCAN[..., 0], AFFINE)
    sitk.WriteImage(sitk.ReadImage(first), str(tmp_path / "b.nrrd"))
    case = formats.read_image(CaseSource("x", first, parts=(str(tmp_path / "b.nrrd"),)))
    assert np.array_equal(case.voxels[:, 0], case.voxels[:, 1])
    assert formats.read_header(CaseSource("x", str(tmp_path / "b.nrrd"), kind="volume", parts=(first,))).channels


def test_a_damaged_second_channel_is_told(tmp_path: Path, save: Save) -> None:
    path = Path(save(tmp_path / "x.nii.gz", SCAN, AFFINE))
    data = bytearray(path.read_bytes())
    data[-6] ^= 255
    path.write_bytes(bytes(data))
    with pytest.raises(CaseError, match="damaged"):
        formats.read_image(formats.lone_image(str(path)))


EXCLUSIVE = RNG.integers(0, 4, (3, 4, 5))


def one_hot(*masks: Array) -> Array:
    return np.stack(masks, axis=-1).astype(np.uint8)


def labelled(tmp_path: Path, save: Save, array: Array) -> CaseSource:
    scan = save(tmp_path / "x.nii.gz", SCAN[..., 0], AFFINE)
    return CaseSource("x", scan, labels=save(tmp_path / "l.nii.gz", array, AFFINE))


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("known", [False, True])
def test_exclusive_one_hot_labels(tmp_path: Path, save: Save, in_lps: Turn, background: bool, known: bool) -> None:
    array = one_hot(*(value == EXCLUSIVE for value in range(0 if background else 1, 4)))
    source = labelled(tmp_path, save, array)
    assert formats.label_values(source) == [1, 2, 3]
    label_map = LabelMap({"a": 1, "b": 2, "c": 3}) if known else None
    case = formats.read_case(source, label_map)
    assert np.array_equal(case.labels, turned(in_lps, EXCLUSIVE.astype(np.uint8)))


def test_values_of_the_label_map_are_given_in_order(tmp_path: Path, save: Save, in_lps: Turn) -> None:
    source = labelled(tmp_path, save, one_hot(EXCLUSIVE == 1, EXCLUSIVE == 2, EXCLUSIVE == 3))
    case = formats.read_case(source, LabelMap({"c": 30, "a": 10, "b": 20}))
    assert np.array_equal(case.labels, turned(in_lps, (EXCLUSIVE * 10).astype(np.uint8)))


def test_structures_that_are_not_kept_are_background(tmp_path: Path, save: Save, in_lps: Turn) -> None:
    source = labelled(tmp_path, save, one_hot(EXCLUSIVE == 1, EXCLUSIVE == 2, EXCLUSIVE == 3))
    kept = CaseSource("x", source.image, labels=source.labels, dropped=(1, 3))
    case = formats.read_case(kept, LabelMap({"b": 2}))
    assert np.array_equal(case.labels, turned(in_lps, 2 * (EXCLUSIVE == 2).astype(np.uint8)))
    bits = formats.read_case(kept, LabelMap({"b": 2}), overlap="keep").labels
    assert np.array_equal(bits, turned(in_lps, (EXCLUSIVE == 2).astype(np.uint8)))


def test_overlapping_one_hot_labels(tmp_path: Path, save: Save, in_lps: Turn) -> None:
    organ, tumour = EXCLUSIVE > 0, EXCLUSIVE == 2
    source = labelled(tmp_path, save, one_hot(organ, tumour))
    label_map = LabelMap({"organ": 1, "tumour": 2})
    case = formats.read_case(source, label_map)
    assert np.array_equal(case.labels, turned(in_lps, (organ.astype(np.uint8) + tumour).astype(np.uint8)))
    assert any("Masks overlap" in note for note in case.notes)
    bits = formats.read_case(source, label_map, overlap="keep").labels
    assert np.array_equal(bits, turned(in_lps, (organ + 2 * tumour).astype(np.uint8)))
    with pytest.raises(CaseError, match="overlap"):
        formats.read_case(source, label_map, overlap="refuse")


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (one_hot(EXCLUSIVE == 1, 2 * (EXCLUSIVE == 2)), "value 2; one-hot labels are 0 and 1"),
        (one_hot(*[EXCLUSIVE == 1] * 5), "5 volumes, but 2 structures"),
        (one_hot(EXCLUSIVE == 1, EXCLUSIVE == 2, EXCLUSIVE == 3), "is not the background of the others"),
        (np.stack([(EXCLUSIVE == 1) * 0.5, EXCLUSIVE == 2], axis=-1).astype(np.float32), "no integer"),
        (np.zeros((3, 4, 5, 300), np.uint8), "300 volumes"),
        (np.zeros((3, 4, 5, 1, 3), np.uint8), "3 volumes"),
    ],
)
def test_what_is_not_one_hot_is_one_sentence(tmp_path: Path, save: Save, array: Array, words: str) -> None:
    with pytest.raises(CaseError, match=words):
        formats.read_case(labelled(tmp_path, save, array), LabelMap({"a": 1, "b": 2}))


def test_one_hot_labels_on_another_grid_are_refused(tmp_path: Path, save: Save) -> None:
    scan = save(tmp_path / "x.nii.gz", SCAN[..., 0], AFFINE)
    labels = save(tmp_path / "l.nii.gz", one_hot(EXCLUSIVE == 1, EXCLUSIVE == 2), affine_of("RAS"))
    with pytest.raises(CaseError, match="its image"):
        formats.read_case(CaseSource("x", scan, labels=labels), None)
