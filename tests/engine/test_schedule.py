"""The learning-rate schedule."""

from __future__ import annotations

import pytest
import torch

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


def _rates(**settings: object) -> list[float]:
    config = OptimConfig.model_validate({"lr": 1.0, "warmup_steps": 0, **settings})
    return [learning_rate(config, step=100, progress=share) for share in (0.0, 0.15, 0.3, 0.5, 0.65, 1.0)]


def test_cosine_falls_to_zero_along_half_a_cosine() -> None:
    rates = _rates(schedule="cosine")
    assert rates[0] == 1.0
    assert rates[3] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.0)


def test_one_cycle_is_that_of_pytorch() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimiser = torch.optim.SGD([parameter], lr=1.0)
    steps = 1000
    peer = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1.0, total_steps=steps, cycle_momentum=False)
    theirs = []
    for _ in range(steps):
        theirs.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        peer.step()
    config = OptimConfig(lr=1.0, schedule="one_cycle")
    ours = [learning_rate(config, step=step, progress=step / (steps - 1)) for step in range(steps)]
    assert ours == pytest.approx(theirs, abs=3e-3)


def test_plateau_drops_and_constant_stays() -> None:
    assert _rates(schedule="constant") == [1.0] * 6
    config = OptimConfig(lr=1.0, warmup_steps=0, schedule="plateau", plateau_factor=0.5)
    assert [learning_rate(config, step=9, progress=0.9, drops=drops) for drops in (0, 1, 3)] == [1.0, 0.5, 0.125]
