"""Ray Tune's searcher and scheduler over a study: what to try next, what to end early, what came of it."""

from __future__ import annotations

import logging
import math
import os
import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from segray.pipelines.kept_actors import keeping_actors
from segray.pipelines.trial_deaths import bearing_low_memory

TRIALS = "ray"
"""Folder below the sweep where Ray Tune keeps its own notes; nothing of it is needed to go on."""


ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",
}
"""No tables of Ray Tune's own on the terminal and beside every trial, no limit of its own to the trials that wait for
room (the desk has one), Ctrl-C ends the sweep instead of telling Ray Tune that its trials are finished, and its state
of all trials, which nobody reads, is written at the begin and at the end alone."""


class Desk(Protocol):
    """Who gives out trials and hears of them; all methods are called in the driver's scheduling loop, one at a time."""

    def next(self, running: int) -> dict[str, Any] | None:
        """What a further trial is told, with its ``number``; None: not now. Raises StopIteration: no more."""

    def heard(self, number: int, result: dict[str, Any]) -> bool:
        """A step of a trial is done, which is not its last; whether it should end now."""

    def ended(self, number: int, result: dict[str, Any], error: str | None, *, pruned: bool) -> None:
        """A trial has ended: with its last result, or by an error, in Ray's words, that Ray Tune has given up on."""

    def idle(self) -> None:
        """Called again and again, some times a second."""


@dataclass
class _Ledger:
    """Which of Ray's trial ids is which number, shared by searcher and scheduler."""

    desk: Desk
    numbers: dict[str, int] = field(default_factory=dict)
    pruned: set[str] = field(default_factory=set)
    errors: dict[str, str] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Ray Tune writes searcher and scheduler into a file that nobody reads."""
        return {}


class DeskSearch(Searcher):  # type: ignore[misc]
    """Asks the desk for trials and tells it of their end."""

    def __init__(self, ledger: _Ledger) -> None:
        super().__init__(metric="value", mode="max")
        self._ledger = ledger

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """What the next trial is told."""
        desk = self._ledger.desk
        desk.idle()
        try:
            told = desk.next(len(self._ledger.numbers))
        except StopIteration:
            finished: str = Searcher.FINISHED
            return finished
        if told is not None:
            self._ledger.numbers[trial_id] = told["number"]
        return told

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: the scheduler has told already."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the end of a trial."""
        ledger = self._ledger
        number = ledger.numbers.pop(trial_id, None)
        pruned, cause = trial_id in ledger.pruned, ledger.errors.pop(trial_id, None)
        ledger.pruned.discard(trial_id)
        if number is None:
            return
        words = (cause or "Ray ended the trial without a word.") if error else None
        ledger.desk.ended(number, result or {}, words, pruned=pruned)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study lies in its own storage."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing, as :meth:`save`."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing, as :meth:`save`."""

    def restore_from_dir(self, checkpoint_dir: str) -> None:
        """Nothing, as :meth:`save`."""


class DeskScheduler(FIFOScheduler):  # type: ignore[misc]
    """Ends a trial where the desk says so."""

    def __init__(self, ledger: _Ledger) -> None:
        super().__init__()
        self._ledger = ledger

    def choose_trial_to_run(self, _controller: Any) -> None:
        """None: Ray Tune begins the waiting trials in their order.

        It gives the trial that is chosen here the process of one that has ended, and stops the process that the trial
        waits for, which may be about to start.
        """

    def on_trial_result(self, _controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Tell a step; go on or stop."""
        number = self._ledger.numbers.get(trial.trial_id)
        if number is not None and self._ledger.desk.heard(number, result):
            self._ledger.pruned.add(trial.trial_id)
            return str(TrialScheduler.STOP)
        return str(TrialScheduler.CONTINUE)

    def on_trial_error(self, _controller: Any, trial: Any) -> None:
        """Keep the error for the searcher, which is told of the end right after."""
        path = trial.error_file
        if path and os.path.exists(path):
            with open(path, encoding="utf-8", errors="replace") as stream:
                self._ledger.errors[trial.trial_id] = stream.read().rpartition("Failure # ")[2]


def run_trials(
    desk: Desk,
    trainable: type[tune.Trainable],
    *,
    folder: str,
    resources: dict[str, float],
    max_failures: int,
    reuse: bool = True,
    callbacks: list[tune.Callback] | None = None,
) -> None:
    """Run what the desk gives out until it has no more.

    Args:
        desk: gives out and hears.
        trainable: what a trial runs; its results have ``epoch``, ``value`` and ``done``.
        folder: where Ray Tune may write.
        resources: CPUs and GPUs of a trial.
        max_failures: how often a trial begins again after its process or node was lost.
        reuse: a process goes on with the next trial.
        callbacks: further ears for Ray Tune.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    for name in ("ray.tune", "ray.air"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    ledger = _Ledger(desk)
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            search_alg=DeskSearch(ledger), scheduler=DeskScheduler(ledger), num_samples=-1, reuse_actors=reuse
        ),
        run_config=tune.RunConfig(
            name=time.strftime("%Y%m%d-%H%M%S"),
            storage_path=f"{folder}/{TRIALS}",
            failure_config=tune.FailureConfig(max_failures=max_failures),
            # Trials keep checkpoints of their own, and end with a bundle.
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=0, checkpoint_at_end=False),
            callbacks=callbacks or [],
            verbose=0,
        ),
    )
    with keeping_actors(), bearing_low_memory():
        tuner.fit()


def known(value: float) -> bool:
    """Whether a step brought a value at all."""
    return not math.isnan(value)
