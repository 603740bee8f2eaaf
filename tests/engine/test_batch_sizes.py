"""The batch size that is found by steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from segray.config import parse_config
from segray.engine import batch_sizes
from segray.engine.batch_sizes import BatchRate, MadeSlices, best_batch, measure_rates, now
from segray.engine.trainer import Trainer
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net


def _trainer(in_channels: int = 1, labels: int = 2, *, overlapping: bool = False, **net: Any) -> Trainer:
    config = parse_config({"net": {"features": [4, 8], **net}, "train": {"precision": "float32"}})
    names = [f"s{number}" for number in range(labels if overlapping else labels - 1)]
    return Trainer(
        config,
        build_net(config.net, in_channels, labels),
        Normalisation("case"),
        device="cpu",
        overlapping=overlapping,
        structures=names,
    )


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_sizes, "SECONDS_A_SIZE", 0.0)


def test_the_largest_batch_at_full_speed_is_taken() -> None:
    rising = [BatchRate(1, 10), BatchRate(2, 19), BatchRate(4, 30), BatchRate(8, 31)]
    assert best_batch(rising) == 8
    assert best_batch([*rising, BatchRate(16, 29.5)]) == 16
    assert best_batch([*rising, BatchRate(16, 29)]) == 8
    assert best_batch([BatchRate(1, 0.2)]) == 1


@pytest.mark.usefixtures("brief")
@pytest.mark.parametrize(
    ("made", "trainer"),
    [
        (MadeSlices(1, 1, (16, 16), 2), {}),
        (MadeSlices(6, 2, (16, 16), 2), {"in_channels": 2, "neighbours": 1}),
        (MadeSlices(2, 2, (4, 16, 16), 3), {"in_channels": 2, "labels": 3, "patch": [4, 16, 16]}),
        (MadeSlices(1, 1, (16, 16), 2**9), {"labels": 9, "overlapping": True}),
    ],
)
def test_steps_are_made_on_what_the_training_sees(made: MadeSlices, trainer: dict[str, Any]) -> None:
    rates = measure_rates(_trainer(**trainer), made, 5, now)
    assert [rate.batch for rate in rates] == [1, 2, 4]
    assert all(rate.rate > 0 for rate in rates)


@pytest.mark.usefixtures("brief")
def test_sizes_that_do_not_fit_end_the_search() -> None:
    trainer = _trainer()

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if len(inputs[0]) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    trainer.network.register_forward_pre_hook(look)
    assert [rate.batch for rate in measure_rates(trainer, MadeSlices(1, 1, (16, 16), 2), 64, now)] == [1, 2]


@pytest.mark.usefixtures("brief")
def test_a_slow_device_is_not_asked_for_minutes() -> None:
    ticks = iter(range(0, 10_000, 8))
    rates = measure_rates(_trainer(), MadeSlices(1, 1, (16, 16), 2), 64, lambda: float(next(ticks)))
    assert [rate.batch for rate in rates] == [1]
