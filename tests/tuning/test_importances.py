from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial

from segray.tuning.importances import Importances, importances_of

Objective = Callable[[Trial], float]


def _trials(objective: Objective, *, count: int = 40) -> list[FrozenTrial]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(objective, n_trials=count)
    return study.get_trials(deepcopy=False)


def test_what_matters_is_found() -> None:
    def objective(trial: Trial) -> float:
        trial.suggest_float("idle", 0, 1)
        return trial.suggest_float("matters", 0, 1)

    found = importances_of(_trials(objective))
    assert found.shares["matters"] > 0.9
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert found.unrated == []


def test_a_range_may_depend_on_another_draw() -> None:
    """Optuna refuses to rate parameters whose range differs between trials."""

    def objective(trial: Trial) -> float:
        low = trial.suggest_float("a", 0, 0.5)
        return trial.suggest_float("b", low, 1) + 10 * trial.suggest_int("n", 1, 2 + int(10 * low), log=True)

    shares = importances_of(_trials(objective)).shares
    assert set(shares) == {"a", "b", "n"}
    assert max(shares, key=lambda name: shares[name]) == "n"


def test_choices_may_differ_between_sweeps() -> None:
    def objective(words: list[Any]) -> Objective:
        def score(trial: Trial) -> float:
            return float(trial.suggest_categorical("word", words) == "b") + 0.1 * trial.suggest_float("idle", 0, 1)

        return score

    found = importances_of([*_trials(objective(["a", "b"])), *_trials(objective(["b", "c", None]))])
    assert found.shares["word"] > 0.8


def test_branches_of_one_key_are_one_parameter() -> None:
    """So `unet2d` rates its learning rate, which every optimiser draws from a range of its own."""

    def objective(trial: Trial) -> float:
        name = trial.suggest_categorical("optim.name", ["adamw", "sgd", "rmsprop"])
        low = {"adamw": 0.1, "sgd": 0.3, "rmsprop": 0.2}[name]
        return trial.suggest_float(f"optim.lr ({name})", low, 1.0)

    found = importances_of(_trials(objective))
    assert set(found.shares) == {"optim.name", "optim.lr"}
    assert found.shares["optim.lr"] > found.shares["optim.name"]


def test_what_few_trials_drew_is_named_and_not_rated() -> None:
    def objective(trial: Trial) -> float:
        kind = trial.suggest_categorical("kind", ["a", "b", "c", "d"])
        extra = trial.suggest_float("rare", 0, 1) if kind == "a" else 0.0
        usual = trial.suggest_float("usual", 0, 1) if kind != "b" else 0.0
        return usual + 0.01 * extra

    found = importances_of(_trials(objective))
    assert set(found.shares) == {"kind", "usual"}
    assert found.shares["usual"] > 0.5
    assert found.unrated == ["rare"]


def test_words_in_one_trial_and_numbers_in_another() -> None:
    def objective(trial: Trial) -> float:
        return trial.suggest_float("x", 0, 1)

    def other(trial: Trial) -> float:
        return 0.5 + float(trial.suggest_categorical("x", ["a", "b"]) == "a")

    assert importances_of([*_trials(objective), *_trials(other)]) == Importances()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_trials_tell_nothing(count: int) -> None:
    assert importances_of(_trials(lambda trial: trial.suggest_float("x", 0, 1), count=count)) == Importances()
