"""Metrics of patients whose scan is several cases, such as the pictures of one volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segray.evaluation.counting import Counts
from segray.evaluation.metrics import OVERLAP_COUNTS, dice, iou, precision, recall

Row = dict[str, Any]

RATIOS = {"dice": dice, "iou": iou, "precision": precision, "recall": recall}


def patient_rows(rows: Sequence[Row], patients: Mapping[str, str]) -> list[Row]:
    """The rows of ``patients.csv``: the voxels of all cases of a patient counted together, a row a structure.

    A slice that shows ten voxels of a lung weighs as much as any other in a mean over pictures; here it weighs its
    voxels, as in the Dice of the whole volume.

    Args:
        rows: of :func:`segray.evaluation.metrics.case_rows`.
        patients: case id to patient.

    Returns:
        Rows with patient, structure, cases, the ratios (NaN where the structure is absent from truth and masks) and
        the counts; [] where every patient has one case, since the rows of the cases say it then.
    """
    pooled: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        pooled.setdefault((patients[row["case_id"]], row["structure"]), []).append(row)
    if all(len(found) == 1 for found in pooled.values()):
        return []
    return [_pooled(patient, structure, pooled[patient, structure]) for patient, structure in sorted(pooled)]


def _pooled(patient: str, structure: str, rows: Sequence[Row]) -> Row:
    sums = {name: sum(int(row[name]) for row in rows) for name in OVERLAP_COUNTS}
    counts = Counts(*(np.array([sums[name]], dtype=np.int64) for name in OVERLAP_COUNTS))
    ratios = {name: float(ratio(counts)[0]) for name, ratio in RATIOS.items()}
    return {"patient": patient, "structure": structure, "cases": len(rows), **ratios, **sums}


def patient_means(rows: Sequence[Row]) -> dict[str, float]:
    """Structure to its mean Dice over the patients in which truth or mask show it."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if not np.isnan(row["dice"]):
            found.setdefault(row["structure"], []).append(row["dice"])
    return {structure: float(np.mean(values)) for structure, values in found.items()}
