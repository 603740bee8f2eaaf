"""Labels painted one structure after the other, whatever file the structure comes from."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segray.case import LabelMap, Volume
from segray.errors import CaseError


class Painting:
    """Label values (z, y, x), or a bit field where ``overlap`` is ``keep``.

    A voxel in several structures goes to the one with the fewest voxels, of equal ones to the first of the label map,
    as :func:`segray.formats.masks.stack_masks` has it for NIfTI masks.

    Args:
        label_map: the structures.
        size: (z, y, x).
        overlap: smallest, refuse or keep.
    """

    def __init__(self, label_map: LabelMap, size: tuple[int, int, int], overlap: str) -> None:
        self._map = label_map
        self._overlap = overlap
        self._order = {name: number for number, name in enumerate(label_map.names)}
        self._counts: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        if overlap == "keep":
            bits = 1 << (len(replace(label_map, overlapping=True).names) - 1)
            self.labels: Volume = np.zeros(size, np.min_scalar_type(bits))
        else:
            self.labels = np.zeros(size, label_map.dtype)

    def add(self, name: str, inside: NDArray[np.bool_]) -> None:
        """Paint a structure of the label map, once each. Raises CaseError: ``refuse``, and it overlaps another."""
        if self._overlap == "keep":
            self.labels[inside] |= self.labels.dtype.type(1 << self._order[name])
            return
        flat = self.labels.reshape(-1)
        where = np.flatnonzero(inside)
        self._counts[name] = len(where)
        before = flat[where]
        held = np.flatnonzero(np.bincount(before)) if before.any() else np.empty(0, np.intp)
        for value in held[held > 0].tolist():
            stays = self._settle(name, value, int(np.count_nonzero(before == value)))
            if stays:
                kept = before != value
                where, before = where[kept], before[kept]
        flat[where] = self._map.values[name]

    def _settle(self, name: str, value: int, shared: int) -> bool:
        """Whether the structure with ``value`` keeps the voxels that it shares with ``name``."""
        other = next(known for known, theirs in self._map.values.items() if theirs == value)
        if self._overlap == "refuse":
            raise CaseError(
                f"The masks of {other} and {name} overlap, and ingest.overlap is refuse.",
                mend="Set ingest.overlap=smallest, or keep fewer structures.",
            )
        stays = (self._counts[other], self._order[other]) < (self._counts[name], self._order[name])
        loser = name if stays else other
        self._lost[loser] = self._lost.get(loser, 0) + shared
        return stays

    def notes(self) -> list[str]:
        """What was lost to smaller structures."""
        if not self._lost:
            return []
        most = sorted(self._lost, key=lambda name: -self._lost[name])
        shown = ", ".join(f"{name} gave {self._lost[name]:,}" for name in most[:4])
        more = f" and {len(most) - 4} more" if len(most) > 4 else ""
        total = sum(self._lost.values())
        return [f"Masks overlap in {total:,} voxels; the smaller structure has them: {shown}{more}."]
