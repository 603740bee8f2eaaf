"""Augmentation: reproducible, exact where nothing is chosen, and images and labels move together."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from segray.config import AugmentConfig
from segray.engine.augment import augment
from segray.engine.draws import step_seed

MOVES = ("rotate", "scale", "shift")
VALUES = ("brightness", "contrast", "gamma", "noise")
STILL: dict[str, Any] = dict.fromkeys((*MOVES, *VALUES), 0.0)
MOVED: dict[str, Any] = STILL | dict.fromkeys(MOVES, 1.0)
RECOLOURED: dict[str, Any] = STILL | dict.fromkeys(VALUES, 1.0)
NUMBERS = {"seed": 3, "epoch": 2, "rank": 1, "step": 7}


def _batch(count: int = 8, height: int = 24, width: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 1, height, width, generator=generator) * 2 - 1
    labels = torch.randint(0, 200, (count, height, width), generator=generator, dtype=torch.uint8)
    return images, labels


def _run(config: AugmentConfig, **numbers: int) -> tuple[torch.Tensor, torch.Tensor]:
    return augment(*_batch(), config, span=2.0, **(NUMBERS | numbers))


def test_same_numbers_same_batch_whatever_ran_before() -> None:
    first = _run(AugmentConfig())
    torch.rand(17)
    second = _run(AugmentConfig())
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("number", ["seed", "epoch", "rank", "step"])
def test_each_number_changes_the_batch(number: str) -> None:
    assert not torch.equal(_run(AugmentConfig())[0], _run(AugmentConfig(), **{number: 11})[0])
    assert step_seed(1, 23, 4, 5) != step_seed(12, 3, 4, 5)


def test_slices_not_chosen_stay_bit_equal() -> None:
    images, labels = _batch(64)
    new_images, new_labels = augment(
        images, labels, AugmentConfig(**STILL | {"rotate": 0.3, "gamma": 0.3}), span=2.0, **NUMBERS
    )
    same = (new_images == images).flatten(1).all(1)
    assert 10 < int(same.sum()) < 54
    still = (new_labels == labels).flatten(1).all(1)
    assert bool((still | ~same).all())


@pytest.mark.parametrize("change", [*MOVES, *VALUES, "flip_x", "flip_y"])
def test_each_change_has_a_probability_of_its_own(change: str) -> None:
    images, labels = _batch(200)
    changed, moved = augment(images, labels, AugmentConfig(**STILL | {change: 0.25}), span=2.0, **NUMBERS)
    share = float((changed != images).flatten(1).any(1).float().mean())
    assert 0.17 < share < 0.33
    assert bool((moved == labels).all()) == (change in VALUES)


@pytest.mark.parametrize(("one", "other"), [("rotate", "shift"), ("scale", "flip_x"), ("gamma", "noise")])
def test_whether_another_is_on_moves_no_draw(one: str, other: str) -> None:
    """Where the other is off for a slice, the slice is what the one alone makes of it."""
    images, labels = _batch(64)
    alone, _ = augment(images, labels, AugmentConfig(**STILL | {one: 0.5}), span=2.0, **NUMBERS)
    beside, _ = augment(images, labels, AugmentConfig(**STILL | {other: 0.5}), span=2.0, **NUMBERS)
    both, _ = augment(images, labels, AugmentConfig(**STILL | {one: 0.5, other: 0.5}), span=2.0, **NUMBERS)
    unmoved = (beside == images).flatten(1).all(1)
    assert 16 < int(unmoved.sum()) < 48
    assert torch.equal(both[unmoved], alone[unmoved])


def test_strengths_are_kept_to() -> None:
    images, labels = _batch(64)
    config = AugmentConfig(**STILL | {"brightness": 1.0}, brightness_share=0.2)
    added = (augment(images, labels, config, span=2.0, **NUMBERS)[0] - images).flatten(1)
    assert float((added.amax(1) - added.amin(1)).max()) < 1e-6
    assert 0.3 < float(added.abs().max()) <= 0.4 + 1e-6
    config = AugmentConfig(**STILL | {"contrast": 1.0}, contrast_change=0.5)
    spread = augment(images, labels, config, span=2.0, **NUMBERS)[0].std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.5 <= float(spread.min()) < 0.6 < 1.4 < float(spread.max()) <= 1.5


def test_input_is_not_changed() -> None:
    images, labels = _batch()
    augment(images, labels, AugmentConfig(**MOVED | dict.fromkeys(VALUES, 1.0)), span=2.0, **NUMBERS)
    expected = _batch()
    assert torch.equal(images, expected[0])
    assert torch.equal(labels, expected[1])


def test_disabled_changes_nothing() -> None:
    images, labels = _run(AugmentConfig(enabled=False, flip_x=1.0))
    assert torch.equal(images, _batch()[0])
    assert torch.equal(labels, _batch()[1])


@pytest.mark.parametrize(("axis", "dimension"), [("flip_x", -1), ("flip_y", -2)])
def test_flip_mirrors_images_and_labels(axis: str, dimension: int) -> None:
    images, labels = _run(AugmentConfig(**STILL, **{axis: 1.0}))
    torch.testing.assert_close(images, _batch()[0].flip(dimension), atol=1e-4, rtol=0)
    assert torch.equal(labels, _batch()[1].flip(dimension))


def test_labels_follow_the_image() -> None:
    """A bright disc and its label stay on each other under rotation, zoom and shift of an oblong slice."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(64), indexing="ij")
    disc = ((y - 30) ** 2 + (x - 40) ** 2) < 150
    images, labels = disc.float()[None, None].repeat(16, 1, 1, 1), disc.to(torch.uint8)[None].repeat(16, 1, 1)
    config = AugmentConfig(**MOVED, rotate_degrees=40, shift_share=0.1)
    moved, moved_labels = augment(images, labels, config, span=2.0, **NUMBERS)
    assert not torch.equal(moved_labels, labels)
    agreement = ((moved[:, 0] > 0.5) == (moved_labels > 0)).float().mean(dim=(1, 2))
    assert float(agreement.min()) > 0.99


def test_rotation_is_rigid_on_oblong_slices() -> None:
    y, x = torch.meshgrid(torch.arange(96), torch.arange(64), indexing="ij")
    disc = (((y - 47.5) ** 2 + (x - 31.5) ** 2) < 400)[None]
    config = AugmentConfig(**STILL | {"rotate": 1.0}, rotate_degrees=90)
    _, labels = augment(disc[None].float(), disc.to(torch.uint8), config, span=2.0, **NUMBERS)
    assert int((labels != disc).sum()) < 60


def test_outside_is_air_and_background() -> None:
    images = torch.full((4, 1, 16, 16), 0.5)
    images[:, :, 0, 0] = -0.8
    config = AugmentConfig(**STILL | {"scale": 1.0}, scale_factor=(0.5, 0.5))
    moved, labels = augment(images, torch.full((4, 16, 16), 3, dtype=torch.uint8), config, span=2.0, **NUMBERS)
    assert torch.allclose(moved[:, 0, 0, :], torch.tensor(-0.8))
    assert int(labels[:, 0].sum()) == 0
    assert int(labels[:, 8, 8].min()) == 3


def test_intensity_leaves_labels_and_stays_near() -> None:
    images, labels = _run(AugmentConfig(**RECOLOURED))
    assert torch.equal(labels, _batch()[1])
    difference = (images - _batch()[0]).abs()
    assert 0.01 < float(difference.mean()) < 0.5
    assert bool(torch.isfinite(images).all())


def test_all_32_bits_move_together() -> None:
    images, _ = _batch()
    labels = torch.randint(-(2**31), 2**31, images[:, 0].shape, dtype=torch.int32)
    config = AugmentConfig(**MOVED)
    moved = augment(images, labels, config, span=2.0, **NUMBERS, overlapping=True)[1]
    assert not torch.equal(moved, labels)
    for bit in (0, 24, 31):
        alone = augment(images, (labels >> bit & 1).to(torch.uint8), config, span=2.0, **NUMBERS)[1]
        assert ((moved >> bit & 1) != alone).float().mean() < 0.002
    known = set(labels.flatten().tolist()) | {0}
    assert set(moved.flatten().tolist()) <= known


def test_channels_move_together_and_each_is_padded_with_its_own_lowest_value() -> None:
    images, labels = _batch()
    both = torch.cat((images, images * 3 + 5), dim=1)
    config = AugmentConfig(**MOVED)
    moved, _ = augment(both, labels, config, span=2.0, **NUMBERS)
    alone, _ = augment(images, labels, config, span=2.0, **NUMBERS)
    torch.testing.assert_close(moved[:, :1], alone)
    torch.testing.assert_close(moved[:, 1:], alone * 3 + 5)


DEFAULT_LABELS = "ef40d06fdeab4f8b77f588b0c26573a18c2f9050dd395cda942a224c0bb19b6b"
DEFAULT_MEANS = [
    [-0.108521, -0.128025, -0.062122, -0.078393, -0.160434, -0.120036, -0.031684, -0.001562],
    [-0.189032, -0.182382, -0.12006, -0.087688, -0.159498, -0.166595, 0.026582, 0.030801],
]
DEFAULT_SDS = [
    [0.452765, 0.451014, 0.571913, 0.568391, 0.422599, 0.426244, 0.500474, 0.500109],
    [0.482795, 0.461998, 0.527573, 0.528073, 0.431644, 0.432929, 0.556477, 0.583877],
]
"""Of each image and channel. Processors of one kind round differently too, so that no digest of the images holds."""
DEFAULT_PIXELS = [0.3896911, 0.4244298, -0.0646541, 0.1231928, -0.1062703, 0.6299254, -0.7806923, -0.4336429]


def test_the_default_batch_is_pinned() -> None:
    """Runs of earlier versions resume with the same draws: new changes take numbers from streams of their own."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(8, 2, 24, 32, generator=generator) * 2 - 1
    labels = torch.randint(0, 200, (8, 24, 32), generator=generator, dtype=torch.uint8)
    new, moved = augment(images, labels, AugmentConfig(), span=2.0, **NUMBERS)
    assert hashlib.sha256(moved.numpy().tobytes()).hexdigest() == DEFAULT_LABELS
    torch.testing.assert_close(new[:, 0, 5, 6], torch.tensor(DEFAULT_PIXELS), atol=1e-5, rtol=0)
    for found, pinned in ((new.mean((2, 3)), DEFAULT_MEANS), (new.std((2, 3)), DEFAULT_SDS)):
        torch.testing.assert_close(found.reshape(2, 8), torch.tensor(pinned), atol=1e-5, rtol=0)
