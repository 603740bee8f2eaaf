"""What a sweep is told before anything is written and before Ray is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_sweep import sweep_config

from segray.errors import UsageError
from segray.pipelines.tune import tune


def test_an_objective_that_no_training_has(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="gpu_memory_mib is not one of a training"):
        tune(sweep_config(tmp_path, "tune.objectives=[val_dice,gpu_memory_mib]"))
    with pytest.raises(UsageError, match="no validation cases"):
        tune(sweep_config(tmp_path, splits=("train",)))
    assert not (tmp_path / "sweep").exists()
