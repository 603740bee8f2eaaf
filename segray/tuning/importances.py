"""How much of the variation of an objective each parameter explains, where not every trial drew all of them alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, create_trial

FEWEST = 4
"""Trials below which nothing is rated."""


@dataclass(frozen=True)
class Importances:
    """What matters.

    Attributes:
        shares: parameter to its share (0..1) of the variance of the first objective; {} where too few trials tell.
        unrated: parameters that could not be rated, since too few trials drew them, or some as words, some as numbers.
    """

    shares: Mapping[str, float] = field(default_factory=dict)
    unrated: Sequence[str] = ()


@dataclass(frozen=True)
class _Row:
    value: float
    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]


def importances_of(trials: Sequence[FrozenTrial]) -> Importances:
    """Shares by fANOVA (Hutter et al. 2014) of finished trials.

    fANOVA needs the same parameters and ranges of all trials, which conditions, ranges that depend on other draws and
    earlier sweeps do not give. So a parameter has the range of all its draws; ``optim.lr (sgd)`` and
    ``optim.lr (adamw)``, of which a trial has one, are rated as ``optim.lr``; and of what some trials lack is rated
    what most have, on those that have it, as long as half of the trials remain.
    """
    rows = _joined([_Row(one.values[0], one.params, one.distributions) for one in trials])
    every = sorted({name for row in rows for name in row.params})
    ranges = {name: _range_of([row.distributions[name] for row in rows if name in row.params]) for name in every}
    kept, names = _most(rows, [name for name in every if ranges[name] is not None])
    varied = [name for name in names if len({repr(row.params[name]) for row in kept}) > 1]
    unrated = [name for name in every if name not in names]
    if len(kept) < FEWEST or len({row.value for row in kept}) < 2 or not varied:
        return Importances()
    return Importances(_fanova(kept, {name: found for name in varied if (found := ranges[name])}), unrated)


def _fanova(rows: Sequence[_Row], ranges: dict[str, BaseDistribution]) -> dict[str, float]:
    clean = optuna.create_study()
    for row in rows:
        params = {name: row.params[name] for name in ranges}
        clean.add_trial(create_trial(value=row.value, params=params, distributions=ranges))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    try:
        return dict(optuna.importance.get_param_importances(clean, evaluator=evaluator, params=list(ranges)))
    except RuntimeError:  # its trees find no variance at all
        return {}


def _joined(rows: Sequence[_Row]) -> list[_Row]:
    """Rows where parameters of one key, of which every trial has at most one, are a single parameter of that name."""
    names = {name for row in rows for name in row.params}
    families: dict[str, set[str]] = {}
    for name in names:
        families.setdefault(name.partition(" ")[0], set()).add(name)
    alone = {
        base
        for base, members in families.items()
        if len(members) > 1 and all(len(members & set(row.params)) < 2 for row in rows)
    }
    new = {name: base for base in alone for name in families[base]}
    return [
        _Row(
            row.value,
            {new.get(name, name): value for name, value in row.params.items()},
            {new.get(name, name): drawn for name, drawn in row.distributions.items()},
        )
        for row in rows
    ]


def _range_of(drawn: Sequence[BaseDistribution]) -> BaseDistribution | None:
    """What holds all draws of a parameter, steps and scale left out, which fANOVA does not look at; None: no kind."""
    choices: dict[str, Any] = {}
    low, high = float("inf"), float("-inf")
    for one in drawn:
        if isinstance(one, CategoricalDistribution):
            choices |= {repr(choice): choice for choice in one.choices}
        else:
            low, high = min(low, one.low), max(high, one.high)  # type: ignore[attr-defined]
    if choices and low <= high:
        return None
    return CategoricalDistribution(list(choices.values())) if choices else FloatDistribution(low, high)


def _most(rows: Sequence[_Row], names: Sequence[str]) -> tuple[list[_Row], list[str]]:
    """The rows that have all the names that are kept: the rarest go until at least half of the rows remain."""
    counts = {name: sum(name in row.params for row in rows) for name in names}
    kept = sorted(names, key=lambda name: (-counts[name], name))
    while True:
        found = [row for row in rows if all(name in row.params for name in kept)]
        if 2 * len(found) >= len(rows) or not kept:
            return found, kept
        kept.pop()
