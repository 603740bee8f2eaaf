"""Which trials of an earlier sweep the sampler of another one can learn from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.trial import FrozenTrial, TrialState


def fitting(
    trials: Sequence[FrozenTrial], ranges: Mapping[str, BaseDistribution], objectives: int
) -> tuple[list[FrozenTrial], list[str]]:
    """The finished trials that a study over another space can take, and the names that keep the others out.

    A study has one kind for a name, and the same choices for ever: with a trial that had others it could not draw.
    Numbers may have come from a narrower or a wider range.

    Args:
        trials: Optuna's, of the earlier sweep.
        ranges: what the new space draws from, by name.
        objectives: how many the new sweep has.
    """
    finished = [one for one in trials if one.state is TrialState.COMPLETE and len(one.values) == objectives]
    found, names = [], set()
    for one in finished:
        other = [name for name, drawn in one.distributions.items() if not _alike(drawn, ranges.get(name, drawn))]
        names |= set(other)
        if not other:
            found.append(one)
    return found, sorted(names)


def _alike(drawn: BaseDistribution, now: BaseDistribution) -> bool:
    try:
        check_distribution_compatibility(drawn, now)
    except ValueError:
        return False
    return True
