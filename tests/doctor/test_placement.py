"""Labels that do not lie on their image: by the two grids, and by what lies below them."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from segray.case import Geometry
from segray.doctor.placement import correlation_ratio, fit_of, grid_words, otsu

SHAPE = (24, 48, 56)


def scan(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(z, y, x) HU of a body with three organs of their own density, none of them symmetric; and their labels."""
    rng = np.random.default_rng(seed)
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in SHAPE), indexing="ij")
    hu = np.where((y / 0.85) ** 2 + (x / 0.9) ** 2 < 1, 20.0, -1000.0)
    labels = np.zeros(SHAPE, np.uint8)
    for value, (cz, cy, cx, radius, density) in enumerate(
        [(0.3, -0.2, -0.4, 0.3, 120), (-0.2, 0.3, 0.4, 0.25, -120), (0.4, 0.25, 0.0, 0.22, 260)], start=1
    ):
        inside = (z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        hu[inside], labels[inside] = density, value
    return np.rint(hu + rng.normal(0, 12, SHAPE)).astype(np.int16), labels


def test_labels_that_lie_right_fit_best_where_they_are() -> None:
    fit = fit_of(*scan(), is_hu=True)
    assert fit is not None
    assert fit.better == ""
    assert fit.inside == 1.0
    assert fit.offset is not None
    assert np.abs(fit.offset).max() < 0.15


@pytest.mark.parametrize(("axes", "words"), [((2,), "x"), ((1,), "y"), ((0,), "z"), ((1, 2), "y and x")])
def test_mirrored_labels_are_told(axes: tuple[int, ...], words: str) -> None:
    image, labels = scan()
    tissue = image
    fit = fit_of(tissue, np.flip(labels, axes), is_hu=True)
    assert fit is not None
    assert fit.better == f"mirrored along {words}"
    assert fit.better_fit > fit.fit


def test_labels_moved_out_of_the_body_are_told() -> None:
    image, labels = scan()
    fit = fit_of(image, np.roll(labels, 14, 2), is_hu=True)
    assert fit is not None
    assert fit.better == "moved along x by -25 % of the side"


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_labels_half_a_voxel_off_are_measured(axis: int) -> None:
    """The image is moved by half a voxel, as a wrong affine does it."""
    image, labels = scan()
    by = [0.0, 0.0, 0.0]
    by[axis] = 0.5
    fit = fit_of(ndimage.shift(image.astype(np.float32), by, order=1, mode="nearest"), labels, is_hu=True)
    assert fit is not None
    assert fit.offset is not None
    assert fit.offset[axis] == pytest.approx(0.5, abs=0.15)
    assert np.abs(np.delete(fit.offset, axis)).max() < 0.15


def test_overlapping_labels_of_many_bits_fit_too() -> None:
    image, labels = scan()
    bits = np.where(labels > 0, np.uint32(1) << (20 + labels.astype(np.uint32)), np.uint32(0))
    ours, plain = fit_of(image, bits, is_hu=True), fit_of(image, labels, is_hu=True)
    assert ours == plain


def test_no_labels_have_no_fit() -> None:
    image, labels = scan()
    assert fit_of(image, labels * 0, is_hu=True) is None


def test_the_correlation_ratio_is_the_explained_variance() -> None:
    labels = np.array([0, 0, 1, 1])
    assert correlation_ratio(np.array([0, 0, 5, 5], np.float32), labels) == pytest.approx(1.0)
    assert correlation_ratio(np.array([0, 5, 0, 5], np.float32), labels) == pytest.approx(0.0)


def test_otsu_separates_two_peaks() -> None:
    values = np.concatenate([np.random.default_rng(0).normal(m, 5, 1000) for m in (20, 100)])
    assert 35 < otsu(values) < 85


GRID = Geometry(np.diag([-1.5, -1.5, 3.0, 1.0]), (20, 24, 10))


def moved(**by: float) -> Geometry:
    affine = GRID.affine.copy()
    for name, voxels in by.items():
        axis = {"x": 0, "y": 1, "z": 2}[name]
        affine[axis, 3] += voxels * affine[axis, axis]
    return replace(GRID, affine=affine)


def test_labels_in_the_outermost_slices_alone_tell_no_shift_across_them() -> None:
    image = np.full((40, 64, 64), -1000, np.int16)
    image[:, 10:54, 10:54] = 40
    image += np.random.default_rng(0).integers(-20, 20, image.shape).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[38:, 20:30, 20:30] = 1
    fit = fit_of(image, labels, is_hu=True)
    assert fit is not None
    assert fit.inside == 1.0
    assert fit.offset is None or np.isnan(fit.offset[0])


def test_small_lesions_far_apart_that_thinning_misses_tell_no_shift() -> None:
    image = np.full((120, 200, 200), -1000, np.int16)
    image[:, 10:190, 10:190] = 40
    image += np.random.default_rng(0).integers(-20, 20, image.shape).astype(np.int16)
    labels = np.zeros(image.shape, np.uint8)
    labels[10:12, 20:22, 20:22] = labels[110:112, 180:182, 180:182] = 1
    fit_of(image, labels, is_hu=True)


def test_no_voxels_explain_nothing() -> None:
    assert correlation_ratio(np.zeros(0, np.float32), np.zeros(0, np.int64)) == 0.0


def test_grids_are_compared_in_words() -> None:
    assert grid_words(GRID, GRID) == ""
    assert grid_words(GRID, moved(x=3)) == "it is shifted by +3.00 along x voxels"
    assert "half a voxel" in grid_words(GRID, moved(x=0.5, y=0.5, z=0.5))
    assert "half" not in grid_words(GRID, moved(x=2.5))
    assert grid_words(GRID, replace(GRID, shape=(20, 10, 24))) == "its axes are in another order"
    assert grid_words(GRID, replace(GRID, shape=(20, 24, 11))) == "it has another shape"
    assert "spacing" in grid_words(GRID, replace(GRID, affine=np.diag([-1.5, -1.5, 2.0, 1.0])))
