"""What a sweep found, in one paragraph for the terminal and the top of the page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from segray.tuning.pareto import pareto_front
from segray.tuning.ranking import (
    OUTCOMES,
    best_of,
    better,
    measured,
    outcome,
    trained_epochs,
    trial_seconds,
    value_of,
)
from segray.tuning.records import Objective, TrialRecord
from segray.tuning.words import counted, duration_text, listed, objective_words, setting_text, shortened, value_text

FEWEST_TRIALS = 10
"""Finished trials below which no importances are told: they would be chance."""

ROUGH_BELOW = 30
"""Finished trials below which importances are called rough."""

LITTLE = 0.05
"""Share of the importances below which a parameter is told to be one to fix."""

MOST_SETTINGS, MOST_NAMED, MOST_FIXED = 8, 3, 5
_LETTERS = 60


def answer(
    records: Sequence[TrialRecord],
    objectives: Sequence[Objective],
    importances: Mapping[str, float],
    seconds: float,
    defaults: int | None = None,
    unrated: Sequence[str] = (),
) -> str:
    """How many trials, the best one, what matters, what to fix, and what it cost; plain sentences, no markup.

    Args:
        records: all trials.
        objectives: at least one; with several the best by each is told.
        importances: parameter to its share (0..1) of the variation of the first objective.
        seconds: wall-clock time of the sweep.
        defaults: number of the trial that had the user's own settings, if there was one.
        unrated: parameters that have no importance, since too few trials drew them.
    """
    best = best_of(records, objectives)
    told = [_tally(records, objectives)]
    if best is None:
        told += _nothing(records)
    else:
        told += _winner(records, objectives, importances, best)
        told += _against_defaults(records, objectives, best, defaults)
        told += _best_by_others(records, objectives)
        told += _what_matters(len(measured(records, objectives)), objectives, importances, best)
        told += _not_rated(unrated) if importances and len(measured(records, objectives)) >= FEWEST_TRIALS else []
    told += _cost(records, seconds)
    return " ".join(told)


def _tally(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> str:
    counts = Counter(outcome(record) for record in records)
    if not counts:
        return "There were no trials."
    parts = [f"{counts[name]} {name}" for name in OUTCOMES if counts[name] or name == "finished"]
    without = counts["finished"] - len(measured(records, objectives))
    more = f" ({without} of the finished without a usable number)" if without else ""
    return f"{counted(len(records), 'trial')}: {listed(parts)}{more}."


def _nothing(records: Sequence[TrialRecord]) -> list[str]:
    reasons = Counter(shortened(record.reason, 200) for record in records if record.reason.strip())
    told = ["There is no best one, since none has finished with a usable number."] if records else []
    if reasons:
        told.append(f"The reason told most often: {_sentence(reasons.most_common(1)[0][0])}")
    return told


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _winner(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], importances: Mapping[str, float], best: TrialRecord
) -> list[str]:
    told = []
    if len(objectives) > 1:
        front = len(pareto_front(records, objectives))
        are, them = ("is", "it") if front == 1 else ("are", "them")
        told.append(f"{counted(front, 'trial')} {are} on the Pareto front: no other beats {them} in every objective.")
    settings = f" with {_settings(best, importances)}" if best.settings or best.params else ""
    return [*told, f"{_best_value(best, objectives, 0)}{settings}."]


def _best_by_others(records: Sequence[TrialRecord], objectives: Sequence[Objective]) -> list[str]:
    found = [(at, best_of(records, objectives, at)) for at in range(1, len(objectives))]
    return [f"{_best_value(best, objectives, at)}." for at, best in found if best is not None]


def _best_value(best: TrialRecord, objectives: Sequence[Objective], at: int) -> str:
    value, objective = value_of(best, at), objectives[at]
    which = "highest" if objective.maximise else "lowest"
    return f"The {which} {objective_words(objective)} is {value_text(value, objective)}, of trial {best.number}"


def _settings(best: TrialRecord, importances: Mapping[str, float]) -> str:
    """What the space made of the draw, for that is what one would train again; what matters most first."""
    found = dict(best.settings or best.params)
    names = sorted(found, key=lambda name: -_share(importances, name))
    parts = [_pair(name, found[name]) for name in names[:MOST_SETTINGS]]
    if len(names) > MOST_SETTINGS:
        parts.append(f"{len(names) - MOST_SETTINGS} more")
    return listed(parts)


def _pair(name: str, value: object) -> str:
    return f"{shortened(name, _LETTERS)}={shortened(setting_text(value), _LETTERS)}"


def _share(importances: Mapping[str, float], name: str) -> float:
    share = importances.get(name, 0.0)
    return share if math.isfinite(share) else 0.0


def _against_defaults(
    records: Sequence[TrialRecord], objectives: Sequence[Objective], best: TrialRecord, defaults: int | None
) -> list[str]:
    """Tells how far the best is ahead of the user's own settings."""
    own = next((record for record in records if record.number == defaults), None)
    if own is None:
        return []
    if own.number == best.number:
        return ["These are your own settings: no other trial beat them."]
    if not measured([own], objectives):
        return [f"Trial {own.number}, your own settings, has no value to compare with ({outcome(own)})."]
    objective, value = objectives[0], value_of(own)
    before = value_text(value, objective)
    if not better(value_of(best), value, objective):
        return [f"Trial {own.number}, your own settings, is as good."]
    gain = abs(value_of(best) - value)
    share = "" if objective.maximise or value <= 0 else f", {100 * gain / value:.0f} % less"
    return [f"It beats trial {own.number}, your own settings ({before}), by {value_text(gain, objective)}{share}."]


def _what_matters(
    finished: int, objectives: Sequence[Objective], importances: Mapping[str, float], best: TrialRecord
) -> list[str]:
    ranked = sorted(
        ((name, share) for name, share in importances.items() if math.isfinite(share)), key=lambda pair: -pair[1]
    )
    if finished < FEWEST_TRIALS:
        few = f"{counted(finished, 'finished trial')} {'is' if finished == 1 else 'are'}"
        return [f"{few} too few to tell which parameters matter."]
    named = [f"{shortened(name, _LETTERS)} ({100 * share:.0f} %)" for name, share in ranked if share >= LITTLE]
    told = []
    if named:
        most = " and others" if len(named) > MOST_NAMED else ""
        shown = named[:MOST_NAMED]
        text = f"{', '.join(shown)}{most}" if most else listed(shown)
        of = f" for the {objective_words(objectives[0])}" if len(objectives) > 1 else ""
        rough = f" (a rough estimate from {finished} finished trials)" if finished < ROUGH_BELOW else ""
        told.append(f"What matters most{of}: {text}{rough}.")
    return told + _what_to_fix([name for name, share in ranked if share < LITTLE and name in best.params], best)


def _not_rated(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = [shortened(name, _LETTERS) for name in names[:MOST_FIXED]]
    more = [f"{len(names) - MOST_FIXED} more"] if len(names) > MOST_FIXED else []
    return [f"Too few trials drew {listed([*shown, *more])} to rate {'it' if len(names) == 1 else 'them'}."]


def _what_to_fix(names: Sequence[str], best: TrialRecord) -> list[str]:
    if not names:
        return []
    parts = [_pair(name, best.params[name]) for name in names[:MOST_FIXED]]
    if len(names) > MOST_FIXED:
        parts.append(f"{len(names) - MOST_FIXED} more")
    one = len(names) == 1
    return [
        f"In the ranges that were tried, {'this makes' if one else 'these make'} little difference and can be fixed "
        f"at the value{'' if one else 's'} of the best: {listed(parts)}."
    ]


def _cost(records: Sequence[TrialRecord], seconds: float) -> list[str]:
    if not records:
        return []
    known = [spent for spent in map(trial_seconds, records) if math.isfinite(spent)]
    told = f"It took {duration_text(sum(known))} of trials in {duration_text(seconds)} of wall-clock time"
    saved = saved_by_pruning(records)
    return [f"{told}; pruning saved about {100 * saved:.0f} % of the epochs." if saved > 0 else f"{told}."]


def saved_by_pruning(records: Sequence[TrialRecord]) -> float:
    """Share (0..1) of the epochs that pruning saved: an estimate.

    It takes that each pruned trial would have trained as many epochs as the longest curve has, and puts what they did
    not train against the epochs of all trials with and without them.
    """
    longest = max((trained_epochs(record) for record in records), default=0)
    trained = sum(trained_epochs(record) for record in records)
    saved = sum(longest - trained_epochs(record) for record in records if outcome(record) == "pruned")
    return saved / (trained + saved) if trained + saved else 0.0
