"""One rule for links to folders in every layout: inside of the source they are followed, outside they are a row."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from made_dicoms import ramp, save_series
from made_niftis import Save
from PIL import Image

from segray import formats
from segray.config import IngestConfig
from segray.errors import UsageError
from segray.formats.source import Discovery

SCAN = np.zeros((2, 3, 4), np.int16)

Write = Callable[[Path], None]
"""Makes the file of a path."""


@pytest.fixture
def write(save: Save) -> Write:
    """A file by its ending: a volume, a picture, a DICOM series (a folder), or COCO annotations."""

    def _write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.name.endswith(".nii.gz"):
            save(path, SCAN)
        elif path.suffix == ".png":
            Image.fromarray(np.full((40, 60), 255, np.uint8)).save(path)
        elif path.suffix == ".json":
            path.write_text(json.dumps(annotations(path)))
        else:
            save_series(path, ramp(), series=f"1.2.{len(str(path))}")

    return _write


def annotations(path: Path) -> object:
    """One outline a picture; of ``annotations/`` those of two folders."""
    names = ["good/a.png", "linked/b.png"] if path.parent.name == "annotations" else [f"{path.parent.name}.png"]
    images = [{"id": number, "file_name": name, "width": 60, "height": 40} for number, name in enumerate(names)]
    drawn = [
        {"id": image["id"], "image_id": image["id"], "category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
        for image in images
    ]
    return {"images": images, "annotations": drawn, "categories": [{"id": 1, "name": "x"}]}


LAYOUTS: dict[str, tuple[list[str], str, list[str], list[str]]] = {
    "totalseg": (
        ["s1/ct.nii.gz", "s1/segmentations/a.nii.gz", "s2/ct.nii.gz", "s2/segmentations/a.nii.gz"],
        "s2",
        ["s1", "s2"],
        ["s1"],
    ),
    "totalseg masks": (
        ["s1/ct.nii.gz", "s1/segmentations/a.nii.gz", "s2/ct.nii.gz", "s2/segmentations/a.nii.gz"],
        "s2/segmentations",
        ["s1", "s2"],
        ["s1"],
    ),
    "pairs": (
        ["images/a.nii.gz", "labels/a.nii.gz", "imagesTr/b.nii.gz", "labelsTr/b.nii.gz"],
        "images",
        ["a"],
        ["b"],
    ),
    "labels": (["images/a.nii.gz", "labels/a.nii.gz"], "labels", ["a"], []),
    "frames": (
        ["train/frames/a.png", "train/masks/a.png", "val/frames/b.png", "val/masks/b.png"],
        "val",
        ["a", "b"],
        ["a"],
    ),
    "masks": (["frames/a.png", "masks/a.png"], "masks", ["a"], []),
    "split of coco": (
        ["train/train.png", "train/_annotations.coco.json", "valid/valid.png", "valid/_annotations.coco.json"],
        "valid",
        ["train", "valid"],
        ["train"],
    ),
    "pictures of coco": (
        ["images/good/a.png", "images/linked/b.png", "annotations/instances_all.json"],
        "images/linked",
        ["good_a", "linked_b"],
        ["good_a"],
    ),
}


def discovered(folder: Path) -> Discovery:
    return formats.discover(str(folder), IngestConfig())


def labelled(discovery: Discovery) -> list[str]:
    return [case.case_id for case in discovery.cases if case.has_labels]


def linked(root: Path, below: str, store: Path) -> None:
    """Move a folder away and put a link in its place."""
    store.mkdir(parents=True)
    (root / below).rename(store / "moved")
    os.symlink(store / "moved", root / below)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_link_to_a_folder_outside_is_left_out_and_a_row(tmp_path: Path, write: Write, name: str) -> None:
    files, link, _, without = LAYOUTS[name]
    for file in files:
        write(tmp_path / "in" / file)
    linked(tmp_path / "in", link, tmp_path / "elsewhere")
    discovery = discovered(tmp_path / "in")
    assert labelled(discovery) == without
    assert [where for where, reason in discovery.problems if "outside of the one that is searched" in reason] == [link]
    assert not any("elsewhere" in file or link + "/" in file for case in discovery.cases for file in case.files)
    by_link = tmp_path / "by_link"
    os.symlink(tmp_path / "in", by_link)
    assert [where for where, _ in discovered(by_link).problems] == [where for where, _ in discovery.problems]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_link_to_a_folder_inside_and_a_source_that_is_a_link_are_fine(
    tmp_path: Path, write: Write, name: str
) -> None:
    files, link, within, _ = LAYOUTS[name]
    for file in files:
        write(tmp_path / "in" / file)
    linked(tmp_path / "in", link, tmp_path / "in" / ".store")
    os.symlink(tmp_path / "in", tmp_path / "by_link")
    for source in ("in", "by_link"):
        discovery = discovered(tmp_path / source)
        assert labelled(discovery) == within
        assert discovery.problems == []


def test_dicom_follows_the_rule(tmp_path: Path, write: Write) -> None:
    for name in ("a", "b", "longer"):
        write(tmp_path / "in" / name)
    linked(tmp_path / "in", "b", tmp_path / "elsewhere")
    linked(tmp_path / "in", "longer", tmp_path / "in" / ".store")
    discovery = discovered(tmp_path / "in")
    assert [case.case_id for case in discovery.cases] == ["a", "longer"]
    assert [where for where, _ in discovery.problems if where == "b"] == ["b"]


def test_a_folder_of_links_alone_says_why_it_holds_nothing(tmp_path: Path, write: Write) -> None:
    for file in LAYOUTS["totalseg"][0]:
        write(tmp_path / "store" / file)
    (tmp_path / "in").mkdir()
    for name in ("s1", "s2"):
        os.symlink(tmp_path / "store" / name, tmp_path / "in" / name)
    with pytest.raises(UsageError, match="first problem is s1: The link leads to a folder outside"):
        discovered(tmp_path / "in")


def test_pictures_behind_a_link_are_rows_that_say_so(tmp_path: Path, write: Write) -> None:
    for file in LAYOUTS["pictures of coco"][0]:
        write(tmp_path / "in" / file)
    linked(tmp_path / "in", "images/linked", tmp_path / "elsewhere")
    reasons = dict(discovered(tmp_path / "in").problems)
    assert "linked/b.png lies behind a link that leads out of" in reasons["linked/b.png"]


def test_links_to_files_outside_are_the_files(tmp_path: Path, write: Write) -> None:
    for file in LAYOUTS["labels"][0]:
        write(tmp_path / "store" / file)
        (tmp_path / "in" / file).parent.mkdir(parents=True)
        os.symlink(tmp_path / "store" / file, tmp_path / "in" / file)
    discovery = discovered(tmp_path / "in")
    assert (labelled(discovery), discovery.problems) == (["a"], [])
