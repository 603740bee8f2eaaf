"""Settings of a sweep."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from segray.config.section import Count, NonNegative, Section, setting


class TuneConfig(Section):
    """A sweep: many trainings, each with settings that a search space draws."""

    space: str | None = setting(
        None, "Python file with `space(trial)`, which draws settings by Optuna's suggestions; or quick, unet2d, ..."
    )
    run: str | None = setting(None, "folder of the sweep, to create")
    bundle: str | None = setting(
        None,
        "a bundle, or the run folder that holds it: trials train nothing, but predict the validation cases of the "
        "shards with it; the space then draws settings of predict",
    )
    trials: PositiveInt = setting(50, "trainings, pruned and failed ones counted too", "trials")
    minutes: NonNegative = setting(0.0, "no trial begins after this; 0: no limit", "minutes")
    sampler: Literal["tpe", "cmaes", "random", "grid", "nsga2"] = setting(
        "tpe",
        "how trials are drawn: tpe (multivariate, grouped); cmaes: CMA-ES, for numbers without conditions; random; "
        "grid: every combination of a space whose floats have steps; nsga2: for several objectives",
    )
    startup_trials: PositiveInt = setting(10, "trials drawn at random before tpe or cmaes learn from them", "trials")
    objectives: Annotated[list[str], Field(min_length=1)] = setting(
        ["val_dice"],
        "what is to be best: val_dice, val_dice_<structure>, train_loss, parameters (millions), gflops (of a slice), "
        "latency (ms of a slice), seconds (of training); Dice is maximised, the others are minimised",
    )
    pruner: Literal["asha", "median", "none"] = setting(
        "asha",
        "ends trials that fall behind, by their first objective after each validation: asha: asynchronous successive "
        "halving (Li et al. 2020); median: below the median of the others at that epoch; with several objectives no "
        "trial is ended",
    )
    grace: PositiveInt = setting(2, "epochs that every trial may train", "epochs")
    reduction: Annotated[int, Field(ge=2)] = setting(3, "asha: one of so many goes on at each rung")
    concurrent: Count = setting(0, "trials at once; 0: as many as find room", "trials")
    defaults_first: bool = setting(True, "try the settings of the config itself first")
    storage: str | None = setting(
        None,
        "where the Optuna study lies; empty: study.journal, a file in `run`; sqlite: study.db there; a database such "
        "as postgresql://user@host/db, or a file .journal or .db, for the studies of many sweeps",
    )
    earlier: list[str] = setting([], "folders of earlier sweeps of this space, whose trials the sampler learns from")

    @model_validator(mode="after")
    def _one_objective_or_nsga2(self) -> TuneConfig:
        if len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives {self.objectives} has one twice")
        if len(self.objectives) > 1 and self.sampler == "cmaes":
            raise ValueError("sampler cmaes has one objective; take nsga2 or tpe for several")
        return self
