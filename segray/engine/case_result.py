"""What becomes of a case while its slabs are predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.engine.confidence import ConfidenceSums
from segray.errors import CaseError


class CaseResult:
    """Labels of a case, slab after slab, and how sure the nets were.

    Attributes:
        labels: (z, y, x), complete after :meth:`finish`.
        sums: what the confidence is made of; None where nobody asks.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any], sums: ConfidenceSums | None) -> None:
        self.labels: NDArray[Any] = np.empty(shape, dtype)
        self.sums = sums
        self._sound: Tensor | None = None
        # On a GPU the labels stay there to the end, so that no slab waits for a transfer.
        self._waiting: list[Tensor] = []

    def add(self, slices: range, labels: Tensor, sums: ConfidenceSums | None) -> None:
        """Take the (n, y, x) labels of the next slices, and what was summed over them."""
        if labels.device.type == "cpu":
            self.labels[slices.start : slices.stop] = labels.numpy()
        else:
            self._waiting.append(labels)
        if self.sums is not None and sums is not None:
            self.sums.merge(sums)

    def check(self, scores: Tensor) -> None:
        """Note whether the (n, L, H, W) scores of the next slices are finite; on a GPU without waiting for them.

        Where one is not, its comparisons all fail, and what is left would be background: a mask that looks like one.
        """
        # A flat view is read ten times as fast as the same memory by its axes.
        lies = scores.permute(0, 2, 3, 1) if scores.is_contiguous(memory_format=torch.channels_last) else scores
        low, high = torch.aminmax(lies.reshape(-1))
        sound = torch.isfinite(low) & torch.isfinite(high)
        self._sound = sound if self._sound is None else self._sound & sound

    def finish(self) -> None:
        """Fetch what is still on the device. Raises CaseError where scores were not finite."""
        if self._sound is not None and not bool(self._sound):
            raise CaseError(
                "The scores of the network are no finite numbers: its activations are larger than its precision holds.",
                mend="Set predict.precision=float32; where they are so too, the bundle is of no use.",
            )
        if self._waiting:
            np.copyto(self.labels, torch.cat(self._waiting).cpu().numpy(), casting="unsafe")
            self._waiting.clear()
