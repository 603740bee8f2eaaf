"""Soft Dice and binary cross entropy of structures that may overlap, each by itself."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

from segray.config import LossConfig
from segray.nets.losses import SMOOTH, LossParts


def overlapping_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> LossParts:
    """Weighted sum of batch Dice and binary cross entropy of the sigmoid.

    As :func:`segray.nets.losses.segmentation_loss`: Dice over the pixels of the whole batch, averaged over the
    structures that the batch shows; a structure that is absent has no Dice. The cross entropy is the mean over pixels
    and all structures. There is no background.

    Args:
        logits: (n, L, H, W), any float type; fastest in channels_last.
        labels: (n, H, W) bit fields, bit k for structure k below L.
        config: the weights.
    """
    pixels = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
    total, dice, entropy = _DiceBinaryEntropy.apply(  # type: ignore[no-untyped-call]
        pixels, labels.reshape(-1), config.dice, config.cross_entropy
    )
    return LossParts(total, dice, entropy)


def bits_of(labels: Tensor, structures: int, axis: int) -> Tensor:
    """Bit fields (...) to 0 and 1 (uint8) of every structure, on a new axis."""
    places = torch.arange(structures, device=labels.device, dtype=labels.dtype)
    shape = [1] * (labels.ndim + 1)
    shape[axis] = structures
    # An int32 with its highest bit set is negative; the shift keeps the sign, and the lowest bit is right still.
    return ((labels.unsqueeze(axis) >> places.view(shape)) & 1).to(torch.uint8)


class _DiceBinaryEntropy(torch.autograd.Function):
    """(P, L) logits, (P) bit fields -> total, Dice loss, cross entropy; its gradient in closed form.

    With p = sigmoid(logits), t = 0 or 1, I, S, T the overlap, predicted and true sums of a structure,
    D = (2 I + s) / (S + T + s), and the Dice loss 1 - mean D over the n structures present:
    dLoss/dp = a t + b with a = -2 / (n (S + T + s)) and b = D / (n (S + T + s)), times dp/dlogit = p (1 - p);
    the cross entropy gives (p - t) / (P L).
    """

    @staticmethod
    def forward(
        ctx: Any, pixels: Tensor, labels: Tensor, dice_weight: float, entropy_weight: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = pixels if pixels.dtype == torch.float64 else pixels.float()
        probabilities = torch.sigmoid(wide)
        truth = bits_of(labels, pixels.shape[1], 1).to(wide.dtype)
        true = truth.sum(0)
        bottom = probabilities.sum(0) + true + SMOOTH
        score = (2.0 * (probabilities * truth).sum(0) + SMOOTH) / bottom
        present = true > 0
        share = present.to(wide.dtype) / present.sum().clamp(min=1)
        dice = (share * (1.0 - score)).sum()
        entropy = functional.binary_cross_entropy_with_logits(wide, truth)
        ctx.save_for_backward(probabilities, labels, -2.0 * share / bottom, share * score / bottom)
        ctx.weights = dice_weight, entropy_weight
        ctx.source_dtype = pixels.dtype
        ctx.mark_non_differentiable(dice, entropy)
        return dice_weight * dice + entropy_weight * entropy, dice, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _dice: Tensor, _entropy: Tensor) -> tuple[Tensor | None, ...]:
        probabilities, labels, at_truth, everywhere = ctx.saved_tensors
        dice_weight, entropy_weight = ctx.weights
        truth = bits_of(labels, probabilities.shape[1], 1).to(probabilities.dtype)
        gradient = truth * (upstream * dice_weight * at_truth)
        gradient += upstream * dice_weight * everywhere
        gradient *= probabilities
        gradient *= 1.0 - probabilities
        gradient += (probabilities - truth).mul_(upstream * entropy_weight / probabilities.numel())
        return gradient.to(ctx.source_dtype), None, None, None
