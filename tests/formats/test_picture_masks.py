"""PNG masks: read back exactly, palette by label, overlapping labels in one file, and files that are none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segray import formats
from segray.case import LabelMap
from segray.errors import CaseError, SegrayError
from segray.formats.picture_masks import label_colours, read_picture_mask, write_picture_mask
from segray.formats.pictures import picture_geometry

RNG = np.random.default_rng(5)
GEOMETRY = picture_geometry(17, 23)


def overlapping(count: int) -> LabelMap:
    return LabelMap({f"s{number}": number for number in range(1, count + 1)}, overlapping=True)


@pytest.mark.parametrize(("top", "mode"), [(1, "P"), (255, "P"), (256, "I;16"), (65535, "I;16")])
def test_label_values_come_back(tmp_path: Path, top: int, mode: str) -> None:
    labels = RNG.integers(0, top + 1, GEOMETRY.size).astype(np.uint16 if top > 255 else np.uint8)
    labels[0, 0, 0] = top
    path = str(tmp_path / "m.png")
    formats.write_mask(path, labels, GEOMETRY, LabelMap({"a": 1, "b": top} if top > 1 else {"a": 1}))
    with Image.open(path) as image:
        assert image.mode == mode
        assert image.size == (23, 17)
        assert '"a": 1' in image.info["segray"]
    back, geometry = formats.read_mask(path, GEOMETRY)
    assert back.dtype == labels.dtype
    assert np.array_equal(back, labels)
    assert geometry is GEOMETRY


@pytest.mark.parametrize("count", [1, 2, 8, 9, 16, 17, 32])
def test_overlapping_labels_come_back(tmp_path: Path, count: int) -> None:
    label_map = overlapping(count)
    labels: Any = RNG.integers(0, 1 << count, GEOMETRY.size, dtype=np.uint64).astype(label_map.dtype)
    labels[0, 0, 0] = (1 << count) - 1
    path = str(tmp_path / "m.png")
    write_picture_mask(path, labels, GEOMETRY, label_map)
    back, _ = read_picture_mask(path)
    assert back.dtype == label_map.dtype
    assert np.array_equal(back, labels)


def test_colours_of_labels_can_be_told_apart() -> None:
    colours = label_colours(24).astype(int)
    assert colours[0].tolist() == [0, 0, 0]
    distance = np.abs(colours[:, None] - colours[None]).sum(axis=2) + 1000 * np.eye(len(colours), dtype=int)
    assert distance.min() > 40


def test_a_pixel_of_two_structures_has_a_colour_between_them(tmp_path: Path) -> None:
    labels = np.array([[[0, 1, 2, 3]]], np.uint8)
    write_picture_mask(str(tmp_path / "m.png"), labels, picture_geometry(1, 4), overlapping(2))
    with Image.open(tmp_path / "m.png") as image:
        seen = np.asarray(image.convert("RGB")).astype(int)[0]
    assert np.abs(seen[3] - (seen[1] + seen[2]) / 2).max() <= 1


def test_the_mask_of_a_picture_is_a_png(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "a.png")
    picture = formats.CaseSource("a", str(tmp_path / "a.png"), kind="picture")
    assert formats.mask_place("auto", picture) == "masks/a.png"
    assert formats.mask_place("nifti", picture) == "masks/a.nii.gz"
    assert formats.mask_place("auto", formats.CaseSource("a", "a.nii.gz")) == "masks/a.nii.gz"


def test_a_mask_on_another_grid_and_files_that_are_no_masks(tmp_path: Path) -> None:
    path = str(tmp_path / "m.png")
    write_picture_mask(path, np.zeros(GEOMETRY.size, np.uint8), GEOMETRY)
    with pytest.raises(CaseError, match="but its image has"):
        read_picture_mask(path, picture_geometry(17, 24))
    Image.fromarray(np.zeros((4, 5, 3), np.uint8)).save(tmp_path / "rgb.png")
    with pytest.raises(CaseError, match="no mask that segray wrote"):
        read_picture_mask(str(tmp_path / "rgb.png"))
    (tmp_path / "cut.png").write_bytes((tmp_path / "m.png").read_bytes()[:-30])
    with pytest.raises(CaseError, match=r"cut\.png"):
        read_picture_mask(str(tmp_path / "cut.png"))


@pytest.mark.parametrize(
    "labels", [np.zeros((2, 17, 23), np.uint8), np.zeros((1, 17, 22), np.uint8), np.full(GEOMETRY.size, -1)]
)
def test_what_is_no_mask_of_a_picture_is_not_written(tmp_path: Path, labels: Any) -> None:
    with pytest.raises(SegrayError):
        write_picture_mask(str(tmp_path / "m.png"), labels, GEOMETRY)
    assert list(tmp_path.iterdir()) == []
