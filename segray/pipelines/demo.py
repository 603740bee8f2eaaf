"""The whole way on one machine, for phantoms or for a user's folder."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from segray import storage
from segray.config import load_config
from segray.phantoms import make_phantoms
from segray.pipelines.evaluate import EvaluateSummary, evaluate
from segray.pipelines.ingest import IngestSummary, ingest
from segray.pipelines.predict import PredictSummary, predict
from segray.pipelines.run_folder import RunFolder
from segray.pipelines.runtime import ray_session
from segray.pipelines.train import TrainSummary, summarise, train
from segray.report.api import report

DEMO_SETTINGS = (
    "net.features=[16,32,64,128]",
    "train.epochs=40",
    "train.minutes=2.5",
    "train.batch_size=8",
    "optim.lr=0.003",
    "ingest.split.validation=0.25",
)
"""What lets the demo end in minutes on two cores; a user's --set comes after it."""

PHANTOM_SETTINGS = ("intensity.window=[-300,300]", "ingest.grid.spacing=[3.5,3.5]")
DATA_SETTINGS = ("intensity.mode=foreground",)
"""A user's folder may hold anything: its own spacing, and its own range of values."""

CaseWatcher = Callable[[dict[str, Any], int, int], None]


class Demo:
    """The steps of `segray demo`, each a method, on one Ray.

    Args:
        data: a folder of labelled cases; None: phantoms are made below ``out``.
        out: where shards, run and predictions go. Run again, finished steps are not done again.
        overrides: ``key=value`` settings.
    """

    def __init__(self, data: str | None, out: str, overrides: list[str]) -> None:
        self.out = storage.absolute(out)
        self.config = load_config(None, [*DEMO_SETTINGS, *(DATA_SETTINGS if data else PHANTOM_SETTINGS), *overrides])
        self.data = storage.absolute(data) if data else self._phantoms()
        self.shards, self.run = storage.join(self.out, "shards"), storage.join(self.out, "run")
        self.predictions = storage.join(self.out, "predictions")

    def _phantoms(self) -> str:
        folder = storage.join(self.out, "phantoms")
        if not storage.exists(folder):
            # Made beside and renamed, so that an interrupted first call leaves no part of a set.
            shutil.rmtree(f"{folder}.partial", ignore_errors=True)
            make_phantoms(f"{folder}.partial")
            os.rename(f"{folder}.partial", folder)
        return folder

    def session(self) -> AbstractContextManager[None]:
        """One Ray for all steps."""
        return ray_session(self.config.ray)

    def ingest(self, watcher: CaseWatcher) -> IngestSummary:
        """Cases to shards."""
        return ingest(self.data, self.shards, self.config, watcher=watcher)

    def train(self, watcher: Callable[[dict[str, Any]], None]) -> TrainSummary:
        """Shards to a bundle; a finished run is kept, an interrupted one goes on."""
        settings = self.config.train.model_copy(update={"shards": self.shards, "run": self.run})
        config = self.config.model_copy(update={"train": settings})
        run = RunFolder(self.run)
        if not run.exists:
            return train(config, watcher=watcher)
        finished = run.history().get("finished", False)
        return summarise(run) if finished else train(config, resume=self.run, watcher=watcher)

    def predict(self, watcher: CaseWatcher) -> PredictSummary:
        """Masks of all cases of the folder."""
        return predict(self.run, self.data, self.predictions, self.config, watcher=watcher)

    def evaluate(self, watcher: CaseWatcher) -> EvaluateSummary:
        """Dice on the held-out cases, or on all where none is held out."""
        return evaluate(self.predictions, self.data, self.config, watcher=watcher)

    def report(self) -> str:
        """One page with everything; its path."""
        return report(self.run, predictions=self.predictions)
