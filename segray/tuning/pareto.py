"""The trials of a sweep with several objectives that no other trial beats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segray.tuning.ranking import measured, value_of
from segray.tuning.records import Objective, TrialRecord


def pareto_front(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[TrialRecord]:
    """The measured trials that no other dominates, in the given order; of equal trials all stay.

    A trial dominates another where it is as good in every objective and better in one. With one objective these are
    the best trial and those that equal it. Takes O(n^2) time for n trials.
    """
    found = measured(records, objectives)
    if not found:
        return []
    signs = np.array([-1.0 if objective.maximise else 1.0 for objective in objectives])
    costs = np.array([[value_of(record, at) for at in range(len(objectives))] for record in found]) * signs
    kept = []
    for record, own in zip(found, costs, strict=True):
        dominating = np.all(costs <= own, axis=1) & np.any(costs < own, axis=1)
        if not dominating.any():
            kept.append(record)
    return kept
