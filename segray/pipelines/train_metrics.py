"""What a worker of a training tells of its steps and epochs, through Ray's endpoint for Prometheus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from segray.config import Config
from segray.engine.trainer import StepResult
from segray.pipelines.run_folder import RunFolder
from segray.pipelines.run_metrics import RunMetrics


class TrainMetrics:
    """The numbers of one worker; of a trial of a sweep they are those of the sweep.

    Args:
        config: of the training.
        run: its folder.
        first: this is the first worker, which tells loss, Dice and epoch.
    """

    def __init__(self, config: Config, run: RunFolder, *, first: bool) -> None:
        sweep = config.tune.run or ""
        trial = bool(sweep) and run.path.startswith(f"{sweep.rstrip('/')}/trials/")
        whole = RunFolder(sweep) if trial else run
        self._metrics = RunMetrics(whole.run_id, "tune" if trial else "train")
        self._first = first

    def ready(self, batches: int) -> None:
        """Decoded batches that wait now."""
        self._metrics.set("segray_batches_ready", batches)

    def epoch(self, epoch: int) -> None:
        """An epoch begins."""
        if self._first:
            self._metrics.set("segray_epoch", epoch)

    def step(self, result: StepResult, seconds: float, wait: float) -> None:
        """A step is done: its seconds, and those that it waited for its batch."""
        metrics = self._metrics
        metrics.add("segray_part_seconds", seconds, "step")
        metrics.add("segray_part_seconds", wait, "wait")
        if result.skipped:
            metrics.add("segray_steps_skipped")
            return
        metrics.add("segray_slices", result.slices)
        if self._first and math.isfinite(result.loss):
            metrics.set("segray_loss", result.loss)

    def validation(self, row: Mapping[str, Any], seconds: float) -> None:
        """A validation is done; ``row`` has its mean Dice, or an empty word."""
        self._metrics.add("segray_part_seconds", seconds, "validate")
        if self._first and row.get("val_dice", "") != "":
            self._metrics.set("segray_dice", float(row["val_dice"]))

    def close(self) -> None:
        """Tell the last numbers."""
        self._metrics.close()
