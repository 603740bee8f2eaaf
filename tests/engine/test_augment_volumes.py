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


def _ball(depth: int = 20, height: int = 28, width: int = 40) -> torch.Tensor:
    """(1, D, H, W) bool."""
    z, y, x = torch.meshgrid(torch.arange(depth), torch.arange(height), torch.arange(width), indexing="ij")
    return (((z - 9.5) ** 2 + (y - 13.5) ** 2 + (x - 19.5) ** 2) < 64)[None]


def _off_but(**told: Any) -> AugmentConfig:
    return AugmentConfig(**OFF | {"space": True} | told)


def test_a_rotation_in_space_is_rigid_and_leaves_the_middle_where_it_is() -> None:
    ball = _ball().repeat(8, 1, 1, 1)
    images, labels = _run(ball.float(), ball.to(torch.uint8), _off_but(rotate=1, rotate_degrees=45))
    assert int((labels != ball).flatten(1).sum(1).max()) < 0.12 * int(ball[0].sum())
    assert float(((images > 0.5) == (labels > 0)).float().mean()) > 0.99


def test_patches_are_turned_about_all_axes() -> None:
    """A column along z and one along y each leave their axis, which a rotation in-plane does to one of them alone."""
    column = torch.zeros(1, 20, 28, 40, dtype=torch.uint8)
    column[:, :, 13:15, 19:21] = 1
    for config, turns in ((_off_but(rotate=1, rotate_degrees=30), True), (_off_but(rotate=1, space=False), False)):
        _, labels = _run(column.float(), column, config)
        ends = [labels[0, z].nonzero().float().mean(0) for z in (3, 16)]
        assert (float((ends[0] - ends[1]).abs().max()) > 1.5) == turns


def test_zoom_and_shift_reach_along_z() -> None:
    ball = _ball().to(torch.uint8)
    _, labels = _run(ball.float(), ball, _off_but(scale=1, scale_factor=(0.5, 0.5)))
    assert 0.1 < int(labels.sum()) / int(ball.sum()) < 0.15
    _, labels = _run(ball.float(), ball, _off_but(shift=1, shift_share=0.3))
    assert abs(float(labels[0].nonzero().float()[:, 0].mean()) - 9.5) > 0.5


def test_what_is_drawn_in_plane_is_drawn_in_space_too() -> None:
    images, labels = torch.randn(6, 5, 24, 32), torch.randint(0, 3, (6, 5, 24, 32), dtype=torch.uint8)
    plane = _run(images, labels, _off_but(flip_x=0.5, flip_y=0.5, space=False))
    space = _run(images, labels, _off_but(flip_x=0.5, flip_y=0.5))
    torch.testing.assert_close(plane[0], space[0], atol=1e-4, rtol=0)
    assert torch.equal(plane[1], space[1])


def test_channels_and_bits_of_a_patch_move_together_in_space() -> None:
    one = torch.randn(3, 6, 16, 16)
    bits = torch.randint(-(2**31), 2**31, one.shape, dtype=torch.int32)
    config = _off_but(rotate=1, scale=1, shift=1, elastic=1, elastic_spacing=8, elastic_shift=2)
    both = torch.stack((one, one * 3 + 5), 2).flatten(1, 2)
    numbers: dict[str, Any] = {"span": 2.0, "seed": 0, "epoch": 1, "rank": 0, "step": 3, "overlapping": True}
    moved, labels = augment(both, bits, config, **numbers)
    alone, lowest_bit = augment(one, bits & 1, config, **numbers)
    torch.testing.assert_close(moved[:, 0::2], alone)
    torch.testing.assert_close(moved[:, 1::2], alone * 3 + 5)
    assert torch.equal(labels & 1, lowest_bit)
    assert set(labels.flatten().tolist()) <= set(bits.flatten().tolist()) | {0}


def test_patches_that_are_not_chosen_stay_bit_equal_in_space() -> None:
    images, labels = torch.randn(32, 4, 16, 16), torch.randint(0, 3, (32, 4, 16, 16), dtype=torch.uint8)
    moved, _ = _run(images, labels, _off_but(rotate=0.5))
    same = (moved == images).flatten(1).all(1)
    assert 6 < int(same.sum()) < 26
