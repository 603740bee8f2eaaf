"""Mixup: what is blended, and what the loss is held to."""

from __future__ import annotations

import pytest
import torch

from segray.config import AugmentConfig, load_config
from segray.engine.mixup import mix
from segray.engine.trainer import Batch, Trainer
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net

ALWAYS = AugmentConfig(mixup=1.0)


def test_images_and_weights_are_of_the_same_share() -> None:
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    labels, known = torch.arange(4).view(4, 1, 1).expand(4, 2, 2), torch.eye(4, dtype=torch.bool)
    shares = []
    for draw in range(200):
        mixed, (own, other) = mix(images, labels, known, ALWAYS, draw)
        assert own.weight + other.weight == pytest.approx(1.0)
        assert torch.equal(own.labels, labels)
        assert not (other.labels == labels).any()
        assert other.known is not None
        assert torch.equal(other.known.float().argmax(1), other.labels[:, 0, 0])
        expected = own.weight * images + other.weight * other.labels[:, None].float()
        torch.testing.assert_close(mixed, expected)
        shares.append(own.weight)
    assert 0.4 < sum(shares) / 200 < 0.6
    assert min(shares) < 0.05
    assert max(shares) > 0.95


def test_it_happens_as_often_as_asked_and_the_same_again() -> None:
    images, labels = torch.randn(3, 1, 2, 2), torch.zeros(3, 2, 2)
    some = AugmentConfig(mixup=0.3)
    counts = [len(mix(images, labels, None, some, draw)[1]) for draw in range(300)]
    assert 60 < counts.count(2) < 120
    one, two = (mix(images, labels, None, ALWAYS, 7) for _ in range(2))
    assert torch.equal(one[0], two[0])


def test_a_single_slice_and_a_turned_off_augmentation_stay_as_they_are() -> None:
    images, labels = torch.randn(1, 1, 2, 2), torch.zeros(1, 2, 2)
    assert mix(images, labels, None, ALWAYS, 0)[0] is images
    off = AugmentConfig(mixup=1.0, enabled=False)
    assert mix(images.repeat(2, 1, 1, 1), labels.repeat(2, 1, 1), None, off, 0)[1][0].weight == 1.0


def test_the_loss_is_the_weighted_sum() -> None:
    off = [f"augment.{name}=0" for name in ("rotate", "scale", "shift", "brightness", "contrast", "gamma", "noise")]
    config = load_config(None, ["net.features=[4,8]", *off, "augment.mixup=1"])
    torch.manual_seed(0)
    net = build_net(config.net, 1, 2)
    trainer = Trainer(config, net, Normalisation("window"), device="cpu")
    images = torch.randint(-500, 500, (3, 8, 8), dtype=torch.int16)
    labels, ones = torch.randint(0, 2, (3, 8, 8), dtype=torch.uint8), torch.ones(3)
    batch = Batch(images, labels, ones, ones, ("a", "b", "c"))
    mixed, targets = trainer._inputs(batch, 1, 0)
    assert len(targets) == 2
    with torch.no_grad():
        logits = net.train()(mixed)
        expected = sum(target.weight * float(trainer._objective(logits, target.labels).total) for target in targets)
    assert trainer.step(batch, epoch=1, step=0, progress=0.0).loss == pytest.approx(expected, rel=1e-3)
