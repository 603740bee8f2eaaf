"""What a sweep tries first and what its sampler knows from the start, found before anything of it is written."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import FrozenTrial

from segray.config import Config, TuneConfig, load_config
from segray.errors import UsageError
from segray.pipelines.run_folder import CONFIG
from segray.pipelines.sweep_folder import SweepFolder
from segray.tuning.combinations import default_params, every_combination
from segray.tuning.earlier import fitting
from segray.tuning.space import Space
from segray.tuning.space_check import steady_ranges
from segray.tuning.study import SweepStudy, read_trials


@dataclass(frozen=True)
class SweepStart:
    """How a study begins, or goes on.

    Attributes:
        defaults: the draw that is the config itself, which is tried first; None where there is none.
        combinations: of a grid, tried in this order.
        earlier: trials to learn from, by the folder of their sweep.
        notes: sentences on these.
    """

    defaults: Mapping[str, Any] | None = None
    combinations: Sequence[Mapping[str, Any]] = ()
    earlier: Mapping[str, Sequence[FrozenTrial]] = field(default_factory=dict)
    notes: Sequence[str] = ()


def plan_rest(config: Config, space: Space) -> SweepStart:
    """What a sweep goes on with that was begun before: the rest of its grid."""
    return SweepStart(combinations=every_combination(space) if config.tune.sampler == "grid" else ())


def plan_start(config: Config, space: Space, ranges: Mapping[str, BaseDistribution]) -> SweepStart:
    """What a sweep begins with.

    Args:
        config: of the sweep.
        space: of the sweep.
        ranges: what it draws from, by name.

    Raises:
        UsageError: a folder of ``tune.earlier`` holds no sweep, or one for other objectives; or the space has no
            combinations, as :func:`segray.tuning.combinations.every_combination`.
        SegrayError: the study of an earlier sweep cannot be read.
    """
    tune, notes = config.tune, []
    needed: list[str] = []
    if tune.sampler == "cmaes":
        # What one of the trials lacks, CMA-ES draws at random for ever.
        needed = [name for name, one in steady_ranges(space).items() if _by_cmaes(one)]
        notes += _apart_from_cmaes(ranges, needed)
    earlier = {}
    for folder in tune.earlier:
        earlier[folder], said = _learnt_from(folder, tune, ranges, needed)
        notes.append(said)
    defaults = default_params(space, config) if tune.defaults_first else None
    if tune.defaults_first and defaults is None:
        notes.append("The space cannot draw the settings of the config itself, so that they are not tried.")
    combinations = every_combination(space) if tune.sampler == "grid" else []
    if len(combinations) > tune.trials:
        notes.append(
            f"The grid has {len(combinations)} combinations, and {tune.trials} of them are tried: "
            f"--trials {len(combinations)} tries all."
        )
    return SweepStart(defaults, combinations, earlier, notes)


def _learnt_from(
    folder: str, tune: TuneConfig, ranges: Mapping[str, BaseDistribution], needed: Collection[str]
) -> tuple[list[FrozenTrial], str]:
    source = SweepFolder(folder)
    if not source.exists:
        raise UsageError(f"{folder} holds no sweep.", mend="Look at tune.earlier.")
    other = load_config(source.file(CONFIG)).tune
    if other.objectives != tune.objectives:
        raise UsageError(
            f"{folder} had the objectives {other.objectives}, and these are {tune.objectives}.",
            mend="Take it out of tune.earlier, or sweep for the same.",
        )
    found = fitting(read_trials(other, folder, source.run_id), ranges, len(tune.objectives), needed)
    left_out = "; ".join(f"{count} that {reason}" for reason, count in found.left_out.items())
    said = f"{len(found.trials)} finished trials of {folder} are known to the sampler"
    return found.trials, f"{said}{f'; left out are {left_out}' if left_out else ''}."


def _apart_from_cmaes(ranges: Mapping[str, BaseDistribution], by_cmaes: Collection[str]) -> list[str]:
    apart = sorted(name for name, one in ranges.items() if name not in by_cmaes and not one.single())
    if not apart:
        return []
    return [
        f"cmaes learns nothing of {', '.join(apart)}, and draws it at random: it learns of numbers that every trial "
        "draws from one range; tpe learns of all."
    ]


def _by_cmaes(distribution: BaseDistribution) -> bool:
    """Whether CMA-ES draws it: numbers alone, and no lone one."""
    return not isinstance(distribution, CategoricalDistribution) and not distribution.single()


def begin_study(study: SweepStudy, start: SweepStart) -> None:
    """Enqueue what is tried first, and let the sampler learn; what an earlier call has done already is left."""
    for folder, trials in start.earlier.items():
        study.learn_from(trials, folder)
    if start.defaults is not None:
        study.enqueue([start.defaults], defaults=True)
    if start.combinations:
        study.enqueue_grid(start.combinations)
