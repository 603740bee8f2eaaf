"""Augmentation: reproducible, exact where nothing is chosen, and images and labels move together."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch

from segray.config import AugmentConfig
from segray.engine.augment import augment
from segray.engine.draws import step_seed

STILL: dict[str, Any] = {"spatial": 0.0, "intensity": 0.0}
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
    new_images, new_labels = augment(images, labels, AugmentConfig(spatial=0.3, intensity=0.3), span=2.0, **NUMBERS)
    same = (new_images == images).flatten(1).all(1)
    assert 10 < int(same.sum()) < 54
    still = (new_labels == labels).flatten(1).all(1)
    assert bool((still | ~same).all())


def test_input_is_not_changed() -> None:
    images, labels = _batch()
    augment(images, labels, AugmentConfig(spatial=1, intensity=1), span=2.0, **NUMBERS)
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
    config = AugmentConfig(spatial=1.0, rotate=40, shift=0.1, intensity=0.0)
    moved, moved_labels = augment(images, labels, config, span=2.0, **NUMBERS)
    assert not torch.equal(moved_labels, labels)
    agreement = ((moved[:, 0] > 0.5) == (moved_labels > 0)).float().mean(dim=(1, 2))
    assert float(agreement.min()) > 0.99


def test_rotation_is_rigid_on_oblong_slices() -> None:
    y, x = torch.meshgrid(torch.arange(96), torch.arange(64), indexing="ij")
    disc = (((y - 47.5) ** 2 + (x - 31.5) ** 2) < 400)[None]
    config = AugmentConfig(spatial=1.0, rotate=90, shift=0.0, scale=(1.0, 1.0), intensity=0.0)
    _, labels = augment(disc[None].float(), disc.to(torch.uint8), config, span=2.0, **NUMBERS)
    assert int((labels != disc).sum()) < 40


def test_outside_is_air_and_background() -> None:
    images = torch.full((4, 1, 16, 16), 0.5)
    images[:, :, 0, 0] = -0.8
    config = AugmentConfig(spatial=1.0, rotate=0, scale=(0.5, 0.5), shift=0, intensity=0)
    moved, labels = augment(images, torch.full((4, 16, 16), 3, dtype=torch.uint8), config, span=2.0, **NUMBERS)
    assert torch.allclose(moved[:, 0, 0, :], torch.tensor(-0.8))
    assert int(labels[:, 0].sum()) == 0
    assert int(labels[:, 8, 8].min()) == 3


def test_intensity_leaves_labels_and_stays_near() -> None:
    images, labels = _run(AugmentConfig(spatial=0.0, intensity=1.0))
    assert torch.equal(labels, _batch()[1])
    difference = (images - _batch()[0]).abs()
    assert 0.01 < float(difference.mean()) < 0.5
    assert bool(torch.isfinite(images).all())


def test_all_32_bits_move_together() -> None:
    images, _ = _batch()
    labels = torch.randint(-(2**31), 2**31, images[:, 0].shape, dtype=torch.int32)
    config = AugmentConfig(spatial=1.0, intensity=0.0)
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
    config = AugmentConfig(spatial=1.0, intensity=0.0)
    moved, _ = augment(both, labels, config, span=2.0, **NUMBERS)
    alone, _ = augment(images, labels, config, span=2.0, **NUMBERS)
    torch.testing.assert_close(moved[:, :1], alone)
    torch.testing.assert_close(moved[:, 1:], alone * 3 + 5)


DEFAULT_LABELS = "1313dafe258c6972acbc108a683fbd28613df1d43c8d12815aaf73dbeca0df42"
DEFAULT_MEANS = [
    [0.066246, 0.056602, 0.044479, 0.028733, -0.248786, -0.206145, -0.005502, 0.025416],
    [-0.186588, -0.180562, 0.004626, 0.044389, -0.152983, -0.151529, 0.026582, 0.030801],
]
DEFAULT_SDS = [
    [0.494329, 0.488935, 0.56255, 0.557001, 0.697282, 0.692436, 0.574753, 0.573213],
    [0.51791, 0.504295, 0.577046, 0.577658, 0.485397, 0.484056, 0.563461, 0.591205],
]
"""Of each image and channel. Processors of one kind round differently too, so that no digest of the images holds."""
DEFAULT_PIXELS = [-0.0137608, 0.5939421, 0.3868559, 0.0219924, -0.2439092, 0.9458257, -0.1588362, -0.4394188]


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
