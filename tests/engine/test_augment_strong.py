"""The changes that are off by default: reproducible, apart from each other, and true to what they are named."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from segray.config import AugmentConfig, load_config
from segray.engine.augment import augment
from segray.engine.draws import step_seed, stream
from segray.engine.intensity import blur, cut_out, lower_resolution, normalise
from segray.engine.spatial import draw_elastic, smooth_field
from segray.errors import UsageError
from segray.nets.normalise import Normalisation

NUMBERS = {"seed": 3, "epoch": 2, "rank": 1, "step": 7}
STILL: dict[str, Any] = dict.fromkeys(("rotate", "scale", "shift", "brightness", "contrast", "gamma", "noise"), 0.0)
NEW = ["elastic", "blur", "low_resolution", "cutout"]
ALL: dict[str, Any] = dict.fromkeys(NEW, 0.5)


def batch(count: int = 8, height: int = 40, width: int = 56) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 2, height, width, generator=generator) * 2 - 1
    labels = torch.randint(0, 200, (count, height, width), generator=generator, dtype=torch.uint8)
    return images, labels


@settings(max_examples=20, deadline=None)
@given(*(st.integers(0, 2**40) for _ in range(4)))
def test_the_same_numbers_make_the_same_batch(seed: int, epoch: int, rank: int, step: int) -> None:
    numbers = {"seed": seed, "epoch": epoch, "rank": rank, "step": step}
    images, labels = batch()
    first = augment(images, labels, AugmentConfig(**ALL), span=2.0, **numbers)
    torch.rand(5)
    again = augment(images, labels, AugmentConfig(**ALL), span=2.0, **numbers)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert set(first[1].flatten().tolist()) <= set(labels.flatten().tolist()) | {0}
    assert bool(torch.isfinite(first[0]).all())
    assert torch.equal(images, batch()[0])
    other = augment(images, labels, AugmentConfig(**ALL), span=2.0, **(numbers | {"step": step + 1}))
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("name", NEW)
def test_a_slice_not_chosen_stays_bit_equal(name: str) -> None:
    images, labels = batch(64)
    config = AugmentConfig(**STILL, **{name: 0.5})
    new_images, new_labels = augment(images, labels, config, span=2.0, **NUMBERS)
    same = (new_images == images).flatten(1).all(1)
    assert 15 < int(same.sum()) < 49
    assert bool(((new_labels == labels).flatten(1).all(1) | ~same).all())
    assert name == "elastic" or torch.equal(new_labels, labels)


@pytest.mark.parametrize("name", NEW)
def test_what_is_turned_on_leaves_the_other_slices_as_they_were(name: str) -> None:
    """Each change has a stream of its own."""
    images, labels = batch(64)
    before, _ = augment(images, labels, AugmentConfig(), span=2.0, **NUMBERS)
    after, _ = augment(images, labels, AugmentConfig(**{name: 0.4}), span=2.0, **NUMBERS)
    same = (before == after).flatten(1).all(1)
    assert 20 < int(same.sum()) < 56


def test_elastic_bends_image_and_labels_alike() -> None:
    y, x = torch.meshgrid(torch.arange(96), torch.arange(64), indexing="ij")
    disc = (((y - 40) ** 2 + (x - 30) ** 2) < 250)[None].repeat(8, 1, 1)
    config = AugmentConfig(**STILL, elastic=1.0, elastic_spacing=16, elastic_shift=7)
    images = disc.float()[:, None].repeat(1, 2, 1, 1)
    moved, labels = augment(images, disc.to(torch.uint8), config, span=2.0, **NUMBERS)
    changed = (labels != disc).float().mean(dim=(1, 2))
    assert float(changed.min()) > 0.005
    agreement = ((moved[:, 0] > 0.5) == (labels > 0)).float().mean(dim=(1, 2))
    assert float(agreement.min()) > 0.99
    assert torch.equal(moved[:, 0], moved[:, 1])


def test_the_field_is_the_splines_of_its_knots() -> None:
    """Equal knots shift all alike; knots on a line (the splines reproduce it) stretch evenly."""
    config = AugmentConfig(elastic=1.0, elastic_spacing=8, elastic_shift=3)
    knots, _ = draw_elastic(config, 1, (33, 20), torch.Generator())
    torch.testing.assert_close(smooth_field(torch.full_like(knots, 3.0), (33, 20), 8), torch.full((1, 2, 33, 20), 3.0))
    line = torch.arange(knots.shape[2]).float()[None, None, :, None].expand(1, 2, -1, knots.shape[3])
    expected = (torch.arange(33) / 8 + 1)[None, None, :, None].expand(1, 2, -1, 20)
    torch.testing.assert_close(smooth_field(line, (33, 20), 8), expected)


def test_the_largest_elastic_shift_folds_nowhere() -> None:
    config = AugmentConfig(elastic=1.0, elastic_spacing=10, elastic_shift=4.8)
    knots, _ = draw_elastic(config, 64, (64, 64), torch.Generator().manual_seed(0))
    field = smooth_field(knots, (64, 64), 10)
    assert 1.0 < float(field.abs().max()) <= 4.8
    dx, dy = field.diff(dim=3)[:, :, :-1], field.diff(dim=2)[:, :, :, :-1]
    area = (1 + dx[:, 0]) * (1 + dy[:, 1]) - dx[:, 1] * dy[:, 0]
    assert float(area.min()) > 0


def test_bits_of_overlapping_labels_bend_together() -> None:
    images, _ = batch()
    labels = torch.randint(-(2**31), 2**31, images[:, 0].shape, dtype=torch.int32)
    config = AugmentConfig(**STILL | {"rotate": 0.5}, elastic=0.7)
    moved = augment(images, labels, config, span=2.0, **NUMBERS, overlapping=True)[1]
    assert not torch.equal(moved, labels)
    assert set(moved.flatten().tolist()) <= set(labels.flatten().tolist()) | {0}
    for bit in (0, 24, 31):
        alone = augment(images, (labels >> bit & 1).to(torch.uint8), config, span=2.0, **NUMBERS)[1]
        assert ((moved >> bit & 1) != alone).float().mean() < 0.002


def test_blur_spreads_a_point_by_its_sd() -> None:
    images = torch.zeros(2, 1, 33, 41)
    images[:, :, 16, 20] = 1.0
    blurred = blur(images, AugmentConfig(blur=1.0, blur_sd=(2.0, 2.0)), torch.Generator())
    assert float(blurred.sum()) == pytest.approx(2.0, abs=1e-4)
    distance = (torch.arange(41) - 20.0) ** 2
    assert float((blurred[0, 0].sum(0) * distance).sum()) == pytest.approx(4.0, rel=0.05)
    flat = torch.full((1, 1, 9, 9), 0.7)
    torch.testing.assert_close(blur(flat, AugmentConfig(blur=1.0), torch.Generator()), flat)


def test_blur_has_a_kernel_a_slice() -> None:
    images = batch(6)[0]
    blurred = blur(images, AugmentConfig(blur=1.0, blur_sd=(0.3, 3.0)), torch.Generator().manual_seed(1))
    left = blurred.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert float(left.max()) > 2 * float(left.min())


def test_lower_resolution_is_torchs_down_and_up() -> None:
    images = batch()[0]
    config = AugmentConfig(low_resolution=1.0, low_resolution_factor=(2.0, 2.0))
    coarse = torch.nn.functional.interpolate(images, scale_factor=0.5, mode="nearest-exact")
    expected = torch.nn.functional.interpolate(coarse, scale_factor=2, mode="bilinear", align_corners=False)
    torch.testing.assert_close(lower_resolution(images, config, torch.Generator()), expected)
    same = AugmentConfig(low_resolution=1.0, low_resolution_factor=(1.0, 1.0))
    torch.testing.assert_close(lower_resolution(images, same, torch.Generator()), images)


def test_cutout_hides_rectangles_under_the_lowest_value_of_each_channel() -> None:
    images = batch(16)[0]
    config = AugmentConfig(cutout=1.0, cutout_size=(0.25, 0.25))
    cut = cut_out(images, config, torch.Generator().manual_seed(0))
    lowest = images.amin(dim=(2, 3), keepdim=True).expand_as(images)
    hidden = cut != images
    assert torch.equal(cut[hidden], lowest[hidden])
    assert bool((hidden.flatten(2).sum(2) <= 11 * 15).all())
    assert float(hidden.float().mean()) > 0.02
    twice = AugmentConfig(cutout=1.0, cutout_size=(0.25, 0.25), cutout_count=4)
    assert int((cut_out(images, twice, torch.Generator().manual_seed(0)) != images).sum()) > 2 * int(hidden.sum())


def test_a_jittered_window_shows_what_the_plain_one_clips() -> None:
    """A ramp of HU beyond the window: values that both clip become different where the window is wider."""
    raw = torch.linspace(-400, 400, 41)[None, None].expand(64, 1, 41).to(torch.int16)
    recipe = Normalisation("window", -100.0, 100.0)
    nothing = torch.zeros(64)
    plain = normalise(raw, nothing, nothing, recipe, AugmentConfig(), 5)
    assert torch.equal(plain, recipe.apply(raw, nothing, nothing))
    config = AugmentConfig(window=0.5, window_shift=0.0, window_scale=(2.0, 2.0))
    jittered = normalise(raw, nothing, nothing, recipe, config, 5)
    own = (jittered != plain).flatten(1).any(1)
    assert 16 < int(own.sum()) < 48
    wide = Normalisation("window", -200.0, 200.0).apply(raw, nothing, nothing)
    torch.testing.assert_close(jittered[own], wide[own])
    again = normalise(raw, nothing, nothing, recipe, config, 5)
    assert torch.equal(jittered, again)
    case = Normalisation("case")
    assert torch.equal(normalise(raw, nothing, nothing + 1, case, config, 5), case.apply(raw, nothing, nothing + 1))


def test_streams_are_apart() -> None:
    draw = step_seed(0, 1, 0, 0)
    draws = {float(torch.rand(1, generator=stream(draw, name))) for name in (*NEW, "window")}
    assert len(draws) == 5


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (["augment.blur_sd=[2,1]"], "augment.blur_sd: the lowest of"),
        (["augment.elastic=0.3", "augment.elastic_shift=20"], "fold"),
        (["augment.window=0.3", "intensity.mode=case"], "intensity.mode=case has none"),
        (["augment.low_resolution_factor=[0.5,1]"], "augment.low_resolution_factor"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_a_sentence(told: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_config(None, told)
