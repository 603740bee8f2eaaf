"""Pixels onto the grid, and scores back to labels."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from segray import resample
from segray.grid import Grid, Placement, fill_value, plan, plan_prediction
from segray.resample import (
    image_to_grid,
    labels_to_grid,
    place_image,
    place_slab,
    scores_to_bits,
    scores_to_labels,
    scores_to_shares,
)

SIDE = st.integers(4, 40)


def smooth(depth: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    noise = torch.from_numpy(np.random.default_rng(seed).normal(0, 500, (1, depth, height // 4 + 2, width // 4 + 2)))
    big = functional.interpolate(noise, size=(height, width), mode="bicubic")[0]
    return big.round().numpy().astype(np.int16)


def spacing_grid(size: tuple[int, int], spacing: tuple[float, float], fill: float = -1024.0) -> Grid:
    return Grid("spacing", size, spacing, fill)


def test_a_case_on_the_grid_is_returned_itself() -> None:
    voxels, labels = smooth(3, 32, 32), np.ones((3, 32, 32), np.uint8)
    grid = spacing_grid((32, 32), (1.0, 1.0))
    image, placement = image_to_grid(voxels, (5.0, 1.0, 1.0), grid)
    assert image is voxels
    assert labels_to_grid(labels, placement, grid) is labels


def test_padding_is_filled_and_the_case_centred() -> None:
    grid = spacing_grid((40, 36), (1.0, 1.0))
    voxels = smooth(2, 32, 32)
    image, placement = image_to_grid(voxels, (5.0, 1.0, 1.0), grid)
    assert placement.offset == (4, 2)
    assert (image[:, 4:36, 2:34] == voxels).all()
    assert (image[:, :4] == -1024).all()
    assert image.dtype == np.int16


@pytest.mark.parametrize(("spacing", "antialias"), [((1.0, 1.0), True), ((0.35, 0.4), False)])
def test_images_equal_torchs_resize(spacing: tuple[float, float], antialias: bool) -> None:
    voxels = smooth(3, 50, 41).astype(np.float32)
    image, placement = image_to_grid(voxels, (5.0, 0.6, 0.7), spacing_grid((96, 80), spacing))
    tensor = torch.from_numpy(voxels)[None]
    expected = functional.interpolate(
        tensor, placement.resampled, mode="bilinear", align_corners=False, antialias=antialias
    )[0]
    canvas, _ = placement.windows()
    np.testing.assert_allclose(image[:, *canvas], expected.numpy(), atol=1e-2)


def test_a_crop_follows_the_body_with_one_offset_a_case() -> None:
    voxels = np.full((4, 100, 100), -1000, np.int16)
    voxels[:, 50:90, 8:48] = 40
    labels = (voxels > 0).astype(np.uint8)
    grid = spacing_grid((48, 48), (1.0, 1.0))
    image, placement = image_to_grid(voxels, (5.0, 1.0, 1.0), grid)
    assert int((image > 0).sum()) == 4 * 40 * 40
    assert (labels_to_grid(labels, placement, grid) == (image > 0)).all()


def test_mode_size_brings_the_field_of_view_to_the_size() -> None:
    voxels = smooth(2, 50, 30)
    image, placement = image_to_grid(voxels, (5.0, 1.0, 1.0), Grid("size", (25, 60), None, 0.0))
    assert image.shape == (2, 25, 60)
    assert placement.spacing == (2.0, 0.5)


def coarser(labels: np.ndarray, factor: int = 3) -> np.ndarray:
    grid = spacing_grid((labels.shape[1] // factor, labels.shape[2] // factor), (float(factor), float(factor)))
    placement = plan(labels.shape, (5.0, 1.0, 1.0), grid)  # type: ignore[arg-type]
    return labels_to_grid(labels, placement, grid)


def test_single_pixels_survive() -> None:
    labels = np.zeros((1, 96, 96), np.uint8)
    for number in range(1, 20):
        labels[0, 5 * number - 2, 4 * number] = number
    assert set(np.unique(coarser(labels))) == set(range(20))


@pytest.mark.parametrize("place", [30, 31, 32])
def test_lines_of_one_pixel_survive_from_end_to_end(place: int) -> None:
    labels = np.zeros((2, 96, 96), np.uint8)
    labels[0, place, 9:87] = 4
    labels[1, 9:87, place] = 200
    small = coarser(labels)
    along = np.flatnonzero((small[0] == 4).any(axis=0))
    assert np.count_nonzero(small[0] == 4) >= 78 // 9
    assert along[0] <= 6
    assert along[-1] >= 25
    assert set(np.unique(small)) == {0, 4, 200}
    assert np.count_nonzero(small[1] == 200) >= 78 // 9


def test_a_small_structure_survives_inside_a_large_one() -> None:
    labels = np.ones((1, 96, 96), np.uint8)
    labels[0, 40:42, 40:42] = 2
    assert np.count_nonzero(coarser(labels) == 2) == 1


def test_foreground_wins_ties() -> None:
    labels = np.zeros((1, 16, 16), np.uint8)
    labels[0, :, ::2] = 1
    assert (coarser(labels, 2)[..., 1:-1] == 1).all()


def test_large_structures_keep_area_and_outline() -> None:
    y, x = np.mgrid[:96, :96]
    labels = ((y - 40) ** 2 + (x - 50) ** 2 < 30**2).astype(np.uint16)[None]
    labels[0, (y - 40) ** 2 + (x - 50) ** 2 < 12**2] = 300
    small = coarser(labels)
    assert small.dtype == np.uint16
    for value in (1, 300):
        assert np.count_nonzero(small == value) * 9 == pytest.approx(np.count_nonzero(labels == value), rel=0.06)


@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_every_label_of_a_slice_is_still_there(height: int, width: int, h: int, w: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.zeros((1, height, width), np.uint8)
    for label in (1, 2, 3):
        labels[0, rng.integers(height), rng.integers(width)] = label
    grid = Grid("size", (h, w), None, 0.0)
    small = labels_to_grid(labels, plan(labels.shape, (1.0, 1.0, 1.0), grid), grid)  # type: ignore[arg-type]
    assert small.shape == (1, h, w)
    kept = set(np.unique(small)) - {0}
    assert kept <= set(np.unique(labels))
    assert kept


def test_a_slab_equals_what_ingest_made() -> None:
    voxels = smooth(4, 50, 44)
    grid = spacing_grid((48, 48), (1.1, 1.2))
    expected, _ = image_to_grid(voxels, (5.0, 1.0, 1.0), grid)
    slab = place_slab(voxels, plan_prediction((4, 50, 44), (5.0, 1.0, 1.0), grid, 16), grid)
    assert slab.dtype == torch.int16
    assert (slab.numpy() == expected).all()


def interpolate_all(scores: torch.Tensor, window: tuple[slice, slice], size: tuple[int, int]) -> torch.Tensor:
    inside = scores[:, :, window[0], window[1]]
    return functional.interpolate(inside, size, mode="bilinear", align_corners=False).argmax(1)


@pytest.mark.parametrize("spacing", [2.0, 0.5, 1.0])
@pytest.mark.parametrize("channels", [2, 7, 300])
def test_labels_equal_interpolating_all_scores(spacing: float, channels: int) -> None:
    grid = spacing_grid((16, 16), (spacing, spacing))
    placement = plan_prediction((2, 37, 29), (5.0, 1.0, 1.0), grid, 16)
    scores = torch.randn(2, channels, *placement.canvas, generator=torch.Generator().manual_seed(1))
    labels = scores_to_labels(scores, placement)
    assert labels.dtype == (torch.uint8 if channels <= 256 else torch.int16)
    assert (labels == interpolate_all(scores, placement.windows()[0], (37, 29))).all()


def test_smooth_scores_equal_too() -> None:
    """Wide regions of one label, where most pixels need no interpolation."""
    grid = spacing_grid((64, 64), (2.0, 2.0))
    placement = plan_prediction((2, 120, 128), (5.0, 1.0, 1.0), grid, 16)
    coarse = torch.randn(2, 9, 8, 8, generator=torch.Generator().manual_seed(2))
    scores = functional.interpolate(coarse, placement.canvas, mode="bicubic")
    expected = interpolate_all(scores, placement.windows()[0], (120, 128))
    assert (scores_to_labels(scores, placement) == expected).all()


def contenders_of(scores: torch.Tensor) -> int:
    return len(resample._contenders(scores))


@pytest.mark.parametrize("kind", ["noise", "smooth", "few", "ties"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_labels_that_are_left_out_change_no_bit(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(len(kind))
    fewer = 0
    for number in range(15):
        channels, height, width = (int(torch.randint(low, 42, (1,), generator=random)) for low in (9, 1, 1))
        scores = torch.randn(1, channels, height, width, generator=random)
        if kind != "noise":
            scores = 8 * functional.interpolate(scores[..., ::8, ::8], (height, width), mode="bilinear")
        if kind == "few":
            scores[:, number % 9 :: 3] -= 30
        if kind == "ties":
            scores = (2 * scores).round() / 2
        scores = scores.to(dtype)
        placement = Placement((2 * height + number, 2 * width - number // 10), (height, width), (height, width), (0, 0))
        fewer += contenders_of(scores) < channels
        found = scores_to_labels(scores, placement)
        with monkeypatch.context() as whole:
            whole.setattr(resample, "_contenders", lambda _: None)
            assert torch.equal(found, scores_to_labels(scores, placement))
    assert kind != "few" or fewer == 15


def test_what_may_be_the_largest_only_between_pixels_is_not_left_out() -> None:
    """The first label wins on the left, the second on the right, and the third, second to both, between them."""
    scores = torch.full((1, 12, 4, 2), -50.0)
    scores[:, 3, :, 0] = scores[:, 5, :, 1] = 10.0
    scores[:, 3, :, 1] = scores[:, 5, :, 0] = 0.0
    scores[:, 9] = 6.0
    labels = scores_to_labels(scores, Placement((4, 12), (4, 2), (4, 2), (0, 0)))
    assert resample._contenders(scores) == {3, 5, 9}
    assert labels[0, 0].unique().tolist() == [3, 5, 9]


def test_a_score_that_is_no_number_leaves_the_rest_of_the_slice_as_it_is() -> None:
    scores = torch.randn(1, 20, 16, 16, generator=torch.Generator().manual_seed(0)) - 20 * (torch.arange(20) > 4).view(
        -1, 1, 1
    )
    placement = Placement((32, 32), (16, 16), (16, 16), (0, 0))
    plain = scores_to_labels(scores, placement)
    scores[0, 0, 0, 0] = torch.nan
    assert torch.equal(scores_to_labels(scores, placement)[:, 4:, 4:], plain[:, 4:, 4:])


@pytest.mark.parametrize("meaning", ["softmax", "sigmoid", "given", "shifted"])
@pytest.mark.parametrize("size", [(16, 24), (30, 50), (9, 11)])
def test_shares_are_the_probabilities_of_interpolated_scores(meaning: resample.Meaning, size: tuple[int, int]) -> None:
    placement = Placement(size, (16, 24), (20, 32), (2, 4))
    scores = 3 * torch.randn(2, 7, 20, 32, generator=torch.Generator().manual_seed(0))
    scores = {"given": scores.softmax(1), "shifted": scores.sigmoid() - 0.5}.get(meaning, scores)
    (y, x), _ = placement.windows()
    whole = functional.interpolate(scores[:, :, y, x], size, mode="bilinear", align_corners=False)
    expected = {"softmax": whole.softmax(1), "sigmoid": whole.sigmoid(), "given": whole, "shifted": whole + 0.5}[
        meaning
    ]
    for at_once in (1, 4, 7):
        found = scores_to_shares(scores, placement, meaning, at_once=at_once)
        assert found.dtype == torch.uint8
        assert (found - 255 * expected).abs().max() < 0.51
    with pytest.raises(ValueError, match="do not fit"):
        scores_to_shares(scores[..., :-1], placement, meaning)


def test_there_and_back_a_mask_returns() -> None:
    """Half a pixel of shift on the way would show in the outline."""
    y, x = np.mgrid[:90, :80]
    labels = np.stack([((y - 45) ** 2 + (x - 30) ** 2 < 20**2), (y > 60) & (x > 35)]).astype(np.uint8)
    grid = spacing_grid((64, 64), (1.5, 1.7))
    placement = plan_prediction(labels.shape, (5.0, 1.0, 1.0), grid, 32)  # type: ignore[arg-type]
    scores = place_slab(labels.astype(np.int16) * 1000, placement, Grid("spacing", (64, 64), (1.5, 1.7), 0.0)).float()
    back = scores_to_labels(torch.stack([1000 - scores, scores], dim=1), placement).numpy()
    assert np.count_nonzero(back != labels) < 0.004 * labels.size
    assert back.sum() == pytest.approx(labels.sum(), rel=0.01)


def test_scores_must_fit_the_placement() -> None:
    grid = spacing_grid((16, 16), (1.0, 1.0))
    placement = plan_prediction((1, 16, 16), (5.0, 1.0, 1.0), grid, 16)
    with pytest.raises(ValueError, match="do not fit"):
        scores_to_labels(torch.zeros(1, 2, 8, 8), placement)
    with pytest.raises(ValueError, match="do not fit"):
        scores_to_labels(torch.zeros(1, 2, 16, 16), plan((1, 32, 32), (5.0, 1.0, 1.0), grid))


def test_resampling_cases_loads_no_torch() -> None:
    code = "import sys, segray.resample; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.1, 2.3), (0.5, 0.6)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint32])
def test_each_overlapping_structure_comes_to_the_grid_as_if_it_were_alone(
    spacing: tuple[float, float], dtype: type
) -> None:
    y, x = np.mgrid[:40, :36]
    organ, lesion = (y - 20) ** 2 + (x - 17) ** 2 < 150, (y - 22) ** 2 + (x - 15) ** 2 < 9
    vessel = y == x
    last = 7 if dtype == np.uint8 else 31
    parts = {0: organ, 1: lesion, last: vessel}
    fields = np.zeros((2, 40, 36), dtype)
    for bit, part in parts.items():
        fields[1] |= part.astype(dtype) << dtype(bit)
    grid = spacing_grid((48, 48), spacing)
    _, placement = image_to_grid(np.zeros(fields.shape, np.int16), (5.0, 0.7, 0.8), grid)
    placed = labels_to_grid(fields, placement, grid, overlapping=True)
    assert placed.dtype == dtype
    assert not placed[0].any()
    for bit, part in parts.items():
        alone = labels_to_grid(part[None].astype(np.uint8), placement, grid)[0]
        np.testing.assert_array_equal(placed[1] >> dtype(bit) & 1, alone)
        assert alone.any()
    assert ((placed[1] & 3) == 3).sum() == (placed[1] & 2 > 0).sum()


@pytest.mark.parametrize("structures", [1, 5, 8, 9, 32])
@pytest.mark.parametrize(("size", "spacing"), [((20, 18), (1.0, 1.0)), ((20, 18), (0.6, 0.7))])
def test_bits_are_the_interpolated_scores_above_0(
    structures: int, size: tuple[int, int], spacing: tuple[float, float]
) -> None:
    grid = spacing_grid((16, 16), (1.0, 1.0))
    placement = plan_prediction((2, *size), (5.0, *spacing), grid, 8)
    scores = torch.randn(2, structures, *placement.canvas, generator=torch.Generator().manual_seed(structures))
    found = scores_to_bits(scores, placement, at_once=3).numpy().astype(np.int64) & 0xFFFFFFFF
    (y, x), _ = placement.windows()
    whole = scores[:, :, y, x]
    if placement.resamples:
        whole = functional.interpolate(whole, size, mode="bilinear", align_corners=False)
    for number in range(structures):
        np.testing.assert_array_equal(found >> number & 1, (whole[:, number] > 0).numpy())
    with pytest.raises(ValueError, match="do not fit"):
        scores_to_bits(scores[..., :-1], placement)


def test_channels_come_to_the_grid_each_with_its_own_fill() -> None:
    first, second = smooth(3, 50, 41), smooth(3, 50, 41, seed=1) - 300
    grid = spacing_grid((40, 30), (1.0, 1.0))
    both, placement = image_to_grid(np.stack([first, second], axis=1), (5.0, 0.6, 1.4), grid)
    assert both.shape == (3, 2, 40, 30)
    for channel, volume in enumerate((first, second)):
        own = replace(grid, fill=fill_value(volume))
        np.testing.assert_array_equal(both[:, channel], place_image(volume, placement, own.fill))
    alone, same = image_to_grid(first, (5.0, 0.6, 1.4), replace(grid, fill=fill_value(first)))
    assert same == placement
    np.testing.assert_array_equal(both[:, 0], alone)
