"""Cross-validation: one run a fold, side by side as the cluster has room, in one run folder."""

from __future__ import annotations

import csv
import io
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from segray import storage
from segray.config import Config, dump_config
from segray.errors import SegrayError
from segray.pipelines.live import data_folder
from segray.pipelines.node_room import shape_of, trainings_at_once
from segray.pipelines.run_folder import METRICS, RunFolder
from segray.shards.folds import folded
from segray.shards.manifest import Manifest, load_manifest

if TYPE_CHECKING:
    from segray.pipelines.train import TrainSummary

FOLDS = "folds.csv"

Watcher = Callable[[dict[str, Any]], None]


def training_manifest(config: Config) -> Manifest:
    """The manifest of a training, with the split of its fold where it trains one. Raises UsageError as ``folded``."""
    manifest = load_manifest(data_folder(config))
    if not config.train.folds:
        return manifest
    return folded(manifest, config.train.folds, config.train.fold or 0, config.seed)


def fold_folder(run: str, fold: int) -> str:
    """The run folder of a fold."""
    return storage.join(run, f"fold_{fold}")


def at_once(config: Config) -> int:
    """Folds that find room in the cluster at the same time, at least one."""
    train = config.train
    return min(trainings_at_once(shape_of(train), train.fewest_workers, train.most_workers), train.folds)


def train_folds(
    config: Config,
    run: RunFolder,
    train_one: Callable[[Config, int, Watcher | None], TrainSummary],
    watcher: Watcher | None,
) -> list[TrainSummary]:
    """Train every fold; one that fails lets the others end.

    Args:
        config: with ``train.folds``.
        run: the folder of the whole.
        train_one: trains one fold, told its config, its number and a watcher.
        watcher: told the progress of any fold, with ``fold`` (from 1), ``folds`` and the ``share`` done of all.

    Raises:
        SegrayError: a fold failed; which, and why.
    """
    if not run.exists:
        run.begin(dump_config(config))
    count = at_once(config)
    run.log(f"{config.train.folds} folds, {count} at once")
    run.write_history(finished=False, state="running")
    progress = _Progress(config.train.folds, watcher)
    pool = ThreadPoolExecutor(count, thread_name_prefix="fold")
    try:
        waiting = [
            pool.submit(train_one, fold_config(config, run, fold), fold, progress.of_fold(fold))
            for fold in range(config.train.folds)
        ]
        failed = [(fold, error) for fold, one in enumerate(waiting) if (error := one.exception()) is not None]
    except BaseException:
        # Not waited for: those that run end with the Ray session, which the caller closes now.
        pool.shutdown(wait=False, cancel_futures=True)
        run.write_history(state="interrupted")
        raise
    pool.shutdown()
    if failed:
        run.write_history(state="failed")
        for _, error in failed:
            if not isinstance(error, SegrayError):
                raise error
        words = "; ".join(f"fold {fold}: {error}" for fold, error in failed)
        raise SegrayError(
            f"{len(failed)} of {config.train.folds} folds failed: {words}",
            mend=f"Go on by `segray train --resume {run.path}`; finished folds are kept.",
        )
    summaries = [one.result() for one in waiting]
    _write_table(run, summaries)
    run.write_history(finished=True, state="finished")
    return summaries


def fold_config(config: Config, run: RunFolder, fold: int) -> Config:
    """The config of one fold's own run."""
    changes = {"fold": fold, "run": fold_folder(run.path, fold)}
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})


def _write_table(run: RunFolder, summaries: Sequence[TrainSummary]) -> None:
    """``folds.csv``: the best epoch of each fold with its validation Dice, and their means."""
    best = []
    for fold, summary in enumerate(summaries):
        rows = RunFolder(summary.run).rows(METRICS)
        (row,) = [row for row in rows if int(row["epoch"]) == summary.best_epoch]
        dice = {name: value for name, value in row.items() if name.startswith("val_dice")}
        best.append({"fold": str(fold), "epoch": row["epoch"], **dice})
    means = {"fold": "mean", "epoch": ""}
    for name in list(best[0])[2:]:
        known = [float(row[name]) for row in best if row[name] != ""]
        means[name] = f"{sum(known) / len(known):.5f}" if known else ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(means), lineterminator="\n")
    writer.writeheader()
    writer.writerows([*best, means])
    storage.write_text(run.file(FOLDS), text.getvalue())


class _Progress:
    """The shares that the folds have done, told with the progress of each."""

    def __init__(self, folds: int, watcher: Watcher | None) -> None:
        self._shares = [0.0] * folds
        self._watcher = watcher
        self._lock = threading.Lock()

    def of_fold(self, fold: int) -> Watcher | None:
        """The watcher of one fold; None where nobody watches."""
        if self._watcher is None:
            return None
        told = self._watcher

        def watch(facts: dict[str, Any]) -> None:
            if not facts:
                return
            with self._lock:
                done = (facts["epoch"] - 1) * facts["steps"] + facts["step"]
                self._shares[fold] = done / max(facts["epochs"] * facts["steps"], 1)
                share = sum(self._shares) / len(self._shares)
                told(facts | {"fold": fold + 1, "folds": len(self._shares), "share": share})

        return watch
