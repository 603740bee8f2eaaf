"""What the scores of a Predictor say: labels, on the canvas and on a case's own grid, and probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from segray.case import LabelMap
from segray.config import PredictConfig
from segray.engine.probabilities import probabilities
from segray.engine.thresholds import least_probabilities, score_cuts
from segray.grid import Placement
from segray.resample import NO_PROBABILITY, Meaning, scores_to_bits, scores_to_labels, scores_to_shares


@dataclass(frozen=True)
class ScoreReading:
    """How scores (n, L, H, W) are read.

    Attributes:
        labels: L, the outputs of the nets.
        overlapping: a score a structure, else labels exclude each other, the first of them the background.
        averaged: scores are mean probabilities, less 0.5 where labels overlap; else logits of one network.
        least: of each label the probability from which it counts, None: always, or where labels overlap above 0.5; ():
            no label has any.
        cuts: the same as scores.
        stored: the type of probabilities that are handed out.
    """

    labels: int
    overlapping: bool
    averaged: bool
    least: tuple[float | None, ...] = ()
    cuts: tuple[float | None, ...] = ()
    stored: Literal["uint8", "uint16"] = "uint8"

    @classmethod
    def of(cls, config: PredictConfig, label_map: LabelMap, networks: int) -> ScoreReading:
        """How the scores of so many networks are read with some settings. Raises UsageError: no such structure."""
        overlapping = label_map.overlapping
        least = least_probabilities(config.threshold, label_map)
        cuts = score_cuts(least, averaged=networks > 1) if overlapping else least
        averaged = networks > 1 or bool(least and not overlapping)
        return cls(label_map.channels, overlapping, averaged, least, cuts, config.probabilities)

    def on_case(self, scores: Tensor, placement: Placement) -> Tensor:
        """(n, Y, X) label indices, or bit fields where labels overlap, on the case's own in-plane grid."""
        read = scores_to_bits if self.overlapping else labels_of_scores
        return read(scores, placement, least=self.cuts)

    def winners(self, scores: Tensor) -> Tensor:
        """(n, L, ...) scores to what is where on the canvas: (n, ...) indices; (n, L, ...) bool where they overlap."""
        return there(scores, self.cuts, 0.0) if self.overlapping else best_labels(scores, self.cuts)

    def probabilities(self, scores: Tensor) -> Tensor:
        """(n, L, ...) scores to float32 probabilities."""
        if not self.averaged:
            return probabilities(scores, overlapping=self.overlapping)
        return scores.float() + 0.5 if self.overlapping else scores.float()

    def shares_on_case(self, scores: Tensor, placement: Placement) -> Tensor:
        """(n, L, Y, X) probabilities times the highest value of their type, on the case's own in-plane grid.

        Labels are made of them: they are those of the interpolated scores, so that without thresholds the largest is
        that of the label, but for what rounding makes equal.
        """
        meanings: tuple[Meaning, Meaning] = ("given", "shifted") if self.averaged else ("softmax", "sigmoid")
        return scores_to_shares(scores.contiguous(), placement, meanings[self.overlapping], stored=self.stored)


def best_labels(scores: Tensor, least: Sequence[float | None] = ()) -> Tensor:
    """(n, L, ...) scores to the (n, ...) index of the largest that counts: uint8, or int16 for more than 256 labels.

    With ``least`` scores are probabilities, and a label counts from its own on; None: always.
    """
    # In channels_last the scores of a pixel are neighbours: a maximum over the last axis reads memory in order.
    last = scores.movedim(1, -1)
    if least:
        shares = last.new_tensor([0.0 if share is None else share for share in least])
        last = last.masked_fill(last < shares, NO_PROBABILITY)
    return last.max(-1).indices.to(torch.uint8 if scores.shape[1] <= 256 else torch.int16)


def there(scores: Tensor, cuts: Sequence[float | None], above: float) -> Tensor:
    """(n, L, ...) scores to bool: at least the label's own cut, or where it has none above ``above``."""
    found = scores > above
    for number, cut in enumerate(cuts):
        if cut is not None:
            found[:, number] = scores[:, number] >= cut
    return found


def labels_of_scores(scores: Tensor, placement: Placement, *, least: Sequence[float | None] = ()) -> Tensor:
    """Scores on the canvas to labels on the case's in-plane grid, the way that is fastest for their layout.

    Args:
        scores: (n, L, H, W), best in channels_last; with ``least`` probabilities.
        placement: a placement that crops nothing.
        least: the probability from which each label counts, None: always; (): all of them.

    Returns:
        (n, Y, X) uint8, or int16 for more than 256 channels; equal to :func:`segray.resample.scores_to_labels`.
    """
    if placement.resamples:
        return scores_to_labels(scores.contiguous(), placement, least=least)
    (y, x), _ = placement.windows()
    return best_labels(scores[:, :, y, x], least)
