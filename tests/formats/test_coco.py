"""COCO annotations: both ways of keeping them, categories, splits, and files that are cut or full of nonsense."""

from __future__ import annotations

import json
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
from segray.formats.coco_file import load_coco
from segray.formats.note import kind_of

SQUARE = [10, 5, 20, 5, 20, 15, 10, 15]


def settings(**ingest: Any) -> IngestConfig:
    return parse_config({"ingest": ingest}).ingest


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((40, 60), 100, np.uint8)).save(path)


def image(number: Any, name: str, **more: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 60, "height": 40, **more}


def outline(number: Any, of: Any, category: Any, segmentation: Any, crowd: int = 0) -> dict[str, Any]:
    return {"id": number, "image_id": of, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}


def write(path: Path, images: Any, annotations: Any, categories: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = {"images": images, "annotations": annotations, "categories": categories or [{"id": 1, "name": "Tumor"}]}
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def roboflow(root: Path, images: Any, annotations: Any, categories: Any = None) -> formats.Discovery:
    """A folder with its annotations beside the pictures, discovered."""
    for entry in images:
        name = entry.get("file_name") if isinstance(entry, dict) else None
        if isinstance(name, str) and name.endswith("png") and not name.startswith(("..", "/")):
            picture(root / name)
    write(root / "_annotations.coco.json", images, annotations, categories)
    return formats.discover(str(root), settings())


def labels_of(found: formats.Discovery, case_id: str, overlap: str = "smallest") -> Any:
    source = next(case for case in found.cases if case.case_id == case_id)
    case = formats.read_case(formats.CaseSource.from_json(source.to_json()), found.label_map, overlap=overlap)
    assert case.labels is not None
    assert case.labels.shape == (1, 40, 60)
    return case.labels[0], case.notes


def test_polygons_and_images_without_annotations(tmp_path: Path) -> None:
    found = roboflow(tmp_path, [image(0, "a.png"), image(1, "b.png")], [outline(0, 0, 1, [SQUARE])])
    assert (found.format, found.label_map, found.problems) == ("coco", LabelMap({"Tumor": 1}), [])
    labels, notes = labels_of(found, "a")
    assert labels[5:15, 10:20].all()
    assert labels.sum() == 100
    assert notes == []
    assert labels_of(found, "b")[0].sum() == 0
    assert any("1 pictures have no annotation" in note for note in found.notes)


def test_pictures_that_nobody_annotated_can_be_left_out_of_training_but_not_of_prediction(tmp_path: Path) -> None:
    roboflow(tmp_path, [image(0, "a.png"), image(1, "b.png")], [outline(0, 0, 1, [SQUARE])])
    config = settings().model_copy(update={"unannotated": "leave_out"})
    found = formats.discover(str(tmp_path), config)
    assert [case.case_id for case in found.cases] == ["a"]
    assert found.problems == []
    assert "1 pictures have no annotation: they are left out." in found.notes
    to_predict = formats.discover(str(tmp_path), config, labelled=False)
    assert [case.case_id for case in to_predict.cases] == ["a", "b"]


def test_categories_overlaps_crowds_and_runs(tmp_path: Path) -> None:
    whole = {"size": [40, 60], "counts": [0, 2400]}
    found = roboflow(
        tmp_path,
        [image(7, "a.png")],
        [outline("x", 7, 1, [SQUARE]), outline(2, 7, 5, whole, crowd=1), outline(3, 7, 1, [[30, 30, 35, 30, 35, 35]])],
        [{"id": 1, "name": "lesion"}, {"id": 5, "name": "brain"}, {"id": 9, "name": "idle"}],
    )
    assert found.label_map == LabelMap({"brain": 1, "lesion": 2})
    assert any("No annotation is of the category idle" in note for note in found.notes)
    labels, notes = labels_of(found, "a")
    assert (labels[5:15, 10:20] == 2).all()
    assert labels[0, 0] == 1
    assert any("crowd" in note for note in notes)
    bits, _ = labels_of(found, "a", "keep")
    assert (bits[5:15, 10:20] == 3).all()
    assert bits[0, 0] == 1


def test_two_categories_of_one_name_are_one_structure(tmp_path: Path) -> None:
    found = roboflow(
        tmp_path,
        [image(0, "a.png")],
        [outline(0, 0, 0, [SQUARE]), outline(1, 0, 1, [[30, 30, 40, 30, 40, 38]])],
        [{"id": 0, "name": "Tumor"}, {"id": 1, "name": "Tumor"}],
    )
    assert found.label_map == LabelMap({"Tumor": 1})
    assert any("categories 0 and 1 are both named Tumor" in note for note in found.notes)
    labels, _ = labels_of(found, "a")
    assert labels[10, 15] == 1
    assert labels[32, 38] == 1


def test_names_that_are_no_file_names(tmp_path: Path) -> None:
    categories = [{"id": 1, "name": "a/b"}, {"id": 2, "name": "a_b"}, {"id": 3, "name": "../.."}]
    annotations = [outline(number, 0, number, [SQUARE]) for number in (1, 2, 3)]
    found = roboflow(tmp_path, [image(0, "a.png")], annotations, categories)
    assert found.label_map is not None
    assert sorted(found.label_map.names) == ["a_b", "category_1", "category_3"]
    assert sum("cannot be a file name" in note for note in found.notes) == 2


def test_polygons_that_reach_out_are_counted(tmp_path: Path) -> None:
    polygons = [[-5, -5, 10, -5, 10, 10, -5, 10], [50, 30, 80, 30, 80, 50, 50, 50], SQUARE]
    found = roboflow(tmp_path, [image(0, "a.png")], [outline(0, 0, 1, polygons)])
    labels, notes = labels_of(found, "a")
    assert labels[:10, :10].all()
    assert labels[30:, 50:].all()
    assert notes == ["2 polygons reached out of the picture and ended at its edge."]


def test_the_split_of_the_folders(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        picture(tmp_path / split / "a.png")
        write(tmp_path / split / "_annotations.coco.json", [image(0, "a.png")], [outline(0, 0, 1, [SQUARE])])
    found = formats.discover(str(tmp_path), settings())
    assert {case.case_id: case.split for case in found.cases} == {
        "test_a": "test",
        "train_a": "train",
        "valid_a": "validation",
    }
    assert any("train, valid, test" in note or "are kept as the split" in note for note in found.notes)


@pytest.mark.parametrize("folder", ["val2017", "images/val2017", "images", "."])
def test_coco_proper(tmp_path: Path, folder: str) -> None:
    picture(tmp_path / folder / "000000000139.jpg")
    write(
        tmp_path / "annotations" / "instances_val2017.json",
        [image(139, "000000000139.jpg")],
        [outline(1, 139, 1, [SQUARE])],
    )
    (tmp_path / "annotations" / "captions_val2017.json").write_text("{}", encoding="utf-8")
    found = formats.discover(str(tmp_path), settings())
    assert [(case.case_id, case.split) for case in found.cases] == [("000000000139", "validation")]
    assert labels_of(found, "000000000139")[0].sum() == 100


def test_file_names_with_folders(tmp_path: Path) -> None:
    found = roboflow(
        tmp_path,
        [image(0, "p1/a.png"), image(1, "../../etc/b.png"), image(2, "/etc/c.png"), image(3, "d.txt")],
        [outline(0, 0, 1, [SQUARE])],
    )
    assert [case.case_id for case in found.cases] == ["p1_a"]
    assert [reason.split(" ")[-1] for _, reason in found.problems] == ["images.", "images.", "reads."]


def test_pictures_that_are_missing_and_pictures_that_nobody_names(tmp_path: Path) -> None:
    for name in ("a.png", "extra.png"):
        picture(tmp_path / name)
    write(tmp_path / "_annotations.coco.json", [image(0, "a.png"), image(1, "gone.png")], [outline(0, 0, 1, [SQUARE])])
    found = formats.discover(str(tmp_path), settings())
    assert [case.case_id for case in found.cases] == ["a", "extra"]
    assert ("extra", "The image has no labels.") in found.problems
    assert any(name == "gone.png" and "is not in" in reason for name, reason in found.problems)


@pytest.mark.parametrize("folder", ["all", "images/all", "images", "."])
def test_pictures_that_no_annotation_file_names_are_predicted_and_counted(tmp_path: Path, folder: str) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / folder / name)
    write(tmp_path / "annotations" / "instances_all.json", [image(1, "a.png")], [outline(1, 1, 1, [SQUARE])])
    to_predict = formats.discover(str(tmp_path), settings(), labelled=False)
    assert [(case.case_id, case.has_labels) for case in to_predict.cases] == [("a", True), ("b", False)]
    assert to_predict.problems == []
    to_train = formats.discover(str(tmp_path), settings())
    assert ([case.case_id for case in to_train.cases], to_train.problems) == (["a"], [])
    told = next(note for note in to_train.notes if note.startswith("1 pictures are named by no annotation file"))
    assert kind_of(told) == "unnamed"


def test_folders_of_pictures_without_annotations_are_predicted(tmp_path: Path) -> None:
    """COCO keeps pictures of a test beside those that have annotations."""
    for name in ("train2017/p1/a.png", "train2017/p1/b.png", "test2017/c.png", "train2017/a_masks/a.png"):
        picture(tmp_path / "images" / name)
    write(tmp_path / "annotations" / "instances_train2017.json", [image(1, "p1//a.png")], [outline(1, 1, 1, [SQUARE])])
    write(tmp_path / "annotations" / "instances_val2017.json", [], [])
    picture(tmp_path / "annotations" / "pixelmaps" / "a.png")
    found = formats.discover(str(tmp_path), settings(), labelled=False)
    assert [case.case_id for case in found.cases] == ["p1__a", "p1_b", "test2017_c"]
    assert found.problems == []


def test_a_picture_that_has_the_name_of_another_elsewhere_is_not_taken_for_it(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    found = roboflow(tmp_path, [image(0, "p1/a.png")], [outline(0, 0, 1, [SQUARE])])
    assert [case.case_id for case in found.cases] == ["a", "p1_a"]


def test_nonsense_ids_are_rows_and_the_rest_is_unharmed(tmp_path: Path) -> None:
    images = [
        image(0, "a.png"),
        image(0, "b.png"),
        image(None, "c.png"),
        image([0], "d.png"),
        {"id": {"id": 5}, "file_name": "e.png"},
        {"id": 6},
        17,
        image("seven", "f.png"),
    ]
    annotations = [outline(0, 0, 1, [SQUARE]), outline(1, 99, 1, [SQUARE]), outline(2, [0], 1, [SQUARE]), "text", None]
    found = roboflow(tmp_path, images, annotations)
    assert labels_of(found, "a")[0].sum() == 100
    reasons = dict(found.problems)
    assert "two images, a.png and b.png" in reasons["image entry 1"]
    for place in (2, 3, 4, 5, 6):
        assert "without id or file name" in reasons[f"image entry {place}"]
    assert "4 annotations belong to no image" in reasons["_annotations.coco.json"]
    assert "names the image 99" in reasons["_annotations.coco.json"]
    assert labels_of(found, "f")[0].sum() == 0


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (outline(5, 1, 1, [[1, 1, 9, 9]]), "annotation 5 in .* has a polygon of 2 points"),
        (outline(5, 1, 77, [SQUARE]), "annotation 5 names the category 77, which"),
        (outline(5, 1, None, [SQUARE]), "names the category None"),
        (outline(5, 1, 1, []), "has no outline"),
        (outline(5, 1, 1, {"size": [3, 3], "counts": [9]}), "runs of the size"),
        (outline(5, 1, 1, [[1, "x", 3, 4, 5, 6]]), "no list of numbers"),
        (outline(5, 1, 1, [[1, float("inf"), 3, 4, 5, 6]]), "no places"),
    ],
)
def test_a_bad_annotation_is_one_sentence_about_its_picture(tmp_path: Path, annotation: Any, said: str) -> None:
    found = roboflow(tmp_path, [image(0, "a.png"), image(1, "b.png")], [outline(0, 0, 1, [SQUARE]), annotation])
    assert labels_of(found, "a")[0].sum() == 100
    with pytest.raises(CaseError, match=said):
        labels_of(found, "b")


def test_another_size_than_the_entry_says(tmp_path: Path) -> None:
    found = roboflow(tmp_path, [image(0, "a.png", width=61)], [outline(0, 0, 1, [SQUARE])])
    with pytest.raises(CaseError, match=r"has 60 x 40 pixels, but .* says 61 x 40"):
        labels_of(found, "a")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"images": [{"id": 0, "file_na', "is cut or no JSON: it breaks off in line 1"),
        ("", "is cut or no JSON"),
        ("[" * 100_000, "no JSON that can be read|cut or no JSON"),
        ("[]", "no list of images"),
        ('{"images": {}}', "no list of images"),
        ('{"images": [], "annotations": {}}', "annotations are no list"),
        ('{"images": [], "annotations": [1], "categories": []}', "names no categories"),
        ('{"images": [], "annotations": [1], "categories": [{"id": 1}]}', "has a category that is no pair"),
    ],
)
def test_damaged_files(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "_annotations.coco.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CaseError, match=said):
        load_coco(str(path))
    with pytest.raises(UsageError, match=said):
        formats.discover(str(tmp_path), settings())


def test_one_damaged_file_leaves_the_others(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a.png")
    whole = write(tmp_path / "train" / "_annotations.coco.json", [image(0, "a.png")], [outline(0, 0, 1, [SQUARE])])
    (tmp_path / "valid").mkdir()
    (tmp_path / "valid" / "_annotations.coco.json").write_bytes(whole.read_bytes()[:100])
    found = formats.discover(str(tmp_path), settings())
    assert [case.case_id for case in found.cases] == ["a"]
    assert [where for where, _ in found.problems] == ["valid/_annotations.coco.json"]


def test_a_file_without_annotations_can_be_predicted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "_annotations.coco.json").write_text(json.dumps({"images": [image(0, "a.png")]}), encoding="utf-8")
    found = formats.discover(str(tmp_path), settings(), labelled=False)
    assert [(case.case_id, case.has_labels) for case in found.cases] == [("a", False)]


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    found = roboflow(tmp_path, [image(0, "a.png")], [outline(0, 0, 1, [SQUARE])])
    assert labels_of(found, "a")[0].sum() == 100
    write(tmp_path / "_annotations.coco.json", [image(0, "a.png")], [outline(0, 0, 1, [[0, 0, 60, 0, 60, 40, 0, 40]])])
    assert labels_of(found, "a")[0].sum() == 2400


def test_many_images_are_listed_in_seconds_and_their_sources_stay_small(tmp_path: Path) -> None:
    count = 2_000
    for number in range(count):
        (tmp_path / f"{number:06d}.jpg").touch()
    polygon = np.linspace(0, 40, 60).tolist()
    images = [image(number, f"{number:06d}.jpg") for number in range(count)]
    write(tmp_path / "_annotations.coco.json", images, [outline(n, n, 1, [polygon]) for n in range(count)])
    before = time.monotonic()
    found = formats.discover(str(tmp_path), settings())
    assert len(found.cases) == count
    assert time.monotonic() - before < 1.2
    assert len(found.cases[0].to_json()) < 600


@pytest.mark.realdata
def test_the_brain_tumours(shared_data: Path) -> None:
    found = formats.discover(str(shared_data / "brain_tumor_coco"), settings())
    assert (found.format, found.label_map, found.problems) == ("coco", LabelMap({"Tumor": 1}), [])
    splits = [case.split for case in found.cases]
    assert (splits.count("train"), splits.count("validation"), len(splits)) == (180, 60, 240)
    assert any("both named Tumor" in note for note in found.notes)
    assert any("42 pictures have no annotation" in note for note in found.notes)
    source = next(case for case in found.cases if case.case_id.startswith("y289_jpg"))
    case = formats.read_case(source, found.label_map)
    assert case.voxels.shape == (1, 640, 640)
    assert case.labels is not None
    assert source.labels is not None
    entry = json.loads(Path(source.labels).read_text(encoding="utf-8"))["annotations"][0]
    x, y = np.array(entry["segmentation"][0]).reshape(-1, 2).T
    area = abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2
    assert abs(int(case.labels.sum()) - area) < 0.02 * area
