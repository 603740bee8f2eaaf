"""Draws outside a study: at random, the corners of a check, all combinations, the way to the defaults."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import BaseTrial

from segray.config import Config, parse_config
from segray.errors import UsageError
from segray.tuning.combinations import MOST_WALKS, default_params, every_combination
from segray.tuning.draws import WalkingTrial, at_random, ends, example_draws, holds, how_many, value_at
from segray.tuning.space import Space, with_settings
from segray.tuning.space_check import check_space

Write = Callable[[str], Space]

TREE = """
name = trial.suggest_categorical("optim.name", ["adamw", "sgd"])
settings = {"optim.name": name, "net.dropout": trial.suggest_float("net.dropout", 0.0, 0.3, step=0.1)}
if name == "sgd":
    settings["optim.momentum"] = trial.suggest_categorical("optim.momentum", [0.9, 0.99])
return settings
"""

DISTRIBUTIONS: list[BaseDistribution] = [
    FloatDistribution(0.1, 0.4, step=0.1),
    FloatDistribution(-2.0, 3.0),
    FloatDistribution(1e-5, 1e-1, log=True),
    FloatDistribution(0.7, 0.7),
    IntDistribution(8, 32, step=8),
    IntDistribution(1, 64, log=True),
    CategoricalDistribution(["a", None, True, 2.5]),
]


@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_what_is_drawn_can_be_drawn_and_meets_the_ends(distribution: BaseDistribution) -> None:
    rng = np.random.default_rng(0)
    drawn = [at_random(distribution, rng) for _ in range(500)]
    for value in [*drawn, *ends(distribution)]:
        assert holds(distribution, value)
        assert distribution._contains(distribution.to_internal_repr(value))
    count = how_many(distribution)
    if count is not None:
        values = [value_at(distribution, position) for position in range(count)]
        assert len({repr(value) for value in values}) == count
        assert {repr(end) for end in ends(distribution)} <= {repr(value) for value in values}
        assert len({repr(value) for value in drawn}) > count * 0.9


def test_steps_are_decimal_and_what_lies_beside_them_is_not_held() -> None:
    steps = FloatDistribution(0.1, 0.4, step=0.1)
    assert [value_at(steps, position) for position in range(4)] == [0.1, 0.2, 0.3, 0.4]
    assert [holds(steps, value) for value in (0.3, 0.1 + 0.2, 0.25, 0.5, "0.3", None, True)] == [True, True] + [
        False
    ] * 5
    assert not holds(IntDistribution(8, 32, step=8), 12)


@pytest.mark.parametrize(
    ("ranges", "found"),
    [
        ([FloatDistribution(1e-4, 1e-2, log=True), FloatDistribution(1e-3, 1e-1, log=True)], (1e-4, 1e-1, None)),
        ([FloatDistribution(0.1, 0.4, step=0.1), FloatDistribution(0.3, 0.7, step=0.1)], (0.1, 0.7, 0.1)),
        ([FloatDistribution(0.1, 0.4, step=0.1), FloatDistribution(0.15, 0.3)], (0.1, 0.4, None)),
        ([IntDistribution(8, 32, step=8), IntDistribution(4, 20, step=8)], (4, 32, 1)),
    ],
)
def test_the_ranges_of_a_name_are_seen_as_one(ranges: list[Any], found: tuple[float, float, float | None]) -> None:
    seen: dict[str, BaseDistribution] = {}
    for one in ranges:
        trial = WalkingTrial(lambda _, distribution: ends(distribution)[0], seen=seen)
        trial._value("a", one)
    hull: Any = seen["a"]
    assert (hull.low, hull.high, hull.step) == pytest.approx(found)


def test_logarithmic_draws_take_every_order_of_magnitude() -> None:
    rng = np.random.default_rng(0)
    drawn = np.log10([at_random(FloatDistribution(1e-4, 1e0, log=True), rng) for _ in range(4000)])
    counts, _ = np.histogram(drawn, bins=4, range=(-4, 0))
    assert counts.min() > 800


def test_a_name_drawn_twice_keeps_its_value_as_in_a_study(write: Write) -> None:
    space = write("return {'seed': [trial.suggest_int('seed', 0, 10**6) for _ in range(3)]}")
    (drawn,) = example_draws(space, 1, seed=0)
    assert len(set(drawn["seed"])) == 1


def test_example_draws_are_fixed_by_their_seed(write: Write) -> None:
    space = write(TREE)
    assert example_draws(space, 20, seed=1) == example_draws(space, 20, seed=1)
    assert example_draws(space, 20, seed=1) != example_draws(space, 20, seed=2)
    assert len(example_draws(space, 5, seed=0)) == 5
    for drawn in example_draws(space, 50, seed=3):
        assert ("optim.momentum" in drawn) == (drawn["optim.name"] == "sgd")


def test_a_choice_that_no_study_can_keep_is_refused(write: Write) -> None:
    space = write("return {'net.features': trial.suggest_categorical('net.features', [[8, 16], [16, 32]])}")
    with pytest.raises(UsageError, match=r"A study cannot keep \[8, 16\], a choice of net.features\. Let it choose"):
        example_draws(space, 1, seed=0)


def test_every_combination_follows_the_conditions(write: Write) -> None:
    found = every_combination(write(TREE))
    dropouts = [0.0, 0.1, 0.2, 0.3]
    expected: list[dict[str, Any]] = [{"optim.name": "adamw", "net.dropout": dropout} for dropout in dropouts]
    expected += [
        {"optim.name": "sgd", "net.dropout": dropout, "optim.momentum": momentum}
        for dropout, momentum in itertools.product(dropouts, [0.9, 0.99])
    ]
    assert found == expected


def test_a_study_takes_every_combination_as_it_is(write: Write) -> None:
    space = write(TREE)
    combinations = every_combination(space)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for params in combinations:
        study.enqueue_trial(params)
    trials = [study.ask() for _ in combinations]
    for trial in trials:
        space.draw(trial)
    assert [trial.params for trial in trials] == combinations


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "return {'net.dropout': trial.suggest_float('net.dropout', 0, 0.5)}",
            "draws net.dropout from all numbers between 0 and 0.5, and a grid needs steps. Draw it with step=..., or",
        ),
        (
            "return {'optim.lr': trial.suggest_float('optim.lr', 1e-4, 0.5, log=True)}",
            "and a grid needs steps. Draw it from a list by suggest_categorical; or take tune.sampler=tpe.",
        ),
        (
            "return {'seed': trial.suggest_int('seed', 0, 10**9)}",
            "has more than 10,000 combinations. Take larger steps and fewer choices, or tune.sampler=random.",
        ),
    ],
)
def test_a_space_without_end_is_no_grid(write: Write, lines: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        every_combination(write(lines))
    assert said in str(caught.value)


def test_exactly_the_most_combinations_are_allowed(write: Write) -> None:
    space = write("return {'seed': trial.suggest_int('seed', 1, 7)}")
    assert len(every_combination(space, most=7)) == 7
    with pytest.raises(UsageError, match="more than 6 combinations"):
        every_combination(space, most=6)


HIDDEN = """
shape = trial.suggest_categorical("shape", ["small", "large"])
levels = trial.suggest_int("levels", 2, 4)
width = {"small": 8, "large": 16}[shape]
lr = trial.suggest_float("optim.lr (adamw)", 1e-4, 1e-1, log=True)
settings = {"net.features": [width * 2**level for level in range(levels)], "optim.lr": lr}
settings["augment.scale_factor"] = [trial.suggest_float("augment.scale_factor.0", 0.5, 1.0), 1.2]
return settings
"""


def test_the_defaults_are_found_behind_names_that_are_no_keys(write: Write) -> None:
    space = write(HIDDEN)
    config = parse_config({"net": {"features": [16, 32, 64]}, "optim": {"lr": 0.02}})
    params = default_params(space, config)
    assert params == {"shape": "large", "levels": 3, "optim.lr (adamw)": 0.02, "augment.scale_factor.0": 0.85}
    study = optuna.create_study()
    study.enqueue_trial(params)
    assert with_settings(config, space.draw(study.ask())) == config


@pytest.mark.parametrize(
    "tree",
    [
        {"net": {"features": [16, 32, 65]}},
        {"net": {"features": [16, 32, 64]}, "optim": {"lr": 0.2}},
        {"net": {"features": [16, 32, 64]}, "augment": {"scale_factor": [0.85, 1.3]}},
    ],
)
def test_defaults_that_the_space_does_not_draw_are_none(write: Write, tree: dict[str, Any]) -> None:
    assert default_params(write(HIDDEN), parse_config(tree)) is None


def test_a_way_to_the_defaults_through_impossible_settings_is_no_error(write: Write) -> None:
    space = write(
        "width = trial.suggest_categorical('width', [0, 32])\n"
        "return {'net.features': [width * 2**level for level in range(5)]}"
    )
    assert default_params(space, Config()) == {"width": 32}


def test_a_search_for_the_defaults_ends(write: Write) -> None:
    space = write("return {'seed': sum(trial.suggest_int(f'part {n}', 1, 9) for n in range(20))}")
    walks: list[BaseTrial] = []
    counted = dataclasses.replace(space, space=lambda trial: walks.append(trial) or space.space(trial))
    assert default_params(counted, Config()) is None
    assert len(walks) == MOST_WALKS


def test_what_lies_below_a_value_that_the_config_has_not_is_not_walked(write: Write) -> None:
    space = write(
        "rate = trial.suggest_categorical('optim.lr', [0.5])\n"
        "return {'seed': sum(trial.suggest_int(f'part {n}', 1, 9) for n in range(20))}"
    )
    walks: list[BaseTrial] = []
    counted = dataclasses.replace(space, space=lambda trial: walks.append(trial) or space.space(trial))
    assert default_params(counted, Config()) is None
    assert len(walks) == 1


def test_a_check_names_the_draw_that_fails(write: Write) -> None:
    space = write("return {'optim.lr': trial.suggest_float('optim.lr', 0.0, 0.1), 'net.dropout': 0.25}")
    with pytest.raises(UsageError) as caught:
        check_space(space, Config())
    assert "mine.py draws settings that do not work (optim.lr=0, net.dropout=0.25): Setting optim.lr: input sh" in str(
        caught.value
    )


def test_a_check_names_what_was_drawn_before_the_function_failed(write: Write) -> None:
    space = write("lr = trial.suggest_float('optim.lr', 0.1, 0.2)\nreturn {'optim.lr': 0.1 / (lr != 0.2)}")
    with pytest.raises(UsageError, match=r"\(optim\.lr=0\.2\): space\(trial\) of .* fails in line 3: ZeroDivision"):
        check_space(space, Config())


@pytest.mark.parametrize(
    ("bad", "name"),
    [("seed == 999", "seed"), ("word == 'c' and deep == 7", "deep"), ("word == 'b' and seed == 0", "seed")],
)
def test_a_check_meets_bounds_and_choices_in_every_branch(write: Write, bad: str, name: str) -> None:
    space = write(f"""
seed = trial.suggest_int("seed", 0, 999)
word = trial.suggest_categorical("word", list("abcde"))
deep = trial.suggest_int("deep", 7, 999) if word == "c" else None
if {bad}:
    return {{"optim.lr": -1.0}}
return {{"seed": seed}}
""")
    with pytest.raises(UsageError, match=r"optim\.lr=-1"):
        check_space(space, Config())


@pytest.mark.parametrize("total", [0, 200])
def test_a_check_draws_all_of_the_smallest_and_all_of_the_largest_together(write: Write, total: int) -> None:
    space = write(f"""
total = sum(trial.suggest_int(f"part {{n}}", 0, 10) for n in range(20))
return {{"optim.lr": -1.0 if total == {total} else 1.0}}
""")
    with pytest.raises(UsageError, match=r"optim\.lr=-1"):
        check_space(space, Config())


def test_a_check_without_random_draws_still_meets_all_choices(write: Write) -> None:
    space = write("return {'seed': trial.suggest_categorical('seed', list(range(40)))}")
    met: list[int] = []
    check_space(space, Config(), also=lambda config: met.append(config.seed), draws=0)
    assert sorted(met) == list(range(40))


def test_a_check_asks_what_else_must_hold_and_adds_its_mend(write: Write) -> None:
    def also(config: Config) -> None:
        if config.train.batch_size == 32:
            raise UsageError("The epoch has fewer than 32 slices.", mend="Take smaller batches.")

    space = write("return {'train.batch_size': trial.suggest_int('train.batch_size', 4, 32, step=4)}")
    with pytest.raises(UsageError, match=r"\(train\.batch_size=32\): The epoch has .* slices\. Take smaller batches\."):
        check_space(space, Config(), also)
    check_space(space, Config())


def test_a_check_refuses_a_space_that_draws_nothing(write: Write) -> None:
    with pytest.raises(UsageError, match="draws nothing, and all its trials would be alike"):
        check_space(write("return {'optim.lr': 0.1}"), Config())


def test_a_check_refuses_one_name_for_two_kinds(write: Write) -> None:
    space = write("""
name = trial.suggest_categorical("optim.name", ["adamw", "sgd"])
rate = trial.suggest_categorical("optim.lr", [0.001] if name == "adamw" else [0.1])
return {"optim.name": name, "optim.lr": rate}
""")
    with pytest.raises(UsageError, match=r"optim\.lr is drawn from .* keeps one kind .* such as 'optim\.lr \(sgd\)'"):
        check_space(space, Config())
    study = optuna.create_study()
    for name in ("adamw", "sgd"):
        study.enqueue_trial({"optim.name": name})
    space.draw(study.ask())
    with pytest.raises(UsageError, match="dynamic value space"):
        space.draw(study.ask())


def test_a_check_of_a_large_space_is_fast(write: Write) -> None:
    space = write(
        "words = [trial.suggest_categorical(f'word {n}', list('abcdefgh')) for n in range(40)]\n"
        "return {'seed': words.count('a')}"
    )
    began = time.process_time()
    check_space(space, Config())
    assert time.process_time() - began < 2


def test_a_walking_trial_looks_like_a_trial_of_a_study() -> None:
    def choose(name: str, distribution: BaseDistribution) -> Any:
        return ends(distribution)[0]

    walking, asked = WalkingTrial(choose, number=0), optuna.create_study().ask()
    for trial in (walking, asked):
        trial.suggest_float("a", 1.0, 1.0)
        trial.suggest_int("b", 2, 2)
        trial.suggest_categorical("c", ["x"])
    assert walking.params == asked.params
    assert walking.distributions == asked.distributions
    assert walking.number == asked.number == 0
