"""Outlines of voxels: what they enclose, by three rules of filling, and how many points they need."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from scipy import ndimage

from segray.formats.contours import outlines
from segray.formats.rtstruct import fill_contours

RING = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]], bool)


def planes(count: int = 40) -> list[Any]:
    rng = np.random.default_rng(7)
    made = [rng.random((9, 11)) < share for share in rng.uniform(0.1, 0.95, count)]
    for _ in range(count):
        smooth = ndimage.gaussian_filter(rng.normal(size=(24, 31)), 1.2)
        made.append(smooth > np.quantile(smooth, rng.uniform(0.1, 0.9)))
    return made


def centres(shape: tuple[int, ...]) -> Any:
    return np.stack(np.meshgrid(np.arange(shape[1]), np.arange(shape[0])), axis=-1).reshape(-1, 2)


def wound(line: Any, points: Any) -> Any:
    """How often a closed line runs around each point, clockwise in a picture (the winding number)."""
    start, end = line[None, :, :], np.roll(line, -1, axis=0)[None, :, :]
    x, y = points[:, None, 0], points[:, None, 1]
    side = (end[..., 0] - start[..., 0]) * (y - start[..., 1]) - (x - start[..., 0]) * (end[..., 1] - start[..., 1])
    downwards = (start[..., 1] <= y) & (end[..., 1] > y) & (side > 0)
    upwards = (start[..., 1] > y) & (end[..., 1] <= y) & (side < 0)
    return downwards.sum(axis=1) - upwards.sum(axis=1)


def test_every_rule_of_filling_gives_the_voxels_back() -> None:
    """segray's reader; another maker's test of a point in each line alone, united and by odd number; winding."""
    for plane in planes():
        lines = outlines(plane)
        assert np.array_equal(fill_contours(lines, *plane.shape), plane)
        points = centres(plane.shape)
        alone = [Outline(np.vstack([line, line[:1]]), closed=True).contains_points(points) for line in lines]
        assert np.array_equal(np.any(alone, axis=0).reshape(plane.shape), plane)
        assert np.array_equal((np.sum(alone, axis=0) % 2 == 1).reshape(plane.shape), plane)
        assert np.array_equal(sum(wound(line, points) for line in lines).reshape(plane.shape), plane)


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 7), st.integers(1, 7), st.integers(0, 2**49 - 1))
def test_every_small_plane_comes_back(rows: int, columns: int, bits: int) -> None:
    plane = np.array([bits >> place & 1 for place in range(rows * columns)], bool).reshape(rows, columns)
    lines = outlines(plane)
    assert len(lines) == ndimage.label(plane)[1]
    if lines:
        assert np.array_equal(fill_contours(lines, rows, columns), plane)


def test_lines_have_corners_only_and_the_area_of_their_voxels() -> None:
    for plane in planes(20):
        for line in outlines(plane):
            ahead = np.roll(line, -1, axis=0) - line
            assert ((ahead == 0).sum(axis=1) == 1).all()
            assert (np.sign(ahead) != np.sign(np.roll(ahead, 1, axis=0))).any(axis=1).all()
        areas = [np.sum(a[:, 0] * np.roll(a[:, 1], -1) - a[:, 1] * np.roll(a[:, 0], -1)) / 2 for a in outlines(plane)]
        assert sum(areas) == plane.sum()
        assert min(areas) >= 1


def test_a_voxel_and_two_that_touch_at_a_corner() -> None:
    (one,) = outlines(np.array([[0, 0], [0, 1]], bool))
    assert one.tolist() == [[0.5, 0.5], [1.5, 0.5], [1.5, 1.5], [0.5, 1.5]]
    for plane in (np.eye(2, dtype=bool), np.eye(2, dtype=bool)[::-1]):
        assert [len(line) for line in outlines(plane)] == [4, 4]
    assert outlines(np.zeros((3, 3), bool)) == []


def test_a_channel_to_a_hole_runs_where_all_is_inside() -> None:
    """Two holes that touch at a corner are one, and the channel is as short as can be."""
    (line,) = outlines(RING)
    assert len(line) == 4 + 8 + 2
    ahead = np.abs(np.roll(line, -1, axis=0) - line).sum()
    assert ahead == 16 + 8 + 2


@pytest.mark.parametrize("turn", range(4))
def test_holes_below_each_other_are_joined_one_to_the_next(turn: int) -> None:
    plane = np.ones((9, 9), bool)
    plane[1::2, 1::2] = False
    plane[7, 6] = False
    plane = np.rot90(plane, turn)
    (line,) = outlines(plane)
    assert np.array_equal(fill_contours([line], 9, 9), plane)
