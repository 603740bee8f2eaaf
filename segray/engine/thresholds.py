"""The probability from which a structure may take a voxel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from segray.case import LabelMap
from segray.errors import UsageError


def least_probabilities(told: Mapping[str, float], label_map: LabelMap) -> tuple[float | None, ...]:
    """``predict.threshold`` as an entry an output of the net, None where there is no threshold; () for none at all.

    Raises UsageError where it names no structure of the label map, or the background.
    """
    if not told:
        return ()
    if "background" in told and "background" not in label_map.names:
        raise UsageError(
            "predict.threshold names the background, which takes what no structure may.",
            mend="Give the structures thresholds instead.",
        )
    by_number = {label_map.number(name, "predict.threshold"): share for name, share in told.items()}
    first = 1 if label_map.overlapping else 0
    return tuple(by_number.get(number) for number in range(first, len(label_map.names) + 1))


def score_cuts(least: Sequence[float | None], *, averaged: bool) -> tuple[float | None, ...]:
    """Probabilities of overlapping structures as scores: logits, or ``averaged`` probabilities less 0.5."""
    return tuple(None if share is None else share - 0.5 if averaged else _logit(share) for share in least)


def _logit(share: float) -> float:
    if share in (0.0, 1.0):
        return math.copysign(math.inf, share - 0.5)
    return math.log(share / (1.0 - share))
