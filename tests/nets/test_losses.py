"""Dice and cross entropy against MONAI and against finite differences."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss

from segray.config import LossConfig
from segray.nets.losses import SMOOTH, segmentation_loss


def _batch(seed: int = 0, channels: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, channels, 6, 5, generator=generator, dtype=torch.float64) * 2
    labels = torch.randint(0, channels, (3, 6, 5), generator=generator)
    return logits, labels


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0), (1.0, 0.0), (0.0, 1.0)])
def test_equals_monai_where_all_structures_are_present(background: bool, weights: tuple[float, float]) -> None:
    logits, labels = _batch()
    oracle = DiceCELoss(
        include_background=background, to_onehot_y=True, softmax=True, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH,
        lambda_dice=weights[0], lambda_ce=weights[1],
    )  # fmt: skip
    config = LossConfig(dice=weights[0], cross_entropy=weights[1], dice_background=background)
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    expected = oracle(first, labels[:, None])
    parts = segmentation_loss(second, labels, config)
    torch.testing.assert_close(parts.total, expected)
    expected.backward()
    parts.total.backward()
    torch.testing.assert_close(second.grad, first.grad)


def test_absent_structures_are_left_out_of_the_dice() -> None:
    logits, labels = _batch()
    labels[labels == 2] = 0
    per_label = DiceLoss(
        to_onehot_y=True, softmax=True, batch=True, reduction="none", smooth_nr=SMOOTH, smooth_dr=SMOOTH
    )(logits, labels[:, None]).flatten()
    parts = segmentation_loss(logits, labels, LossConfig())
    torch.testing.assert_close(parts.dice, per_label[[1, 3]].mean())


def test_background_alone_has_no_dice_and_a_finite_gradient() -> None:
    logits, labels = _batch()
    logits.requires_grad_()
    parts = segmentation_loss(logits, torch.zeros_like(labels), LossConfig())
    parts.total.backward()
    assert parts.dice == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


def test_gradient_equals_finite_differences() -> None:
    logits, labels = _batch(seed=1)
    labels[labels == 3] = 1
    logits.requires_grad_()
    config = LossConfig(dice=0.7, cross_entropy=1.3)
    assert torch.autograd.gradcheck(lambda x: segmentation_loss(x, labels, config).total, (logits,))


def test_cross_entropy_of_a_hopeless_pixel_is_exact() -> None:
    logits = torch.zeros(1, 2, 1, 1)
    logits[0, 0] = 500.0
    parts = segmentation_loss(logits, torch.ones(1, 1, 1, dtype=torch.uint8), LossConfig())
    assert parts.cross_entropy.item() == pytest.approx(500.0)


def test_bf16_logits_in_channels_last_and_small_label_types() -> None:
    logits, labels = _batch()
    low = logits.to(torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    parts = segmentation_loss(low, labels.to(torch.uint8), LossConfig())
    parts.total.backward()
    expected = segmentation_loss(low.detach().float(), labels, LossConfig())
    torch.testing.assert_close(parts.total, expected.total)
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16


def test_nan_logits_give_a_nan_loss() -> None:
    logits, labels = _batch()
    logits[0, 0, 0, 0] = float("nan")
    assert segmentation_loss(logits, labels, LossConfig()).total.isnan()


def test_a_large_structure_has_the_dice_of_its_exact_sums() -> None:
    labels = torch.ones(10, 1024, 512, dtype=torch.uint8)
    labels[:, :64] = 0
    logits = torch.zeros(10, 2, 1024, 512)
    logits[:, 1] = torch.linspace(1.7, 2.0, 512)
    exact = segmentation_loss(logits.double(), labels, LossConfig()).dice
    torch.testing.assert_close(segmentation_loss(logits, labels, LossConfig()).dice.double(), exact, atol=1e-5, rtol=0)
