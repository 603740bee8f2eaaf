"""The augmentation of 3D patches: slices move alike, values change as one volume's, and flips turn them over."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from segray.config import AugmentConfig, Config, load_config
from segray.engine.augment import augment
from segray.engine.inputs import network_inputs
from segray.engine.trainer import Batch
from segray.nets.normalise import Normalisation

OFF: dict[str, Any] = dict.fromkeys(("rotate", "scale", "shift", "brightness", "contrast", "gamma", "noise"), 0.0)
SPATIAL = AugmentConfig(
    **OFF | dict.fromkeys(("rotate", "scale", "shift"), 1.0),
    flip_x=0.5,
    elastic=1.0,
    elastic_shift=2.0,
    elastic_spacing=8,
)


def _run(images: torch.Tensor, labels: torch.Tensor, config: AugmentConfig) -> tuple[torch.Tensor, torch.Tensor]:
    return augment(images, labels, config, span=2.0, seed=0, epoch=1, rank=0, step=3)


def test_all_slices_of_a_patch_move_alike() -> None:
    plane, area = torch.randn(2, 1, 24, 32), torch.randint(0, 3, (2, 24, 32), dtype=torch.uint8)
    images, labels = _run(plane.repeat(1, 5, 1, 1), area[:, None].repeat(1, 5, 1, 1), SPATIAL)
    one, its = _run(plane, area, SPATIAL)
    for z in range(5):
        assert torch.equal(images[:, z], one[:, 0])
        assert torch.equal(labels[:, z], its)
    assert not torch.equal(one, plane)


def test_contrast_and_gamma_are_those_of_the_volume() -> None:
    config = AugmentConfig(**OFF | dict.fromkeys(("brightness", "contrast", "gamma"), 1.0))
    images = torch.randn(3, 4 * 2, 8, 8)
    found, _ = _run(images, torch.zeros(3, 4, 8, 8, dtype=torch.uint8), config)
    volumes = images.view(3, 4, 2, 8, 8).transpose(1, 2).reshape(3, 2, 32, 8)
    expected, _ = _run(volumes, torch.zeros(3, 32, 8, dtype=torch.uint8), config)
    assert torch.equal(found.view(3, 4, 2, 8, 8).transpose(1, 2).reshape(3, 2, 32, 8), expected)


def test_flip_z_turns_images_and_labels_over() -> None:
    config = AugmentConfig(**OFF, flip_z=0.5)
    images, labels = torch.randn(40, 3 * 2, 4, 4), torch.randint(0, 3, (40, 3, 4, 4), dtype=torch.uint8)
    found, its = _run(images, labels, config)
    turned = [number for number in range(40) if not torch.equal(found[number], images[number])]
    assert 8 < len(turned) < 32
    for number in range(40):
        if number in turned:
            assert torch.equal(found[number].view(3, 2, 4, 4), images[number].view(3, 2, 4, 4).flip(0))
            assert torch.equal(its[number], labels[number].flip(0))
        else:
            assert torch.equal(its[number], labels[number])


def test_patches_come_with_their_channels_first() -> None:
    config: Config = load_config(None, ["augment.enabled=false"])
    images = np.arange(2 * 3 * 2 * 4 * 4, dtype=np.float32).reshape(2, 3, 2, 4, 4)
    moments = np.zeros((2, 2), np.float32), np.ones((2, 2), np.float32)
    batch = Batch.from_arrays(images.reshape(2, 6, 4, 4), np.zeros((2, 3, 4, 4), np.uint8), *moments, ["a", "b"])
    found, labels = network_inputs(batch, config, Normalisation("case"), epoch=1, rank=0, step=0)
    assert found.shape == (2, 2, 3, 4, 4)
    assert labels.shape == (2, 3, 4, 4)
    assert batch.slices == 6
    np.testing.assert_allclose(found.numpy(), images.transpose(0, 2, 1, 3, 4))
