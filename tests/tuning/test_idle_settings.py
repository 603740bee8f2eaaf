from __future__ import annotations

import pytest

from segray.config import load_config
from segray.tuning.idle_settings import idle_settings


@pytest.mark.parametrize(
    ("settings", "drawn", "said"),
    [
        ((), (), None),
        (("tune.objectives=[val_dice,latency]", "tune.sampler=nsga2"), (), "a pruner looks at one objective"),
        (("tune.objectives=[val_dice,latency]", "tune.pruner=none"), (), None),
        (("tune.sampler=nsga2",), (), "nsga2 learns from finished trials alone"),
        (("tune.bundle=runs/one",), (), "a prediction has no epochs"),
        (("tune.objectives=[gflops]",), (), "gflops is known at the end"),
        (("tune.objectives=[gflops]", "tune.pruner=none"), (), None),
        (("tune.grace=5", "train.epochs=5"), (), "tune.grace=5 epochs, and none trains more than train.epochs=5"),
        (("tune.grace=5", "train.epochs=5"), ("train.epochs",), None),
        (("tune.grace=4", "train.epochs=5", "tune.pruner=median"), (), None),
        (("tune.earlier=[sweeps/one]",), (), None),
        (("tune.earlier=[sweeps/one]", "tune.sampler=random"), (), "tune.earlier changes nothing: random"),
        (("tune.objectives=[train_loss]",), ("optim.lr",), None),
        (("tune.objectives=[train_loss]",), ("loss.dice", "optim.lr"), "the space draws loss.dice, so that"),
    ],
)
def test_settings_of_a_sweep_that_change_nothing(settings: tuple[str, ...], drawn: tuple[str, ...], said: str) -> None:
    found = idle_settings(load_config(None, settings), drawn)
    assert len(found) == (said is not None)
    assert said is None or said in found[0]
