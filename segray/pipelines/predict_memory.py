"""What the stages of a prediction declare of memory, so that Ray begins only as many cases at once as fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from segray.case import LabelMap
from segray.config import PredictConfig
from segray.engine.windows import HANDED_ON, predicted_patch
from segray.grid import Grid
from segray.pipelines.headers import Planned
from segray.pipelines.runtime import MIB

if TYPE_CHECKING:
    from segray.nets.bundle import Bundle

RESIDENT = 512 * MIB
"""A Predictor without its slab and its nets: torch itself."""

COPIES = 3
"""Of the weights of a net: those that were read, those that compute, and what a compiler makes of them."""

SUMS = 4
"""Bytes a label and voxel of a patch's depth, over the whole canvas, while a case is seen by patches: the sums of the
logits in float32."""

QUOTIENTS = 3
"""Times :data:`segray.engine.windows.HANDED_ON`, or the sums where they are less: the means that are handed on, before
and after their axes are turned, and the slices of the patches. Measured over 16 slices of 1024 x 1024: 995 MiB of 5
labels, of which 320 are sums, and 1,975 of 20, of which 1,280 are."""

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
        weights: bytes of all nets, as they are kept.
        patches: labels times slices of a patch, of all 3D nets whose sums lie in this memory; 0 on a GPU.
        volumes: how many nets these are.
        grid: of the nets, on whose canvas the sums lie; None: there are none.
    """

    settings: PredictConfig
    structures: int
    share: int
    weights: int = 0
    patches: int = 0
    volumes: int = 0
    grid: Grid | None = None

    @classmethod
    def of(cls, settings: PredictConfig, bundles: Sequence[Bundle], share: int, *, on_gpu: bool) -> PredictorMemory:
        """Of Predictors of these bundles, all of them loaded."""
        weights = sum(tensor.numel() * tensor.element_size() for one in bundles for tensor in one.weights.values())
        volumes = [one for one in bundles if one.net.patch]
        deep = [one.label_map.channels * predicted_patch(one.net, settings.patch)[0] for one in volumes]
        grid = bundles[0].grid
        if on_gpu:
            deep = []
        return cls(settings, len(bundles[0].label_map.names), share, weights, sum(deep), len(deep), grid)

    @property
    def resident(self) -> int:
        """Bytes that stay from case to case: the nets, a slab and torch itself."""
        return min(2 * self.settings.slab_mib * MIB + RESIDENT + COPIES * self.weights, self.share // 4)

    def of_case(self, case: Planned) -> int:
        """Bytes that a case takes beside its voxels, which lie in the object store."""
        cleaned = self.settings.largest_component or self.settings.smallest_ml or self.settings.fill_holes
        kept = self.structures if "probabilities" in self.settings.further else 0
        kept *= 2 if self.settings.probabilities == "uint16" else 1
        return math.prod(case.size) * (LABELS + kept + (CLEANING if cleaned else 0)) + self._sums(case)

    def _sums(self, case: Planned) -> int:
        if not self.patches or self.grid is None:
            return 0
        sides: Sequence[int] = self.grid.size if self.grid.mode == "size" else case.size[1:]
        if self.grid.spacing is not None:
            before = zip(case.size[1:], case.spacing[1:], self.grid.spacing, strict=True)
            sides = [math.ceil(side * own / pixel) for side, own, pixel in before]
        sums = SUMS * self.patches * math.prod(max(pair) for pair in zip(sides, self.grid.size, strict=True))
        return sums + QUOTIENTS * min(sums, HANDED_ON * self.volumes)

    def declared(self, cases: Sequence[Planned]) -> int:
        """Bytes of a Predictor that these cases come to."""
        return self.resident + min(max(map(self.of_case, cases), default=0), self.share // 4)


SEG_BYTES = 20
"""Bytes a voxel, whatever the structures, while highdicom makes a DICOM SEG and it is written. Measured in 60
slices of 384 x 384, in all: of structures that overlap, which are a byte each, 27.4 for 8 and 39.4 for 20; of
labels 15.5 for 8 and 21.9 for 20, both noise, where every slice shows all of them, and 18.5 for 104 boxes of 8
slices."""


def bytes_needed(case: Planned) -> int:
    """Memory of one stage for a case: the file and its voxels while they are read, or voxels and labels."""
    return case.voxel_bytes * 3 + 256 * MIB


@dataclass(frozen=True)
class StageMemory:
    """What reading or writing takes, whichever takes more.

    Attributes:
        segmentation: a DICOM SEG is written.
        structures: how many there are.
        overlapping: they may share voxels.
    """

    segmentation: bool
    structures: int
    overlapping: bool

    @classmethod
    def of(cls, settings: PredictConfig, label_map: LabelMap) -> StageMemory:
        """Of a prediction of this label map."""
        wanted = "dicom-seg" in (settings.output, *settings.further)
        return cls(wanted, len(label_map.names), label_map.overlapping)

    def __call__(self, case: Planned) -> int:
        """Bytes for a case."""
        needed = bytes_needed(case)
        if not self.segmentation:
            return needed
        # What is packed has a bit a voxel and structure, and only for slices that show it.
        each = SEG_BYTES + (self.structures if self.overlapping else self.structures // 8)
        return max(needed, math.prod(case.size) * each + case.voxel_bytes + 256 * MIB)
