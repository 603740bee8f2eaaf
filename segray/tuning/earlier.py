"""Which trials of an earlier sweep the sampler of another one can learn from."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState

from segray.tuning.draws import holds

CHOICES = "drew {} from other choices than this space"
OUTSIDE = "drew {} outside of the range of this space"
LACKS = "did not draw {}, without which cmaes could not draw it"
STRANGE = "share no name with this space"
"""Why a trial is left out, with the names that keep it out."""


@dataclass(frozen=True)
class Fitting:
    """What a study over another space can take of the finished trials of a sweep.

    Attributes:
        trials: with the distributions of the new space, and the names that it has.
        left_out: how many others, by the reason.
    """

    trials: list[FrozenTrial]
    left_out: Mapping[str, int]


def fitting(
    trials: Sequence[FrozenTrial],
    ranges: Mapping[str, BaseDistribution],
    objectives: int,
    needed: Collection[str] = (),
) -> Fitting:
    """The finished trials that a study over another space can take.

    A study has one kind for a name, and the same choices for ever: with a trial that had others it could not draw. Of
    a number Optuna's samplers go on with the first range that they see, or draw it apart where two trials had two. So
    a trial takes the ranges of the new space, and one that lies outside of them is left out as a whole: without one of
    its numbers it would part the others.

    Args:
        trials: Optuna's, of the earlier sweep.
        ranges: what the new space draws from, by name.
        objectives: how many the new sweep has.
        needed: names that a trial must have drawn.
    """
    finished = [one for one in trials if one.state is TrialState.COMPLETE and len(one.values) == objectives]
    found: list[FrozenTrial] = []
    reasons: dict[str, list[set[str]]] = {}
    for one in finished:
        reason, names = _hindered(one, ranges, needed)
        if reason:
            reasons.setdefault(reason, []).append(names)
        else:
            found.append(_moved(one, ranges))
    return Fitting(
        found,
        {reason.format(", ".join(sorted(set().union(*those)))): len(those) for reason, those in reasons.items()},
    )


def _hindered(
    one: FrozenTrial, ranges: Mapping[str, BaseDistribution], needed: Collection[str]
) -> tuple[str, set[str]]:
    """Why a trial cannot be taken, and the names that hinder it; "": it can."""
    shared = [name for name in one.params if name in ranges]
    if not shared:
        return STRANGE, set()
    hindering = {
        CHOICES: {name for name in shared if not _alike(one.distributions[name], ranges[name])},
        OUTSIDE: {name for name in shared if not holds(ranges[name], one.params[name])},
        LACKS: set(needed) - set(one.params),
    }
    return next(((reason, names) for reason, names in hindering.items() if names), ("", set()))


def _moved(one: FrozenTrial, ranges: Mapping[str, BaseDistribution]) -> FrozenTrial:
    moved = copy.copy(one)
    moved.params = {name: value for name, value in one.params.items() if name in ranges}
    moved.distributions = {name: ranges[name] for name in moved.params}
    return moved


def _alike(drawn: BaseDistribution, now: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(drawn, now)
    except ValueError:
        return False
    return True
