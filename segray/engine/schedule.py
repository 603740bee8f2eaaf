"""The learning rate as a pure function of where a run stands."""

from __future__ import annotations

import math

from segray.config import OptimConfig

RISE = 0.3
"""Share of a one-cycle run over which the rate rises, as PyTorch's OneCycleLR has it."""

FIRST, LAST = 1 / 25, 1e-4 / 25
"""Share of the peak at the start and at the end of a one-cycle run, from the same place."""


def learning_rate(config: OptimConfig, *, step: int, progress: float, drops: int = 0) -> float:
    """Linear warm-up by steps, times the schedule.

    Polynomial: ``(1 - progress) ** power``; cosine: ``(1 + cos(pi progress)) / 2`` (Loshchilov & Hutter 2017, without
    restarts); one_cycle: from 1/25 of the peak up to it and down to next to nothing, both along a cosine, without
    warm-up (Smith & Topin 2018); plateau: ``plateau_factor ** drops``.

    Args:
        config: peak rate, schedule and warm-up steps.
        step: steps done before this one, from 0.
        progress: share of the run that is done, in [0, 1], from steps or from the wall clock.
        drops: how often the validation stood still (schedule plateau).
    """
    progress = min(max(progress, 0.0), 1.0)
    if config.schedule == "one_cycle":
        return float(config.lr * _one_cycle(progress))
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    return float(config.lr * warm * _decay(config, progress, drops))


def _decay(config: OptimConfig, progress: float, drops: int) -> float:
    if config.schedule == "polynomial":
        return float((1.0 - progress) ** config.power)
    if config.schedule == "cosine":
        return _cosine(1.0, 0.0, progress)
    if config.schedule == "plateau":
        return float(config.plateau_factor**drops)
    return 1.0


def _one_cycle(progress: float) -> float:
    if progress < RISE:
        return _cosine(FIRST, 1.0, progress / RISE)
    return _cosine(1.0, LAST, (progress - RISE) / (1 - RISE))


def _cosine(start: float, end: float, share: float) -> float:
    """From ``start`` to ``end`` along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2
