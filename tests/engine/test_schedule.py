"""The learning-rate schedule."""

from __future__ import annotations

import pytest

from segray.config import OptimConfig
from segray.engine.schedule import learning_rate

CONFIG = OptimConfig(lr=0.1, warmup_steps=4, power=2.0)


def test_warms_up_by_steps() -> None:
    rates = [learning_rate(CONFIG, step=step, progress=0.0) for step in range(6)]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_decays_by_progress() -> None:
    rates = [learning_rate(CONFIG, step=100, progress=progress) for progress in (0.0, 0.5, 1.0, 1.5)]
    assert rates == pytest.approx([0.1, 0.025, 0.0, 0.0])


def test_no_warm_up_and_no_decay() -> None:
    assert learning_rate(OptimConfig(lr=0.1, warmup_steps=0, power=0), step=0, progress=0.9) == pytest.approx(0.1)
