"""What a folder is taken for, which cases it holds, and what is said about the rest."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_niftis import Save
from PIL import Image

from segray import formats
from segray.config import IngestConfig
from segray.errors import UsageError
from segray.formats.source import Discovery

SCAN = np.zeros((2, 3, 4), np.int16)


@pytest.fixture
def fill(tmp_path: Path, save: Save) -> Any:
    """Write empty scans at the given paths below a folder; returns the folder."""

    def _fill(*paths: str) -> Path:
        for path in paths:
            save(tmp_path / path, SCAN)
        return tmp_path

    return _fill


def found(folder: Path, *, labelled: bool = True, **settings: Any) -> Discovery:
    return formats.discover(str(folder), IngestConfig(**settings), labelled=labelled)


def ids(discovery: Discovery) -> list[str]:
    return [case.case_id for case in discovery.cases]


def values(discovery: Discovery) -> dict[str, int]:
    assert discovery.label_map is not None
    return dict(discovery.label_map.values)


MASKS = ("s1/ct.nii.gz", "s1/segmentations/liver.nii.gz", "s2/ct.nii.gz", "s2/segmentations/aorta.nii.gz")


def test_totalsegmentator_structures_differ_between_cases(fill: Any) -> None:
    discovery = found(fill(*MASKS))
    assert (discovery.format, ids(discovery)) == ("totalseg", ["s1", "s2"])
    assert values(discovery) == {"aorta": 1, "liver": 2}
    assert list(discovery.cases[0].masks) == ["liver"]
    assert discovery.problems == []
    assert "2 structures" in discovery.notes[1]


def test_one_case_folder_is_one_case(fill: Any) -> None:
    assert ids(found(fill(*MASKS) / "s1")) == ["s1"]


def test_user_names_the_values_of_masks(fill: Any) -> None:
    discovery = found(fill(*MASKS), labels={"liver": 7, "spleen": 8})
    assert values(discovery) == {"liver": 7, "spleen": 8}
    assert discovery.problems == [("s2", "The case has no mask of the structures that are kept.")]
    assert any("No case has a mask of spleen" in note for note in discovery.notes)
    assert any("1 other structures" in note for note in discovery.notes)


def test_structures_are_chosen(fill: Any) -> None:
    discovery = found(fill(*MASKS), structures=["liver"])
    assert values(discovery) == {"liver": 1}
    assert not discovery.cases[1].has_labels


@pytest.mark.parametrize("settings", [{"structures": ["livr"]}, {"labels": {"livr": 1}}])
def test_unknown_structure_is_answered_with_the_nearest(fill: Any, settings: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="Did you mean liver"):
        found(fill(*MASKS), **settings)


def test_masks_without_scan_bad_names_and_doubles_are_problems(fill: Any) -> None:
    folder = fill(*MASKS, "s3/segmentations/liver.nii.gz", "s1/segmentations/..x.nii.gz", "bad id/ct.nii.gz")
    fill("s1/segmentations/a;b.nii.gz", "s2/segmentations/aorta.nii")
    problems = dict(found(folder).problems)
    assert "no ct.nii.gz" in problems["s3"]
    assert "no name for a structure" in problems["s1"]
    assert "two masks" in problems["s2"]
    assert "cannot be a file name" in problems["bad id"]
    assert ids(found(folder)) == ["s1", "s2"]


@pytest.mark.parametrize(("images", "labels", "suffix"), [("images", "labels", ""), ("imagesTr", "labelsTr", "_0000")])
def test_pairs_are_matched(fill: Any, images: str, labels: str, suffix: str) -> None:
    paths = [f"{images}/{name}{suffix}.nii.gz" for name in "abc"] + [f"{labels}/{name}.nii.gz" for name in "bcd"]
    discovery = found(fill(*paths))
    assert (discovery.format, ids(discovery)) == ("pairs", ["a", "b", "c"])
    assert [case.has_labels for case in discovery.cases] == [False, True, True]
    assert discovery.problems == [("a", "The image has no labels."), ("d", "The labels have no image.")]
    assert discovery.label_map is None


def test_prediction_wants_no_labels(fill: Any) -> None:
    folder = fill("images/a.nii.gz", "images/b.nii.gz", "labels/b.nii.gz", "labels/c.nii.gz")
    discovery = found(folder, labelled=False)
    assert (ids(discovery), discovery.problems) == (["a", "b"], [])


DATASETS = [
    {"labels": {"0": "background", "1": "liver", "2": "left kidney"}},
    {"labels": {"background": 0, "liver": 1, "left kidney": 2}},
]


@pytest.mark.parametrize("dataset", DATASETS)
def test_dataset_json_of_both_styles(fill: Any, dataset: dict[str, Any]) -> None:
    folder = fill("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (folder / "dataset.json").write_text(json.dumps(dataset))
    assert values(found(folder)) == {"liver": 1, "left kidney": 2}
    chosen = found(folder, structures=["left kidney"])
    assert values(chosen) == {"left kidney": 2}
    assert chosen.cases[0].dropped == (1,)
    assert values(found(folder, labels={"tumour": 5})) == {"tumour": 5}


def test_ignored_voxels_are_of_no_structure_and_no_background(fill: Any) -> None:
    folder = fill("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "ignore": 2}}))
    discovery = found(folder)
    assert values(discovery) == {"liver": 1}
    assert discovery.cases[0].dropped == ()
    assert discovery.label_map is not None
    assert discovery.label_map.ignored == 2
    assert "Voxels of the value 2 are ignored: they neither teach nor measure." in discovery.notes


def test_where_labels_overlap_ignored_voxels_are_background(fill: Any) -> None:
    folder = fill("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (folder / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1, "ignore": 2}}))
    discovery = found(folder, overlap="keep")
    assert discovery.cases[0].dropped == (2,)
    assert discovery.label_map is not None
    assert discovery.label_map.ignored == 0
    assert any(note.startswith("Voxels of the value 2 count as background") for note in discovery.notes)


def test_the_user_may_name_the_value_that_is_ignored(fill: Any) -> None:
    folder = fill("images/a.nii.gz", "labels/a.nii.gz")
    discovery = found(folder, labels={"liver": 1}, ignore=255)
    assert discovery.label_map is not None
    assert discovery.label_map.ignored == 255
    with pytest.raises(UsageError, match="needs names of the other labels"):
        found(folder, ignore=255)
    with pytest.raises(UsageError, match="is that of a structure"):
        found(folder, labels={"liver": 1}, ignore=1)


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"labels": 3}', '{"labels": {"whole": [1, 2]}}', '{"labels": {"a/b": 1}}', "\xff"]
)
def test_dataset_json_that_is_not_understood_is_told(fill: Any, text: str) -> None:
    folder = fill("imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    (folder / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=r"dataset\.json"):
        found(folder)


def test_files_of_one_case_are_its_channels_and_a_gap_is_a_problem(fill: Any) -> None:
    folder = fill("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz", "imagesTr/b_0000.nii.gz", "labelsTr/a.nii.gz")
    discovery = found(folder)
    assert ids(discovery) == ["a"]
    assert discovery.cases[0].parts == (str(folder / "imagesTr" / "a_0001.nii.gz"),)
    assert discovery.cases[0].details == {"channels": ["channel_0", "channel_1"]}
    reasons = dict(discovery.problems)
    assert "lacks the channels _0001" in reasons["b"]
    assert any("channels of one case: channel_0, channel_1" in note for note in discovery.notes)


def test_number_at_the_end_of_a_name_stays_where_the_label_has_it(fill: Any) -> None:
    assert ids(found(fill("images/a_0000.nii.gz", "labels/a_0000.nii.gz"))) == ["a_0000"]


def test_lone_images_are_found_below(fill: Any) -> None:
    folder = fill("a.nii.gz", "b/c.nii", "b/d/e.nii.gz", ".f.nii.gz", ".g/h.nii.gz", "labels/i.nii.gz")
    (folder / "notes.txt").write_text("no image")
    discovery = found(folder)
    assert (discovery.format, ids(discovery)) == ("images", ["a", "b_c", "b_d_e"])
    assert discovery.problems == []
    assert not discovery.cases[0].has_labels


def test_masks_beside_images_are_no_images(fill: Any) -> None:
    discovery = found(fill("a.nii.gz", "a_mask.nii.gz", "b_seg.nii.gz"))
    assert ids(discovery) == ["a", "b_seg"]
    assert any("1 files beside an image" in note for note in discovery.notes)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("x.nii.gz", "x.nii"),
        ("images/x.nii.gz", "images/x.nii"),
        ("x/ct.nii.gz", "x/ct.nii"),
        ("x/ct.nii", "x/mri.nii.gz"),
        ("x/mri.nii.gz", "x/mri.nii"),
    ],
)
def test_two_files_of_one_case_are_a_problem(fill: Any, first: str, second: str) -> None:
    discovery = found(fill(first, second, first.replace("x", "y", 1)))
    assert ids(discovery) == ["x", "y"]
    assert discovery.cases[0].image.endswith(first)
    kept, left = (path.rpartition("/")[2] for path in (first, second))
    assert discovery.problems == [("x", f"{left} lies beside {kept}; it is left out.")]


def test_every_further_scan_of_a_case_is_a_problem(fill: Any) -> None:
    folder = fill(*MASKS, "s1/ct.nii", "s1/mri.nii.gz", "s1/notes.nii.gz")
    reasons = [f"{left} lies beside ct.nii.gz; it is left out." for left in ("ct.nii", "mri.nii.gz")]
    assert found(folder).problems == [("s1", reason) for reason in reasons]


def test_ids_that_meet_are_a_problem(fill: Any) -> None:
    discovery = found(fill("a_b/c.nii.gz", "a/b_c.nii.gz"))
    assert ids(discovery) == ["a_b_c"]
    assert "same case id" in discovery.problems[0][1]


def test_one_file_is_one_case(fill: Any) -> None:
    folder = fill("a.nii.gz")
    assert ids(found(folder / "a.nii.gz")) == ["a"]
    (folder / "a.txt").write_text("")
    with pytest.raises(UsageError, match="no volume that segray reads"):
        found(folder / "a.txt")


def test_links_in_a_circle_end(fill: Any) -> None:
    folder = fill("a/b.nii.gz")
    os.symlink(folder, folder / "a" / "again")
    assert ids(found(folder)) == ["a_b"]


def test_absent_and_empty_folders_are_told(tmp_path: Path, fill: Any) -> None:
    with pytest.raises(UsageError, match="is not there"):
        found(tmp_path / "none")
    with pytest.raises(UsageError, match="holds no cases"):
        found(tmp_path)
    with pytest.raises(UsageError, match="no usable case in the layout images; the first problem"):
        found(fill("bad name!.nii.gz"))


@pytest.mark.parametrize("kind", ["totalseg", "pairs", "images"])
def test_format_of_the_settings_is_obeyed(fill: Any, kind: str) -> None:
    folder = fill("images/a.nii.gz", "labels/a.nii.gz", "s1/ct.nii.gz")
    discovery = found(folder, format=kind)
    assert discovery.format == kind
    assert ids(discovery) == {"totalseg": ["s1"], "pairs": ["a"], "images": ["images_a", "s1_ct"]}[kind]


@pytest.mark.parametrize("labelled", [False, True])
def test_folders_without_the_scan_of_a_case_are_problems(fill: Any, labelled: bool) -> None:
    folder = fill("s1/ct.nii.gz", "s2/CT.nii.gz", "s3/ct_arterial.nii.gz", "s4/scan1/ct.nii.gz", "extra.nii.gz")
    discovery = found(folder, labelled=labelled)
    assert (discovery.format, ids(discovery)) == ("totalseg", ["s1", "s2"])
    assert discovery.cases[1].image == str(folder / "s2" / "CT.nii.gz")
    reasons = dict(discovery.problems)
    assert list(reasons) == ["extra", "s3", "s4"]
    assert "lies in no folder of a case" in reasons["extra"]
    assert f"holds no ct.nii.gz and no mri.nii.gz; found {folder}/s3/ct_arterial.nii.gz" in reasons["s3"]
    assert f"found {folder}/s4/scan1/ct.nii.gz" in reasons["s4"]


def test_scans_are_found_whatever_their_letters(fill: Any) -> None:
    discovery = found(fill("s1/CT.nii", "s1/segmentations/liver.nii.gz", "s2/Mri.nii.gz", "s3/ct.nii", "s3/CT.nii.gz"))
    assert (discovery.format, ids(discovery)) == ("totalseg", ["s1", "s2", "s3"])
    assert discovery.cases[0].has_labels
    assert discovery.cases[2].image.endswith("CT.nii.gz")
    assert ("s3", "ct.nii lies beside CT.nii.gz; it is left out.") in discovery.problems


def test_scans_below_a_case_are_problems(fill: Any) -> None:
    folder = fill(*MASKS, "s1/second/ct.nii.gz", "s1/derived/map.nii.gz")
    reasons = dict(found(folder).problems)
    assert list(reasons) == ["s1/second"]
    assert f"{folder}/s1/second/ct.nii.gz lies below the scan of a case" in reasons["s1/second"]
    one = fill("s1/ct.nii.gz", "s1/later/ct.nii.gz", "s1/next/ct.nii.gz") / "s1"
    assert [where for where, _ in found(one, labelled=False).problems] == ["later", "next", "second"]


def test_what_lies_beside_cases_and_is_none_is_no_problem(fill: Any) -> None:
    folder = fill(
        *MASKS, "labels/s1.nii.gz", "my_masks/s1.nii.gz", "out/masks/s1.nii.gz", "out/further/s1/liver.nii.gz"
    )
    fill("s1/liver_seg/a.nii.gz", "s1/notes.nii.gz")
    (folder / "out" / "prediction.json").write_text("{}")
    (folder / "meta.csv").write_text("image_id;age\n")
    (folder / "docs").mkdir()
    (folder / "docs" / "readme.txt").write_text("no scan")
    os.symlink(folder, folder / "docs" / "up")
    os.symlink(folder / "s1", folder / "docs" / "s1")
    assert found(folder).problems == []


@pytest.mark.parametrize("labelled", [False, True])
def test_folders_among_the_files_of_pairs_are_problems(fill: Any, labelled: bool) -> None:
    folder = fill("images/a.nii.gz", "labels/a.nii.gz", "images/hospital_b/b.nii.gz", "labels/hospital_b/b.nii.gz")
    fill("images/deep/er/c.nii")
    Image.new("L", (2, 2)).save(folder / "images" / "d.png")
    (folder / "images" / "pictures").mkdir()
    Image.new("L", (2, 2)).save(folder / "images" / "pictures" / "d.png")
    (folder / "images" / "notes").mkdir()
    (folder / "images" / "notes" / "a.txt").write_text("no image")
    discovery = found(folder, labelled=labelled)
    assert ids(discovery) == ["a"]
    reasons = dict(discovery.problems)
    of_labels = ["labels/hospital_b"] if labelled else []
    assert list(reasons) == ["images/deep", "images/hospital_b", "images/pictures", *of_labels]
    told = "This is a folder; what lies in it is left out. Move its files to images/."
    assert reasons["images/hospital_b"] == told


def test_pairs_of_a_second_kind_are_told(fill: Any) -> None:
    discovery = found(fill("images/a.nii.gz", "labels/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz"))
    assert ids(discovery) == ["a"]
    assert any("imagesTr/ lies beside images/ and is left out" in note for note in discovery.notes)


@pytest.mark.parametrize("where", ["out/", ""])
def test_what_was_predicted_among_lone_images_is_no_image(fill: Any, where: str) -> None:
    folder = fill("a.nii.gz", "deep/b.nii.gz", "masks/a.nii.gz", "liver_seg/a.nii.gz")
    fill(f"{where}masks/a.nii.gz", f"{where}structures/a/liver.nii.gz", f"{where}probabilities/a.nii.gz")
    (folder / where / "prediction.json").write_text("{}")
    over = "3 folders (liver_seg, masks, out)" if where else "1 folder (liver_seg)"
    words = f"Passed over, since labels or predictions of segray lie there: {over}."
    for source in (folder, folder / "**" / "*.nii.gz"):
        discovery = found(source, labelled=False)
        assert ids(discovery) == ["a", "deep_b"]
        assert words in discovery.notes


def test_a_pattern_may_name_a_folder_of_labels(fill: Any) -> None:
    folder = fill("s1/masks/a.nii.gz")
    assert ids(found(folder / "*" / "masks" / "*.nii.gz", labelled=False)) == ["s1_masks_a"]


def test_pictures_are_found_when_they_were_predicted_into_a_folder_beside_them(tmp_path: Path) -> None:
    (tmp_path / "out" / "masks").mkdir(parents=True)
    for place in (tmp_path / "a.png", tmp_path / "out" / "masks" / "a.png"):
        Image.new("L", (4, 4)).save(place)
    (tmp_path / "out" / "prediction.json").write_text("{}")
    assert ids(found(tmp_path, labelled=False)) == ["a"]
