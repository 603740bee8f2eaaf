"""Soft Dice and cross entropy in one differentiable function that holds a single tensor of the logits' size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from segray.config import LossConfig

SMOOTH = 1e-5
"""Added to both sides of the Dice fraction, as MONAI and nnU-Net do."""


FEW_CHANNELS = 15
"""Up to here torch's softmax over the last axis is slower on a CPU than passes over the whole tensor."""


@dataclass(frozen=True)
class LossParts:
    """The loss and what it is the weighted sum of; scalars (float32 tensors) on the device of the logits.

    Attributes:
        total: the sum of all terms times their weights, to be differentiated.
        dice: 1 - mean soft Dice over the structures present, detached.
        cross_entropy: mean over pixels in nats, detached.
        more: the further terms of a :class:`segray.nets.objective.Objective`, before their weights, detached.
    """

    total: Tensor
    dice: Tensor
    cross_entropy: Tensor
    more: Mapping[str, Tensor] = field(default_factory=dict)

    def detached(self) -> LossParts:
        """The same numbers without their history."""
        return replace(self, total=self.total.detach())


def weighted_parts(parts: Sequence[tuple[float, LossParts]]) -> LossParts:
    """The weighted sum of losses; of a single one with weight 1 the very same."""
    if len(parts) == 1 and parts[0][0] == 1:
        return parts[0][1]

    def total(terms: Sequence[tuple[float, Tensor]]) -> Tensor:
        first, *rest = [weight * term for weight, term in terms]
        return sum(rest, start=first)

    return LossParts(
        total([(weight, one.total) for weight, one in parts]),
        total([(weight, one.dice) for weight, one in parts]),
        total([(weight, one.cross_entropy) for weight, one in parts]),
        {name: total([(weight, one.more[name]) for weight, one in parts]) for name in parts[0][1].more},
    )


def segmentation_loss(logits: Tensor, labels: Tensor, config: LossConfig) -> LossParts:
    """Weighted sum of batch Dice and cross entropy.

    Dice is taken over the pixels of the whole batch (batch Dice of nnU-Net, Isensee et al. 2021) of the softmax, and
    averaged over the structures that the batch shows. A structure that is absent has no Dice: its fraction would be
    ``SMOOTH / (predicted + SMOOTH)``, near 0 with a gradient that explodes as the prediction becomes right. The cross
    entropy alone teaches where it is not. The background counts only with ``config.dice_background``.

    Args:
        logits: (n, L, H, W), any float type; fastest in channels_last.
        labels: (n, H, W) channel indices below L, any integer type.
        config: the weights.
    """
    pixels = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
    first = 0 if config.dice_background else 1
    total, dice, entropy = _DiceCrossEntropy.apply(  # type: ignore[no-untyped-call]
        pixels, labels.reshape(-1).long(), first, config.dice, config.cross_entropy
    )
    return LossParts(total, dice, entropy)


class _DiceCrossEntropy(torch.autograd.Function):
    """(P, L) logits, (P) labels -> total, Dice loss, cross entropy; its gradient in closed form.

    With p = softmax(logits), y the label of a pixel, I_l, S_l, T_l the overlap, predicted and true sums of label l,
    D_l = (2 I_l + s) / (S_l + T_l + s), and the Dice loss 1 - mean D_l:
    dLoss/dp_l(x) = a_l [y(x) = l] + b_l with a_l = -2 / (n (S_l + T_l + s)), b_l = D_l / (n (S_l + T_l + s)),
    and through the softmax p_l (g_l - sum_k p_k g_k).
    """

    @staticmethod
    def forward(
        ctx: Any, pixels: Tensor, labels: Tensor, first: int, dice_weight: float, entropy_weight: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = pixels if pixels.dtype == torch.float64 else pixels.float()
        probabilities = _softmax(wide)
        picked = probabilities.gather(1, labels[:, None])[:, 0]
        channels = pixels.shape[1]
        truth = torch.bincount(labels, minlength=channels).to(wide.dtype)
        # Millions of values go into one number, which in float32 would round each of them to 0.25 beyond 2 million.
        overlap = torch.zeros_like(truth, dtype=torch.float64).index_add_(0, labels, picked.double()).to(wide.dtype)
        bottom = probabilities.sum(0) + truth + SMOOTH
        score = (2.0 * overlap + SMOOTH) / bottom
        present = truth > 0
        present[:first] = False
        share = present.to(wide.dtype) / present.sum().clamp(min=1)
        dice = (share * (1.0 - score)).sum()
        entropy = -(_log_of_picked(wide, picked, labels)).mean()
        ctx.save_for_backward(probabilities, picked, labels, -2.0 * share / bottom, share * score / bottom)
        ctx.weights = dice_weight, entropy_weight
        ctx.source_dtype = pixels.dtype
        ctx.mark_non_differentiable(dice, entropy)
        return dice_weight * dice + entropy_weight * entropy, dice, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor, _dice: Tensor, _entropy: Tensor) -> tuple[Tensor | None, ...]:
        probabilities, picked, labels, at_truth, everywhere = ctx.saved_tensors
        dice_weight, entropy_weight = ctx.weights
        per_pixel = upstream * entropy_weight / labels.numel()
        own = (upstream * dice_weight * at_truth)[labels] * picked
        everywhere = upstream * dice_weight * everywhere
        inner = torch.mv(probabilities, everywhere) + own
        gradient = everywhere + per_pixel - inner[:, None]
        gradient *= probabilities
        gradient.scatter_add_(1, labels[:, None], (own - per_pixel)[:, None])
        return gradient.to(ctx.source_dtype), None, None, None, None


def _softmax(rows: Tensor) -> Tensor:
    """Softmax over the last axis of (P, L)."""
    if rows.is_cuda or rows.shape[1] > FEW_CHANNELS:
        return torch.softmax(rows, dim=1)
    # torch's CPU kernel vectorises within a row only: at 9 channels it takes 6 times as long as whole-tensor passes.
    powers = (rows - rows.amax(1, keepdim=True)).exp_()
    return powers.div_(powers.sum(1, keepdim=True))


def _log_of_picked(logits: Tensor, picked: Tensor, labels: Tensor) -> Tensor:
    """log of the true label's probability; exact also where the probability rounds to 0."""
    tiny = torch.finfo(picked.dtype).tiny
    logs = picked.clamp(min=tiny).log()
    lost = picked < 1e-30
    if not logits.is_cuda and not bool(lost.any()):
        return logs
    exact = logits.gather(1, labels[:, None])[:, 0] - logits.logsumexp(1)
    return torch.where(lost, exact, logs)
