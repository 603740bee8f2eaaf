"""A sweep: trials by Ray Tune and Optuna, each a training; leaves the best config, its bundle, tables and plots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from optuna.distributions import BaseDistribution

from segray import privacy, storage
from segray.config import Config, dump_config, load_config
from segray.engine.predictor import check_settings
from segray.errors import SegrayError, UsageError
from segray.nets.bundle import find_bundles, load_bundle
from segray.nets.start import FREE, load_start, net_of_start
from segray.outage import patient
from segray.pipelines.batch_size import with_batch_size
from segray.pipelines.cluster_doctor import preflight_notes
from segray.pipelines.folds import training_manifest
from segray.pipelines.inference_trial import InferenceActor, check_inference, check_shown
from segray.pipelines.log_file import log_place
from segray.pipelines.node_room import idle_gpus
from segray.pipelines.run_folder import BUNDLE, CONFIG
from segray.pipelines.runtime import ray_session
from segray.pipelines.sweep import Room, SweepDesk, room_of
from segray.pipelines.sweep_folder import BEST, SPACE, SweepFolder
from segray.pipelines.sweep_search import run_trials
from segray.pipelines.sweep_start import begin_study, plan_rest, plan_start
from segray.pipelines.train import check_config
from segray.pipelines.train_start import with_net_of_start
from segray.pipelines.trial import TrialActor
from segray.report.sweep_page import write_sweep_page
from segray.shards.manifest import Manifest
from segray.tuning.answer import answer
from segray.tuning.draws import example_draws
from segray.tuning.idle_settings import idle_settings
from segray.tuning.importances import importances_of
from segray.tuning.objectives import check_objectives
from segray.tuning.pareto import pareto_front
from segray.tuning.records import TrialRecord
from segray.tuning.space import Space, load_space
from segray.tuning.space_check import check_space
from segray.tuning.study import SweepStudy
from segray.tuning.study_storage import open_storage, own_file, storage_url

Say = Callable[[str], None]

EXAMPLES = 32
"""Draws in which the settings that a space draws are looked for."""


@dataclass(frozen=True)
class SweepSummary:
    """What a sweep left.

    Attributes:
        run: its folder.
        records: its trials.
        best: the best of them, of several objectives the one of the front with the best first; None where none
            finished.
        answer: what matters, what to fix, what it cost, in a paragraph.
        best_config: ``best.yaml``; None as ``best``.
        bundle: the bundle of the best trial, or the one whose prediction was tuned; None as ``best``.
        page: ``index.html``.
        front: the trials that no other beats in all objectives; of one objective the best alone.
    """

    run: str
    records: list[TrialRecord]
    best: TrialRecord | None
    answer: str
    best_config: str | None
    bundle: str | None
    page: str
    front: list[TrialRecord] = field(default_factory=list)

    @property
    def failed(self) -> list[TrialRecord]:
        """Trials that came to nothing, without those that did not fit into memory."""
        return [one for one in self.records if one.state in ("failed", "lost") and not one.infeasible]


def dry_run(config: Config, count: int, *, resume: str | None = None) -> list[dict[str, Any]]:
    """Settings as trials would have them; nothing is trained. Raises as :func:`tune`.

    ``resume``: the folder of a sweep, whose config and space are taken.
    """
    config = _resumed(config, SweepFolder(resume), 0, None) if resume else with_net_of_start(config)[0]
    space = _space_of(config)
    _check(config, space)
    return example_draws(space, count, config.seed)


def tune(
    config: Config,
    *,
    resume: str | None = None,
    trials: int = 0,
    minutes: float | None = None,
    say: Say | None = None,
) -> SweepSummary:
    """Search the settings of a training, or go on with an interrupted sweep.

    Args:
        config: the settings that trials share; ``tune.space``, ``tune.run`` and ``train.shards`` are needed. With
            ``resume`` the sweep's own ``config.yaml`` is used, and only ``ray`` is taken from here.
        resume: the folder of the sweep to go on with.
        trials: with ``resume``: trials in all from now on; 0: as many as before.
        minutes: with ``resume``: the time limit from now on, over all resumes; None: as before.
        say: told sentences before the first trial.

    Raises:
        UsageError: the space, the config or the folder will not do.
        SegrayError: the sweep cannot go on.
    """
    folder = SweepFolder(_folder_of(config, resume))
    if resume:
        config = _resumed(config, folder, trials, minutes)
    else:
        folder.refuse_second()
        config = with_net_of_start(config)[0]
    config = privacy.with_privacy(_with_absolute_paths(config, folder), folder.path)
    space = _space_of(config)
    ranges = _check(config, space)
    begun = bool(folder.history().get("prepared"))
    start = plan_rest(config, space) if begun else plan_start(config, space, ranges)
    if not own_file(config.tune):
        open_storage(storage_url(config.tune, folder.path))
    with folder.alone(), ray_session(config.ray):
        room = room_of(config)
        config, found_size = with_batch_size(config, room.shape)
        looked = preflight_notes(config, folder.path, meets=room.group)
        looked += [] if resume else idle_gpus(room.workers, config.train.gpu, "worker", "train.workers")
        begin = _begin(config, folder, space, resumed=bool(resume))
        for sentence in [*looked, *found_size, *begin, *start.notes]:
            folder.log(sentence)
            if say is not None:
                say(sentence)
        study = SweepStudy(config.tune, folder.path, config.seed, folder.run_id, begun=begun)
        begin_study(study, start)
        folder.write_history(prepared=True)
        _run(config, folder, study, space, room)
    return conclude(folder)


def conclude(folder: SweepFolder) -> SweepSummary:
    """Tables, plots, the best config and bundle of a sweep, from its folder alone.

    Raises:
        SegrayError: the folder holds no study.
    """
    config = load_config(folder.file(CONFIG))
    study = SweepStudy(config.tune, folder.path, config.seed, folder.run_id, begun=True)
    records, objectives = study.records(), study.objectives
    front = pareto_front(records, objectives)
    best = best_of(front, maximise=objectives[0].maximise)
    folder.write_trials(records, objectives)
    if best is not None:
        folder.keep_best(best)
    found = importances_of(study.finished_trials())
    history = folder.history()
    seconds = float(history.get("seconds", 0.0))
    words = answer(records, objectives, found.shares, seconds, defaults=study.defaults(), unrated=found.unrated)
    words += _untried(config, folder, study)
    page = write_sweep_page(Path(folder.path), folder.path, records, objectives, found.shares, words)
    return SweepSummary(
        folder.path,
        records,
        best,
        words,
        folder.file(BEST) if best else None,
        (config.tune.bundle or folder.file(BUNDLE)) if best else None,
        str(page),
        front,
    )


def _untried(config: Config, folder: SweepFolder, study: SweepStudy) -> str:
    left = study.waiting()
    if config.tune.sampler != "grid" or not left:
        return ""
    command = f"segray tune --resume {folder.path} --trials {study.begun() + left}"
    return f" {left} of the grid's combinations were not tried; `{command}` tries them."


def best_of(front: list[TrialRecord], *, maximise: bool) -> TrialRecord | None:
    """The trial of a front with the best first objective; of equal ones the first."""
    sign = -1.0 if maximise else 1.0
    known = [(sign * one.values[0], one.number, one) for one in front if one.values]
    return min(known, key=lambda entry: entry[:2])[2] if known else None


def _folder_of(config: Config, resume: str | None) -> str:
    path = resume or config.tune.run
    if not path:
        raise UsageError("No folder for the sweep is named.", mend="Give --run FOLDER, or tune.run in the config.")
    return path


def _resumed(config: Config, folder: SweepFolder, trials: int, minutes: float | None) -> Config:
    if not folder.exists or not storage.exists(folder.file(SPACE)):
        raise UsageError(f"{folder.path} holds no sweep to resume.", mend="Start one by `segray tune CONFIG`.")
    kept = load_config(folder.file(CONFIG))
    changes: dict[str, Any] = {"space": folder.file(SPACE)}
    changes |= {"trials": trials} if trials else {}
    changes |= {"minutes": minutes} if minutes is not None else {}
    hidden = config.privacy if config.privacy.hash_ids else kept.privacy
    return kept.model_copy(update={"ray": config.ray, "privacy": hidden, "tune": kept.tune.model_copy(update=changes)})


def _with_absolute_paths(config: Config, folder: SweepFolder) -> Config:
    if not config.train.shards:
        raise UsageError("No shards are named.", mend="Give --shards FOLDER, or train.shards in the config.")
    train: dict[str, Any] = {"shards": storage.absolute(config.train.shards), "run": None}
    if config.train.start_from:
        train["start_from"] = storage.absolute(config.train.start_from)
    tune: dict[str, Any] = {"run": folder.path, "earlier": [storage.absolute(one) for one in config.tune.earlier]}
    if not own_file(config.tune):
        tune["storage"] = storage_url(config.tune, folder.path)
    if config.tune.bundle:
        tune["bundle"] = storage.absolute(config.tune.bundle)
    return config.model_copy(
        update={
            "train": config.train.model_copy(update=train),
            "tune": config.tune.model_copy(update=tune),
        }
    )


def _space_of(config: Config) -> Space:
    if not config.tune.space:
        raise UsageError("No search space is named.", mend="Give --space quick, or a file of your own, or tune.space.")
    return load_space(config.tune.space)


def _check(config: Config, space: Space) -> dict[str, BaseDistribution]:
    """What the space draws from; raises UsageError where trials could not be trained, before the first of them."""
    if config.train.folds:
        raise UsageError(
            "A sweep trains on the split of the shards, not on folds.",
            mend="Leave train.folds at 0, and cross-validate best.yaml afterwards.",
        )
    if config.tune.bundle:
        check_inference(config)
        return check_space(space, config, _draws_prediction(config))
    manifest = training_manifest(config)
    check_config(config, manifest)
    validated = bool(manifest.cases("validation"))
    check_objectives(config.tune.objectives, manifest.label_map.names, validated=validated)
    check_shown(config, manifest)
    return check_space(space, config, _draws_training(manifest))


def _draws_training(manifest: Manifest) -> Callable[[Config], None]:
    """A check that a drawn config can be trained, from the weights that it starts from."""
    start_of = cache(load_start)

    def check(drawn: Config) -> None:
        check_config(drawn, manifest)
        if not drawn.train.start_from:
            return
        try:
            net_of_start(start_of(drawn.train.start_from), drawn.net)
        except UsageError as error:
            raise UsageError(
                error.message,
                mend=f"With train.start_from draw nothing of the net but {', '.join(f'net.{name}' for name in FREE)}.",
            ) from error

    return check


def _draws_prediction(config: Config) -> Callable[[Config], None]:
    """A check that a drawn config differs in nothing but the prediction, and that its structures are known."""
    bundles = [load_bundle(path) for path in find_bundles(str(config.tune.bundle))]
    rest = config.model_dump(exclude={"predict"})

    def check(drawn: Config) -> None:
        if drawn.model_dump(exclude={"predict"}) != rest:
            raise UsageError(
                "With tune.bundle nothing is trained, and the space draws other settings than those of predict.",
                mend="Take a space such as tune_spaces/inference.py, or leave tune.bundle out.",
            )
        check_settings(bundles, drawn.predict)

    return check


def _begin(config: Config, folder: SweepFolder, space: Space, *, resumed: bool) -> list[str]:
    """Leave config and space in the folder; what there is to say of the sweep."""
    if not resumed:
        storage.write_text(folder.file(SPACE), storage.read_text(str(space.path)))
        folder.begin(dump_config(config))
    else:
        storage.write_text(folder.file(CONFIG), dump_config(config))
    tune = config.tune
    drawn = {key for settings in example_draws(space, EXAMPLES, config.seed) for key in settings}
    return [
        f"{tune.trials} trials of {tune.sampler}, for {' and '.join(tune.objectives)}.",
        *idle_settings(config, drawn),
    ]


def _run(
    config: Config,
    folder: SweepFolder,
    study: SweepStudy,
    space: Space,
    room: Room,
) -> None:
    desk = SweepDesk(config, folder, study, space, room)
    folder.write_history(state="running", finished=False)
    try:
        with patient():
            run_trials(
                desk,
                InferenceActor if config.tune.bundle else TrialActor,
                folder=folder.path,
                resources=room.resources,
                max_failures=config.train.max_failures,
                reuse=not room.group,
            )
    except BaseException as error:
        stopped = not isinstance(error, Exception)
        folder.write_history(state="interrupted" if stopped else "failed", seconds=desk.seconds)
        if stopped or isinstance(error, SegrayError):
            raise
        folder.log(f"failed: {error!r}", "error")
        raise SegrayError(
            f"The sweep stopped: {error}",
            mend=f"See {log_place(folder.path)}; go on by `segray tune --resume {folder.path}`.",
        ) from error
    finally:
        desk.close()
    folder.write_history(state="finished", finished=True, seconds=desk.seconds)
