"""Settings that change nothing in a sweep: said where it begins, so that nobody believes to have used them."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from segray.config import Config, TuneConfig

KNOWN_AT_THE_END = ("parameters", "gflops", "latency")
"""Objectives that no validation tells."""


def idle_settings(config: Config, drawn: Collection[str]) -> list[str]:
    """What the settings of a sweep ask for and others give no occasion for, a sentence each.

    Args:
        config: of the sweep.
        drawn: the dotted keys that its space draws.
    """
    return [*_of_the_pruner(config, drawn), *_of_the_sampler(config.tune), *_of_the_objectives(config.tune, drawn)]


def prunes(tune: TuneConfig) -> bool:
    """Whether there is a pruner: not with several objectives, of which Optuna's look at one, nor with nsga2.

    Its population is made of finished trials alone: of pruned ones nothing would be learnt.
    """
    return tune.pruner != "none" and len(tune.objectives) == 1 and tune.sampler != "nsga2"


def _of_the_pruner(config: Config, drawn: Collection[str]) -> Iterator[str]:
    tune = config.tune
    if tune.pruner == "none":
        return
    if len(tune.objectives) > 1:
        yield "No trial is ended early: a pruner looks at one objective."
    elif tune.sampler == "nsga2":
        yield "No trial is ended early: nsga2 learns from finished trials alone."
    elif tune.bundle:
        yield "No trial is ended early: a prediction has no epochs for tune.pruner to look at."
    elif tune.objectives[0] in KNOWN_AT_THE_END:
        yield f"No trial is ended early: {tune.objectives[0]} is known at the end of a trial, too late for tune.pruner."
    elif tune.grace >= config.train.epochs and "train.epochs" not in drawn:
        yield (
            f"No trial is ended early: each may train tune.grace={tune.grace} epochs, and none trains more than "
            f"train.epochs={config.train.epochs}."
        )


def _of_the_sampler(tune: TuneConfig) -> Iterator[str]:
    if tune.earlier and tune.sampler in ("random", "grid"):
        yield f"tune.earlier changes nothing: {tune.sampler} learns from no trial."


def _of_the_objectives(tune: TuneConfig, drawn: Collection[str]) -> Iterator[str]:
    losses = sorted(name for name in drawn if name.split(".")[0] == "loss")
    if "train_loss" in tune.objectives and losses:
        yield (
            f"train_loss compares nothing: the space draws {', '.join(losses)}, so that each trial has a loss of its "
            "own; val_dice is the same for all."
        )
