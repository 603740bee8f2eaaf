from __future__ import annotations

from pathlib import Path

import pytest

from segray.errors import UsageError
from segray.pipelines.run_folder import METRICS, STEPS, RunFolder


def _epoch(run: RunFolder, epoch: int) -> None:
    run.add_step([epoch, epoch * 10, 0.5, 0.3, 0.2, 1.0, 0.001, 8, 0.1, 0.0])
    run.add_epoch({"epoch": epoch, "train_loss": 1.0 / epoch})


def test_a_folder_with_a_run_is_refused(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    run.begin("seed: 0\n")
    with pytest.raises(UsageError, match=r"holds a run already.*--resume"):
        RunFolder(str(tmp_path / "run")).begin("seed: 0\n")


def test_rewind_drops_the_epochs_that_are_made_again(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    for epoch in (1, 2, 3):
        _epoch(run, epoch)
    run.rewind(1)
    _epoch(run, 2)
    assert [row["epoch"] for row in run.rows(METRICS)] == ["1", "2"]
    assert [row["step"] for row in run.rows(STEPS)] == ["10", "20"]


def test_history_keeps_earlier_keys(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    run.write_history(best={"epoch": 1})
    run.write_history(finished=True)
    assert run.history() == {"best": {"epoch": 1}, "finished": True}
