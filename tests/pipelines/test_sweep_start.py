"""What a sweep begins with, and what is refused before its folder is begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_sweep import RATES, sweep_config

from segray.config import Config, dump_config
from segray.errors import SegrayError, UsageError
from segray.pipelines.sweep_folder import SweepFolder
from segray.pipelines.sweep_start import SweepStart, begin_study, plan_rest, plan_start
from segray.pipelines.tune import tune
from segray.tuning.space import load_space
from segray.tuning.space_check import check_space
from segray.tuning.study import SweepStudy

NORMS = """
def space(trial):
    return {"net.norm": trial.suggest_categorical("net.norm", ["batch", "instance"]),
            "optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True)}
"""
GRID = """
def space(trial):
    return {"optim.lr": trial.suggest_categorical("optim.lr", [0.001, 0.002, 0.003, 0.004, 0.005, 0.006])}
"""


def _start(config: Config) -> SweepStart:
    space = load_space(str(config.tune.space))
    return plan_start(config, space, check_space(space, config))


def _study(config: Config, folder: Path) -> SweepStudy:
    folder.mkdir(exist_ok=True)
    return SweepStudy(config.tune, str(folder), 0, "one")


def _swept(folder: Path, *more: str, space: str, trials: int = 4) -> Path:
    """A sweep in ``folder`` with so many finished trials."""
    folder.mkdir()
    config = sweep_config(folder, *more, space=space)
    sweep = SweepFolder(str(folder / "sweep"))
    sweep.begin(dump_config(config))
    study = SweepStudy(config.tune, sweep.path, 0, sweep.run_id)
    for _ in range(trials):
        number, settings = study.ask(load_space(str(config.tune.space)).draw)
        study.finish(number, [settings["optim.lr"]], {})
    return folder / "sweep"


def _learning(tmp_path: Path, old: Path, space: str, *more: str) -> tuple[SweepStudy, list[str]]:
    """The study of a sweep that learns from one in ``old``, and what is said of it; it can draw."""
    config = sweep_config(tmp_path, f"tune.earlier=[{old}]", "tune.defaults_first=false", *more, space=space)
    start = _start(config)
    study = _study(config, tmp_path / "new")
    begin_study(study, start)
    begin_study(study, start)
    study.fail(study.ask(load_space(str(config.tune.space)).draw)[0], "only asked")
    return study, list(start.notes)


def test_a_sampler_learns_from_earlier_sweeps(tmp_path: Path) -> None:
    old = _swept(tmp_path / "old", space=NORMS)
    study, notes = _learning(tmp_path, old, NORMS.replace("1e-2", "1e-1"))
    assert notes == [f"4 finished trials of {old} are known to the sampler."]
    assert len(study.finished_trials()) == 4


def test_earlier_trials_with_other_choices_are_left_out(tmp_path: Path) -> None:
    """Optuna would raise at the first draw, and at each that a resumed sweep makes."""
    old = _swept(tmp_path / "old", space=NORMS)
    _, notes = _learning(tmp_path, old, NORMS.replace('"instance"', '"instance", "group"'))
    assert notes == [
        f"0 finished trials of {old} are known to the sampler; left out are 4 that drew net.norm from other choices "
        "than this space."
    ]


PAIR = """
def space(trial):
    return {"optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-3, log=True),
            "optim.weight_decay": trial.suggest_float("optim.weight_decay", 0, 0.5)}
"""


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_wider_range_than_that_of_an_earlier_sweep_is_drawn_from(tmp_path: Path, sampler: str) -> None:
    """Optuna's TPE goes on with the first range that it sees; its CMA-ES draws what had two ranges at random."""
    old = _swept(tmp_path / "old", space=PAIR, trials=20)
    more = (f"tune.sampler={sampler}", "tune.startup_trials=5", "tune.pruner=none")
    study, _ = _learning(tmp_path, old, PAIR.replace("1e-3", "1e-1"), *more)
    draw = load_space(str(tmp_path / "space.py")).draw
    rates = []
    for _ in range(60):
        number, settings = study.ask(draw)
        rates.append(settings["optim.lr"])
        study.finish(number, [rates[-1]], {})  # the best is the top of the new range
    assert max(rates) > 0.03, "all draws stay near the earlier range"
    assert sum(rate > 0.01 for rate in rates[-30:]) > 20, "nothing is learnt of the rate"


def test_a_narrower_range_leaves_out_what_lies_beside_it(tmp_path: Path) -> None:
    old = _swept(tmp_path / "old", space=RATES, trials=20)
    study, (said,) = _learning(tmp_path, old, RATES.replace("1e-4", "1e-3"))
    inside = len(study.finished_trials())
    assert 0 < inside < 20
    assert said == (
        f"{inside} finished trials of {old} are known to the sampler; left out are {20 - inside} that drew optim.lr "
        "outside of the range of this space."
    )


def test_earlier_trials_of_another_space_teach_nothing(tmp_path: Path) -> None:
    old = _swept(tmp_path / "old", space=RATES)
    _, (said,) = _learning(tmp_path, old, GRID.replace("optim.lr", "optim.weight_decay"))
    assert said.startswith("0 finished trials of")
    assert said.endswith("left out are 4 that share no name with this space.")


def test_cmaes_needs_all_numbers_of_an_earlier_trial(tmp_path: Path) -> None:
    old = _swept(tmp_path / "old", space=RATES)
    _, (said,) = _learning(tmp_path, old, PAIR.replace("1e-3", "1e-2"), "tune.sampler=cmaes")
    assert said.endswith("4 that did not draw optim.weight_decay, without which cmaes could not draw it.")


def test_what_cmaes_draws_at_random_is_said(tmp_path: Path) -> None:
    some = """
def space(trial):
    norm = trial.suggest_categorical("net.norm", ["batch", "instance"])
    rate = trial.suggest_float("optim.lr", 1e-4, 1e-2 if norm == "batch" else 1e-3, log=True)
    return {"net.norm": norm, "optim.lr": rate, "seed": trial.suggest_int("seed", 0, 9)}
"""
    (said,) = _start(sweep_config(tmp_path, "tune.sampler=cmaes", "tune.defaults_first=false", space=some)).notes
    assert said.startswith("cmaes learns nothing of net.norm, optim.lr, and draws it at random")
    assert _start(sweep_config(tmp_path, "tune.sampler=cmaes", space=RATES)).notes == []


def test_a_grid_that_is_larger_than_the_sweep_says_so(tmp_path: Path) -> None:
    config = sweep_config(tmp_path, "tune.sampler=grid", "tune.trials=4", space=GRID)
    start = _start(config)
    assert start.notes == ["The grid has 6 combinations, and 4 of them are tried: --trials 6 tries all."]
    study = _study(config, tmp_path / "new")
    begin_study(study, start)
    assert (study.waiting(), study.defaults()) == (6, 0)
    space = load_space(str(config.tune.space))
    drawn = [study.ask(space.draw)[1]["optim.lr"] for _ in range(4)]
    again = _study(config, tmp_path / "new")
    begin_study(again, plan_rest(config, space))
    assert again.waiting() == 2
    drawn += [again.ask(space.draw)[1]["optim.lr"] for _ in range(2)]
    assert (again.waiting(), sorted(drawn)) == (0, [0.001, 0.002, 0.003, 0.004, 0.005, 0.006])
    assert plan_rest(sweep_config(tmp_path, "tune.sampler=random", space=GRID), space) == SweepStart()
    assert _start(sweep_config(tmp_path, "tune.sampler=grid", "tune.trials=6", space=GRID)).notes == []


@pytest.mark.parametrize(
    ("settings", "space", "said"),
    [
        (("tune.sampler=grid",), RATES, "a grid needs steps"),
        (("tune.earlier=[nowhere]",), RATES, "nowhere holds no sweep"),
        (("tune.storage=nonsense://host/db",), RATES, "cannot be opened"),
        (("tune.storage=postgres",), RATES, "neither the address of a database"),
    ],
)
def test_what_is_refused_leaves_no_folder(tmp_path: Path, settings: Any, space: str, said: str) -> None:
    """Else the corrected command would be told that the folder holds a sweep."""
    with pytest.raises(SegrayError, match=said):
        tune(sweep_config(tmp_path, *settings, space=space))
    assert not (tmp_path / "sweep").exists()


def test_earlier_sweeps_for_something_else_are_refused(tmp_path: Path) -> None:
    old = _swept(tmp_path / "old", "tune.objectives=[train_loss]", space=RATES)
    with pytest.raises(UsageError, match="had the objectives"):
        tune(sweep_config(tmp_path, f"tune.earlier=[{old}]"))
    assert not (tmp_path / "sweep").exists()
