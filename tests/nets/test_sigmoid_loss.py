"""Dice and binary cross entropy of overlapping structures against MONAI and against finite differences."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss
from torch.nn.functional import binary_cross_entropy_with_logits

from segray.config import LossConfig
from segray.nets.losses import SMOOTH
from segray.nets.sigmoid_loss import bits_of, overlapping_loss


def _batch(structures: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, bit fields, and the truth as 0 and 1 (n, L, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, structures, 6, 5, generator=generator, dtype=torch.float64) * 2
    truth = torch.randint(0, 2, (3, structures, 6, 5), generator=generator)
    return logits, _fields(truth), truth.double()


def _fields(truth: torch.Tensor) -> torch.Tensor:
    places = torch.arange(truth.shape[1])[:, None, None]
    return (truth.long() << places).sum(1).to(torch.int32 if truth.shape[1] > 8 else torch.uint8)


@pytest.mark.parametrize("structures", [1, 3, 32])
@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.3, 2.0), (1.0, 0.0), (0.0, 1.0)])
def test_equals_monai_where_all_structures_are_present(structures: int, weights: tuple[float, float]) -> None:
    logits, fields, truth = _batch(structures)
    dice = DiceLoss(sigmoid=True, batch=True, smooth_nr=SMOOTH, smooth_dr=SMOOTH)
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    expected = weights[0] * dice(first, truth) + weights[1] * binary_cross_entropy_with_logits(first, truth)
    parts = overlapping_loss(second, fields, LossConfig(dice=weights[0], cross_entropy=weights[1]))
    torch.testing.assert_close(parts.total, expected)
    expected.backward()
    parts.total.backward()
    torch.testing.assert_close(second.grad, first.grad)


def test_absent_structures_are_left_out_of_the_dice() -> None:
    logits, _, truth = _batch()
    truth[:, 1] = 0
    per_structure = DiceLoss(sigmoid=True, batch=True, reduction="none", smooth_nr=SMOOTH, smooth_dr=SMOOTH)(
        logits, truth
    ).flatten()
    parts = overlapping_loss(logits, _fields(truth), LossConfig())
    torch.testing.assert_close(parts.dice, per_structure[[0, 2]].mean())


def test_nothing_present_has_no_dice_and_a_finite_gradient() -> None:
    logits, fields, _ = _batch()
    logits.requires_grad_()
    parts = overlapping_loss(logits, torch.zeros_like(fields), LossConfig())
    parts.total.backward()
    assert parts.dice == 0
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0


def test_gradient_equals_finite_differences() -> None:
    logits, _, truth = _batch(seed=1)
    truth[:, 2] = 0
    fields = _fields(truth)
    logits.requires_grad_()
    config = LossConfig(dice=0.7, cross_entropy=1.3)
    assert torch.autograd.gradcheck(lambda x: overlapping_loss(x, fields, config).total, (logits,))


def test_bf16_logits_in_channels_last() -> None:
    logits, fields, _ = _batch()
    low = logits.to(torch.bfloat16).contiguous(memory_format=torch.channels_last).requires_grad_()
    parts = overlapping_loss(low, fields, LossConfig())
    parts.total.backward()
    torch.testing.assert_close(parts.total, overlapping_loss(low.detach().float(), fields, LossConfig()).total)
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16


def test_the_highest_bit_is_the_thirty_second_structure() -> None:
    fields = torch.tensor([-(2**31), 1, 0], dtype=torch.int32)
    found = bits_of(fields, 32, 0)
    assert found.shape == (32, 3)
    assert found.nonzero().tolist() == [[0, 1], [31, 0]]


def test_nan_logits_give_a_nan_loss() -> None:
    logits, fields, _ = _batch()
    logits[0, 0, 0, 0] = float("nan")
    assert overlapping_loss(logits, fields, LossConfig()).total.isnan()
