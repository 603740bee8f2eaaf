"""The learning rate as a pure function of where a run stands."""

from __future__ import annotations

from segray.config import OptimConfig


def learning_rate(config: OptimConfig, *, step: int, progress: float) -> float:
    """Linear warm-up by steps, times polynomial decay by progress.

    Args:
        config: peak rate, warm-up steps and exponent.
        step: steps done before this one, from 0.
        progress: share of the run that is done, in [0, 1], from steps or from the wall clock.

    Returns:
        ``lr * min(1, (step + 1) / warmup_steps) * (1 - progress) ** power``.
    """
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    left = 1.0 - min(max(progress, 0.0), 1.0)
    return float(config.lr * warm * left**config.power)
