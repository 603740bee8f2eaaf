"""The recipe of the grid, and where a case lies on it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from segray.config import GridConfig
from segray.errors import CaseError, UsageError
from segray.grid import Grid, Placement, fill_value, plan, plan_prediction, resolve_grid

CASES = [((10, 100, 120), (5.0, 1.0, 1.0)), ((9, 200, 100), (3.0, 0.5, 1.0)), ((8, 90, 90), (5.0, 2.0, 2.0))]


def test_spacing_takes_the_median_and_the_largest_case() -> None:
    grid = resolve_grid(GridConfig(), CASES, -1024.0)
    assert grid == Grid("spacing", (192, 192), (1.0, 1.0), -1024.0)


def test_the_canvas_stays_below_the_limit() -> None:
    assert resolve_grid(GridConfig(max_size=100), CASES).size == (96, 96)


def test_the_users_spacing_and_size_win() -> None:
    grid = resolve_grid(GridConfig(spacing=(2.0, 4.0), size=(50, 60)), CASES)
    assert (grid.size, grid.spacing) == ((50, 60), (2.0, 4.0))


def test_mode_size_takes_the_largest_case() -> None:
    assert resolve_grid(GridConfig(mode="size"), CASES) == Grid("size", (208, 128), None, -1024.0)


def test_mode_native_names_the_odd_cases_and_the_mend() -> None:
    same = [CASES[0], CASES[0]]
    assert resolve_grid(GridConfig(mode="native"), same).size == (112, 128)
    with pytest.raises(UsageError, match=r"c \(200x100\).*mode=spacing"):
        resolve_grid(GridConfig(mode="native"), [*same, CASES[1]], names=("a", "b", "c"))


def test_no_cases_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no case"):
        resolve_grid(GridConfig(), [])


def test_a_grid_survives_json() -> None:
    for grid in (Grid("spacing", (64, 48), (0.7, 0.8), -1024.0), Grid("native", (64, 48), None, 0.0)):
        assert Grid.from_dict(json.loads(json.dumps(grid.to_dict()))) == grid


@pytest.mark.parametrize(
    "change", [{"mode": "other"}, {"size": [0, 4]}, {"size": 3}, {"spacing": None}, {"spacing": [0, 1]}, {"fill": "x"}]
)
def test_a_wrong_grid_is_told_in_words(change: dict[str, object]) -> None:
    table = {**Grid("spacing", (64, 48), (0.7, 0.8), -1024.0).to_dict(), **change}
    with pytest.raises(UsageError, match="grid"):
        Grid.from_dict(table)


def test_the_field_of_view_keeps_its_length() -> None:
    placement = plan((3, 101, 77), (5.0, 0.7, 0.9), Grid("spacing", (128, 128), (1.3, 1.3), 0.0))
    assert placement.resampled == (54, 53)
    assert placement.spacing[0] * 54 == pytest.approx(0.7 * 101)
    assert placement.spacing[1] * 53 == pytest.approx(0.9 * 77)


def test_equal_spacing_and_size_is_the_identity() -> None:
    grid = Grid("spacing", (64, 64), (1.0, 1.0), 0.0)
    assert plan((3, 64, 64), (5.0, 1.0005, 0.9995), grid).is_identity
    assert not plan((3, 64, 64), (5.0, 1.05, 1.0), grid).is_identity


def test_native_refuses_a_case_of_another_size() -> None:
    with pytest.raises(CaseError, match=r"64x65.*64x64"):
        plan((3, 64, 65), (5.0, 1.0, 1.0), Grid("native", (64, 64), None, 0.0))


@pytest.mark.parametrize("mode", ["spacing", "size", "native"])
def test_prediction_never_crops_and_its_canvas_suits_the_net(mode: str) -> None:
    grid = Grid(mode, (60, 100), (1.0, 1.0) if mode == "spacing" else None, 0.0)  # type: ignore[arg-type]
    placement = plan_prediction((3, 130, 70), (5.0, 1.0, 1.5), grid, 32)
    assert not placement.crops
    assert all(side % 32 == 0 and side >= least for side, least in zip(placement.canvas, grid.size, strict=True))


def test_windows_meet_on_the_canvas() -> None:
    placement = Placement((40, 10), (40, 10), (20, 16), (-5, 3))
    canvas, inside = placement.windows()
    assert canvas == (slice(0, 20), slice(3, 13))
    assert inside == (slice(5, 25), slice(0, 10))
    assert placement.crops


def test_fill_is_the_lowest_value_but_not_below_air() -> None:
    assert fill_value(np.array([[[5, 9]]], dtype=np.int16)) == 5.0
    assert fill_value(np.array([[[-3024, 9]]], dtype=np.int16)) == -1024.0
