from __future__ import annotations

import numpy as np

from segray.report.theme import structure_colours
from segray.tracking.pictures import outline, slice_picture

NAMES = ("liver", "spleen")


def _square(side: int, top: int, left: int, size: int, value: int = 1) -> np.ndarray:
    labels = np.zeros((side, side), dtype=np.uint8)
    labels[top : top + size, left : left + size] = value
    return labels


def test_the_outline_of_a_square_is_its_border() -> None:
    inside = _square(9, 2, 3, 4) > 0
    found = outline(inside)
    assert found.sum() == 12
    assert not found[3:5, 4:6].any()
    assert (found <= inside).all()


def test_a_structure_that_fills_the_picture_has_an_outline_at_its_edge() -> None:
    found = outline(np.ones((4, 5), dtype=bool))
    assert found.sum() == 4 * 5 - 2 * 3


def test_truth_left_mask_right_in_the_colours_of_the_reports() -> None:
    side = 256
    picture = np.zeros((side, side), dtype=np.int16)
    drawn = slice_picture(picture, _square(side, 20, 20, 30), _square(side, 100, 100, 30, 2), NAMES, (-100.0, 100.0))
    assert drawn.shape == (side, 2 * side, 3)
    assert drawn.dtype == np.uint8
    colours = {name: tuple(bytes.fromhex(code[1:])) for name, code in structure_colours(NAMES).items()}
    assert tuple(drawn[20, 20]) == colours["liver"]
    assert tuple(drawn[100, side + 100]) == colours["spleen"]
    assert tuple(drawn[110, side + 110]) == (127, 127, 127)
    dashes = drawn[20, side + 20 : side + 50]
    assert 5 < (dashes == 255).all(axis=1).sum() < 25


def test_small_slices_are_drawn_with_larger_pixels_and_bits_as_structures() -> None:
    labels = np.array([[0, 1, 3], [0, 2, 0], [0, 0, 0]], dtype=np.uint8).repeat(20, axis=0).repeat(20, axis=1)
    drawn = slice_picture(labels, labels, labels, NAMES, (0.0, 3.0), overlapping=True)
    assert drawn.shape == (300, 600, 3)
    colours = {tuple(colour) for colour in drawn[:, :300].reshape(-1, 3).tolist()}
    assert {tuple(bytes.fromhex(code[1:])) for code in structure_colours(NAMES).values()} <= colours


def test_empty_pictures_and_values_that_are_no_numbers_are_drawn() -> None:
    picture = np.full((300, 10), np.nan, dtype=np.float32)
    empty = np.zeros((300, 10), dtype=np.uint8)
    assert slice_picture(picture, empty, empty, NAMES, (0.0, 0.0)).max() == 0
