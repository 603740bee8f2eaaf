"""The probability from which a structure takes a voxel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from segray.case import LabelMap
from segray.errors import UsageError
from segray.resample import Weighing


def least_probabilities(told: Mapping[str, float], label_map: LabelMap) -> tuple[float | None, ...]:
    """``predict.threshold`` as an entry an output of the net, None where there is no threshold; () for none at all.

    Raises UsageError where it names no structure of the label map, or the background; and where it is 0 and labels
    exclude each other, since one of them would get every voxel.
    """
    if not told:
        return ()
    if "background" in told and "background" not in label_map.names:
        raise UsageError(
            "predict.threshold names the background, which takes what no structure may.",
            mend="Give the structures thresholds instead.",
        )
    by_number = {label_map.number(name, "predict.threshold"): share for name, share in told.items()}
    if not label_map.overlapping:
        _refuse_zero(told)
    first = 1 if label_map.overlapping else 0
    return tuple(by_number.get(number) for number in range(first, len(label_map.names) + 1))


def weighing(least: Sequence[float | None], *, logits: bool) -> Weighing | None:
    """What thresholds of labels that exclude each other make of scores; None: nothing, as all are 0.5."""
    shares = [0.5 if share is None else share for share in least]
    if all(share == 0.5 for share in shares):
        return None
    return Weighing(tuple((1.0 - share) / share for share in shares), logits)


def score_cuts(least: Sequence[float | None], *, averaged: bool) -> tuple[float | None, ...]:
    """Probabilities of overlapping structures as scores: logits, or ``averaged`` probabilities less 0.5."""
    return tuple(None if share is None else share - 0.5 if averaged else _logit(share) for share in least)


def _refuse_zero(told: Mapping[str, float]) -> None:
    for name, share in told.items():
        if share == 0.0:
            raise UsageError(
                f"predict.threshold is 0 for {name}, which would get every voxel.",
                mend="Give more than 0, such as 0.3 for more voxels than at 0.5.",
            )


def _logit(share: float) -> float:
    if share in (0.0, 1.0):
        return math.copysign(math.inf, share - 0.5)
    return math.log(share / (1.0 - share))
