"""Whether all that a search space draws can be trained, seen before the first trial."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution

from segray.config import Config
from segray.errors import UsageError
from segray.tuning.draws import Choose, WalkingTrial, at_random, ends, holds
from segray.tuning.space import Space, with_settings

MOST_CORNERS = 1_000
"""Draws after which no further corner is looked for."""


def check_space(
    space: Space, config: Config, also: Callable[[Config], None] | None = None, draws: int = 64
) -> dict[str, BaseDistribution]:
    """Draw settings at random and from the corners, where every bound and choice is met, and build their configs.

    Returns what the space draws from, by name; of a name with several ranges one that holds them all.

    Args:
        space: what draws.
        config: all that the space does not draw.
        also: what else must hold of a config; it raises UsageError where it does not.
        draws: settings drawn at random, and half as many more from bounds and choices mixed at random.

    Raises:
        UsageError: the first draw that fails, with the settings it drew; or nothing is drawn at all.
    """
    seen: dict[str, BaseDistribution] = {}
    tried: set[str] = set()
    for choose in _ways(draws):
        trial = WalkingTrial(choose, seen=seen)
        drawn: dict[str, Any] | None = None
        try:
            drawn = space.draw(trial)
            if repr(drawn) in tried:
                continue
            tried.add(repr(drawn))
            made = with_settings(config, drawn)
            if also is not None:
                also(made)
        except UsageError as error:
            raise _with_draw(error, space, trial.params if drawn is None else drawn) from error
    if not seen:
        raise UsageError(
            f"The search space {space.path} draws nothing, and all its trials would be alike.",
            mend="Draw values by trial.suggest_float, suggest_int or suggest_categorical.",
        )
    return seen


def steady_ranges(space: Space) -> dict[str, BaseDistribution]:
    """What every draw of a space has, from one range whatever else is drawn, by name; of a space that was checked."""
    steady: dict[str, BaseDistribution] | None = None
    for choose in _ways(64):
        trial = WalkingTrial(choose)
        space.draw(trial)
        drawn = trial.distributions
        steady = drawn if steady is None else {name: one for name, one in steady.items() if drawn.get(name) == one}
    return steady or {}


class _Corners:
    """Ways that meet both bounds of every number and every choice, in every branch that they open.

    Whatever a way could have taken instead and no way took yet waits for a way of its own, which begins as that way
    did.
    """

    def __init__(self) -> None:
        self._met: set[tuple[str, str]] = set()
        self._waiting: list[tuple[str, dict[str, Any]]] = []

    def ways(self) -> Iterator[Choose]:
        """One after the other; each must be walked before the next is asked for."""
        yield self._way({})
        for _ in range(MOST_CORNERS):
            while self._waiting and self._is_met(*self._waiting[-1]):
                self._waiting.pop()
            if not self._waiting:
                return
            name, begun = self._waiting.pop()
            self._met.add((name, repr(begun[name])))  # Even where the way, by chance, does not come to it.
            yield self._way(begun)

    def _is_met(self, name: str, begun: dict[str, Any]) -> bool:
        return (name, repr(begun[name])) in self._met

    def _way(self, begun: dict[str, Any]) -> Choose:
        so_far: dict[str, Any] = {}

        def choose(name: str, distribution: BaseDistribution) -> Any:
            open_ends = [end for end in ends(distribution) if (name, repr(end)) not in self._met]
            if name in begun and holds(distribution, begun[name]):
                taken = begun[name]
            else:
                taken = open_ends[0] if open_ends else ends(distribution)[0]
            self._waiting += [(name, {**so_far, name: end}) for end in open_ends if repr(end) != repr(taken)]
            self._met.add((name, repr(taken)))
            so_far[name] = taken
            return taken

        return choose


def _ways(draws: int) -> Iterator[Choose]:
    rng = np.random.default_rng(0)
    yield lambda _, distribution: ends(distribution)[0]
    yield lambda _, distribution: ends(distribution)[-1]
    yield from _Corners().ways()
    for _ in range(draws):
        yield lambda _, distribution: at_random(distribution, rng)
    for _ in range(draws // 2):
        yield lambda _, distribution: ends(distribution)[int(rng.integers(len(ends(distribution))))]


def _with_draw(error: UsageError, space: Space, drawn: dict[str, Any]) -> UsageError:
    told = ", ".join(f"{name}={_short(value)}" for name, value in drawn.items()) or "nothing yet"
    message = f"The search space {space.path} draws settings that do not work ({told}): {error.message}"
    return UsageError(message, mend=error.mend)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
