"""Terms of a loss over pixels in rows, in plain differentiable torch; each takes exclusive and overlapping labels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as functional
from torch import Tensor

SMOOTH = 1e-5
"""Added to both sides of the Tversky fraction, as in the Dice loss."""


@dataclass(frozen=True)
class Scored:
    """What the net says of each pixel and label beside what is true; P pixels, L labels, float32 or float64.

    Attributes:
        rows: (P, L) logits.
        truth: (P, L) 0 or 1.
        weights: (L) weight of each label in the terms that average over pixels.
        exclusive: a pixel has one label (softmax); else each label is by itself (sigmoid).
    """

    rows: Tensor
    truth: Tensor
    weights: Tensor
    exclusive: bool

    @cached_property
    def logs(self) -> Tensor:
        """(P, L) log of the probability."""
        return self.rows.log_softmax(1) if self.exclusive else functional.logsigmoid(self.rows)

    @cached_property
    def logs_of_rest(self) -> Tensor:
        """(P, L) log of 1 - probability, exact also where the probability rounds to 1."""
        return _logs_of_rest(self.rows, self.logs) if self.exclusive else functional.logsigmoid(-self.rows)

    @cached_property
    def probabilities(self) -> Tensor:
        """(P, L)."""
        return self.logs.exp()


def _logs_of_rest(rows: Tensor, logs: Tensor) -> Tensor:
    """log(1 - softmax): the likeliest label by the sum of the others, since its 1 - p may round to 0."""
    top = rows.argmax(1, keepdim=True)
    others = rows.scatter(1, top, _lowest(rows)).logsumexp(1, keepdim=True) - rows.logsumexp(1, keepdim=True)
    # No other label is likelier than 1/2. Any number below 0 keeps the place of the likeliest finite.
    return torch.log1p(-logs.scatter(1, top, -1.0).exp()).scatter(1, top, others)


def cross_entropy(scored: Scored) -> Tensor:
    """Cross entropy in nats, the mean over pixels weighted by their label y.

    With weights: sum w_y (-log p_y) / sum w_y, as torch has it. Of labels that overlap: the binary one.
    """
    if not scored.exclusive:
        return binary_cross_entropy(scored)
    of_pixels = scored.truth @ scored.weights
    return -((scored.truth * scored.logs).sum(1) * of_pixels).sum() / _above_zero(of_pixels.sum())


def binary_cross_entropy(scored: Scored) -> Tensor:
    """Binary cross entropy in nats of each label against the rest, the weighted mean over pixels and labels.

    Of exclusive labels the background is one more label, and the probability is that of the softmax.
    """
    entries = scored.truth * scored.logs + (1.0 - scored.truth) * scored.logs_of_rest
    return -_mean_of_entries(entries, scored.weights)


def focal(scored: Scored, gamma: float) -> Tensor:
    """Focal loss (Lin et al. 2017, eq. 4): the cross entropy of a pixel times (1 - p)^gamma, p that of its truth.

    The weighted mean over pixels; of labels that overlap over pixels and labels.
    """
    logs, truth = scored.logs, scored.truth
    # exp(gamma log(1 - p)), since the derivative of a power at 0 is infinite where gamma is below 1.
    if not scored.exclusive:
        rest = scored.logs_of_rest
        entries = truth * (gamma * rest).exp() * logs + (1.0 - truth) * (gamma * logs).exp() * rest
        return -_mean_of_entries(entries, scored.weights)
    others = scored.rows.masked_fill(truth > 0, _lowest(scored.rows))
    of_truth = (gamma * (others.logsumexp(1) - scored.rows.logsumexp(1))).exp() * (truth * logs).sum(1)
    of_pixels = truth @ scored.weights
    return -(of_truth * of_pixels).sum() / _above_zero(of_pixels.sum())


def tversky(scored: Scored, alpha: float, beta: float, first: int) -> Tensor:
    """1 - mean Tversky index (Salehi et al. 2017) over the labels from ``first`` that the batch shows.

    T = (TP + s) / (TP + alpha FP + beta FN + s) over the pixels of the whole batch. Alpha and beta of 0.5 give Dice.
    """
    probabilities, truth = scored.probabilities[:, first:], scored.truth[:, first:]
    hit, true = (probabilities * truth).sum(0), truth.sum(0)
    wrong, missed = probabilities.sum(0) - hit, true - hit
    index = (hit + SMOOTH) / (hit + alpha * wrong + beta * missed + SMOOTH)
    present = (true > 0).to(index.dtype)
    return (present * (1.0 - index)).sum() / present.sum().clamp(min=1)


def lovasz(scored: Scored, first: int) -> Tensor:
    """Lovasz-softmax (Berman et al. 2018): the mean over the labels from ``first`` that the batch shows.

    Errors are sorted over the pixels of the whole batch, not of each image. Overlapping labels take the errors of the
    sigmoid in the same way.
    """
    errors = (scored.truth - scored.probabilities).abs()
    present = [label for label, area in enumerate(scored.truth.sum(0).tolist()) if label >= first and area > 0]
    if not present:
        return errors.sum() * 0.0
    return torch.stack([_jaccard_surrogate(errors[:, label], scored.truth[:, label]) for label in present]).mean()


def _jaccard_surrogate(errors: Tensor, truth: Tensor) -> Tensor:
    """Errors and truth (P) of one label to the Lovasz extension of its Jaccard loss (Berman et al., algorithm 1)."""
    ordered, order = errors.sort(descending=True)
    # In float64: a float32 counts pixels up to 2^24 only.
    found = truth[order].double()
    intersection = found.sum() - found.cumsum(0)
    union = found.sum() + (1.0 - found).cumsum(0)
    loss = 1.0 - intersection / union
    steps = torch.cat((loss[:1], loss[1:] - loss[:-1]))
    return torch.dot(ordered, steps.to(ordered.dtype))


def _mean_of_entries(entries: Tensor, weights: Tensor) -> Tensor:
    """The mean of (P, L) with a weight a label."""
    return (entries.sum(0) * weights).sum() / _above_zero(weights.sum() * len(entries))


def _lowest(rows: Tensor) -> float:
    """A logit whose probability is 0, and that differs from any other by a finite number."""
    return torch.finfo(rows.dtype).min / 4


def _above_zero(total: Tensor) -> Tensor:
    return total.clamp(min=torch.finfo(total.dtype).tiny)
