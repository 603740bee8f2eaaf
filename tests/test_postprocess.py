"""Masks cleaned, against scipy one structure at a time."""

from __future__ import annotations

from typing import Any

import cc3d
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segray.case import Geometry, LabelMap
from segray.config import PredictConfig, load_config
from segray.errors import UsageError
from segray.postprocess import Cleaning, least_voxels

Volume = np.ndarray[Any, Any]

MM = (1.0, 1.0, 1.0)
ML = 1 / 1000
"""A voxel of MM."""

EVERY = np.ones((3, 3, 3))
NUMBERS = st.frozensets(st.integers(1, 3))


def components_of_scipy(inside: Volume, *, largest: bool, voxels: int) -> Volume:
    """What is kept of a structure."""
    found, count = ndimage.label(inside, EVERY)
    sizes = [int((found == number).sum()) for number in range(1, count + 1)]
    kept = [number for number, size in enumerate(sizes, start=1) if size >= voxels]
    if largest and sizes:
        kept = [number for number in kept if number == sizes.index(max(sizes)) + 1]
    return np.isin(found, kept)


def holes_of_scipy(labels: Volume, filled: frozenset[int]) -> Volume:
    """Labels with the holes of ``filled`` filled, room by room."""
    steps = ndimage.generate_binary_structure(3, 1)
    if len(labels) == 1:
        steps[[0, 2]] = False
    rooms, count = ndimage.label(labels == 0, steps)
    out = labels.copy()
    for number in range(1, count + 1):
        room = rooms == number
        outside = np.pad(room, [(0, 0) if len(labels) == 1 else (1, 1), (1, 1), (1, 1)])
        ring = ndimage.binary_dilation(outside, steps) & ~outside
        walls = set(np.pad(labels.astype(int), [(p, p) for p in (len(labels) > 1, 1, 1)], constant_values=-1)[ring])
        if len(walls) == 1 and walls <= filled:
            out[room] = walls.pop()
    return out


def cleaned_by_scipy(labels: Volume, cleaning: Cleaning, ml: float) -> Volume:
    """The definition, structure by structure."""
    out = labels.copy()
    for number in (1, 2, 3):
        voxels = int(np.ceil(cleaning.smallest_ml.get(number, 0) / ml - 1e-6))
        inside = labels == number
        out[inside & ~components_of_scipy(inside, largest=number in cleaning.largest, voxels=voxels)] = 0
    return holes_of_scipy(out, cleaning.filled)


@st.composite
def volumes(draw: st.DrawFn, dtypes: tuple[str, ...] = ("u1", "u2")) -> Volume:
    """Speckled labels 0..3, from nearly empty to nearly full."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    full = rng.random(shape) < draw(st.sampled_from([0.1, 0.3, 0.7, 0.9]))
    return (full * rng.integers(1, draw(st.integers(2, 4)), shape)).astype(draw(st.sampled_from(dtypes)))


@settings(max_examples=300, deadline=None)
@given(volumes(), NUMBERS, st.dictionaries(st.integers(1, 3), st.sampled_from([0.0, 0.002, 0.004, 0.02])), NUMBERS)
def test_cleaning_equals_scipys_structure_by_structure(
    labels: Volume, largest: frozenset[int], smallest: dict[int, float], filled: frozenset[int]
) -> None:
    cleaning = Cleaning(largest, smallest, filled)
    found = labels.copy()
    cleaning.clean(found, ML)
    assert found.dtype == labels.dtype
    assert np.array_equal(found, cleaned_by_scipy(labels, cleaning, ML))


@settings(max_examples=150, deadline=None)
@given(volumes(), volumes(), NUMBERS, NUMBERS, st.sampled_from([np.uint8, np.uint16, np.uint32]))
def test_overlapping_structures_are_cleaned_each_as_if_it_were_alone(
    one: Volume, other: Volume, largest: frozenset[int], filled: frozenset[int], dtype: type
) -> None:
    z, y, x = map(min, one.shape, other.shape)
    one, other = one[:z, :y, :x], other[:z, :y, :x]
    # The third structure has the highest bit of the type, and overlaps with the others.
    numbers = {1: 1, 2: 2, 3: np.iinfo(dtype).bits}
    masks = {1: one == 1, 2: one == 2, 3: other > 0}
    labels = np.zeros((z, y, x), dtype)
    for number, inside in masks.items():
        labels[inside] |= dtype(1 << (numbers[number] - 1))
    places = [frozenset(numbers[number] for number in some) for some in (largest, filled)]
    Cleaning(places[0], {1: 2 * ML}, places[1], overlapping=True).clean(labels, ML)
    for number, inside in masks.items():
        only = [frozenset({1} if number in some else ()) for some in (largest, filled)]
        alone = Cleaning(only[0], {1: 2 * ML} if number == 1 else {}, only[1])
        found = labels >> dtype(numbers[number] - 1) & dtype(1)
        assert np.array_equal(found, cleaned_by_scipy(inside.astype(np.uint8), alone, ML))


def test_all_labels_take_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    whole = cc3d.connected_components

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return whole(*args, **kwargs)

    monkeypatch.setattr(cc3d, "connected_components", counted)
    labels = np.random.default_rng(0).integers(0, 32, (4, 9, 9)).astype(np.uint8)
    Cleaning(frozenset(range(1, 32))).clean(labels, ML)
    assert len(calls) == 1
    assert len(np.unique(labels)) == 32
    Cleaning().clean(labels, ML)
    Cleaning(frozenset({40}), {41: 1.0}, frozenset({42})).clean(labels, ML)
    assert len(calls) == 1


def test_volumes_are_those_of_the_cases_voxels() -> None:
    labels = np.zeros((4, 8, 8), np.uint8)
    labels[0, 0, :5], labels[2, 4, :4] = 1, 1
    for spacing, kept in (((4.0, 0.5, 0.5), [5]), ((4.0, 1.0, 1.0), [5, 4]), ((1.0, 0.5, 0.5), [])):
        found = labels.copy()
        Cleaning(smallest_ml={1: 5 * ML}).clean(found, float(np.prod(spacing)) / 1000)
        assert [int((found[z] > 0).sum()) for z in (0, 2) if found[z].any()] == kept, spacing


@pytest.mark.parametrize(("ml", "spacing", "voxels"), [
    (0.1, (0.1, 0.1, 0.1), 100_000), (0.3, (0.7, 0.1, 0.3), 14286), (0.0, MM, 0), (0.0015, MM, 2), (0.003, MM, 3),
])  # fmt: skip
def test_a_component_of_the_very_volume_is_kept(ml: float, spacing: tuple[float, float, float], voxels: int) -> None:
    assert least_voxels(ml, float(np.prod(spacing)) / 1000) == voxels
    assert least_voxels(ml, Geometry(np.diag([*spacing[::-1], 1.0]), (4, 4, 4)).voxel_ml) == voxels


def test_the_voxels_of_a_tilted_gantry_are_no_boxes() -> None:
    sheared = np.diag([1.0, 1.0, 5.0, 1.0])
    sheared[1, 2] = 5.0 * np.tan(np.radians(25))
    grid = Geometry(sheared, (8, 8, 8))
    assert least_voxels(1.0, grid.voxel_ml) == 200


def test_of_components_of_one_size_the_first_is_kept() -> None:
    labels = np.zeros((3, 5, 5), np.uint8)
    labels[0, 4, 4], labels[2, 0, 0], labels[1, 2, 0] = 1, 1, 1
    Cleaning(frozenset({1})).clean(labels, ML)
    assert np.argwhere(labels).tolist() == [[0, 4, 4]]


def test_a_component_hangs_together_by_its_corners_and_a_hole_by_its_faces() -> None:
    stairs = np.zeros((3, 3, 3), np.uint8)
    stairs[[0, 1, 2], [0, 1, 2], [0, 1, 2]] = 1
    found = stairs.copy()
    Cleaning(frozenset({1})).clean(found, ML)
    assert np.array_equal(found, stairs)
    shell = np.ones((3, 3, 3), np.uint8)
    shell[1, 1, 1] = shell[0, 0, 1] = 0
    Cleaning(filled=frozenset({1})).clean(shell, ML)
    assert np.argwhere(shell == 0).tolist() == [[0, 0, 1]]
    open_shell = np.ones((3, 3, 3), np.uint8)
    open_shell[1, 1, 1] = open_shell[0, 1, 1] = 0
    Cleaning(filled=frozenset({1})).clean(open_shell, ML)
    assert (open_shell == 0).sum() == 2


def test_a_stray_component_in_a_hole_goes_before_the_hole_is_filled() -> None:
    labels = np.ones((7, 7, 7), np.uint8)
    labels[2:5, 2:5, 2:5] = 0
    labels[3, 3, 3] = 2
    alone = labels.copy()
    Cleaning(filled=frozenset({1, 2})).clean(alone, ML)
    assert np.array_equal(alone, labels), "the room lies against two structures"
    Cleaning(smallest_ml={2: 2 * ML}, filled=frozenset({1})).clean(labels, ML)
    assert (labels == 1).all()


def test_a_picture_is_filled_in_its_plane() -> None:
    ring = np.ones((1, 5, 5), np.uint8)
    ring[0, 2, 2] = 0
    tube = np.repeat(ring, 3, 0)
    for labels, filled in ((ring, True), (tube, False)):
        for overlapping in (False, True):
            found = labels.copy()
            Cleaning(filled=frozenset({1}), overlapping=overlapping).clean(found, ML)
            assert bool(found.all()) is filled


def test_settings_name_structures_or_all() -> None:
    names = LabelMap({"liver": 5, "spleen": 3, "tumour": 9})
    config = load_config(None, ["predict.largest_component=liver", "predict.fill_holes=all",
                                "predict.smallest_ml={all: 1, tumour: 0.05, spleen: 0}"]).predict  # fmt: skip
    cleaning = Cleaning.of(config, names)
    assert cleaning.largest == {2}, "the place in the label map, not the value"
    assert cleaning.filled == {1, 2, 3}
    assert cleaning.smallest_ml == {2: 1.0, 3: 0.05}
    assert Cleaning.of(PredictConfig(), names) == Cleaning()
    assert Cleaning.of(PredictConfig(), LabelMap({"a": 1}, overlapping=True)).overlapping


@pytest.mark.parametrize("setting", ["largest_component=[liver, splen]", "fill_holes=splen", "smallest_ml={splen: 1}"])
def test_an_unknown_name_is_told_with_the_nearest(setting: str) -> None:
    config = load_config(None, [f"predict.{setting}"]).predict
    with pytest.raises(UsageError, match=r"predict\.\w+ names splen, which is no .* Did you mean spleen\?"):
        Cleaning.of(config, LabelMap.of_names(["liver", "spleen"]))
