"""A training that something befell ends as the one that nothing befell."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

NOISE = 0.02
"""What a loss or a Dice may differ by: a run that goes on from a checkpoint sees the same batches, other sums."""


def epoch_rows(run: Path) -> list[dict[str, str]]:
    """The rows of ``metrics.csv``; none before the first epoch."""
    path = run / "metrics.csv"
    return list(csv.DictReader(path.open(encoding="utf-8"))) if path.exists() else []


def assert_same_end(run: Path, undisturbed: Path, epochs: int) -> None:
    """Every epoch once, and the last with the loss and the Dice of the undisturbed run."""
    ours, theirs = epoch_rows(run), epoch_rows(undisturbed)
    assert [row["epoch"] for row in ours] == [str(epoch) for epoch in range(1, epochs + 1)]
    for column in ("train_loss", "val_dice"):
        assert float(ours[-1][column]) == pytest.approx(float(theirs[-1][column]), abs=NOISE), column
