"""The paragraph says the numbers that the trials have, and nothing that they do not tell."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from segray.tuning.answer import answer, saved_by_pruning
from segray.tuning.records import Objective, State, TrialRecord
from segray.tuning.words import duration_text, number_text, objective_words, setting_text, shortened

DICE, LOSS, GFLOPS = Objective("val_dice"), Objective("train_loss"), Objective("gflops")
SHARES = {"lr": 0.6, "width": 0.3, "rotation": 0.06, "elastic": 0.03, "flip": 0.01}


def trial(number: int, *values: float, state: State = "finished", epochs: int = 20, **more: object) -> TrialRecord:
    params = {"lr": 0.001 * (number + 1), "width": 32, "rotation": 15.0, "elastic": True, "flip": False}
    curve = tuple((epoch, 0.5) for epoch in range(1, epochs + 1))
    settings = {"optim.lr": params["lr"], "net.width": 32}
    record = TrialRecord(number, state, params, settings, values or None, curve, 0.0, 1800.0)
    return replace(record, **more)  # type: ignore[arg-type]


def dozen() -> list[TrialRecord]:
    """Twelve finished trials of Dice 0.80 to 0.91; the last is the best."""
    return [trial(number, 0.80 + 0.01 * number) for number in range(12)]


def test_the_counts() -> None:
    records = [
        *dozen(),
        trial(12, state="pruned", epochs=5),
        trial(13, state="failed", reason="x"),
        trial(14, state="failed", infeasible=True),
        trial(15, state="lost"),
        trial(16, state="running"),
        trial(17, math.nan),
    ]
    told = answer(records, [DICE], {}, 60.0)
    assert told.startswith(
        "18 trials: 13 finished, 1 pruned, 1 failed, 1 out of memory, 1 lost and 1 running "
        "(1 of the finished without a usable number)."
    )


def test_the_best_with_its_settings_and_its_lead() -> None:
    told = answer(dozen(), [DICE], SHARES, 7200.0, defaults=0)
    assert "The highest validation Dice is 0.9100, of trial 11 with optim.lr=0.012 and net.width=32." in told
    assert "It beats trial 0, your own settings (0.8000), by 0.1100." in told
    assert "your own settings" not in answer(dozen(), [DICE], SHARES, 7200.0)


def test_of_a_loss_the_lowest_is_best() -> None:
    records = [trial(0, 2.0), trial(1, 1.5), trial(2, 3.0)]
    told = answer(records, [LOSS], {}, 60.0, defaults=0)
    assert "The lowest training loss is 1.5, of trial 1" in told
    assert "It beats trial 0, your own settings (2), by 0.5, 25 % less." in told


def test_own_settings_that_are_best_or_have_no_value() -> None:
    assert "These are your own settings: no other trial beat them." in answer(dozen(), [DICE], {}, 1.0, defaults=11)
    failed = [trial(0, state="failed"), *dozen()[1:]]
    told = answer(failed, [DICE], {}, 1.0, defaults=0)
    assert "Trial 0, your own settings, has no value to compare with (failed)." in told
    assert "your own" not in answer(dozen(), [DICE], {}, 1.0, defaults=99)
    tied = answer([trial(0, 0.5), trial(1, 0.5)], [DICE], {}, 1.0, defaults=1)
    assert "Trial 1, your own settings, is as good." in tied
    assert "beats" not in tied


def test_what_matters_and_what_to_fix() -> None:
    told = answer(dozen(), [DICE], SHARES, 1.0)
    assert "What matters most: lr (60 %), width (30 %) and rotation (6 %) (a rough estimate from 12 finished" in told
    assert (
        "these make little difference and can be fixed at the values of the best: elastic=true and flip=false." in told
    )
    many = [trial(number, 0.5 + 0.001 * number) for number in range(30)]
    told = answer(many, [DICE], {**SHARES, "more": 0.05, "broken": math.nan}, 1.0)
    assert "lr (60 %), width (30 %), rotation (6 %) and others." in told
    assert "rough" not in told
    assert "broken" not in told


def test_what_the_best_did_not_draw_is_not_told_to_be_fixed() -> None:
    told = answer(dozen(), [DICE], {"lr": 0.99, "momentum": 0.01}, 1.0)
    assert "momentum" not in told
    assert "fixed" not in told


@pytest.mark.parametrize(("count", "text"), [(1, "1 finished trial is too few"), (9, "9 finished trials are too few")])
def test_few_trials_tell_no_importances(count: int, text: str) -> None:
    told = answer(dozen()[:count], [DICE], SHARES, 1.0)
    assert text in told
    assert "60 %" not in told
    assert "fixed" not in told


def test_the_cost_and_what_pruning_saved() -> None:
    records = [trial(0, 0.5), trial(1, 0.6), trial(2, state="pruned", epochs=5), trial(3, state="pruned", epochs=15)]
    # 60 epochs trained, 15 + 5 not
    assert saved_by_pruning(records) == pytest.approx(20 / 80)
    told = answer(records, [DICE], {}, 3600.0)
    assert told.endswith(
        "It took 2.0 hours of trials in 60 minutes of wall-clock time; pruning saved about 25 % of the epochs."
    )
    assert "pruning" not in answer(records[:2], [DICE], {}, 3600.0)
    assert saved_by_pruning([]) == 0.0


def test_several_objectives_have_a_front_and_a_best_each() -> None:
    records = [trial(0, 0.9, 20.0), trial(1, 0.8, 5.0), trial(2, 0.7, 9.0)]
    told = answer(records, [DICE, GFLOPS], {}, 1.0, defaults=2)
    assert "2 trials are on the Pareto front" in told
    assert "The highest validation Dice is 0.9000, of trial 0" in told
    assert "The lowest GFLOPs of a slice is 5, of trial 1." in told
    assert "by 0.2000" in told


def test_nothing_finished() -> None:
    records = [
        trial(0, state="failed", reason="No\nroom"),
        trial(1, state="failed", reason="No room"),
        trial(2, state="failed", reason="Other."),
    ]
    told = answer(records, [DICE], SHARES, 30.0, defaults=0)
    assert told.startswith("3 trials: 0 finished and 3 failed. There is no best one, since none has finished")
    assert "The reason told most often: No room." in told
    assert answer([], [DICE], {}, 0.0) == "There were no trials."


def test_many_settings_are_cut_and_what_matters_comes_first() -> None:
    settings = {f"group.name_{at:02d}": at for at in range(40)}
    record = replace(trial(0, 0.5), settings=settings)
    told = answer([record], [DICE], {"group.name_30": 0.9}, 1.0)
    assert "with group.name_30=30, group.name_00=0, " in told
    assert "and 32 more." in told


def test_words() -> None:
    assert objective_words(Objective("val_dice_left lung")) == "validation Dice of left lung"
    assert [number_text(value) for value in (0.0003, 2e-5, 123456.0, 1e9, 0.5)] == [
        "0.0003",
        "2e-5",
        "123456",
        "1e9",
        "0.5",
    ]
    assert [setting_text(value) for value in (None, True, [1, 2.5], "a\nb", "")] == [
        "none",
        "true",
        "[1, 2.5]",
        "a b",
        "''",
    ]
    assert shortened("abcdefghij", 5) == "ab\u2026ij"
    assert shortened("abc\udc80", 10) == "abc?"
    assert [duration_text(value) for value in (1.0, 89.0, 600.0, 7200.0, math.nan)] == [
        "1 second",
        "89 seconds",
        "10 minutes",
        "2.0 hours",
        "an unknown time",
    ]


def test_what_could_not_be_rated_is_named() -> None:
    told = answer(dozen(), [DICE], SHARES, 60.0, unrated=["gamma"])
    assert "Too few trials drew gamma to rate it." in told
    told = answer(dozen(), [DICE], SHARES, 60.0, unrated=[f"p{number}" for number in range(7)])
    assert "Too few trials drew p0, p1, p2, p3, p4 and 2 more to rate them." in told
    assert "Too few" not in answer(dozen()[:4], [DICE], SHARES, 60.0, unrated=["gamma"])
