"""Trials outside of any study, and the values that a distribution holds: lowest, highest, each, at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.trial import FixedTrial

from segray.errors import UsageError
from segray.tuning.space import Space

Choose = Callable[[str, BaseDistribution], Any]
STORABLE = (bool, int, float, str, type(None))


class WalkingTrial(FixedTrial):
    """A trial whose values ``choose`` gives; a space cannot tell it from a trial of a study.

    Args:
        choose: the value of a name and its distribution.
        number: the trial's number.
        seen: distributions of earlier trials by name, which this one widens to hold its own.
    """

    def __init__(self, choose: Choose, number: int = 0, seen: dict[str, BaseDistribution] | None = None) -> None:
        super().__init__({}, number)
        self._choose = choose
        self._drawn: dict[str, Any] = {}
        self._drawn_from: dict[str, BaseDistribution] = {}
        self._seen = {} if seen is None else seen

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """As Optuna's."""
        return float(self._value(name, FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """As Optuna's."""
        return int(self._value(name, IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """As Optuna's; choices that a study could not keep in its database are refused."""
        for choice in choices:
            if not isinstance(choice, STORABLE):
                raise UsageError(
                    f"A study cannot keep {choice!r}, a choice of {name}.",
                    mend="Let it choose among words or numbers, and look the value up by them.",
                )
        return self._value(name, CategoricalDistribution(choices))

    @property
    def params(self) -> dict[str, Any]:
        """Names and values, in the order of the suggestions."""
        return dict(self._drawn)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Names and distributions, in the same order."""
        return dict(self._drawn_from)

    def _value(self, name: str, distribution: BaseDistribution) -> Any:
        before = self._seen.get(name, distribution)
        try:
            check_distribution_compatibility(before, distribution)
        except ValueError:
            raise UsageError(
                f"{name} is drawn from {before} and from {distribution}, and a study keeps one kind for a name.",
                mend=f"Name one of them otherwise, such as '{name} (sgd)'.",
            ) from None
        self._seen[name] = _holding_both(before, distribution)
        if name not in self._drawn:
            self._drawn[name] = self._choose(name, distribution)
            self._drawn_from[name] = distribution
        return self._drawn[name]


def example_draws(space: Space, count: int, seed: int) -> list[dict[str, Any]]:
    """Settings of ``count`` trials drawn at random, without training any. Raises UsageError as :meth:`Space.draw`."""
    rng = np.random.default_rng(seed)
    return [space.draw(WalkingTrial(lambda _, values: at_random(values, rng), number)) for number in range(count)]


def ends(distribution: BaseDistribution) -> list[Any]:
    """Lowest and highest value, or all choices."""
    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    low, high = _bounds(distribution)
    return [low] if low == high else [low, high]


def how_many(distribution: BaseDistribution) -> int | None:
    """Values that a distribution holds; None: a float without step."""
    if isinstance(distribution, CategoricalDistribution):
        return len(distribution.choices)
    low, high = _bounds(distribution)
    if isinstance(distribution, IntDistribution):
        return int((high - low) // distribution.step) + 1
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        return int((Decimal(str(high)) - Decimal(str(low))) // Decimal(str(distribution.step))) + 1
    return 1 if low == high else None


def value_at(distribution: BaseDistribution, position: int) -> Any:
    """One of :func:`how_many` values, from 0 and the lowest up; in decimal steps, so that 0.3 is 0.3."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.choices[position]
    low, _ = _bounds(distribution)
    if isinstance(distribution, IntDistribution):
        return low + position * distribution.step
    step = getattr(distribution, "step", None) or 0.0
    return float(Decimal(str(low)) + position * Decimal(str(step)))


def holds(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a value can be drawn; a step is met within a billionth of it, as Optuna has it."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    low, high = _bounds(distribution)
    step = getattr(distribution, "step", None)
    steps = (value - low) / step if step else 0.0
    return bool(low <= value <= high) and abs(steps - round(steps)) < 1e-8


def _holding_both(one: BaseDistribution, other: BaseDistribution) -> BaseDistribution:
    """The narrowest range that holds two of one kind."""
    if one == other or isinstance(one, CategoricalDistribution):
        return one
    (low, high), (lowest, highest) = _bounds(one), _bounds(other)
    step = getattr(one, "step", None)
    steps = (lowest - low) / step if step else 0.5
    kept = step if step == getattr(other, "step", None) and abs(steps - round(steps)) < 1e-8 else None
    low, high, log = min(low, lowest), max(high, highest), bool(getattr(one, "log", False))
    if isinstance(one, IntDistribution):
        return IntDistribution(low, high, log=log, step=kept or 1)
    return FloatDistribution(low, high, log=log, step=kept)


def at_random(distribution: BaseDistribution, rng: np.random.Generator) -> Any:
    """A value, all alike likely; with ``log`` all orders of magnitude are."""
    count = how_many(distribution)
    if getattr(distribution, "log", False):
        low, high = _bounds(distribution)
        whole = isinstance(distribution, IntDistribution)
        edge = 0.5 if whole else 0.0  # Halves, so that the outermost integers are drawn as often as they should.
        drawn = math.exp(rng.uniform(math.log(low - edge), math.log(high + edge)))
        return min(max(round(drawn) if whole else drawn, low), high)
    if count is not None:
        return value_at(distribution, int(rng.integers(count)))
    return float(rng.uniform(*_bounds(distribution)))


def _bounds(distribution: BaseDistribution) -> tuple[Any, Any]:
    if not isinstance(distribution, IntDistribution | FloatDistribution):
        raise TypeError(f"{distribution} has no bounds")
    return distribution.low, distribution.high
