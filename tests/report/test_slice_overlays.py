from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segray.report.planes import palette_of
from segray.report.slice_overlays import SIDE, names_picture, overlay_slices, write_overlay_slices


def case() -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((9, 400, 400), np.uint8)
    labels[2:7, 100:200, 220:300] = 1
    labels[4, 120:140, 240:260] = 2
    return np.where(labels > 0, 60, -900).astype(np.int16), labels


def pixels_of(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_slices_with_foreground_come_with_their_numbers() -> None:
    voxels, labels = case()
    assert [number for number, _ in overlay_slices(voxels, labels, ["a", "b"])] == [3, 4, 5, 6, 7]
    assert [number for number, _ in overlay_slices(voxels, labels, ["a", "b"], every=2)] == [3, 5, 7]
    assert list(overlay_slices(voxels, np.where(labels, 5, 0), ["a", "b"])) == []


def test_an_outline_is_the_rim_of_the_structure_voxel_by_voxel() -> None:
    voxels, labels = case()
    pictures = {number: pixels_of(png) for number, png in overlay_slices(voxels, labels, ["a", "b"])}
    first, second = palette_of(["a", "b"])[1:]
    expected = np.zeros((400, 400), bool)
    expected[100:200, 220:300] = True
    expected[101:199, 221:299] = False
    np.testing.assert_array_equal((pictures[3] == first).all(axis=-1), expected)
    assert not (pictures[3] == second).all(axis=-1).any()
    inner = (pictures[5] == second).all(axis=-1)
    assert inner.sum() == 76
    assert inner[120:140, 240].all()
    inside, air = pictures[3][150, 250], pictures[3][20, 20]
    assert inside.tolist() == pytest.approx([round(255 * 220 / 400)] * 3, abs=2)
    assert air.tolist() == [0, 0, 0]


def test_bit_fields_keep_the_outline_of_a_structure_within_another() -> None:
    voxels, labels = case()
    labels[labels == 2] = 3
    png = next(png for number, png in overlay_slices(voxels, labels, ["a", "b"], overlapping=True) if number == 5)
    first, second = palette_of(["a", "b"])[1:]
    assert (pixels_of(png) == second).all(axis=-1).sum() == 76
    assert (pixels_of(png) == first).all(axis=-1).sum() == 2 * 100 + 2 * 80 - 4


def test_pixels_are_square_in_millimetres_and_small_slices_enlarged() -> None:
    voxels, labels = case()
    png = next(overlay_slices(voxels, labels, ["a", "b"], spacing=(3.0, 2.0, 1.0)))[1]
    assert pixels_of(png).shape == (800, 400, 3)
    small = next(overlay_slices(voxels[:, ::4, ::4], labels[:, ::4, ::4], ["a", "b"]))[1]
    assert pixels_of(small).shape == (SIDE, SIDE, 3)
    line = (pixels_of(small) == palette_of(["a", "b"])[1]).all(axis=-1)
    scale = SIDE / 100
    assert np.flatnonzero(line.any(axis=0))[[0, -1]] == pytest.approx([55 * scale, 75 * scale - 1], abs=1)
    assert np.flatnonzero(line.any(axis=1))[[0, -1]] == pytest.approx([25 * scale, 50 * scale - 1], abs=1)


def test_more_structures_than_colours() -> None:
    labels = np.repeat(np.repeat(np.arange(400, dtype=np.uint16).reshape(1, 20, 20), 20, 1), 20, 2)
    voxels = np.full(labels.shape, 40, np.int16)
    names = [f"s{at}" for at in range(1, 400)]
    picture = pixels_of(next(overlay_slices(voxels, labels, names))[1])
    colours = palette_of(names)
    np.testing.assert_array_equal(picture[0, 25], colours[1])
    np.testing.assert_array_equal(picture[20 * 6, 20 * 8 + 5], colours[128])
    np.testing.assert_array_equal(picture[20 * 6, 20 * 9 + 5], colours[1])


def test_a_folder_holds_the_slices_and_the_names(tmp_path: Path) -> None:
    voxels, labels = case()
    written = write_overlay_slices(str(tmp_path / "a"), voxels, labels, ["a", "b"], every=3)
    assert written == ["0003.png", "0006.png", "names.png"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == written
    assert (tmp_path / "a" / "names.png").read_bytes() == names_picture(["a", "b"])
    assert write_overlay_slices(str(tmp_path / "b"), voxels, np.zeros_like(labels), ["a", "b"]) == []
    assert not (tmp_path / "b").exists()
    written = write_overlay_slices(str(tmp_path / "a"), voxels[3:5], labels[3:5], ["a", "b"])
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == written, "none of the longer case is left"


def test_the_names_have_the_colours_of_the_outlines() -> None:
    picture = pixels_of(names_picture(["liver", "a name that is far too long for any picture of names " * 3]))
    for colour in palette_of(["liver", "spleen"])[1:]:
        assert (picture == colour).all(axis=-1).sum() > 100
