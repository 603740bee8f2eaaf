"""Folders of pictures and masks: names, labels, splits, colours, and what is said of them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segray import formats
from segray.case import LabelMap
from segray.config import IngestConfig, parse_config
from segray.errors import CaseError, UsageError

RNG = np.random.default_rng(3)
FRAME = RNG.integers(0, 256, (20, 30), dtype=np.uint8)
LUNG = np.zeros((20, 30), bool)
LUNG[2:18, 3:25] = True
LESION = np.zeros((20, 30), bool)
LESION[8:12, 10:28] = True


def settings(**ingest: Any) -> IngestConfig:
    return parse_config({"ingest": ingest}).ingest


def put(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


@pytest.fixture
def covid(tmp_path: Path) -> Path:
    """Two patients of two pictures, lungs and lesions."""
    for name in ("g01_0", "g01_1", "g02_0", "g02_1"):
        put(tmp_path / "frames" / f"{name}.png", FRAME)
        put(tmp_path / "lung_masks" / f"{name}.png", np.uint8(255) * LUNG)
        put(tmp_path / "masks" / f"{name}.png", np.uint8(255) * LESION)
    return tmp_path


def test_several_mask_folders_ask_whether_they_overlap(covid: Path) -> None:
    with pytest.raises(UsageError, match="mask folders of lung, mask, and it is not said whether they overlap"):
        formats.discover(str(covid), settings())
    one = formats.discover(str(covid), settings(structures=["lung"]))
    assert one.label_map == LabelMap({"lung": 1})
    assert one.cases[0].masks == {"lung": str(covid / "lung_masks" / "g01_0.png")}


def test_prediction_does_not_ask(covid: Path) -> None:
    assert len(formats.discover(str(covid), settings(), labelled=False).cases) == 4


def test_overlapping_labels_stay_as_in_the_files(covid: Path) -> None:
    found = formats.discover(str(covid), settings(overlap="keep", labels={"lung": 1, "infection": 2}))
    assert found.format == "frames"
    assert found.label_map is not None
    assert any("masks without a name of their own are infection" in note for note in found.notes)
    case = formats.read_case(found.cases[0], found.label_map, overlap="keep")
    assert case.voxels.shape == (1, 20, 30)
    assert case.voxels.dtype == np.int16
    assert np.array_equal(case.voxels[0], FRAME)
    assert case.labels is not None
    assert np.array_equal(case.labels[0] & 1, LUNG)
    assert np.array_equal(case.labels[0] >> 1, LESION)
    assert case.geometry.spacing == (1.0, 1.0, 1.0)


def test_exclusive_labels_give_a_pixel_to_the_smaller_structure(covid: Path) -> None:
    found = formats.discover(str(covid), settings(overlap="smallest"))
    assert found.label_map == LabelMap({"lung": 1, "mask": 2})
    assert any("the structure is called mask" in note for note in found.notes)
    case = formats.read_case(found.cases[0], found.label_map)
    assert case.labels is not None
    assert np.array_equal(case.labels[0] == 2, LESION)
    assert np.array_equal(case.labels[0] == 1, LUNG & ~LESION)
    assert "overlap in" in case.notes[0]


def test_a_single_mask_folder_is_named_by_the_user(tmp_path: Path) -> None:
    put(tmp_path / "imgs" / "car1.jpg", FRAME)
    put(tmp_path / "masks" / "car1_mask.gif", np.uint8(1) * LUNG)
    found = formats.discover(str(tmp_path), settings(labels={"car": 3}))
    assert found.label_map == LabelMap({"car": 3})
    case = formats.read_case(found.cases[0], found.label_map)
    assert case.labels is not None
    assert np.array_equal(case.labels[0], LUNG * 3)
    assert found.cases[0].case_id == "car1"


def test_images_and_masks_with_other_endings(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.bmp", FRAME)
    put(tmp_path / "images" / "b.tif", FRAME)
    put(tmp_path / "masks" / "a.png", np.uint8(255) * LUNG)
    put(tmp_path / "masks" / "c.png", np.uint8(255) * LUNG)
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")
    found = formats.discover(str(tmp_path), settings())
    assert [case.case_id for case in found.cases] == ["a", "b"]
    assert found.problems == [("b", "The image has no labels."), ("c", "The mask has no image.")]
    assert any("1 files are no pictures" in note for note in found.notes)


def test_label_pictures_by_value_and_by_dataset_json(tmp_path: Path) -> None:
    put(tmp_path / "images" / "a.png", FRAME)
    put(tmp_path / "labels" / "a.png", np.uint8(1) * LUNG + np.uint8(1) * LESION)
    (tmp_path / "dataset.json").write_text('{"labels": {"background": 0, "lung": 1, "both": 2}}', encoding="utf-8")
    for config in (settings(), settings(labels={"lung": 1, "both": 2})):
        found = formats.discover(str(tmp_path), config)
        assert found.label_map == LabelMap({"lung": 1, "both": 2})
        labels = formats.read_case(found.cases[0], found.label_map).labels
        assert labels is not None
        assert np.array_equal(labels[0], LUNG.astype(int) + LESION)
        assert formats.label_values(found.cases[0]) == [1, 2]
    kept = formats.discover(str(tmp_path), settings(structures=["both"]))
    labels = formats.read_case(kept.cases[0], kept.label_map).labels
    assert labels is not None
    assert np.array_equal(labels[0] == 2, LUNG & LESION)
    assert set(np.unique(labels)) == {0, 2}
    bits = formats.read_case(found.cases[0], found.label_map, overlap="keep").labels
    assert bits is not None
    assert set(np.unique(bits)) == {0, 1, 2}


def test_colours_by_a_table(tmp_path: Path) -> None:
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[LUNG], colours[LESION] = (0, 0, 255), (255, 0, 0)
    put(tmp_path / "frames" / "a.png", FRAME)
    put(tmp_path / "masks" / "a.png", colours)
    plain = formats.discover(str(tmp_path), settings())
    with pytest.raises(CaseError, match="#000000, #0000ff, #ff0000"):
        formats.read_case(plain.cases[0], plain.label_map)
    table = {"lung": "#0000FF", "lesion": "#ff0000"}
    found = formats.discover(str(tmp_path), settings(mask_colours=table))
    assert found.label_map == LabelMap({"lung": 1, "lesion": 2})
    assert any("#0000ff is lung (1), #ff0000 is lesion (2)" in note for note in found.notes)
    labels = formats.read_case(formats.CaseSource.from_json(found.cases[0].to_json()), found.label_map).labels
    assert labels is not None
    assert np.array_equal(labels[0], np.where(LESION, 2, LUNG))
    lesion = formats.discover(str(tmp_path), settings(mask_colours=table, structures=["lesion"]))
    labels = formats.read_case(lesion.cases[0], lesion.label_map).labels
    assert labels is not None
    assert np.array_equal(labels[0], LESION * 2)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"a": "red"}, "'red' is no colour"),
        ({"a": 1, "b": 1}, "two names"),
        ({"background": 0}, "no structure"),
        ({"a": -1}, "no grey level"),
    ],
)
def test_tables_that_make_no_sense(table: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        settings(mask_colours=table)


def test_colours_need_one_mask_folder(covid: Path) -> None:
    with pytest.raises(UsageError, match="needs one mask folder, and there are 2: lung, mask"):
        formats.discover(str(covid), settings(mask_colours={"a": 1}))


def test_split_folders_are_kept_and_names_made_unique(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        put(tmp_path / split / "images" / "a.png", FRAME)
        put(tmp_path / split / "masks" / "a.png", np.uint8(255) * LUNG)
    put(tmp_path / "train" / "images" / "b.png", FRAME)
    put(tmp_path / "train" / "masks" / "b.png", np.uint8(255) * LUNG)
    found = formats.discover(str(tmp_path), settings())
    assert {case.case_id: case.split for case in found.cases} == {
        "b": "train",
        "test_a": "test",
        "train_a": "train",
        "val_a": "validation",
    }


def test_bare_pictures_and_one_picture_can_be_predicted(tmp_path: Path) -> None:
    put(tmp_path / "scans" / "a.png", FRAME)
    put(tmp_path / "scans" / "b.jpg", FRAME)
    found = formats.discover(str(tmp_path / "scans"), settings(), labelled=False)
    assert (found.format, [case.case_id for case in found.cases]) == ("frames", ["a", "b"])
    one = formats.discover(str(tmp_path / "scans" / "a.png"), settings(), labelled=False)
    assert formats.read_image(one.cases[0]).voxels.shape == (1, 20, 30)


def test_masks_beside_the_pictures(tmp_path: Path) -> None:
    put(tmp_path / "a.png", FRAME)
    put(tmp_path / "a_mask.png", np.uint8(255) * LUNG)
    found = formats.discover(str(tmp_path), settings())
    assert [(case.case_id, case.has_labels) for case in found.cases] == [("a", True)]


def test_colours_are_channels_where_most_pictures_have_them(tmp_path: Path) -> None:
    seen = RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name, values in (("a", seen), ("b", seen), ("c", np.repeat(FRAME[..., None], 3, axis=2))):
        put(tmp_path / "frames" / f"{name}.png", values)
    found = formats.discover(str(tmp_path), settings(), labelled=False)
    case = formats.read_image(found.cases[0])
    assert case.voxels.shape == (1, 3, 20, 30)
    assert case.voxels.dtype == np.int16
    assert case.channels == ("red", "green", "blue")
    assert np.array_equal(case.voxels[0], np.moveaxis(seen, 2, 0))
    grey = formats.read_image(found.cases[2])
    assert np.array_equal(grey.voxels[0], np.stack([FRAME] * 3))
    assert any("2 of 3 pictures that were looked at have colours" in note for note in found.notes)
    for case_source in found.cases:
        assert formats.read_header(case_source).channels == ("red", "green", "blue")


def test_equal_channels_are_one(tmp_path: Path) -> None:
    put(tmp_path / "frames" / "a.png", np.repeat(FRAME[..., None], 3, axis=2))
    found = formats.discover(str(tmp_path), settings(), labelled=False)
    case = formats.read_image(found.cases[0])
    assert case.voxels.shape == (1, 20, 30)
    assert np.array_equal(case.voxels[0], FRAME)
    assert (case.channels, formats.read_header(found.cases[0]).channels) == ((), ())
    assert formats.read_image(formats.CaseSource("a", found.cases[0].image, kind="picture")).channels == ()


def test_a_coloured_picture_among_grey_ones_becomes_grey_and_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put(tmp_path / "frames" / f"{name}.png", FRAME)
    colours = np.zeros((20, 30, 3), np.uint8)
    colours[:, :15] = (255, 0, 0)
    put(tmp_path / "frames" / "c.png", colours)
    found = formats.discover(str(tmp_path), settings(), labelled=False)
    case = formats.read_image(found.cases[2])
    assert case.voxels.shape == (1, 20, 30)
    assert int(case.voxels[0, 0, 0]) == 76
    assert case.notes == ["The colours of the picture were made grey."]
    assert formats.read_image(
        formats.discover(str(tmp_path), settings(picture_channels="rgb"), labelled=False).cases[0]
    ).channels == ("red", "green", "blue")


def test_16_bits_keep_their_values(tmp_path: Path) -> None:
    for name, top in (("a", 32767), ("b", 65535)):
        put(tmp_path / "frames" / f"{name}.png", np.array([[0, top], [1, 2]], np.uint16))
    found = formats.discover(str(tmp_path), settings(), labelled=False)
    cases = [formats.read_image(source) for source in found.cases]
    assert [case.voxels.dtype for case in cases] == [np.int16, np.float32]
    assert [int(case.voxels.max()) for case in cases] == [32767, 65535]


def test_masks_of_another_size_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "frames" / "a.png", FRAME)
    put(tmp_path / "masks" / "a.png", np.uint8(255) * LUNG[:10])
    found = formats.discover(str(tmp_path), settings())
    with pytest.raises(CaseError, match="has 30 x 10 pixels, but its image has 30 x 20"):
        formats.read_case(found.cases[0], found.label_map)


def test_unsafe_case_ids_are_rows(tmp_path: Path) -> None:
    put(tmp_path / "frames" / "a (1).png", FRAME)
    put(tmp_path / "frames" / "b.png", FRAME)
    found = formats.discover(str(tmp_path), settings(), labelled=False)
    assert [case.case_id for case in found.cases] == ["b"]
    assert "cannot be a file name" in found.problems[0][1]


@pytest.mark.parametrize("labelled", [False, True])
def test_folders_among_the_pictures_are_problems(tmp_path: Path, labelled: bool) -> None:
    for below in ("frames/a.png", "frames/g02/b.png", "frames/g03/deep/c.png", "masks/a.png", "masks/g02/b.png"):
        put(tmp_path / below, np.uint8(255) * LUNG)
    (tmp_path / "frames" / "notes").mkdir()
    (tmp_path / "frames" / "notes" / "a.txt").write_text("no picture")
    found = formats.discover(str(tmp_path), settings(), labelled=labelled)
    assert (found.format, [case.case_id for case in found.cases]) == ("frames", ["a"])
    reasons = dict(found.problems)
    assert list(reasons) == ["frames/g02", "frames/g03", *(["masks/g02"] if labelled else [])]
    assert reasons["frames/g02"] == "This is a folder; what lies in it is left out. Move its files to frames/."


def test_folders_among_the_pictures_of_a_split_are_problems(tmp_path: Path) -> None:
    for below in ("train/images/a.png", "train/images/g02/b.png", "train/masks/a.png", "val/images/c.png"):
        put(tmp_path / below, np.uint8(255) * LUNG)
    found = formats.discover(str(tmp_path), settings(), labelled=False)
    assert [where for where, _ in found.problems] == ["train/images/g02"]


def test_a_hundred_thousand_pictures_are_listed_in_seconds(tmp_path: Path) -> None:
    """A fiftieth of them here; the listing opens a sample of the files only."""
    for folder in ("frames", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(2_000):
            (tmp_path / folder / f"{number:06d}.png").touch()
    before = time.monotonic()
    assert len(formats.discover(str(tmp_path), settings()).cases) == 2_000
    assert time.monotonic() - before < 1.2


@pytest.mark.realdata
def test_the_covid_set(shared_data: Path) -> None:
    root = shared_data / "covid_png"
    config = settings(overlap="keep", labels={"lung": 1, "infection": 2}, split={"pattern": "^(g[0-9]+)_"})
    found = formats.discover(str(root), config)
    assert (len(found.cases), found.problems) == (662, [])
    assert {case.patient for case in found.cases} == {"g01", "g02", "g03", "g06", "g11", "g12"}
    source = next(case for case in found.cases if case.case_id == "g01_0077")
    case = formats.read_case(source, found.label_map, overlap="keep")
    assert case.labels is not None
    for bit, folder in enumerate(("lung_masks", "masks")):
        with Image.open(root / folder / "g01_0077.png") as mask:
            assert np.array_equal(case.labels[0] >> bit & 1, np.asarray(mask) > 0)
    assert (case.labels == 3).sum() > 1000
