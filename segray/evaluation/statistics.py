"""Volume and mean HU of every structure of a case in one pass over its voxels and labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segray.case import LabelMap, Volume
from segray.errors import CaseError
from segray.evaluation.counting import check_indices, pair_chunks, run_ends, sums_of_bits


@dataclass(frozen=True)
class StructureStatistics:
    """What a mask says of its structures; index 0 is the first structure, background is left out.

    Attributes:
        voxels: (structures,) int64.
        volume_ml: (structures,) float64; 0 where the structure is absent.
        mean_hu: (structures,) float64, in the unit of the voxels; NaN where the structure is absent.
    """

    voxels: NDArray[np.int64]
    volume_ml: NDArray[np.float64]
    mean_hu: NDArray[np.float64]

    def as_row(self, label_map: LabelMap) -> dict[str, float]:
        """The columns of ``cases.parquet``: volume_ml_<structure> of all structures, then mean_hu_<structure>."""
        volumes = {f"volume_ml_{name}": float(v) for name, v in zip(label_map.names, self.volume_ml, strict=True)}
        means = {f"mean_hu_{name}": float(v) for name, v in zip(label_map.names, self.mean_hu, strict=True)}
        return {**volumes, **means}


def structure_statistics(
    voxels: Volume, indices: Volume, channels: int, voxel_ml: float, *, overlapping: bool = False
) -> StructureStatistics:
    """Volume in ml and mean voxel value of every structure, exact for integer voxels.

    Sums runs of equal labels with ``np.add.reduceat``, chunk by chunk in memory order: nothing of the size of the
    volume is allocated.

    Args:
        voxels: (z, y, x), any real dtype; HU for CT.
        indices: (z, y, x) channel indices 0..channels-1, any integer dtype; or bit fields.
        channels: structures and background; of bit fields the structures.
        voxel_ml: volume of a voxel in ml.
        overlapping: the indices are bit fields.

    Raises:
        CaseError: the shapes differ, or an index lies outside 0..channels-1.
    """
    if voxels.shape != indices.shape:
        raise CaseError(f"The image has the shape {voxels.shape} and its mask {indices.shape} (z, y, x).")
    if indices.dtype.kind not in "iu":
        raise CaseError(f"The mask holds {indices.dtype} values, not integers.")
    counts = np.zeros(channels, dtype=np.int64)
    sums = np.zeros(channels, dtype=np.float64)
    exact = np.int64 if voxels.dtype.kind in "iub" else np.float64
    for values, labels in pair_chunks(voxels, indices):
        check_indices(labels, 1 << channels if overlapping else channels, "mask")
        ends = run_ends(labels)
        starts = np.concatenate(([0], ends[:-1] + 1))
        lengths = np.diff(ends, prepend=-1)
        if overlapping:
            runs = np.add.reduceat(values, starts, dtype=exact)
            counts += sums_of_bits(labels[ends], lengths, channels).astype(np.int64)
            sums += sums_of_bits(labels[ends], runs, channels)
            continue
        of_run = labels[ends].astype(np.int64)
        counts += np.bincount(of_run, weights=lengths, minlength=channels).astype(np.int64)
        sums += np.bincount(of_run, weights=np.add.reduceat(values, starts, dtype=exact), minlength=channels)
    if not overlapping:
        counts, sums = counts[1:], sums[1:]
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    volumes = np.asarray(counts * float(voxel_ml), dtype=np.float64)
    return StructureStatistics(voxels=counts, volume_ml=volumes, mean_hu=means)
