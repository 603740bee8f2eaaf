"""The tree of a search space, walked depth first: every combination of it, and the way to the config's own settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

from optuna.distributions import BaseDistribution

from segray.config import Config
from segray.errors import UsageError
from segray.tuning.draws import WalkingTrial, ends, holds, how_many, value_at
from segray.tuning.space import Space, with_settings

Offer = tuple[int, Callable[[int], Any]]
"""How many values a suggestion may take, and the value at a position from 0."""

MOST_WALKS = 2_000
"""Walks after which the way to the config's own settings is given up: under a second."""


def every_combination(space: Space, most: int = 10_000) -> list[dict[str, Any]]:
    """All combinations of suggested values, conditions followed: what ``study.enqueue_trial`` takes, one by one.

    Raises:
        UsageError: a float without step, more than ``most`` combinations, or as :meth:`Space.draw`.
    """

    def offer(name: str, distribution: BaseDistribution) -> Offer:
        count = how_many(distribution)
        if count is None:
            low, high = ends(distribution)
            # Optuna has no steps on a logarithmic scale.
            steps = "" if getattr(distribution, "log", False) else "with step=..., or "
            raise UsageError(
                f"{space.path} draws {name} from all numbers between {low:g} and {high:g}, and a grid needs steps.",
                mend=f"Draw it {steps}from a list by suggest_categorical; or take tune.sampler=tpe.",
            )
        return count, lambda position: value_at(distribution, position)

    found: list[dict[str, Any]] = []
    for params, _ in _walks(space, offer):
        if len(found) == most:
            raise UsageError(
                f"{space.path} has more than {most:,} combinations.",
                mend="Take larger steps and fewer choices, or tune.sampler=random.",
            )
        found.append(params)
    return found


def default_params(space: Space, config: Config) -> dict[str, Any] | None:
    """The suggested values that make the space return the config's own settings; None where none do.

    A suggestion whose name is a config key (``optim.lr``, an entry of a list as in ``augment.scale_factor.0``, either
    with words behind it as in ``optim.lr (sgd)``) takes the config's value. Of other suggestions every value is tried,
    but for floats without step. Raises UsageError as :meth:`Space.draw`.
    """
    tree = config.model_dump()

    def offer(name: str, distribution: BaseDistribution) -> Offer:
        known, value = _current(tree, name)
        if known:
            return int(holds(distribution, value)), lambda _: _as_drawn(distribution, value)
        return how_many(distribution) or 0, lambda position: value_at(distribution, position)

    for params, settings in itertools.islice(_walks(space, offer), MOST_WALKS):
        if _gives(config, settings):
            return params
    return None


class _Walk:
    """One way down the tree: by the script as far as it goes, then by the first value of every suggestion."""

    def __init__(self, script: list[int], offer: Callable[[str, BaseDistribution], Offer]) -> None:
        self._script, self._offer = script, offer
        self._taken: list[int] = []
        self._counts: list[int] = []
        self._blocked: int | None = None

    def choose(self, name: str, distribution: BaseDistribution) -> Any:
        """The next suggestion's value; one that has none on offer blocks the way and gives its lowest."""
        count, value = self._offer(name, distribution)
        depth = len(self._taken)
        if count == 0 and self._blocked is None:
            self._blocked = depth
        scripted = self._script[depth] if depth < len(self._script) else 0
        position = max(min(scripted, count - 1), 0)
        self._taken.append(position)
        self._counts.append(count)
        return value(position) if count else ends(distribution)[0]

    def next_script(self) -> list[int] | None:
        """The script of the next way; None after the last. What lies below a blocked suggestion is left out."""
        deepest = len(self._taken) if self._blocked is None else self._blocked + 1
        for depth in reversed(range(deepest)):
            if self._taken[depth] + 1 < self._counts[depth]:
                return [*self._taken[:depth], self._taken[depth] + 1]
        return None


def _walks(
    space: Space, offer: Callable[[str, BaseDistribution], Offer]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """All ways down the tree: what was suggested, and the settings that the space made of it."""
    script: list[int] | None = []
    while script is not None:
        walk = _Walk(script, offer)
        trial = WalkingTrial(walk.choose)
        settings = space.draw(trial)
        yield trial.params, settings
        script = walk.next_script()


def _current(tree: Any, name: str) -> tuple[bool, Any]:
    """Whether a name tells of one value of the config, and that value."""
    for part in name.partition(" ")[0].split("."):
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list | tuple) and part.isdecimal() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return False, None
    return not isinstance(tree, dict | list | tuple), tree


def _as_drawn(distribution: BaseDistribution, value: Any) -> Any:
    """The value as a trial would draw it: 8 for the 8.0 of a config where integers are drawn."""
    return distribution.to_external_repr(distribution.to_internal_repr(value))


def _gives(config: Config, settings: dict[str, Any]) -> bool:
    try:
        return with_settings(config, settings) == config
    except UsageError:
        return False
