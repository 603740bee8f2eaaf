"""What the stages of a prediction declare of memory, so that Ray begins only as many cases at once as fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from segray.config import PredictConfig
from segray.pipelines.headers import Planned
from segray.pipelines.runtime import MIB

RESIDENT = 512 * MIB
"""A Predictor without its slab: torch and a net of some dozen million parameters."""

LABELS, CLEANING = 3, 7
"""Bytes a voxel of a case in a Predictor: its labels as they are made and as they go on; and what cleaning takes."""


@dataclass(frozen=True)
class PredictorMemory:
    """What Predictors hold.

    Attributes:
        settings: of the prediction.
        structures: that a probability is kept of.
        share: bytes of a node's memory a Predictor: it declares at most a quarter of them for what stays, and a quarter
            for its case, so that at least half of a node is left to read and write.
    """

    settings: PredictConfig
    structures: int
    share: int

    @property
    def resident(self) -> int:
        """Bytes that stay from case to case: the nets, a slab and torch itself."""
        return min(2 * self.settings.slab_mib * MIB + RESIDENT, self.share // 4)

    def of_case(self, case: Planned) -> int:
        """Bytes that a case takes beside its voxels, which lie in the object store."""
        cleaned = self.settings.largest_component or self.settings.smallest_ml or self.settings.fill_holes
        kept = self.structures if "probabilities" in self.settings.further else 0
        kept *= 2 if self.settings.probabilities == "uint16" else 1
        return math.prod(case.size) * (LABELS + kept + (CLEANING if cleaned else 0))

    def declared(self, cases: Sequence[Planned]) -> int:
        """Bytes of a Predictor that these cases come to."""
        return self.resident + min(max(map(self.of_case, cases), default=0), self.share // 4)


def bytes_needed(case: Planned) -> int:
    """Memory of one stage for a case: the file and its voxels while they are read, or voxels and labels."""
    return case.voxel_bytes * 3 + 256 * MIB
