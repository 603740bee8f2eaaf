"""What the scores of a Predictor say: labels, on the canvas and on a case's own grid, and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.case import LabelMap
from segray.config import PredictConfig
from segray.engine.probabilities import probabilities
from segray.engine.thresholds import least_probabilities, score_cuts, weighing
from segray.grid import Placement
from segray.resample import Meaning, Weighing, scores_to_bits, scores_to_labels, scores_to_shares

FEW_LABELS = 16
"""Up to so many a running maximum over planes is faster on a CPU. Measured at 512x512, one thread, torch's maximum
against it: 2 labels 3.2 and 0.4 ms, 6 labels 8.1 and 2.6, 16 labels 17 and 12, 32 labels 25 and 31."""

BAND_PIXELS = 2**16
"""Pixels whose planes are looked at together, while the cache holds them."""


@dataclass(frozen=True)
class ScoreReading:
    """How scores (n, L, H, W) are read.

    Attributes:
        labels: L, the outputs of the nets.
        overlapping: a score a structure, else labels exclude each other, the first of them the background.
        averaged: scores are mean probabilities, less 0.5 where labels overlap; else logits of one network.
        least: of each overlapping structure the probability from which it is there, None: above 0.5; (): of all.
        cuts: the same as scores.
        weighing: what thresholds make of the scores of labels that exclude each other; None: nothing.
        weighing_shares: the same of their probabilities.
        stored: the type of probabilities that are handed out.
    """

    labels: int
    overlapping: bool
    averaged: bool
    least: tuple[float | None, ...] = ()
    cuts: tuple[float | None, ...] = ()
    weighing: Weighing | None = None
    weighing_shares: Weighing | None = None
    stored: Literal["uint8", "uint16"] = "uint8"

    @classmethod
    def of(cls, config: PredictConfig, label_map: LabelMap, networks: int) -> ScoreReading:
        """How the scores of so many networks are read with some settings. Raises UsageError: no such structure."""
        averaged, least = networks > 1, least_probabilities(config.threshold, label_map)
        if label_map.overlapping:
            cuts = score_cuts(least, averaged=averaged)
            return cls(label_map.channels, True, averaged, least, cuts, stored=config.probabilities)
        return cls(
            label_map.channels,
            False,
            averaged,
            weighing=weighing(least, logits=not averaged),
            weighing_shares=weighing(least, logits=False),
            stored=config.probabilities,
        )

    def on_case(self, scores: Tensor, placement: Placement) -> Tensor:
        """(n, Y, X) label indices, or bit fields where labels overlap, on the case's own in-plane grid."""
        if self.overlapping:
            return scores_to_bits(scores, placement, least=self.cuts)
        return labels_of_scores(scores, placement, weighing=self.weighing)

    def winners(self, scores: Tensor) -> Tensor:
        """(n, L, ...) scores to what is where on the canvas: (n, ...) indices; (n, L, ...) bool where they overlap."""
        return there(scores, self.cuts, 0.0) if self.overlapping else best_labels(scores, self.weighing)

    def likeliest(self, shares: Tensor) -> Tensor:
        """(n, L, ...) probabilities to what is where, as :meth:`winners` of scores."""
        return there(shares, self.least, 0.5) if self.overlapping else best_labels(shares, self.weighing_shares)

    def probabilities(self, scores: Tensor) -> Tensor:
        """(n, L, ...) scores to float32 probabilities."""
        if not self.averaged:
            return probabilities(scores, overlapping=self.overlapping)
        return scores.float() + 0.5 if self.overlapping else scores.float()

    def shares_on_case(self, scores: Tensor, placement: Placement) -> Tensor:
        """(n, L, Y, X) probabilities times the highest value of their type, on the case's own in-plane grid.

        Labels are made of them: they are those of the interpolated scores, so that without thresholds the largest is
        that of the label, and of one structure it is there from its threshold on, but for what rounding makes equal.
        """
        meanings: tuple[Meaning, Meaning] = ("given", "shifted") if self.averaged else ("softmax", "sigmoid")
        return scores_to_shares(scores.contiguous(), placement, meanings[self.overlapping], stored=self.stored)


def best_labels(scores: Tensor, weighing: Weighing | None = None) -> Tensor:
    """(n, L, ...) scores to the (n, ...) index of the largest, weighed: uint8, or int16 for more than 256 labels."""
    if weighing is None and scores.device.type == "cpu" and 1 < scores.shape[1] <= FEW_LABELS:
        return _best_of_few(scores.float())
    # In channels_last the scores of a pixel are neighbours: a maximum over the last axis reads memory in order.
    last = scores.movedim(1, -1)
    if weighing is not None:
        last = weighing.weighed(last)
    return last.max(-1).indices.to(torch.uint8 if scores.shape[1] <= 256 else torch.int16)


def _best_of_few(scores: Tensor) -> Tensor:
    """A running maximum over planes in numpy, a third of the time of torch's maximum over an axis of so few."""
    count, _, rows = scores.shape[:3]
    found = torch.zeros(count, *scores.shape[2:], dtype=torch.uint8)
    step = max(BAND_PIXELS * count * rows // max(found.numel(), 1), 1)
    for image, best in zip(scores.numpy(), found.numpy(), strict=True):
        for start in range(0, rows, step):
            # A plane of neighbours in memory: the scores of a pixel lie beside each other in channels_last.
            band = np.ascontiguousarray(image[:, start : start + step])
            _raise_winners(band, best[start : start + step])
    return found


def _raise_winners(planes: NDArray[np.float32], winners: NDArray[np.uint8]) -> None:
    """Put the lowest index of the largest of (L, ...) planes into ``winners``, which are 0."""
    highest, higher = planes[0].copy(), np.empty(winners.shape, np.bool_)
    marks = higher.view(np.uint8)
    for number, plane in enumerate(planes[1:], start=1):
        np.greater(plane, highest, out=higher)
        # The index only rises, so the maximum does what a masked assignment would.
        np.multiply(marks, np.uint8(number), out=marks)
        np.maximum(winners, marks, out=winners)
        np.maximum(highest, plane, out=highest)


def there(scores: Tensor, cuts: Sequence[float | None], above: float) -> Tensor:
    """(n, L, ...) scores to bool: at least the label's own cut, or where it has none above ``above``."""
    found = scores > above
    for number, cut in enumerate(cuts):
        if cut is not None:
            found[:, number] = scores[:, number] >= cut
    return found


def labels_of_scores(scores: Tensor, placement: Placement, *, weighing: Weighing | None = None) -> Tensor:
    """Scores on the canvas to labels on the case's in-plane grid, the way that is fastest for their layout.

    Args:
        scores: (n, L, H, W), best in channels_last.
        placement: a placement that crops nothing.
        weighing: what thresholds make of such scores; None: nothing.

    Returns:
        (n, Y, X) uint8, or int16 for more than 256 channels; equal to :func:`segray.resample.scores_to_labels`.
    """
    if placement.resamples:
        return scores_to_labels(scores.contiguous(), placement, weighing=weighing)
    (y, x), _ = placement.windows()
    return best_labels(scores[:, :, y, x], weighing)
