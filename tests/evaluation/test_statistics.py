from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from segray.case import Geometry, LabelMap, Volume
from segray.errors import CaseError
from segray.evaluation import label_slabs, voxel_values
from segray.evaluation.statistics import ROW_COLUMNS, rounded, structure_statistics
from segray.evaluation.surface import direction_weights, lattice_directions

RAS_TO_LPS = np.array([-1.0, -1.0, 1.0])


def grid(size: tuple[int, ...], spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Geometry:
    """A file whose (i, j, k) are (x, y, z) of LPS, (z, y, x) mm apart."""
    z, y, x = size
    return Geometry(np.diag([-spacing[2], -spacing[1], spacing[0], 1.0]), (x, y, z))


def turned_grid(size: tuple[int, ...]) -> Geometry:
    """A file with axes (z, x, y), two of them turned round, and an origin."""
    z, y, x = size
    affine = np.array([[0, 2.0, 0, -7.0], [0, 0, 3.0, 11.0], [-5.0, 0, 0, 23.0], [0, 0, 0, 1]])
    return Geometry(affine, (z, x, y))


def cubes(shape: tuple[int, int, int], highest: int, seed: int) -> Volume:
    """Labels 0..highest in blocks of 2 voxels."""
    small = np.random.default_rng(seed).integers(0, highest + 1, [-(-size // 2) for size in shape])
    z, y, x = (np.arange(size) // 2 for size in shape)
    return np.asarray(small[np.ix_(z, y, x)])


def passes(inside: Volume, step: tuple[int, ...]) -> int:
    """Pairs of voxels ``step`` apart of which one is inside, beyond the border too."""
    padded = np.pad(inside, 1)
    return int((padded ^ np.roll(padded, step, axis=(0, 1, 2))).sum())


def check_against_masks(found: Any, voxels: Volume, masks: list[Volume], geometry: Geometry) -> None:
    """Everything as numpy gives it for one boolean mask after another."""
    file_index = np.indices(geometry.shape)
    for number, mask in enumerate(masks):
        inside = voxels[mask].astype(np.float64)
        assert found.voxels[number] == inside.size > 0
        assert found.volume_ml[number] == inside.size * geometry.voxel_ml
        assert found.mean_hu[number] == pytest.approx(inside.mean(), rel=1e-6)
        assert found.sd_hu[number] == pytest.approx(inside.std(), rel=1e-6)
        np.testing.assert_allclose(found.percentiles_hu[number], np.percentile(inside, [5, 50, 95]), rtol=1e-6)
        stored = geometry.from_lps(mask)
        at = file_index[:, stored]
        assert found.box[number].tolist() == [[axis.min(), axis.max()] for axis in at]
        centre = geometry.affine[:3, :3] @ at.mean(axis=1) + geometry.affine[:3, 3]
        np.testing.assert_allclose(found.centre_mm[number], centre * RAS_TO_LPS, atol=1e-9)
        faces = [[mask.take(end, axis).sum() for end in (0, -1)] for axis in range(3)]
        assert found.border_sides[number].tolist() == faces
        border = mask.copy()
        border[1:-1, 1:-1, 1:-1] = False
        assert found.border_voxels[number] == border.sum()


@pytest.mark.parametrize("slab", [1, 60, 1 << 20])
@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint8])
@pytest.mark.parametrize("order", ["C", "F"])
def test_equals_masked_numpy(monkeypatch: pytest.MonkeyPatch, slab: int, dtype: Any, order: Any) -> None:
    monkeypatch.setattr(label_slabs, "SLAB_VOXELS", slab)
    shape = (5, 7, 6)
    voxels = np.random.default_rng(1).integers(0, 200, shape).astype(dtype)
    labels = np.asarray(cubes(shape, 4, seed=1), np.uint8, order=order)
    labels[labels == 2] = 0
    for geometry in (grid(shape), turned_grid(shape)):
        found = structure_statistics(voxels, labels, 5, geometry)
        kept = [0, 2, 3]
        of_kept = type(found)(**{name: value[kept] for name, value in vars(found).items()})
        check_against_masks(of_kept, voxels, [labels == channel + 1 for channel in kept], geometry)
        assert found.volume_ml[1] == found.surface_mm2[1] == found.border_voxels[1] == 0
        assert math.isnan(found.mean_hu[1])
        assert math.isnan(found.sd_hu[1])
        assert np.isnan(found.percentiles_hu[1]).all()
        assert np.isnan(found.centre_mm[1]).all()
        assert (found.box[1] == -1).all()


@pytest.mark.parametrize("structures", [2, 20])
def test_overlapping_structures_share_their_voxels(structures: int) -> None:
    shape = (5, 6, 7)
    rng = np.random.default_rng(2)
    voxels = rng.integers(-900, 200, shape).astype(np.int16)
    fields = cubes(shape, (1 << structures) - 1, seed=2).astype(np.uint32)
    fields &= ~np.uint32(2)
    fields |= np.uint32(1) * (rng.random(shape) < 0.3)
    geometry = turned_grid(shape)
    found = structure_statistics(voxels, fields, structures, geometry, overlapping=True)
    assert len(found.voxels) == structures
    assert math.isnan(found.mean_hu[1])
    kept = [number for number in range(structures) if number != 1]
    of_kept = type(found)(**{name: value[kept] for name, value in vars(found).items()})
    masks = [fields >> np.uint32(number) & 1 > 0 for number in kept]
    check_against_masks(of_kept, voxels, masks, geometry)
    for number, mask in zip(kept, masks, strict=True):
        alone = structure_statistics(voxels, mask.astype(np.uint8), 2, geometry)
        assert found.surface_mm2[number] == pytest.approx(alone.surface_mm2[0], rel=1e-12)
    with pytest.raises(CaseError, match="mask holds"):
        structure_statistics(voxels, np.full_like(fields, 1 << structures), structures, geometry, overlapping=True)


def test_sums_of_integers_are_exact() -> None:
    shape = (3, 64, 64)
    voxels = np.random.default_rng(3).integers(-32768, 32767, shape).astype(np.int16)
    labels = np.ones(shape, np.uint8)
    exact = int(voxels.sum(dtype=np.int64)) / voxels.size
    assert structure_statistics(voxels, labels, 2, grid(shape)).mean_hu[0] == exact
    assert structure_statistics(voxels.astype(np.int64) << 20, labels, 2, grid(shape)).mean_hu[0] == exact * (1 << 20)


def test_too_wide_a_range_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (4, 20, 20)
    voxels = np.random.default_rng(4).integers(-1000, 3000, shape).astype(np.int16)
    labels = cubes(shape, 300, seed=4).astype(np.uint16)
    counted = structure_statistics(voxels, labels, 301, grid(shape))
    monkeypatch.setattr(voxel_values, "LEAST_TABLE", 100)
    assert voxel_values.ValueCounts.fitting(voxels, 300) is None
    cut = structure_statistics(voxels, labels, 301, grid(shape))
    for name in ("mean_hu", "sd_hu", "percentiles_hu"):
        np.testing.assert_allclose(getattr(cut, name), getattr(counted, name), rtol=1e-12)


def test_negative_hu_of_a_turned_view() -> None:
    voxels = np.asfortranarray(np.full((3, 4, 5), -1024, np.int16))[::-1]
    labels = np.ones((3, 4, 5), np.uint16)[:, ::-1]
    found = structure_statistics(voxels, labels, 2, grid((3, 4, 5)))
    assert found.mean_hu.tolist() == [-1024.0]
    assert found.sd_hu.tolist() == [0.0]
    assert found.voxels.tolist() == [60]


def test_a_turned_view_has_its_box_where_it_is() -> None:
    labels = np.zeros((4, 6, 5), np.uint8)[:, ::-1].transpose(2, 0, 1)
    labels[1:3, 2, 3:6] = 1
    found = structure_statistics(labels, labels, 2, grid(labels.shape))
    assert found.box[0].tolist() == [[3, 5], [2, 2], [1, 2]]


def test_the_crofton_surface_equals_passes_of_whole_masks() -> None:
    shape = (6, 9, 7)
    labels = cubes(shape, 6, seed=5)
    labels[np.random.default_rng(5).random(shape) < 0.2] = 0
    spacing = (2.5, 0.7, 0.9)
    found = structure_statistics(labels, labels, 7, grid(shape, spacing)).surface_mm2
    steps = [step for step in itertools.product((-1, 0, 1), repeat=3) if step > (0, 0, 0)]
    millimetres = np.array(steps) * spacing
    lengths = np.linalg.norm(millimetres, axis=1)
    points = np.random.default_rng(6).standard_normal((200_000, 3))
    nearest = np.abs(points @ (millimetres / lengths[:, None]).T).argmax(axis=1)
    shares = np.bincount(nearest, minlength=13) / len(points)
    for number in range(1, 7):
        of_step = np.array([passes(labels == number, step) for step in steps])
        expected = 2 * np.prod(spacing) * (shares * of_step / lengths).sum()
        assert found[number - 1] == pytest.approx(expected, rel=0.005)


def test_the_weights_are_those_of_the_paper() -> None:
    # Legland, Kiêu and Devaux 2007: along an axis, along a diagonal of a face, along one of the cube.
    weights = direction_weights(lattice_directions().astype(np.float64))
    of_axes = {1: 0.0457778912, 2: 0.0369806279, 3: 0.0351956398}
    expected = [2 * of_axes[np.count_nonzero(step)] for step in lattice_directions()]
    np.testing.assert_allclose(weights, expected, atol=1e-9)


def test_a_flat_voxel_has_no_surface_and_stops_nothing() -> None:
    labels = np.ones((2, 2, 2), np.uint8)
    found = structure_statistics(labels, labels, 2, grid((2, 2, 2), (1e-6, 1.0, 1.0)))
    assert np.isnan(found.surface_mm2[0])
    assert found.voxels[0] == 8
    (row,) = found.as_rows(LabelMap({"a": 1}))
    assert (row["voxels"], row["surface_mm2"]) == (8, None)


@pytest.mark.parametrize(
    ("spacing", "within"), [((1.0, 1.0, 1.0), 0.01), ((2.0, 0.8, 0.8), 0.02), ((5.0, 1.0, 1.0), 0.03)]
)
@pytest.mark.parametrize("radius", [15.0, 24.0])
def test_surface_of_a_sphere(spacing: tuple[float, float, float], within: float, radius: float) -> None:
    z, y, x = (((np.arange(int(60 / step)) * step - 29.7) / radius) ** 2 for step in spacing)
    ball = (z[:, None, None] + y[:, None] + x < 1).astype(np.uint8)
    found = structure_statistics(ball, ball, 2, grid(ball.shape, spacing))
    assert found.surface_mm2[0] == pytest.approx(4 * np.pi * radius**2, rel=within)


@pytest.mark.parametrize(
    ("spacing", "least"), [((1.0, 1.0, 1.0), 0.91), ((2.0, 0.8, 0.8), 0.86), ((5.0, 1.0, 1.0), 0.76)]
)
def test_surface_of_a_box_is_too_small_by_what_is_documented(spacing: tuple[float, float, float], least: float) -> None:
    sides = np.array([80.0, 60.0, 40.0])
    shape = np.rint(sides / spacing).astype(int)
    labels = np.pad(np.ones(shape, np.uint8), 2)
    found = structure_statistics(labels, labels, 2, grid(labels.shape, spacing)).surface_mm2[0]
    true = 2 * (sides[0] * sides[1] + sides[1] * sides[2] + sides[0] * sides[2])
    assert least * true < found < true


def test_surface_of_a_sheared_grid_counts_its_true_directions() -> None:
    shape = (40, 60, 60)
    affine = np.diag([-1.0, -1.0, 1.5, 1.0])
    affine[1, 2] = 0.6
    geometry = Geometry(affine, shape[::-1])
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1) @ geometry.lps_affine[:3, :3].T
    ball = (np.linalg.norm(places - places[20, 30, 30], axis=-1) < 18).astype(np.uint8)
    found = structure_statistics(ball, ball, 2, geometry)
    assert found.surface_mm2[0] == pytest.approx(4 * np.pi * 18**2, rel=0.02)


def test_the_border_cuts_a_structure_with_a_surface() -> None:
    inside = np.zeros((14, 14, 14), np.uint8)
    inside[2:12, 2:12, 2:12] = 1
    cut = inside[2:12, 2:12, 2:12]
    of_inside, of_cut = (structure_statistics(mask, mask, 2, grid(mask.shape)) for mask in (inside, cut))
    assert of_cut.surface_mm2[0] == of_inside.surface_mm2[0]
    assert of_inside.border_voxels[0] == 0
    assert of_cut.border_voxels[0] == 10**3 - 8**3


def test_a_picture_has_a_border_only_in_its_plane() -> None:
    labels = np.zeros((1, 5, 6), np.uint8)
    labels[0, 2, 2:4] = 1
    labels[0, 0, :2] = 2
    found = structure_statistics(labels, labels, 3, grid(labels.shape))
    assert found.border_voxels.tolist() == [0, 2]
    assert found.border_sides[1].tolist() == [[0, 0], [2, 0], [1, 0]]


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_an_empty_mask(dtype: Any) -> None:
    voxels = np.zeros((2, 3, 4), dtype)
    for overlapping in (False, True):
        found = structure_statistics(
            voxels, np.zeros((2, 3, 4), np.uint8), 3 - overlapping, grid((2, 3, 4)), overlapping=overlapping
        )
        assert found.voxels.tolist() == found.surface_mm2.tolist() == [0, 0]
        assert np.isnan(found.mean_hu).all()


def test_a_nan_voxel_leaves_the_other_structures_alone() -> None:
    voxels = np.array([[[1.0, math.nan, 3.0]]], np.float32)
    found = structure_statistics(voxels, np.array([[[1, 2, 1]]], np.uint8), 3, grid((1, 1, 3)))
    assert found.mean_hu[0] == 2.0
    assert math.isnan(found.mean_hu[1])


def test_row_names_the_structures() -> None:
    labels = np.array([[[0, 1]]], np.uint8)
    found = structure_statistics(np.zeros((1, 1, 2), np.int16), labels, 3, grid((1, 1, 2), (10.0, 10.0, 20.0)))
    row = found.as_row(LabelMap.of_names(["liver", "gut"]))
    assert list(row) == ["volume_ml_liver", "volume_ml_gut", "mean_hu_liver", "mean_hu_gut"]
    assert row["volume_ml_liver"] == pytest.approx(2.0)


def test_long_rows_hold_plain_numbers() -> None:
    labels = np.zeros((3, 4, 5), np.uint8)
    labels[1:, 1, 2:4] = 1
    voxels = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    geometry = turned_grid((3, 4, 5))
    present, absent = structure_statistics(voxels, labels, 3, geometry).as_rows(LabelMap.of_names(["liver", "gut"]))
    assert [rounded(amount) for amount in (0.0, 1234.56789, 0.0000123456789)] == [0.0, 1234.5679, 0.0000123457]
    assert tuple(present) == tuple(absent) == ROW_COLUMNS
    assert present["structure"] == "liver"
    assert present["voxels"] == 4
    assert present["volume_ml"] == 0.12
    assert (present["mean_hu"], present["p50_hu"]) == (37.5, 37.5)
    assert present["sd_hu"] == round(float(np.std([27, 28, 47, 48])), 4)
    # Slices 1 and 2 from the feet are the first two of the file, whose first axis runs downwards.
    assert [present[f"box_i_{end}"] for end in ("first", "last")] == [0, 1]
    stored = np.argwhere(geometry.from_lps(labels))
    assert [present[f"box_k_{end}"] for end in ("first", "last")] == [stored[:, 2].min(), stored[:, 2].max()]
    assert present["centre_superior_mm"] == 23.0 - 2.5
    assert present["centre_left_mm"] == 7.0 - 2 * stored[:, 1].mean()
    assert (present["border_inferior_voxels"], present["border_superior_voxels"]) == (0, 2)
    assert all(type(value) in (str, int, float) for value in present.values())
    assert (absent["voxels"], absent["volume_ml"], absent["border_voxels"]) == (0, 0.0, 0)
    assert all(absent[name] is None for name in ROW_COLUMNS if name.split("_")[0] in ("mean", "p50", "centre", "box"))


def test_a_mask_of_another_shape_or_value_is_refused() -> None:
    voxels = np.zeros((2, 2, 2), np.int16)
    with pytest.raises(CaseError, match="shape"):
        structure_statistics(voxels, np.zeros((2, 2, 3), np.uint8), 2, grid((2, 2, 2)))
    with pytest.raises(CaseError, match="shape"):
        structure_statistics(voxels, np.zeros((2, 2, 2), np.uint8), 2, grid((2, 2, 3)))
    with pytest.raises(CaseError, match="no voxels"):
        structure_statistics(voxels[:0], np.zeros((0, 2, 2), np.uint8), 2, grid((0, 2, 2)))
    with pytest.raises(CaseError, match="index 9"):
        structure_statistics(voxels, np.full((2, 2, 2), 9, np.uint8), 2, grid((2, 2, 2)))
    with pytest.raises(CaseError, match="index 260"):
        structure_statistics(voxels, np.full((2, 2, 2), 260, np.int32), 118, grid((2, 2, 2)))
    with pytest.raises(CaseError, match="float32"):
        structure_statistics(voxels, np.zeros((2, 2, 2), np.float32), 2, grid((2, 2, 2)))
