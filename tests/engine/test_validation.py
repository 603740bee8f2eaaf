"""Counting on the device against a loop over labels."""

from __future__ import annotations

import numpy as np
import torch

from segray.config import NetConfig
from segray.engine.trainer import Batch
from segray.engine.validation import Validator, count_batch, count_overlapping_batch, dice_of_counts
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net


def test_counts_equal_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 4, 8, 9, generator=generator)
    labels = torch.randint(0, 4, (6, 8, 9), generator=generator, dtype=torch.uint8)
    index = torch.tensor([0, 0, 2, 2, 2, 1])
    counts = torch.zeros(4, 4, 3, dtype=torch.int64)
    for part in (slice(0, 3), slice(3, 6)):
        count_batch(logits[part], labels[part], index[part], counts)
    predicted = logits.argmax(1)
    for case in range(4):
        truth, found = labels[index == case], predicted[index == case]
        for label in range(4):
            hits = int(((truth == label) & (found == label)).sum())
            expected = [hits, int((truth == label).sum()), int((found == label).sum())]
            assert counts[case, label].tolist() == expected


def test_ignored_pixels_count_neither_for_nor_against() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 8, 9, generator=generator)
    labels = torch.randint(0, 4, (1, 8, 9), generator=generator, dtype=torch.uint8)
    counts = torch.zeros(1, 3, 3, dtype=torch.int64)
    count_batch(logits, labels, torch.tensor([0]), counts)
    judged, predicted = labels < 3, logits.argmax(1)
    for label in (1, 2):
        hits = int((judged & (labels == label) & (predicted == label)).sum())
        truth, found = int((labels == label).sum()), int((judged & (predicted == label)).sum())
        assert counts[0, label].tolist() == [hits, truth, found]


def test_dice_of_counts() -> None:
    counts = torch.tensor([[[3, 4, 6], [0, 0, 0], [0, 5, 0]]])
    dice = dice_of_counts(counts)[0]
    assert dice[0] == 0.6
    assert dice[1].isnan()
    assert dice[2] == 0


def test_validator_counts_all_pixels_and_leaves_the_net() -> None:
    net = build_net(NetConfig(features=[4, 8]), 1, 3)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    rng = np.random.default_rng(0)
    batch = Batch.from_arrays(
        rng.integers(-1000, 1000, (3, 8, 8)).astype(np.int16), rng.integers(0, 3, (3, 8, 8)).astype(np.uint8),
        np.zeros(3), np.ones(3), ["a", "a", "b"],
    )  # fmt: skip
    counts = torch.zeros(2, 3, 3, dtype=torch.int64)
    Validator(net, Normalisation("window"), "cpu").add(batch, torch.tensor([0, 0, 1]), counts)
    assert counts[..., 1].sum(1).tolist() == [128, 64]
    assert counts[..., 2].sum(1).tolist() == [128, 64]
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_counts_of_overlapping_structures_equal_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 32, 8, 9, generator=generator)
    labels = torch.randint(-(2**31), 2**31, (6, 8, 9), generator=generator, dtype=torch.int32)
    index = torch.tensor([0, 0, 2, 2, 2, 1])
    counts = torch.zeros(4, 33, 3, dtype=torch.int64)
    for part in (slice(0, 3), slice(3, 6)):
        count_overlapping_batch(logits[part], labels[part], index[part], counts)
    fields = labels.numpy().view(np.uint32)
    for case in range(4):
        assert counts[case, 0].tolist() == [0, 0, 0]
        for number in range(32):
            truth = fields[index == case] >> np.uint32(number) & 1 > 0
            found = (logits[index == case, number] > 0).numpy()
            expected = [(truth & found).sum(), truth.sum(), found.sum()]
            assert counts[case, number + 1].tolist() == expected


def test_validator_counts_overlapping_structures() -> None:
    net = build_net(NetConfig(features=[4, 8]), 1, 2)
    labels = np.full((2, 8, 8), 3, np.uint8)
    batch = Batch.from_arrays(np.zeros((2, 8, 8), np.int16), labels, np.zeros(2), np.ones(2), ["a", "b"])
    counts = torch.zeros(2, 3, 3, dtype=torch.int64)
    Validator(net, Normalisation("window"), "cpu", overlapping=True).add(batch, torch.tensor([0, 1]), counts)
    assert counts[:, 1:, 1].tolist() == [[64, 64], [64, 64]]


def test_masks_are_what_is_counted() -> None:
    """The counts of a batch against the masks as truth: every pixel is a hit."""
    rng = np.random.default_rng(1)
    images = rng.integers(-1000, 1000, (2, 16, 16)).astype(np.int16)
    for overlapping, outputs in ((False, 3), (True, 2)):
        net = build_net(NetConfig(features=[4, 8]), 1, outputs)
        validator = Validator(net, Normalisation("window"), "cpu", overlapping=overlapping)
        batch = Batch.from_arrays(images, np.zeros((2, 16, 16), np.uint8), np.zeros(2), np.ones(2), ["a", "b"])
        masks = validator.masks(batch)
        assert masks.unique().numel() > 1
        found = Batch.from_arrays(images, masks.numpy().astype(np.uint8), np.zeros(2), np.ones(2), ["a", "b"])
        counts = torch.zeros(1, 3, 3, dtype=torch.int64)
        validator.add(found, torch.tensor([0, 0]), counts)
        assert counts.sum() > 0
        assert torch.equal(counts[..., 0], counts[..., 1])
        assert torch.equal(counts[..., 0], counts[..., 2])
