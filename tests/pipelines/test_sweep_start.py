"""What a sweep begins with, and what is refused before its folder is begun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_sweep import RATES, sweep_config

from segray.config import Config, dump_config
from segray.errors import SegrayError, UsageError
from segray.pipelines.sweep_folder import SweepFolder
from segray.pipelines.sweep_start import SweepStart, begin_study, plan_start
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


def test_a_sampler_learns_from_earlier_sweeps(tmp_path: Path) -> None:
    old = _swept(tmp_path / "old", space=NORMS)
    wider = NORMS.replace("1e-2", "1e-1")
    config = sweep_config(tmp_path, f"tune.earlier=[{old}]", "tune.defaults_first=false", space=wider)
    start = _start(config)
    assert start.notes == [f"4 finished trials of {old} are known to the sampler."]
    study = _study(config, tmp_path / "new")
    begin_study(study, start)
    begin_study(study, start)
    assert len(study.finished_trials()) == 4
    study.ask(load_space(str(config.tune.space)).draw)


def test_earlier_trials_with_other_choices_are_left_out(tmp_path: Path) -> None:
    """Optuna would raise at the first draw, and at each that a resumed sweep makes."""
    old = _swept(tmp_path / "old", space=NORMS)
    more = NORMS.replace('"instance"', '"instance", "group"')
    config = sweep_config(tmp_path, f"tune.earlier=[{old}]", space=more)
    start = _start(config)
    (said,) = start.notes
    assert said.startswith("0 finished trials of")
    assert "drew net.norm from other choices" in said
    study = _study(config, tmp_path / "new")
    begin_study(study, start)
    study.ask(load_space(str(config.tune.space)).draw)


def test_a_grid_that_is_larger_than_the_sweep_says_so(tmp_path: Path) -> None:
    config = sweep_config(tmp_path, "tune.sampler=grid", "tune.trials=4", space=GRID)
    start = _start(config)
    assert start.notes == ["The grid has 6 combinations, and 4 of them are tried: --trials 6 tries all."]
    study = _study(config, tmp_path / "new")
    begin_study(study, start)
    assert (study.waiting(), study.defaults()) == (6, 0)
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
