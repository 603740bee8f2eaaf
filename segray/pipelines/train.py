"""Training on Ray Train: start or resume a run, watch it, and leave a bundle."""

from __future__ import annotations

import difflib
import os
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from segray import privacy, storage
from segray.config import Config, TrainConfig, dump_config, load_config
from segray.errors import SegrayError, UsageError
from segray.nets.class_weights import weights_of_labels
from segray.nets.start import Start
from segray.nets.unet import build_shapes
from segray.outage import patient
from segray.pipelines.batch_size import with_batch_size
from segray.pipelines.checkpoints import KEPT
from segray.pipelines.cluster_doctor import preflight_notes
from segray.pipelines.failures import words_of_ray
from segray.pipelines.folds import train_folds, training_manifest
from segray.pipelines.idle_settings import idle_settings
from segray.pipelines.live import Planner, find_cases, plan_cases, plan_of_all_folds
from segray.pipelines.log_file import log_place
from segray.pipelines.net_cost import patch_of, training_cost
from segray.pipelines.node_room import idle_gpus, shape_of
from segray.pipelines.run_folder import BUNDLE, CHECKPOINTS, CONFIG, FAILURES, METRICS, RunFolder
from segray.pipelines.runtime import KEEP_MEMORY, WorkerShape, ray_session
from segray.pipelines.session import LOWER_IS_BETTER
from segray.pipelines.sweep_folder import SPACE
from segray.pipelines.train_start import begin_from, with_net_of_start
from segray.pipelines.train_worker import train_worker
from segray.shards.manifest import Manifest

Watcher = Callable[[dict[str, Any]], None]
Failure = tuple[str, str]

GROUP_TIMEOUT_S = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "25"
"""How long an elastic training waits for the room that Ray says there is: Ray looks for lost nodes every 20 seconds,
and would else wait a minute for their CPUs."""

LOOK_FOR_NODES_S = 30.0
"""Seconds between looks for room for more workers of an elastic training; taking them costs the epoch under way."""


@dataclass(frozen=True)
class TrainSummary:
    """What a finished training left.

    Attributes:
        run: the run folder.
        bundle: the folder of the best (or, without validation cases, the last) weights.
        epochs: epochs trained, counted over all resumes.
        best_epoch: the epoch of the bundle.
        best_dice: mean validation Dice of the bundle, or None without validation cases.
        failed: (case id or file, reason) of cases that a training on their files went without.
        folds: of a cross-validation what each fold left, else []. Then ``bundle`` is the run itself, all folds
            together, ``epochs`` and ``best_epoch`` are the most of any fold, ``best_dice`` is the mean.
    """

    run: str
    bundle: str
    epochs: int
    best_epoch: int
    best_dice: float | None
    failed: list[Failure] = field(default_factory=list)
    folds: list[TrainSummary] = field(default_factory=list)


def train(
    config: Config,
    *,
    resume: str | None = None,
    stop_after: int = 0,
    watcher: Watcher | None = None,
    planner: Planner | None = None,
    say: Callable[[str], None] | None = None,
) -> TrainSummary:
    """Train a net on shards or on a folder of labelled cases, or go on with an interrupted run.

    Cases are planned first (:func:`segray.pipelines.live.plan_cases`), then read from their files in every epoch.

    Args:
        config: the settings; ``train.shards`` and ``train.run`` are needed. With ``resume`` the run's own
            ``config.yaml`` is used, and only ``ray`` is taken from here.
        resume: the run folder to go on with, from its last checkpoint.
        stop_after: halt when this epoch is finished, to go on later by ``resume``; the schedule is that of all
            epochs. 0: no halt.
        watcher: called about once a second with the content of ``progress.json``.
        planner: told of the planning of a training on cases.
        say: told before the training, in sentences, what the net costs, what it starts from and which settings change
            nothing; ``run.log`` has them too.

    Raises:
        UsageError: no shards, cases or run folder named, or the run folder holds a run already.
        SegrayError: the training failed; the reason is in one line, the details are in ``run.log``.
    """
    run = RunFolder(_run_path(config, resume))
    if resume:
        if not run.exists:
            raise UsageError(f"{run.path} holds no run to resume.", mend="Start one by `segray train CONFIG`.")
        if storage.exists(run.file(SPACE)):
            raise UsageError(f"{run.path} holds a sweep.", mend=f"Go on with it by `segray tune --resume {run.path}`.")
        config = _resumed(config, run)
    config = privacy.with_privacy(_with_absolute_paths(config, run), run.path)
    if config.train.folds and config.train.fold is None:
        return _cross_validate(config, run, bool(resume), stop_after, watcher, planner, say)
    found = None if resume or plan_of_all_folds(config) else find_cases(config)
    start: Start | None = None
    if not resume:
        run.refuse_second()
        config, start = with_net_of_start(config)
    if resume or found is None:
        check_config(config)
    if not resume:
        run.name_run()
    with ray_session(config.ray):
        if found is not None:
            plan_cases(found, config, run, planner or Planner())
            check_config(config)
        # Of folds the cross-validation has looked already.
        meets = config.train.most_workers > 1
        said = preflight_notes(config, run.path, meets=meets) if config.train.fold is None else []
        said += [] if start is None else begin_from(start, config, run)
        shape = shape_of(config.train)
        config, found_size = with_batch_size(config, shape)
        if not resume:
            run.begin(dump_config(config))
        run.write_history(fatal="", finished=False, state="running")
        if not resume:
            said += idle_gpus(config.train.fewest_workers, config.train.gpu, "worker", "train.workers")
        said += found_size + _sentences(config, run, on_gpu=shape.gpus > 0)
        for sentence in said:
            run.log(sentence)
            if say is not None:
                say(sentence)
        run.log(f"start: {_words(config.train)} workers, each {shape.cpus:g} CPUs and {shape.gpus:g} GPUs")
        with patient(), _Watch(run, watcher) if watcher is not None else nullcontext():
            _fit_and_note(config, run, shape, stop_after)
    finished = not stop_after or stop_after >= config.train.epochs
    with patient():
        run.write_history(finished=finished, state="finished" if finished else "stopped")
    return summarise(run)


def _cross_validate(
    config: Config,
    run: RunFolder,
    resumed: bool,
    stop_after: int,
    watcher: Watcher | None,
    planner: Planner | None,
    say: Callable[[str], None] | None,
) -> TrainSummary:
    if not resumed:
        run.refuse_second()
        # Read back from config.yaml, all settings of the net are named: they have to be those of the weights.
        config = with_net_of_start(config)[0]
    found = None if resumed else find_cases(config)
    if not resumed:
        if found is None:
            check_config(config)
        run.name_run()

    def one(config: Config, fold: int, watcher: Watcher | None) -> TrainSummary:
        mine = RunFolder(str(config.train.run))
        if mine.exists and mine.history().get("finished"):
            return summarise(mine)
        # What is said of the net is the same for all folds.
        told = say if fold == 0 else None
        resume = mine.path if mine.exists else None
        return train(config, resume=resume, stop_after=stop_after, watcher=watcher, say=told)

    with ray_session(config.ray):
        for sentence in preflight_notes(config, run.path, meets=config.train.most_workers > 1):
            if say is not None:
                say(sentence)
        if found is not None:
            plan_cases(found, config, run, planner or Planner())
            check_config(config)
        if not resumed:
            # Folds are compared, so none has a batch size of its own.
            config, found_size = with_batch_size(config, shape_of(config.train))
            if say is not None and found_size:
                say(*found_size)
        folds = train_folds(config, run, one, watcher)
    known = [fold.best_dice for fold in folds if fold.best_dice is not None]
    return TrainSummary(
        run.path,
        run.path,
        max(fold.epochs for fold in folds),
        max(fold.best_epoch for fold in folds),
        sum(known) / len(known) if known else None,
        sorted({failure for failed in (failures_of(run), *(fold.failed for fold in folds)) for failure in failed}),
        folds,
    )


def summarise(run: RunFolder) -> TrainSummary:
    """Read the outcome of a run from its folder."""
    history = run.history()
    rows = run.rows(METRICS)
    if not rows or "best" not in history:
        raise SegrayError(
            f"The training in {run.path} ended before its first epoch.", mend=f"See {log_place(run.path)}."
        )
    best = history["best"]
    epochs = int(rows[-1]["epoch"]), int(best["epoch"])
    return TrainSummary(run.path, run.file(BUNDLE), *epochs, best["dice"], failures_of(run))


def failures_of(run: RunFolder) -> list[Failure]:
    """The cases that a training on their files went without."""
    return [(row["case_id"], row["reason"]) for row in run.rows(FAILURES)]


def _resumed(told: Config, run: RunFolder) -> Config:
    """The config of a run that goes on; names that were hidden stay hidden, and may be from now on."""
    kept = load_config(run.file(CONFIG))
    privacy_now = told.privacy if told.privacy.hash_ids else kept.privacy
    return kept.model_copy(update={"ray": told.ray, "privacy": privacy_now})


def _run_path(config: Config, resume: str | None) -> str:
    path = resume or config.train.run
    if not path:
        raise UsageError("No run folder is named.", mend="Give --run FOLDER, or train.run in the config.")
    return path


def _with_absolute_paths(config: Config, run: RunFolder) -> Config:
    if not config.train.shards:
        raise UsageError(
            "Neither shards nor cases are named.", mend="Give --shards FOLDER, or train.shards in the config."
        )
    paths = {"shards": storage.absolute(config.train.shards), "run": run.path}
    if config.train.start_from:
        paths["start_from"] = storage.absolute(config.train.start_from)
    return config.model_copy(update={"train": config.train.model_copy(update=paths)})


def _sentences(config: Config, run: RunFolder, *, on_gpu: bool) -> list[str]:
    """What the net costs, which goes into ``history.json`` too, and which settings change nothing."""
    manifest = training_manifest(config)
    cost = training_cost(config, manifest, on_gpu=on_gpu)
    run.write_history(net=cost.to_dict())
    return [f"The net: {cost}.", *idle_settings(config, manifest)]


def _check_sides(config: Config, manifest: Manifest) -> None:
    step = 2**config.net.halvings
    height, width = patch_of(config, manifest)[1:]
    if height % step or width % step:
        raise UsageError(
            f"The net halves its input {config.net.halvings} times, and {height} x {width} pixels are no "
            f"multiples of {step}.",
            mend=f"Ingest with ingest.grid.multiple={step}, or take fewer levels in net.features.",
        )
    deep = patch_of(config, manifest)[0] // (2 ** (config.net.halvings - config.net.flat_levels)) or 1
    if deep * (height // step) * (width // step) == 1:
        _check_single_pixel(config)


def _check_single_pixel(config: Config) -> None:
    """A norm cannot tell mean and spread of the lowest level from one value a channel."""
    norm, batch = config.net.norm, config.train.batch_size
    one_slice = norm == "batch" and batch in (1, "auto")
    if norm == "instance" or one_slice:
        beside = f" and train.batch_size={batch}" if one_slice else ""
        raise UsageError(
            f"The lowest level of the net is a single pixel, which net.norm={norm}{beside} cannot normalise.",
            mend="Take fewer levels in net.features, or net.norm=group" + (", or a larger batch." if beside else "."),
        )


def check_config(config: Config, manifest: Manifest | None = None) -> None:
    """Raise UsageError where there are no shards, or the config does not fit them, as ``manifest`` tells of them.

    ``config.net`` is the net to train: that of ``train.start_from``, where it is named.
    """
    manifest = manifest or training_manifest(config)
    known = manifest.label_map
    build_shapes(config.net, manifest.in_channels, known.channels)
    _check_sides(config, manifest)
    weights_of_labels(config.loss.class_weights, known.names, overlapping=known.overlapping)
    columns = [*LOWER_IS_BETTER, "val_dice", *(f"val_dice_{name}" for name in known.names)]
    if config.train.metric not in columns:
        near = difflib.get_close_matches(config.train.metric, columns, n=1, cutoff=0.0)
        raise UsageError(
            f"train.metric {config.train.metric} is no column of metrics.csv.", mend=f"Did you mean {near[0]}?"
        )


def _words(train: TrainConfig) -> str:
    return f"{train.fewest_workers} to {train.most_workers}" if train.elastic else str(train.most_workers)


def _fit_and_note(config: Config, run: RunFolder, shape: WorkerShape, stop_after: int) -> None:
    asked = signal.getsignal(signal.SIGINT)
    try:
        _fit(config, run, shape, stop_after)
    except BaseException as error:
        run.write_history(state="failed" if isinstance(error, Exception) else "interrupted")
        if isinstance(error, SystemExit):  # Ray Train makes one of Ctrl-C, with the exit code of success
            raise KeyboardInterrupt from error
        raise
    finally:
        if asked is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, asked)  # Ray Train leaves its own behind


def _fit(config: Config, run: RunFolder, shape: WorkerShape, stop_after: int) -> None:
    if config.train.elastic:
        os.environ.setdefault(*GROUP_TIMEOUT_S)
    while True:
        spared = run.history().get("spared")
        reason = _fit_once(config, run, shape, stop_after)
        fatal = run.history().get("fatal")
        if fatal or not reason or run.history().get("spared") == spared:
            break
        # Each time less memory is needed, to an end: that is no failure of a worker, of which there may be too many.
        run.log("The workers begin again from the last checkpoint, with less memory.", "warning")
    if fatal or reason:
        raise SegrayError(
            f"The training stopped: {fatal or reason}",
            mend=f"See {log_place(run.path)}; go on by `segray train --resume {run.path}`.",
        )


def _fit_once(config: Config, run: RunFolder, shape: WorkerShape, stop_after: int) -> str:
    """Train with workers that are replaced ``train.max_failures`` times; why it ended before its end, or ""."""
    resources = {"CPU": shape.cpus} | ({"GPU": shape.gpus} if shape.gpus else {})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "threads": shape.threads,
            "stop_after": stop_after,
        },
        scaling_config=ScalingConfig(
            num_workers=config.train.workers,
            elastic_resize_monitor_interval_s=LOOK_FOR_NODES_S,
            use_gpu=shape.gpus > 0,
            resources_per_worker=resources,
            placement_strategy="SPREAD",
        ),
        run_config=RunConfig(
            name=CHECKPOINTS,
            storage_path=run.path,
            failure_config=FailureConfig(max_failures=config.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=KEPT),
            worker_runtime_env={"env_vars": KEEP_MEMORY},
        ),
    )
    try:
        trainer.fit()
    except Exception as error:  # what Ray wraps is told in one sentence; the details are in run.log
        run.log(f"failed: {error!r}", "error")
        return words_of_ray(error)
    return ""


class _Watch:
    """A thread that hands the run's progress to a watcher while ``fit`` blocks."""

    def __init__(self, run: RunFolder, watcher: Watcher) -> None:
        self._run, self._watcher = run, watcher
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._done.set()
        self._thread.join()

    def _loop(self) -> None:
        while not self._done.wait(1.0):
            self._look()
        self._look(last=True)

    def _look(self, *, last: bool = False) -> None:
        try:
            facts = self._run.progress()
        except SegrayError:
            return  # a disk that is away for a moment is no reason to show nothing from then on
        if facts or last:
            self._watcher(facts)
