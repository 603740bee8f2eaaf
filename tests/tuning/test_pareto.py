"""Fronts that were made by hand, and the trials that count."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from segray.tuning.pareto import pareto_front
from segray.tuning.ranking import best_of, measured, outcome, reached, trained_epochs, trial_seconds
from segray.tuning.records import Objective, TrialRecord

DICE, GFLOPS, LATENCY = Objective("val_dice"), Objective("gflops"), Objective("latency")


def trial(number: int, *values: float) -> TrialRecord:
    return TrialRecord(number, "finished", {}, {}, values)


def front(records: list[TrialRecord], *objectives: Objective) -> list[int]:
    return [record.number for record in pareto_front(records, objectives)]


def test_a_front_of_dice_up_and_gflops_down() -> None:
    records = [trial(0, 0.9, 10), trial(1, 0.8, 5), trial(2, 0.85, 10), trial(3, 0.95, 20), trial(4, 0.7, 5)]
    assert front(records, DICE, GFLOPS) == [0, 1, 3]


def test_equal_trials_stay_both_and_their_order_is_kept() -> None:
    assert front([trial(5, 0.9, 10), trial(2, 0.9, 10), trial(1, 0.9, 11)], DICE, GFLOPS) == [5, 2]


def test_one_objective_has_a_front_of_its_best() -> None:
    assert front([trial(0, 0.5), trial(1, 0.9), trial(2, 0.9)], DICE) == [1, 2]
    assert front([trial(0, 3.0), trial(1, 2.0)], GFLOPS) == [1]


def test_a_third_objective_saves_a_trial() -> None:
    records = [trial(0, 0.9, 10, 5), trial(1, 0.8, 12, 3), trial(2, 0.8, 12, 6)]
    assert front(records, DICE, GFLOPS) == [0]
    assert front(records, DICE, GFLOPS, LATENCY) == [0, 1]


def test_what_has_not_finished_with_finite_values_stands_on_no_front() -> None:
    good = trial(0, 0.99, 1.0)
    others = [
        replace(good, number=1, state="pruned"),
        replace(good, number=2, infeasible=True),
        replace(good, number=3, values=None),
        trial(4, math.nan, 0.0),
        trial(5, 1.0, -math.inf),
        trial(6, 1.0),
    ]
    assert front([good, *others], DICE, GFLOPS) == [0]
    assert front(others, DICE, GFLOPS) == []
    assert front([], DICE, GFLOPS) == []


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_it_equals_a_search_pair_by_pair(count: int) -> None:
    # few different values, so that there are ties
    values = np.random.default_rng(count).integers(0, 5, (80, count)).astype(float)
    objectives = [DICE, GFLOPS, LATENCY, Objective("val_dice_liver")][:count]
    records = [trial(number, *map(float, row)) for number, row in enumerate(values)]
    signs = np.array([1 if objective.maximise else -1 for objective in objectives])
    beaten = set()
    for one, other in itertools.permutations(range(80), 2):
        difference = (values[other] - values[one]) * signs
        if (difference >= 0).all() and (difference > 0).any():
            beaten.add(one)
    assert front(records, *objectives) == [number for number in range(80) if number not in beaten]


def test_the_best_is_the_earliest_of_equals_whatever_the_order() -> None:
    records = [trial(4, 0.9, 3), trial(1, 0.9, 2), trial(3, 0.1, 1)]
    best = best_of(records, [DICE, GFLOPS])
    assert best is not None
    assert best.number == 1
    by_second = best_of(records, [DICE, GFLOPS], 1)
    assert by_second is not None
    assert by_second.number == 3
    assert best_of([trial(0, math.nan, 1)], [DICE, GFLOPS]) is None
    assert len(measured(records, [DICE, GFLOPS])) == 3


def test_how_far_a_trial_came() -> None:
    record = TrialRecord(0, "pruned", {}, {}, curve=((1, 0.2), (2, 0.4), (3, math.nan)), began=10.0, ended=7.0)
    assert reached(record) == 0.4
    assert trained_epochs(record) == 3
    assert trained_epochs(replace(record, other={"epochs": 5.0})) == 5
    assert trial_seconds(record) == 0.0
    assert math.isnan(trial_seconds(replace(record, ended=None)))
    assert outcome(replace(record, state="failed", infeasible=True)) == "out of memory"
