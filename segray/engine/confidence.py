"""How sure the nets are of each structure of a case, for a list of the cases that somebody should look at.

Everything is summed over the pixels of the grid (the canvas without its padding) while a case is predicted, slab by
slab, and before components are removed or holes filled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.case import LabelMap
from segray.engine.scores import ScoreReading

BAND = 2**21
"""Scores that are looked at together, so that memory stays at some copies of them in float32."""


@dataclass(frozen=True)
class Confidence:
    """How sure the nets are of the structures of a case; an entry a structure, NaN where there is nothing to say.

    With p the probabilities of a pixel over L labels, background included, p1 and p2 the two largest of them, and S the
    pixels of the grid that get the structure's label:

    * margin: the mean over S of p1 - p2; where labels overlap of abs(2 p - 1), p that of the structure. 0: a toss-up.
    * entropy: the mean over S of -sum(p ln p) / ln L; where labels overlap of -(p ln p + (1 - p) ln(1 - p)) / ln 2.
      0: certain, 1: all alike.
    * disagreement: the mean over the members of 1 - 2 n(S_m and S_a) / (n(S_m) + n(S_a)), one less the Dice of the
      pixels S_m that the member would give to the structure and the pixels S_a that the average of all members gives
      to it. A member that has none of them where the average has none either says nothing. The members are the
      bundles, each with its mirrors; of a single bundle they are its mirrors; without mirrors there are none.

    p is what labels are made of: the mean over bundles and mirrors. Thresholds count for S, S_m and S_a. The mirrors of
    a 3D net are compared in each patch, its padding included, so that a pixel counts as often as patches cover it.

    Attributes:
        voxels: int64, pixels of the grid in S, over all slices.
        margin: float64, 0 to 1.
        entropy: float64, 0 to 1.
        disagreement: float64, 0 to 1.
    """

    voxels: NDArray[np.int64]
    margin: NDArray[np.float64]
    entropy: NDArray[np.float64]
    disagreement: NDArray[np.float64]

    def as_rows(self, label_map: LabelMap) -> list[dict[str, Any]]:
        """A row a structure: structure, margin, entropy, disagreement; None where there is nothing to say."""
        columns = zip(label_map.names, self.margin, self.entropy, self.disagreement, strict=True)
        return [
            {"structure": name}
            | {
                key: None if math.isnan(value) else float(value)
                for key, value in zip(("margin", "entropy", "disagreement"), values, strict=True)
            }
            for name, *values in columns
        ]


class ConfidenceSums:
    """What the confidence of a case is made of, summed on the device of the nets."""

    def __init__(self, reading: ScoreReading, members: int, device: torch.device) -> None:
        """Nothing yet; ``members`` are averaged."""
        self._reading, labels = reading, reading.labels
        self._sums = torch.zeros(3, labels, dtype=torch.float64, device=device)
        # Pixels a member: those of both, of the member, of the average.
        self._shared = torch.zeros(members, 3, labels, dtype=torch.int64, device=device)

    def add(self, scores: Tensor) -> None:
        """Add slices by their scores (n, L, h, w), without padding."""
        for band in _bands(scores):
            self._sums += self._of_bits(band) if self._reading.overlapping else self._of_labels(band)

    def compare(self, number: int, member: Tensor, average: Tensor) -> None:
        """Count what a member and what the average gives the same pixels: (n, ...) labels, or (n, L, ...) bool."""
        if self._reading.overlapping:
            axes = [axis for axis in range(member.ndim) if axis != 1]
            found = torch.stack([one.sum(axes) for one in (member & average, member, average)])
        else:
            found = torch.stack([self._counted(one) for one in (average[member == average], member, average)])
        self._shared[number] += found

    def merge(self, other: ConfidenceSums) -> None:
        """Add what another one counted of the same case."""
        self._sums += other._sums
        self._shared += other._shared

    def result(self) -> Confidence:
        """The confidence of what was added."""
        first = 0 if self._reading.overlapping else 1
        voxels, margin, entropy = self._sums[:, first:].cpu().numpy()
        both, member, average = self._shared[:, :, first:].cpu().numpy().swapaxes(0, 1)
        with np.errstate(invalid="ignore"):
            apart = 1.0 - 2.0 * both / (member + average)
            known = ~np.isnan(apart)
            disagreement = np.where(known, apart, 0.0).sum(0) / known.sum(0)
            return Confidence(voxels.astype(np.int64), margin / voxels, entropy / voxels, disagreement)

    def _counted(self, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        return torch.bincount(labels.flatten().int(), weights, minlength=self._reading.labels)

    def _of_labels(self, scores: Tensor) -> Tensor:
        """(3, L) float64 pixels, margins and entropies; those of the background are not looked at."""
        labels = self._reading.winners(scores)
        chosen = labels > 0
        labels = labels[chosen]
        # A row a label: operations along a row read memory in order.
        found = self._reading.probabilities(scores.movedim(1, -1)[chosen].T.contiguous()[None])[0]
        best, second = found[0].clone(), torch.zeros_like(found[0])
        for plane in found[1:]:
            torch.maximum(second, torch.minimum(best, plane), out=second)
            torch.maximum(best, plane, out=best)
        entropy = torch.special.entr(found).sum(0) / math.log(len(found))
        counts = self._counted(labels).double()
        return torch.stack([counts, *(self._counted(labels, one.double()) for one in (best - second, entropy))])

    def _of_bits(self, scores: Tensor) -> Tensor:
        """(3, L) float64 pixels, margins and entropies."""
        found, inside = self._reading.probabilities(scores), self._reading.winners(scores)
        entropy = (torch.special.entr(found) + torch.special.entr(1.0 - found)) / math.log(2.0)
        margin = (2.0 * found - 1.0).abs()
        return torch.stack([(one * inside).sum((0, 2, 3), dtype=torch.float64) for one in (inside, margin, entropy)])


@dataclass(frozen=True)
class Share:
    """Whose pixels are where in what goes through the nets together.

    Attributes:
        sums: of the case.
        here: index of its slices, and of the rows and columns that are no padding, in (n, ..., H, W).
    """

    sums: ConfidenceSums
    here: tuple[Any, ...] = (...,)


class Agreement:
    """Listens to means of probabilities, and counts how far each member agrees with the mean, a case each."""

    def __init__(self, reading: ScoreReading) -> None:
        self._reading = reading
        self._members: list[Tensor] = []
        self._shares: Sequence[Share] = ()

    def begin(self, shares: Sequence[Share]) -> None:
        """Say whose pixels the means from now on are of; without shares nothing is counted."""
        self._shares = shares
        self._members.clear()

    def forget(self) -> None:
        """Forget the members since the last mean."""
        self._members.clear()

    def member(self, found: Tensor) -> None:
        """Note what one member would give the pixels."""
        if self._shares:
            self._members.append(self._reading.likeliest(found))

    def mean(self, found: Tensor) -> None:
        """Count the pixels of all members since the last mean."""
        if not self._shares:
            return
        average = self._reading.likeliest(found)
        for share in self._shares:
            for number, labels in enumerate(self._members):
                share.sums.compare(number, labels[share.here], average[share.here])
        self._members.clear()


def _bands(scores: Tensor) -> Iterator[Tensor]:
    """(n, L, h, w) cut into rows of about :data:`BAND` scores of one slice each."""
    rows = max(BAND // (scores.shape[1] * scores.shape[3]), 1)
    for one in torch.split(scores, 1):
        yield from torch.split(one, rows, dim=2)
