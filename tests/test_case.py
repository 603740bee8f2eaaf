"""Case ids, geometry on every orientation, label maps."""

from __future__ import annotations

import itertools
import json
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from segray.case import Geometry, LabelMap, check_case_id, voxel_statistics
from segray.errors import CaseError, UsageError

CODES = [
    "".join(signs[axis] for axis in order)
    for order in itertools.permutations(range(3))
    for signs in itertools.product("LR", "PA", "IS")
]
NUMBERS = st.floats(-0.35, 0.35)


def plain_affine(codes: str, zooms: tuple[float, ...] = (1.0, 2.0, 3.0)) -> NDArray[np.float64]:
    affine = np.eye(4)
    affine[:3, :3] = 0.0
    for axis, code in enumerate(codes):
        world = next(index for index, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        affine[world, axis] = zooms[axis] * (1.0 if code in "RAS" else -1.0)
    affine[:3, 3] = (5.0, -6.0, 7.0)
    return affine


@st.composite
def affines(draw: Any) -> NDArray[np.float64]:
    """Any orientation, turned and sheared by up to a third, with uneven spacing."""
    zooms = tuple(draw(st.floats(0.2, 8.0)) for _ in range(3))
    bend = np.eye(3) + np.array([[draw(NUMBERS) for _ in range(3)] for _ in range(3)]) * 0.8
    affine = plain_affine(draw(st.sampled_from(CODES)), zooms)
    affine[:3, :3] = bend @ affine[:3, :3]
    return affine


def test_there_are_48_orientations() -> None:
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("codes", CODES)
def test_to_lps_agrees_with_nibabel(codes: str) -> None:
    affine = plain_affine(codes)
    stored = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    geometry = Geometry(affine, (2, 3, 4))
    change = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(affine), nib.orientations.axcodes2ornt("LPS")
    )
    expected = nib.orientations.apply_orientation(stored, change).transpose(2, 1, 0)
    assert geometry.axis_codes == codes
    assert np.array_equal(geometry.to_lps(stored), expected)


@given(affines(), st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)))
def test_from_lps_undoes_to_lps(affine: NDArray[np.float64], shape: tuple[int, int, int]) -> None:
    geometry = Geometry(affine, shape, (*shape, 1))
    stored = np.arange(np.prod(shape)).reshape(*shape, 1)
    turned = geometry.to_lps(stored)
    assert turned.shape == geometry.size
    assert np.array_equal(geometry.from_lps(turned), stored)


@given(affines(), st.integers(0, 2**32 - 1))
def test_lps_affine_says_where_a_voxel_lies(affine: NDArray[np.float64], seed: int) -> None:
    shape = (3, 4, 5)
    geometry = Geometry(affine, shape)
    index = np.random.default_rng(seed).integers(0, shape)
    stored = np.zeros(shape, np.uint8)
    stored[tuple(index)] = 1
    (turned,) = np.argwhere(geometry.to_lps(stored))
    there = geometry.lps_affine @ [*turned, 1]
    assert np.allclose(there, affine @ [*index, 1], atol=1e-6)


@given(affines())
def test_lps_axes_run_to_the_left_the_back_and_the_head(affine: NDArray[np.float64]) -> None:
    geometry = Geometry(affine, (2, 2, 2))
    assert nib.aff2axcodes(geometry.lps_affine) == ("S", "P", "L")
    assert np.allclose(geometry.spacing, np.linalg.norm(geometry.lps_affine[:3, :3], axis=0))


def test_voxel_volume_of_a_sheared_grid_is_its_determinant() -> None:
    affine = np.diag([2.0, 2.0, 5.0, 1.0])
    affine[0, 1] = 1.0
    assert Geometry(affine, (1, 1, 1)).voxel_ml == pytest.approx(0.020)


@pytest.mark.parametrize("bad", ["", "..", "a/b", "a b", ".hidden", "-x", "a..b", "x" * 129, "ü", "a\n"])
def test_bad_case_ids_are_refused(bad: str) -> None:
    with pytest.raises(CaseError, match="cannot be a file name"):
        check_case_id(bad)


def test_good_case_id_comes_back() -> None:
    assert check_case_id("s0001_BL-2.v1") == "s0001_BL-2.v1"


@given(st.lists(st.integers(1, 65535), min_size=1, max_size=20, unique=True), st.integers(0, 2**32 - 1))
def test_values_and_indices_are_inverse(values: list[int], seed: int) -> None:
    label_map = LabelMap({f"s{value}": value for value in values})
    labels = np.random.default_rng(seed).choice([0, *values], size=(2, 3, 4)).astype(np.uint16)
    indices = label_map.to_index(labels)
    assert int(indices.max()) < label_map.channels
    assert np.array_equal(label_map.to_value(indices), labels)


def test_unknown_value_is_named() -> None:
    with pytest.raises(CaseError, match=r"\[7\]"):
        LabelMap({"liver": 1}).to_index(np.array([[[0, 1, 7]]], np.uint8))


@pytest.mark.parametrize("values", [{}, {"a": 1, "b": 1}, {"a": 0}, {"a": 70000}])
def test_impossible_label_maps_are_refused(values: dict[str, int]) -> None:
    with pytest.raises(UsageError):
        LabelMap(values)


def test_label_map_survives_json_and_bad_json_is_told() -> None:
    label_map = LabelMap({"spleen": 9, "liver": 3})
    assert LabelMap.from_json(label_map.to_json()) == label_map
    assert label_map.names == ("liver", "spleen")
    with pytest.raises(UsageError, match="is not a table"):
        LabelMap.from_json("[1]")


def test_statistics_are_those_of_all_voxels() -> None:
    voxels = np.random.default_rng(0).normal(50, 9, (4, 5, 6)).astype(np.float32)
    mean, sd = voxel_statistics(voxels)
    assert mean == pytest.approx(float(voxels.mean()), rel=1e-5)
    assert sd == pytest.approx(float(voxels.std()), rel=1e-4)


def test_overlapping_maps_hold_bits_and_have_no_background() -> None:
    label_map = LabelMap({"liver": 3, "lesion": 7}, overlapping=True)
    assert label_map.channels == 2
    assert label_map.dtype == np.uint8
    fields = np.array([[[0, 1, 2, 3]]], np.uint16)
    assert label_map.to_index(fields).dtype == np.uint8
    assert np.array_equal(label_map.to_value(label_map.to_index(fields)), fields)
    with pytest.raises(CaseError, match="structure number 3, and the label map names 2"):
        label_map.to_index(np.array([[[4]]], np.uint8))


def test_values_become_bits_in_the_order_of_the_names() -> None:
    label_map = LabelMap({f"s{value}": value for value in (300, 5, 9)}, overlapping=True)
    assert np.array_equal(label_map.to_bits(np.array([0, 5, 9, 300], np.uint16)), [0, 1, 2, 4])
    with pytest.raises(CaseError, match=r"\[6\]"):
        label_map.to_bits(np.array([5, 6], np.uint8))


def test_the_thirty_second_structure_has_a_bit_and_the_next_is_refused() -> None:
    label_map = LabelMap({f"s{value:02}": value for value in range(1, 33)}, overlapping=True)
    assert label_map.dtype == np.uint32
    assert label_map.to_bits(np.array([32], np.uint8)).tolist() == [1 << 31]
    assert label_map.to_index(np.array([1 << 31], np.uint32)).tolist() == [1 << 31]
    with pytest.raises(UsageError, match="33 structures are too many to overlap"):
        LabelMap({f"s{value}": value for value in range(1, 34)}, overlapping=True)


def test_overlapping_maps_survive_json_and_exclusive_ones_keep_their_text() -> None:
    label_map = LabelMap({"spleen": 9, "liver": 3}, overlapping=True)
    assert json.loads(label_map.to_json()) == {"overlapping": True, "labels": {"liver": 3, "spleen": 9}}
    assert LabelMap.from_json(label_map.to_json()) == label_map
    exclusive = LabelMap({"overlapping": 1, "labels": 2})
    assert json.loads(exclusive.to_json()) == {"background": 0, "overlapping": 1, "labels": 2}
    assert LabelMap.from_json(exclusive.to_json()) == exclusive


@pytest.mark.parametrize("values", [{"a": 1, "b": 2}, {"a": 3, "b": 7}])
@pytest.mark.parametrize("ignored", [5, 255, 300])
def test_ignored_voxels_have_an_index_of_their_own(values: dict[str, int], ignored: int) -> None:
    label_map = LabelMap(values, ignored=ignored)
    labels = np.array([[[0, *values.values(), ignored]]], np.uint16)
    assert label_map.to_index(labels).tolist() == [[[0, 1, 2, 3]]]
    assert label_map.ignored_index == 3
    assert label_map.channels == 3
    with pytest.raises(CaseError, match=r"\[4\]"):
        label_map.to_index(np.array([[[4]]], np.uint16))
    assert LabelMap.from_json(label_map.to_json()) == label_map
    assert LabelMap(values).ignored_index is None


def test_an_ignored_value_is_none_of_the_structures_and_none_where_they_overlap() -> None:
    with pytest.raises(UsageError, match="is that of a structure"):
        LabelMap({"a": 1}, ignored=1)
    with pytest.raises(UsageError, match="no voxel can be ignored"):
        LabelMap({"a": 1}, overlapping=True, ignored=2)


@pytest.mark.parametrize("overlapping", [False, True])
def test_a_structure_is_found_by_its_name_and_an_unknown_one_by_the_nearest(overlapping: bool) -> None:
    names = LabelMap({"liver": 9, "spleen": 4}, overlapping=overlapping)
    assert [names.number(name, "a.setting") for name in names.names] == [1, 2]
    with pytest.raises(UsageError, match=r"^a\.setting names livr, which is no structure .* Did you mean liver\?$"):
        names.number("livr", "a.setting")
    with pytest.raises(UsageError, match=r"Known are spleen, liver\.$"):
        names.number("x", "a.setting")


def test_indices_of_another_map_are_those_of_the_same_names() -> None:
    other = LabelMap({"liver": 3, "gut": 5, "spleen": 9}, ignored=7)
    own = LabelMap({"spleen": 1, "kidney": 2, "liver": 4})
    indices = other.to_index(np.array([[[0, 3, 5, 9, 7]]], np.uint8))
    assert own.from_map(other, indices).tolist() == [[[0, 3, 0, 1, 0]]]
    assert own.from_map(own, indices) is indices


def test_bits_of_another_map_are_those_of_the_same_names() -> None:
    other = LabelMap({"lung": 1, "infection": 2, "heart": 3}, overlapping=True)
    own = LabelMap({"infection": 1, "lung": 2}, overlapping=True)
    assert own.from_map(other, np.array([[[0b000, 0b001, 0b011, 0b110]]], np.uint8)).tolist() == [[[0, 2, 3, 1]]]
