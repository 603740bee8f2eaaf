"""What is known of the trials of a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

State = Literal["waiting", "running", "finished", "pruned", "failed", "lost"]

LOWER_IS_BETTER = ("train_loss", "parameters", "gflops", "latency", "seconds")
"""Objectives that are losses and costs; all others are Dice."""


@dataclass(frozen=True)
class Objective:
    """A column that a sweep makes best, and which way."""

    name: str

    @property
    def maximise(self) -> bool:
        """Whether higher is better: of Dice; all others are losses and costs."""
        return self.name not in LOWER_IS_BETTER


@dataclass(frozen=True)
class TrialRecord:
    """A trial at one moment.

    Attributes:
        number: from 0, as Optuna counts.
        state: waiting (drawn, not begun), running, finished, pruned, failed, or lost (its node died, or the sweep was
            killed, and it was begun anew under another number).
        params: what the sampler drew, by the names that the space gave.
        settings: what the space made of it: dotted config keys and values.
        values: of the objectives, in their order; None where there are none.
        curve: (epoch, first objective) after each validation.
        began: seconds since 1970; None before.
        ended: seconds since 1970; None before.
        host: where it ran; empty before.
        run: its run folder.
        reason: why it failed or was lost; else empty.
        infeasible: its net or batch did not fit into memory, which the sampler was told.
        other: further numbers of its training by name, such as epochs and parameters.
    """

    number: int
    state: State
    params: Mapping[str, Any]
    settings: Mapping[str, Any]
    values: tuple[float, ...] | None = None
    curve: tuple[tuple[int, float], ...] = ()
    began: float | None = None
    ended: float | None = None
    host: str = ""
    run: str = ""
    reason: str = ""
    infeasible: bool = False
    other: Mapping[str, float] = field(default_factory=dict)
