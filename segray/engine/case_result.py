"""What becomes of a case while its slabs are predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from segray.engine.confidence import ConfidenceSums


class CaseResult:
    """Labels of a case, slab after slab, and how sure the nets were.

    Attributes:
        labels: (z, y, x), complete after :meth:`finish`.
        sums: what the confidence is made of; None where nobody asks.
    """

    def __init__(self, shape: tuple[int, int, int], dtype: np.dtype[Any], sums: ConfidenceSums | None) -> None:
        self.labels: NDArray[Any] = np.empty(shape, dtype)
        self.sums = sums
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

    def finish(self) -> None:
        """Fetch what is still on the device."""
        if self._waiting:
            np.copyto(self.labels, torch.cat(self._waiting).cpu().numpy(), casting="unsafe")
            self._waiting.clear()
