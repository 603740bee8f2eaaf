"""Polygons and runs against pycocotools and against areas known by hand; nonsense that pycocotools would trust."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from segray.errors import CaseError
from segray.formats.outlines import clip, fill, union


def filled(outline: Any, height: int = 40, width: int = 60) -> Any:
    if isinstance(outline, list):
        outline = [np.array(one, np.float64) if isinstance(one, list) else one for one in outline]
    found = fill(outline, height, width)
    return union([found.runs]), found.cut


def test_a_polygon_is_that_of_pycocotools() -> None:
    polygon = [10.3, 5.2, 50.1, 9.7, 44.0, 33.3, 20.5, 38.0, 12.0, 20.0]
    inside, cut = filled([polygon])
    assert np.array_equal(inside, coco.decode(coco.merge(coco.frPyObjects([polygon], 40, 60))))
    assert cut == 0


def test_a_polygon_that_reaches_out_is_cut_at_the_edge() -> None:
    inside, cut = filled([[-20, 10, 20, 10, 20, 30, -20, 30]])
    assert cut == 1
    assert inside[10:30, :20].all()
    assert inside.sum() == 400
    gone, cut = filled([[100, 100, 120, 100, 120, 120]])
    assert cut == 1
    assert not gone.any()


def test_a_triangle_around_the_whole_picture_fills_it() -> None:
    """Moving each corner to the nearest edge would give half of the picture."""
    inside, _ = filled([[-1000, -1000, 2000, -1000, -1000, 2000]])
    assert inside.all()


@given(st.lists(st.tuples(st.floats(-90, 150), st.floats(-60, 100)), min_size=3, max_size=8))
def test_cutting_changes_nothing_inside(points: list[tuple[float, float]]) -> None:
    """The cut polygon covers the same pixels as the whole one drawn on a larger picture."""
    corners = np.array(points)
    small = clip(corners, 60, 40)
    assert np.all(small >= 0)
    assert np.all(small <= [60, 40])
    shifted = (corners + np.array([100, 80])).reshape(-1).tolist()
    whole = coco.decode(coco.merge(coco.frPyObjects([shifted], 240, 300)))[80:120, 100:160]
    inside, _ = filled([corners.reshape(-1).tolist()])
    edge = np.zeros((40, 60), bool)
    edge[:2], edge[-2:], edge[:, :2], edge[:, -2:] = True, True, True, True
    differ = (inside != whole) & ~edge
    assert differ.mean() < 0.03


def test_plain_and_compressed_runs() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[3:30, 7:9] = mask[0, 0] = mask[5:7, 20:55] = 1
    packed = coco.encode(np.asfortranarray(mask))
    text = packed["counts"].decode()
    assert np.array_equal(filled({"size": [40, 60], "counts": text})[0], mask)
    flat = mask.reshape(-1, order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [1 - flat[-1]]]).astype(np.int8)))
    counts = np.diff(np.concatenate([[0], edges]))
    assert counts.sum() == 2400
    assert np.array_equal(filled({"size": [40, 60], "counts": counts.astype(np.float64)})[0], mask)


@given(st.binary(min_size=300, max_size=300))
def test_all_compressed_runs_are_understood(data: bytes) -> None:
    mask = (np.frombuffer(data, np.uint8).reshape(20, 15) > 120).astype(np.uint8)
    packed = coco.encode(np.asfortranarray(mask))
    found = fill({"size": [20, 15], "counts": packed["counts"].decode()}, 20, 15)
    assert np.array_equal(union([found.runs]), mask)


@pytest.mark.parametrize(
    ("outline", "said"),
    [
        ([[1, 1, 9, 9]], "a polygon of 2 points, which encloses nothing"),
        ([[1, 1, 9, 9, 4]], "a polygon of 5 numbers"),
        ([[]], "a polygon of 0 points"),
        ([], "no outline"),
        (None, "no outline"),
        ("text", "no outline"),
        ([["a", "b"]], "no outline|no list of numbers"),
        ([np.array([1, 1, 9, 9, np.nan, 4])], "no places"),
        ([[1, 1, 9, 9, 1e300, 4]], "no places"),
        ({"size": [40, 60], "counts": np.array([2400.0, 1.0])}, "do not fill"),
        ({"size": [40, 60], "counts": np.array([-5.0, 2405.0])}, "do not fill"),
        ({"size": [40, 60], "counts": np.array([0.5, 2399.5])}, "do not fill"),
        ({"size": [60, 40], "counts": np.array([2400.0])}, "runs of the size"),
        ({"size": [40, 60], "counts": "~~~~"}, "no compressed counts"),
        ({"size": [40, 60], "counts": "ooooooooooooooo"}, "no compressed counts"),
        ({"size": [40, 60], "counts": "o"}, "are cut"),
        ({"size": [40, 60], "counts": None}, "do not fill"),
        ({"counts": "1"}, "runs of the size"),
    ],
)
def test_nonsense_is_told(outline: Any, said: str) -> None:
    if isinstance(outline, list):
        outline = [np.array(one, np.float64) if isinstance(one, list) and "a" not in one else one for one in outline]
    with pytest.raises(CaseError, match=said):
        fill(outline, 40, 60)


def test_a_polygon_that_would_take_gigabytes_is_refused() -> None:
    zigzag = np.tile([0.0, 0.0, 16000.0, 16000.0], 1000)
    with pytest.raises(CaseError, match="to and fro"):
        fill([zigzag], 16000, 16000)
