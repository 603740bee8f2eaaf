"""Overlap and volume metrics as pure functions of :class:`Counts`, and the rows of ``metrics.csv``.

All functions take Counts of shape (..., channels) and return float64 of the same shape. One rule for empty structures
holds everywhere: absent from truth and prediction alike gives NaN, which means leave out of any mean; absent from only
one of them gives 0. (MONAI's DiceMetric gives NaN, or 1 and 0, for an empty truth as its ``ignore_empty`` says; where
the truth is not empty the numbers are equal.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segray.case import LabelMap
from segray.evaluation.counting import Counts

Floats = NDArray[np.float64]

METRICS = (
    "dice",
    "iou",
    "precision",
    "recall",
    "volume_ml",
    "truth_ml",
    "volume_error_ml",
    "relative_volume_error",
    "accuracy",
)
"""The metric columns of ``metrics.csv`` in their order, after case_id and structure."""

OVERLAP_COUNTS = ("tp_voxels", "truth_voxels", "predicted_voxels")
COUNTED = (*OVERLAP_COUNTS, "voxels")
"""The columns of counts, after the metrics."""


def dice(counts: Counts) -> Floats:
    """2 TP / (truth + predicted), 0..1 (Dice, Ecology 26, 1945)."""
    return _ratio(2 * counts.tp, counts.truth + counts.predicted, counts)


def iou(counts: Counts) -> Floats:
    """TP / (truth + predicted - TP), 0..1: the Jaccard index."""
    return _ratio(counts.tp, counts.truth + counts.predicted - counts.tp, counts)


def precision(counts: Counts) -> Floats:
    """TP / predicted, 0..1; 0 where nothing was predicted but the structure is there."""
    return _ratio(counts.tp, counts.predicted, counts)


def recall(counts: Counts) -> Floats:
    """TP / truth, 0..1 (sensitivity); 0 where the structure was predicted but is not there."""
    return _ratio(counts.tp, counts.truth, counts)


def volume_ml(counts: Counts, voxel_ml: float) -> Floats:
    """The predicted volume in ml; 0 where nothing was predicted."""
    return np.asarray(counts.predicted * float(voxel_ml), dtype=np.float64)


def truth_ml(counts: Counts, voxel_ml: float) -> Floats:
    """The true volume in ml; 0 where the structure is absent."""
    return np.asarray(counts.truth * float(voxel_ml), dtype=np.float64)


def volume_error_ml(counts: Counts, voxel_ml: float) -> Floats:
    """Predicted minus true volume in ml; NaN where both are empty."""
    error = (counts.predicted - counts.truth) * float(voxel_ml)
    return np.where(_present(counts), error, np.nan)


def relative_volume_error(counts: Counts) -> Floats:
    """(predicted - truth) / truth, -1 where nothing was predicted; NaN where the truth is empty."""
    known = counts.truth > 0
    error = (counts.predicted - counts.truth) / np.maximum(counts.truth, 1)
    return np.where(known, error, np.nan)


def accuracy(counts: Counts, voxels: int) -> Floats:
    """(TP + TN) / all voxels of the case, 0..1: the pixel accuracy of the literature, a structure against the rest.

    It counts the background, so an empty mask of a small structure is nearly as accurate as a perfect one.
    """
    return np.asarray((voxels - counts.truth - counts.predicted + 2 * counts.tp) / max(voxels, 1), dtype=np.float64)


def case_metrics(counts: Counts, voxel_ml: float, voxels: int) -> dict[str, Floats]:
    """All metrics of a case by name, in the order of ``METRICS``; each of the shape of ``counts``."""
    return {
        "dice": dice(counts),
        "iou": iou(counts),
        "precision": precision(counts),
        "recall": recall(counts),
        "volume_ml": volume_ml(counts, voxel_ml),
        "truth_ml": truth_ml(counts, voxel_ml),
        "volume_error_ml": volume_error_ml(counts, voxel_ml),
        "relative_volume_error": relative_volume_error(counts),
        "accuracy": accuracy(counts, voxels),
    }


def case_rows(case_id: str, counts: Counts, label_map: LabelMap, voxel_ml: float, voxels: int) -> list[dict[str, Any]]:
    """The rows of ``metrics.csv`` for one case: one a structure, in the order of the label map, without background.

    Columns: case_id, structure, then ``METRICS``, then tp_voxels, truth_voxels, predicted_voxels, voxels.

    Args:
        case_id: name of the case.
        counts: of shape (channels,), as :func:`segray.evaluation.count_pair` gives them.
        label_map: its names belong to the channels 1, 2, ...
        voxel_ml: volume of a voxel of the case in ml.
        voxels: all voxels of the case.
    """
    of_structures = counts.structures()
    metrics = case_metrics(of_structures, voxel_ml, voxels)
    rows: list[dict[str, Any]] = []
    for index, name in enumerate(label_map.names):
        row: dict[str, Any] = {"case_id": case_id, "structure": name}
        row.update({metric: float(values[index]) for metric, values in metrics.items()})
        row["tp_voxels"] = int(of_structures.tp[index])
        row["truth_voxels"] = int(of_structures.truth[index])
        row["predicted_voxels"] = int(of_structures.predicted[index])
        row["voxels"] = voxels
        rows.append(row)
    return rows


def pooled_accuracy(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Structure to its ``accuracy`` over the voxels of all cases, and the ``accuracy_of_empty_masks`` beside it.

    Structures of which no voxel was judged, since all are ignored, have none.

    Args:
        rows: of :func:`case_rows`.
    """
    sums: dict[str, dict[str, int]] = {}
    for row in rows:
        total = sums.setdefault(row["structure"], dict.fromkeys(COUNTED, 0))
        for name in COUNTED:
            total[name] += int(row[name])
    return {
        name: {
            "accuracy": 1
            - (total["truth_voxels"] + total["predicted_voxels"] - 2 * total["tp_voxels"]) / total["voxels"],
            "accuracy_of_empty_masks": 1 - total["truth_voxels"] / total["voxels"],
        }
        for name, total in sums.items()
        if total["voxels"]
    }


def _present(counts: Counts) -> NDArray[np.bool_]:
    return (counts.truth + counts.predicted) > 0


def _ratio(part: NDArray[np.int64], whole: NDArray[np.int64], counts: Counts) -> Floats:
    return np.where(_present(counts), part / np.maximum(whole, 1), np.nan)
