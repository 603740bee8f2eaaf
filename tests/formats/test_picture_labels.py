"""Masks that are pictures: what counts as a mask, label values, palettes and tables of colours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segray.case import LabelMap
from segray.errors import CaseError
from segray.formats.picture_labels import read_binary, read_coloured, read_levels

INSIDE = np.zeros((16, 24), bool)
INSIDE[4:9, 5:20] = True
STRUCTURES = LabelMap({"lung": 1, "tumour": 7})


def save(path: Path, values: Any, palette: list[int] | None = None, **options: Any) -> str:
    image = Image.fromarray(np.asarray(values))
    if palette is not None:
        image.putpalette(palette)
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize("top", [1, 255])
def test_zero_and_one_or_255(tmp_path: Path, top: int) -> None:
    path = save(tmp_path / "m.png", np.uint8(top) * INSIDE)
    assert np.array_equal(read_binary(path)[0], INSIDE)


def test_16_bit_and_one_bit(tmp_path: Path) -> None:
    assert np.array_equal(read_binary(save(tmp_path / "d.png", np.uint16(65535) * INSIDE))[0], INSIDE)
    assert np.array_equal(read_binary(save(tmp_path / "b.png", INSIDE))[0], INSIDE)
    assert np.array_equal(read_binary(save(tmp_path / "b.tif", INSIDE))[0], INSIDE)


def test_equal_channels_are_grey(tmp_path: Path) -> None:
    path = save(tmp_path / "m.png", np.repeat(np.uint8(255) * INSIDE[..., None], 3, axis=2))
    assert np.array_equal(read_binary(path)[0], INSIDE)


@pytest.mark.parametrize("palette", [[0, 0, 0, 255, 0, 0], [0, 0, 0, 255, 255, 255]])
def test_palette_index_1_is_inside(tmp_path: Path, palette: list[int]) -> None:
    assert np.array_equal(read_binary(save(tmp_path / "m.png", INSIDE.astype(np.uint8), palette))[0], INSIDE)


def test_a_palette_whose_first_colour_is_white_is_turned(tmp_path: Path) -> None:
    """Index 0 is white: the index alone would swap structure and background."""
    path = save(tmp_path / "m.png", (~INSIDE).astype(np.uint8), [255, 255, 255, 0, 0, 0])
    assert np.array_equal(read_binary(path)[0], INSIDE)


@pytest.mark.parametrize("empty", [0, 255])
def test_masks_of_one_value(tmp_path: Path, empty: int) -> None:
    inside, _ = read_binary(save(tmp_path / "m.png", np.full((4, 5), empty, np.uint8)))
    assert inside.all() == (empty == 255)
    assert inside.any() == (empty == 255)


@pytest.mark.parametrize("values", [[0, 128, 255], [0, 2], [1, 255], [3]])
def test_other_grey_levels_are_refused_with_what_was_found(tmp_path: Path, values: list[int]) -> None:
    path = save(tmp_path / "m.png", np.resize(np.array(values, np.uint8), (6, 6)))
    with pytest.raises(CaseError, match=f"{len(values)} grey levels, {', '.join(map(str, values))}") as told:
        read_binary(path)
    assert "ingest.mask_colours" in str(told.value)


def test_colours_without_a_table_are_refused_with_what_was_found(tmp_path: Path) -> None:
    values = np.zeros((4, 4, 3), np.uint8)
    values[0] = (255, 0, 0)
    with pytest.raises(CaseError, match="holds 2 colours: #000000, #ff0000"):
        read_binary(save(tmp_path / "m.png", values))


def test_a_jpeg_of_black_and_white_is_cut_in_the_middle_and_said(tmp_path: Path) -> None:
    inside, notes = read_binary(save(tmp_path / "m.jpg", np.uint8(255) * INSIDE, quality=70))
    assert np.array_equal(inside, INSIDE)
    assert "JPEG" in notes[0]
    assert read_binary(save(tmp_path / "e.jpg", np.zeros((9, 9), np.uint8)))[1] == []


@pytest.mark.parametrize("top", [1, 100])
def test_a_jpeg_of_dark_levels_is_refused(tmp_path: Path, top: int) -> None:
    """A JPEG of {0, 1} must not become an empty mask."""
    with pytest.raises(CaseError, match="JPEG"):
        read_binary(save(tmp_path / "m.jpg", np.uint8(top) * np.tile(INSIDE, (4, 4)), quality=95))


def test_a_photograph_is_no_mask(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="JPEG whose pixels are not black or white"):
        read_binary(save(tmp_path / "m.jpg", np.tile(np.arange(256, dtype=np.uint8), (64, 1))))


def test_levels_are_label_values(tmp_path: Path) -> None:
    values = np.array([[0, 1, 2], [7, 7, 300]], np.uint16)
    assert read_levels(save(tmp_path / "m.png", values)).tolist() == values.tolist()
    palette = save(tmp_path / "p.png", np.array([[0, 3]], np.uint8), [9] * 30)
    assert read_levels(palette).tolist() == [[0, 3]]
    with pytest.raises(CaseError, match="JPEG"):
        read_levels(save(tmp_path / "m.jpg", np.array([[0, 1]], np.uint8)))


def test_a_table_of_colours(tmp_path: Path) -> None:
    values = np.zeros((3, 2, 3), np.uint8)
    values[1], values[2] = (0, 255, 0), (255, 0, 0)
    path = save(tmp_path / "m.png", values)
    labels = read_coloured(path, {"lung": "#00ff00", "tumour": "#ff0000"}, STRUCTURES)
    assert labels[:, 0].tolist() == [0, 1, 7]
    with pytest.raises(CaseError, match="does not name: #ff0000"):
        read_coloured(path, {"lung": "#00ff00"}, STRUCTURES)
    with pytest.raises(CaseError, match="does not name: #00ff00"):
        read_coloured(path, {"tumour": "#ff0000", "background": "#0000ff"}, STRUCTURES)
    only = read_coloured(path, {"lung": "#00ff00", "tumour": "#ff0000"}, LabelMap({"tumour": 7}))
    assert only[:, 0].tolist() == [0, 0, 7]


def test_a_table_of_levels_and_of_palette_colours(tmp_path: Path) -> None:
    grey = save(tmp_path / "g.png", np.array([[0, 128, 255, 40]], np.uint8))
    table: dict[str, int | str] = {"lung": 128, "tumour": 255, "background": 40}
    assert read_coloured(grey, table, STRUCTURES).tolist() == [[0, 1, 7, 0]]
    palette = save(tmp_path / "p.png", np.array([[0, 1, 2]], np.uint8), [0, 0, 0, 255, 0, 0, 0, 255, 0])
    assert read_coloured(palette, {"lung": 2, "tumour": 1}, STRUCTURES).tolist() == [[0, 7, 1]]
    assert read_coloured(palette, {"lung": "#00ff00", "tumour": "#ff0000"}, STRUCTURES).tolist() == [[0, 7, 1]]
    with pytest.raises(CaseError, match=r"palette indices .* does not name: 2"):
        read_coloured(palette, {"tumour": 1}, STRUCTURES)


def test_white_background_is_named_or_refused(tmp_path: Path) -> None:
    values = np.full((2, 2, 3), 255, np.uint8)
    values[0, 0] = (255, 0, 0)
    path = save(tmp_path / "m.png", values)
    with pytest.raises(CaseError, match="#ffffff"):
        read_coloured(path, {"tumour": "#ff0000"}, STRUCTURES)
    table: dict[str, int | str] = {"tumour": "#ff0000", "background": "#ffffff"}
    assert read_coloured(path, table, STRUCTURES).tolist() == [[7, 0], [0, 0]]
