"""The Optuna study of a sweep, in a storage that outlives the driver."""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from segray.config import TuneConfig
from segray.tuning.idle_settings import prunes
from segray.tuning.records import Objective, State, TrialRecord
from segray.tuning.study_storage import held_study, open_storage, storage_url, study_name

COMBINATIONS = "combinations"
"""Attribute of a study that says how many combinations its grid has."""

MEMORY = "memory"
"""The constraint that a trial breaks whose net or batch did not fit into memory."""

SETTINGS, REASON, LOST, OTHER, BEGAN, HOST, RUN = "settings", "reason", "lost", "other", "began", "host", "run"
DRAWN, FACTS = "drawn", "facts"
"""Attributes of a trial that hold these facts, those of its draw and all others: each costs a flush of the disk. Older
sweeps have an attribute of its own for each fact."""

EARLIER, NUMBER, DEFAULTS = "earlier", "number", "defaults"
"""The sweep of a trial that was only learnt from, and its number there; the trial of the config's own settings."""

OUTSIDE, AGAIN = "outside", "again"
"""A trial that failed for no fault of its settings; and the number of such a one, on the trial that is in its place."""

WORST = 1e9
"""Cost of an infeasible trial, which the sampler ranks behind all others by its constraint, not by this."""

Draw = Callable[[Trial], Mapping[str, Any]]


def objectives_of(config: TuneConfig) -> list[Objective]:
    """The objectives of a sweep, in their order."""
    return [Objective(name) for name in config.objectives]


def build_sampler(config: TuneConfig, seed: int) -> BaseSampler:
    """The sampler of a config; the combinations of a grid are enqueued, so that its sampler draws nothing."""
    with warnings.catch_warnings():
        # Optuna calls `group` and `consider_pruned_trials` experimental, as it has for years.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if config.sampler == "tpe":
            return TPESampler(
                n_startup_trials=config.startup_trials, multivariate=True, group=True, constant_liar=True, seed=seed
            )
        if config.sampler == "cmaes":
            # Without the pruned trials, most of them with asha, a generation is seldom full, and little is learnt.
            return CmaEsSampler(
                n_startup_trials=config.startup_trials,
                consider_pruned_trials=True,
                warn_independent_sampling=False,
                seed=seed,
            )
    if config.sampler == "nsga2":
        return NSGAIISampler(population_size=max(config.startup_trials, 4), seed=seed)
    return RandomSampler(seed=seed)


def build_pruner(config: TuneConfig) -> BasePruner:
    """The pruner of a config; none where :func:`segray.tuning.idle_settings.prunes` says that none prunes."""
    if not prunes(config):
        return NopPruner()
    if config.pruner == "asha":
        return SuccessiveHalvingPruner(min_resource=config.grace, reduction_factor=config.reduction)
    return MedianPruner(n_startup_trials=min(5, config.startup_trials), n_warmup_steps=config.grace)


class SweepStudy:
    """Trials to ask for and to tell of, by their numbers.

    One process, the driver of the sweep, writes; any other may read at the same time.
    """

    def __init__(self, config: TuneConfig, folder: str, seed: int, run_id: str, *, begun: bool = False) -> None:
        """Open the study of the sweep in ``folder``, or begin it.

        Args:
            config: of the sweep.
            folder: of the sweep.
            seed: of the sampler.
            run_id: of the sweep, by which a storage that holds many studies knows it.
            begun: the study was begun before, and must be there.

        Raises:
            SegrayError: the storage cannot be opened, or lacks a study that was begun.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.objectives = objectives_of(config)
        if begun:
            self._study = held_study(config, folder, run_id)
        else:
            self._study = optuna.create_study(
                storage=open_storage(storage_url(config, folder)),
                study_name=study_name(config, run_id),
                directions=["maximize" if one.maximise else "minimize" for one in self.objectives],
                load_if_exists=True,
            )
        self._study.pruner = build_pruner(config)
        # A sampler that begins anew with the same seed would draw what was drawn already.
        self._study.sampler = build_sampler(config, seed + len(self._trials()))
        self._open: dict[int, Trial] = {}
        self._told: dict[int, set[int]] = {}
        self._held: dict[int, dict[str, Any]] = {}
        self._grid: deque[Mapping[str, Any]] | None = None

    @property
    def study(self) -> optuna.Study:
        """Optuna's own."""
        return self._study

    def enqueue(self, every: Iterable[Mapping[str, Any]], *, defaults: bool = False) -> None:
        """Have these parameters tried, in this order, before the sampler draws any; what is enqueued already is left.

        ``defaults``: they are the settings of the config itself, which :meth:`defaults` finds again.
        """
        known = self._enqueued()
        for params in every:
            if _key(params) not in known:
                self._study.enqueue_trial(dict(params), user_attrs={DEFAULTS: True} if defaults else None)

    def enqueue_grid(self, every: Sequence[Mapping[str, Any]]) -> None:
        """As :meth:`enqueue`, but each only when it is asked for and nothing else waits.

        Optuna looks through all that waits for every trial: with a thousand it takes a third of a second each time.
        """
        known = self._enqueued()
        self._grid = deque(params for params in every if _key(params) not in known)
        if self._study.user_attrs.get(COMBINATIONS) != len(every):
            self._study.set_user_attr(COMBINATIONS, len(every))

    def _enqueued(self) -> set[str]:
        """What has been enqueued, drawn since or not."""
        fixed = [one.system_attrs.get("fixed_params") for one in self._trials() if EARLIER not in one.user_attrs]
        return {_key(params) for params in fixed if params is not None}

    def defaults(self) -> int | None:
        """The number of the trial that has the settings of the config itself, if there is one."""
        return max((one.number for one in self._trials() if DEFAULTS in one.user_attrs), default=None)

    def learn_from(self, trials: Iterable[FrozenTrial], source: str) -> None:
        """Add finished trials of an earlier sweep for the sampler to learn from, each once."""
        known = {one.user_attrs[NUMBER] for one in self._trials() if one.user_attrs.get(EARLIER) == source}
        for one in trials:
            if one.number not in known:
                self._study.add_trial(
                    create_trial(
                        values=one.values,
                        params=one.params,
                        distributions=one.distributions,
                        user_attrs={EARLIER: source, NUMBER: one.number},
                        system_attrs={key: value for key, value in one.system_attrs.items() if "constraints" in key},
                    )
                )

    def try_again(self) -> int:
        """Enqueue what failed for a cause outside of its settings, once; how many trials that are.

        The new ones stand in the place of the old ones, which no longer count.
        """
        replaced, found = self._replaced(), 0
        for one in self._trials((TrialState.FAIL,)):
            attrs = one.user_attrs
            if OUTSIDE in _facts(one) and AGAIN not in attrs and one.number not in replaced:
                kept = {DEFAULTS: True} if DEFAULTS in attrs else {}
                self._study.enqueue_trial(dict(one.params), user_attrs={AGAIN: one.number} | kept)
                found += 1
        return found

    def _replaced(self) -> set[int]:
        return {one.user_attrs[AGAIN] for one in self._trials() if AGAIN in one.user_attrs}

    def ask(self, draw: Draw, facts: Callable[[int], Mapping[str, Any]] | None = None) -> tuple[int, dict[str, Any]]:
        """A new trial: its number, and the settings that the space makes of what the sampler draws.

        Raises what ``draw`` raises; the trial is then told as failed.

        Args:
            draw: from the space.
            facts: of a number what is known of its trial when it is drawn, to be kept with the settings.
        """
        if self._grid and not self._trials((TrialState.WAITING,)):
            self._study.enqueue_trial(dict(self._grid.popleft()))
        trial = self._study.ask()
        return trial.number, self._draw(trial, draw, {} if facts is None else facts(trial.number))

    def note(self, number: int, **facts: Any) -> None:
        """Keep facts of a trial, such as where it runs."""
        trial = self._trial(number)
        trial.set_user_attr(FACTS, trial.user_attrs.get(FACTS, {}) | self._held.pop(number, {}) | facts)

    def hold(self, number: int, **facts: Any) -> None:
        """Facts of a trial to be kept with the next that is noted of it, or when it ends."""
        self._held.setdefault(number, {}).update(facts)

    def report(self, number: int, epoch: int, value: float, *, last: bool = False) -> bool:
        """Keep the first objective after a validation; whether the trial should end now, since it falls behind.

        ``last``: it has come to its end, so that nobody asks.
        """
        trial = self._trial(number)
        if len(self.objectives) > 1:
            curve = trial.user_attrs.get("curve", [])
            if epoch not in {told for told, _ in curve}:
                trial.set_user_attr("curve", [*curve, [epoch, value]])
            return False
        # A trial that goes on from its last checkpoint may tell an epoch again.
        if epoch not in self._told.setdefault(number, set()):
            self._told[number].add(epoch)
            trial.report(value, epoch)
        return not last and bool(trial.should_prune())

    def finish(self, number: int, values: Sequence[float], other: Mapping[str, float]) -> None:
        """Tell the values of a finished trial. NaN, or anything else that is no number, fails it."""
        if not all(math.isfinite(value) for value in values):
            self.fail(number, f"an objective is no number: {list(values)}")
            return
        self.note(number, **{OTHER: dict(other)})
        self._tell(number, TrialState.COMPLETE, values)

    def prune(self, number: int, other: Mapping[str, float]) -> None:
        """Tell that a trial was ended early."""
        self.note(number, **{OTHER: dict(other)})
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str, *, outside: bool = False) -> None:
        """Tell that a trial came to nothing, which says nothing of its parameters.

        ``outside``: the cause lies outside of its settings, so that it is worth to be tried again.
        """
        self.note(number, **{REASON: reason} | ({OUTSIDE: True} if outside else {}))
        self._tell(number, TrialState.FAIL)

    def lose(self, number: int, reason: str) -> None:
        """Tell that a trial was lost with its node or driver."""
        self.note(number, **{LOST: True})
        self.fail(number, reason)

    def out_of_memory(self, number: int, reason: str) -> None:
        """Tell that these parameters do not fit into memory, so that the sampler keeps away from their like."""
        self.note(number, **{REASON: reason})
        self._trial(number).set_constraint(MEMORY, 1.0)
        self._tell(number, TrialState.COMPLETE, [0.0 if one.maximise else WORST for one in self.objectives])

    def reason(self, number: int) -> str:
        """Why a trial failed; empty where it did not."""
        return self.record(number).reason

    def unfinished(self, draw: Draw) -> list[tuple[int, dict[str, Any]]]:
        """Number and settings of the trials that a driver left running.

        One that it had not drawn to its end is drawn on: what was suggested already is suggested again. A trial whose
        ``draw`` raises is told as failed.
        """
        found = []
        for one in self._trials((TrialState.RUNNING,)):
            if (known := _facts(one).get(SETTINGS)) is not None:
                found.append((one.number, dict(known)))
                continue
            with suppress(Exception):  # the reason is kept with the trial
                found.append((one.number, self._draw(self._trial(one.number), draw)))
        return found

    def _draw(self, trial: Trial, draw: Draw, facts: Mapping[str, Any] = MappingProxyType({})) -> dict[str, Any]:
        self._open[trial.number] = trial
        try:
            settings = dict(draw(trial))
            trial.set_user_attr(DRAWN, {SETTINGS: settings, **facts})
        except Exception as error:
            self.fail(trial.number, str(error))
            raise
        return settings

    def begun(self) -> int:
        """Trials of this sweep that were drawn, running and lost ones too; of one tried again the second alone."""
        drawn = sum(EARLIER not in one.user_attrs for one in self._trials(_ALL_BUT_WAITING))
        return drawn - len(self._replaced())

    def waiting(self) -> int:
        """Trials that are enqueued and were not drawn yet, and what a grid has beside them."""
        enqueued = len(self._trials((TrialState.WAITING,)))
        if self._grid is not None:
            return enqueued + len(self._grid)
        combinations = int(self._study.user_attrs.get(COMBINATIONS, 0))
        return enqueued + max(combinations - len(self._enqueued()), 0) if combinations else enqueued

    def records(self) -> list[TrialRecord]:
        """The trials of this sweep, without those of earlier ones and those that were tried again."""
        replaced = self._replaced()
        own = (one for one in self._trials() if EARLIER not in one.user_attrs and one.number not in replaced)
        return [_record(one, len(self.objectives)) for one in own]

    def record(self, number: int) -> TrialRecord:
        """A trial of this sweep."""
        return _record(next(one for one in self._trials() if one.number == number), len(self.objectives))

    def finished_trials(self) -> list[FrozenTrial]:
        """Optuna's finished trials, those of earlier sweeps too, without those that did not fit into memory."""
        return [one for one in self._trials((TrialState.COMPLETE,)) if one.constraints.get(MEMORY, 0.0) <= 0]

    def _trials(self, states: tuple[TrialState, ...] | None = None) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states)

    def _trial(self, number: int) -> Trial:
        if number not in self._open:
            found = next(one for one in self._trials((TrialState.RUNNING,)) if one.number == number)
            self._open[number] = Trial(self._study, found._trial_id)
            self._told[number] = set(found.intermediate_values)
        return self._open[number]

    def _tell(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        with warnings.catch_warnings():
            # It is told of what did not fit by the value.
            warnings.filterwarnings("ignore", "Constraints have been set, but CmaEsSampler", UserWarning)
            self._study.tell(self._trial(number), None if values is None else list(values), state)
        del self._open[number]
        self._told.pop(number, None)
        self._held.pop(number, None)


_ALL_BUT_WAITING = (TrialState.RUNNING, TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
_STATES: dict[TrialState, State] = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def _facts(one: FrozenTrial) -> dict[str, Any]:
    attrs = one.user_attrs
    return {**attrs, **attrs.get(DRAWN, {}), **attrs.get(FACTS, {})}


def _key(params: Mapping[str, Any]) -> str:
    return repr(sorted(params.items()))


def read_trials(config: TuneConfig, folder: str, run_id: str) -> list[FrozenTrial]:
    """Optuna's trials of the sweep in ``folder``. Raises SegrayError where its storage holds none."""
    return held_study(config, folder, run_id).get_trials(deepcopy=False)


def _record(one: FrozenTrial, objectives: int) -> TrialRecord:
    attrs = _facts(one)
    infeasible = one.constraints.get(MEMORY, 0.0) > 0
    curve = attrs.get("curve") if objectives > 1 else sorted(one.intermediate_values.items())
    began = attrs.get(BEGAN) or (one.datetime_start.timestamp() if one.datetime_start else None)
    state = "lost" if attrs.get(LOST) else "failed" if infeasible else _STATES[one.state]
    return TrialRecord(
        number=one.number,
        state=state,
        params=dict(one.params),
        settings=dict(attrs.get(SETTINGS, {})),
        values=tuple(one.values) if one.state is TrialState.COMPLETE and not infeasible else None,
        curve=tuple((int(epoch), float(value)) for epoch, value in curve or ()),
        began=began,
        ended=one.datetime_complete.timestamp() if one.datetime_complete else None,
        host=str(attrs.get(HOST, "")),
        run=str(attrs.get(RUN, "")),
        reason=str(attrs.get(REASON, "")),
        infeasible=infeasible,
        other=dict(attrs.get(OTHER, {})),
    )
