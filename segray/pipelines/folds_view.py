"""What the files of a cross-validation say, while it runs and afterwards; needs neither Ray nor torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from segray import storage
from segray.errors import UsageError
from segray.pipelines.run_folder import CONFIG, RunFolder
from segray.pipelines.run_view import RunReader, RunView


@dataclass(frozen=True)
class FoldsView:
    """A cross-validation at one moment.

    Attributes:
        run: its folder.
        state: running, finished, interrupted or failed.
        count: how many folds there are to be.
        folds: those that have begun, by number.
    """

    run: str
    state: str
    count: int
    folds: Sequence[tuple[int, RunView]]

    @property
    def ended(self) -> bool:
        """Nothing more will come, unless someone resumes it."""
        return self.state != "running"

    @property
    def mean_best(self) -> float:
        """Mean of the folds' best validation Dice; NaN before the first."""
        known = [view.dice.best for _, view in self.folds if not math.isnan(view.dice.best)]
        return sum(known) / len(known) if known else math.nan

    @property
    def quiet_s(self) -> float:
        """Seconds since any fold that is under way wrote something; NaN where none is."""
        return min((view.quiet_s for _, view in self.folds if not view.ended), default=math.nan)


def is_cross_validation(path: str) -> bool:
    """Whether a folder holds a cross-validation."""
    return RunFolder(path).exists and _folds(path) > 0


def _folds(path: str) -> int:
    """How many folds the config asks for; 0 where it trains one of them alone, or none."""
    train = (yaml.safe_load(storage.read_text(RunFolder(path).file(CONFIG))) or {}).get("train") or {}
    return int(train.get("folds") or 0) if train.get("fold") is None else 0


class FoldsReader:
    """Reads the folder of a cross-validation."""

    def __init__(self, path: str) -> None:
        self._run = RunFolder(path)
        self._count = _folds(path)
        self._readers: dict[int, RunReader] = {}

    def view(self) -> FoldsView:
        """The folds as they stand now. Raises UsageError where the folder has been removed."""
        if not self._run.exists:
            raise UsageError(f"{self._run.path} has been removed.", mend="Watch another one.")
        for fold in range(self._count):
            path = storage.join(self._run.path, f"fold_{fold}")
            if fold not in self._readers and RunFolder(path).exists:
                self._readers[fold] = RunReader(path)
        return FoldsView(
            run=self._run.path,
            state=str(self._run.history().get("state", "running")),
            count=self._count,
            folds=[(fold, reader.view()) for fold, reader in sorted(self._readers.items())],
        )
