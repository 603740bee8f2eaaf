"""The loss of a training: the weighted sum of the terms that the config names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from segray.config import LossConfig
from segray.nets import loss_terms
from segray.nets.class_weights import weights_of_labels
from segray.nets.counted_pixels import forget_unknown, hide_unknown, leave_out
from segray.nets.loss_terms import Scored
from segray.nets.losses import LossParts, segmentation_loss
from segray.nets.sigmoid_loss import bits_of, overlapping_loss


class Objective:
    """Logits and labels to a loss.

    Dice and cross entropy alone, without class weights, are :func:`segray.nets.losses.segmentation_loss` (or
    :func:`segray.nets.sigmoid_loss.overlapping_loss`) and cost what these cost. Every further term is plain torch.
    """

    def __init__(self, config: LossConfig, structures: Sequence[str] = (), *, overlapping: bool = False) -> None:
        """``structures`` are the names of the label map, which class weights need.

        Raises UsageError where class weights name no structure.
        """
        self._config, self._overlapping = config, overlapping
        self._weights = weights_of_labels(config.class_weights, structures, overlapping=overlapping)
        self._more = {name: getattr(config, name) for name in TERMS if getattr(config, name) > 0}
        weighs_entropy = bool(self._weights) and config.cross_entropy > 0
        # Where labels have weights, the fast function knows no cross entropy that fits.
        self._fast = config.model_copy(update={"cross_entropy": 0.0}) if weighs_entropy else config
        if weighs_entropy:
            self._more["cross_entropy"] = config.cross_entropy

    def __call__(
        self, logits: Tensor, labels: Tensor, *, known: Tensor | None = None, ignored: int | None = None
    ) -> LossParts:
        """The loss of a batch.

        Args:
            logits: (n, L, H, W), any float type; fastest in channels_last.
            labels: (n, H, W) channel indices below L, or bit fields where structures overlap.
            known: (n, L) bool, which labels were looked for in a slice's case; None: all
                (:func:`segray.nets.counted_pixels.hide_unknown`).
            ignored: the label of pixels that count in no term; None: there are none.
        """
        if known is not None:
            logits = hide_unknown(logits, known, overlapping=self._overlapping)
            labels = forget_unknown(labels, known, overlapping=self._overlapping)
        if ignored is not None:
            logits, labels = leave_out(logits, labels, ignored)
            if not labels.numel():
                return self._nothing(logits.sum())
        fast = overlapping_loss if self._overlapping else segmentation_loss
        # Dice and cross entropy are told even where nothing is learnt from them.
        learnt = self._fast.dice > 0 or self._fast.cross_entropy > 0
        parts = fast(logits if learnt else logits.detach(), labels, self._fast)
        return self._with_more(parts, logits, labels) if self._more else parts

    def _nothing(self, zero: Tensor) -> LossParts:
        """The loss where no pixel is judged: every term is 0."""
        told = zero.detach()
        return LossParts(zero, told, told, {name: told for name in self._more if name != "cross_entropy"})

    def _with_more(self, parts: LossParts, logits: Tensor, labels: Tensor) -> LossParts:
        scored = self._scored(logits, labels)
        first = 0 if self._overlapping or self._config.dice_background else 1
        terms = {name: _term(name, scored, self._config, first) for name in self._more}
        total = parts.total
        for name, value in terms.items():
            total = total + self._more[name] * value
        found = {name: value.detach() for name, value in terms.items()}
        return replace(parts, total=total, cross_entropy=found.pop("cross_entropy", parts.cross_entropy), more=found)

    def _scored(self, logits: Tensor, labels: Tensor) -> Scored:
        rows = logits.permute(0, 2, 3, 1).reshape(-1, logits.shape[1])
        rows = rows if rows.dtype == torch.float64 else rows.float()
        weights = torch.tensor(self._weights or (1.0,) * rows.shape[1], dtype=rows.dtype, device=rows.device)
        flat = labels.reshape(-1)
        if self._overlapping:
            truth = bits_of(flat, rows.shape[1], 1).to(rows.dtype)
        else:
            truth = torch.zeros_like(rows).scatter_(1, flat.long()[:, None], 1.0)
        return Scored(rows, truth, weights, exclusive=not self._overlapping)


TERMS = ("bce", "focal", "tversky", "lovasz")
"""Settings of the weights of the terms beside Dice and cross entropy."""


def _term(name: str, scored: Scored, config: LossConfig, first: int) -> Tensor:
    """One term of the sum; ``first`` is the first label that terms over regions count."""
    match name:
        case "cross_entropy":
            return loss_terms.cross_entropy(scored)
        case "bce":
            return loss_terms.binary_cross_entropy(scored)
        case "focal":
            return loss_terms.focal(scored, config.focal_gamma)
        case "tversky":
            return loss_terms.tversky(scored, config.tversky_alpha, config.tversky_beta, first)
        case _:
            return loss_terms.lovasz(scored, first)
