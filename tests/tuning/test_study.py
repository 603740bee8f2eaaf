from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial

from segray.config import TuneConfig, load_config
from segray.errors import UsageError
from segray.tuning.study import MEMORY, SweepStudy, read_trials


def _config(*settings: str) -> TuneConfig:
    return load_config(None, [f"tune.{setting}" for setting in settings]).tune


def _draw(trial: Trial) -> dict[str, Any]:
    kind = trial.suggest_categorical("kind", ["a", "b"])
    rate = trial.suggest_float("optim.lr", 1e-4, 1e-1, log=True)
    return {"optim.lr": rate} | ({"loss.focal_gamma": trial.suggest_float("gamma", 0, 4)} if kind == "b" else {})


def test_a_study_goes_on_where_a_killed_driver_left_it(tmp_path: Path) -> None:
    config = _config("pruner=none")
    first = SweepStudy(config, str(tmp_path), 0, "one")
    drawn = [first.ask(_draw) for _ in range(4)]
    first.report(0, 1, 0.5)
    first.finish(0, [0.6], {"epochs": 3.0})
    first.fail(1, "no finite loss")
    first.report(2, 1, 0.4)
    again = SweepStudy(config, str(tmp_path), 0, "one")
    assert again.unfinished(_draw) == drawn[2:]
    again.report(2, 2, 0.45)
    again.finish(2, [0.45], {})
    records = again.records()
    assert [one.state for one in records] == ["finished", "failed", "finished", "running"]
    assert records[2].curve == ((1, 0.4), (2, 0.45))
    assert records[0].settings == drawn[0][1]
    assert (records[0].values, records[0].other) == ((0.6,), {"epochs": 3.0})
    assert records[1].reason == "no finite loss"
    assert again.begun() == 4
    assert again.ask(_draw)[1] not in [settings for _, settings in drawn], "the sampler began anew with the same seed"


PARTS_OF_A_TRIAL = 7
"""Entries of a trial with two parameters and one validation: it, these, its draw, the value, its facts, its state."""


def test_a_trial_costs_few_entries_of_the_journal(tmp_path: Path) -> None:
    """Each is read back, and two of three are flushed."""
    study = SweepStudy(_config("sampler=random"), str(tmp_path), 0, "one")

    def draw(trial: Trial) -> dict[str, Any]:
        return {name: trial.suggest_float(name, 0, 1) for name in ("a", "b")}

    before = len((tmp_path / "study.journal").read_text().splitlines())
    number, settings = study.ask(draw, lambda drawn: {"run": f"trials/{drawn}", "began": 5.0})
    study.report(number, 1, 0.5, last=True)
    study.hold(number, host="node-a")
    study.finish(number, [0.5], {"epochs": 1.0})
    assert len((tmp_path / "study.journal").read_text().splitlines()) - before <= PARTS_OF_A_TRIAL
    (record,) = SweepStudy(_config("sampler=random"), str(tmp_path), 0, "one").records()
    assert (record.settings, record.run, record.began, record.host) == (settings, "trials/0", 5.0, "node-a")
    assert record.other == {"epochs": 1.0}


def test_a_sweep_that_an_older_segray_began_is_read(tmp_path: Path) -> None:
    """It kept each fact of a trial under a name of its own."""
    study = SweepStudy(_config(), str(tmp_path), 0, "one")
    for end in (True, False):
        trial = study.study.ask()
        trial.suggest_float("optim.lr", 0, 1)
        for name, value in (("settings", {"optim.lr": 0.5}), ("run", "trials/0"), ("began", 5.0), ("host", "node-a")):
            trial.set_user_attr(name, value)
        if end:
            trial.set_user_attr("other", {"epochs": 3.0})
            study.study.tell(trial, 0.5)
    again = SweepStudy(_config(), str(tmp_path), 0, "one")
    done, running = again.records()
    assert (done.settings, done.run, done.began, done.host) == ({"optim.lr": 0.5}, "trials/0", 5.0, "node-a")
    assert done.other == {"epochs": 3.0}
    assert again.unfinished(_draw) == [(running.number, {"optim.lr": 0.5})]


@pytest.mark.parametrize("settings", [(), ("storage=sqlite",)])
def test_a_study_moves_with_its_folder(tmp_path: Path, settings: tuple[str, ...]) -> None:
    (tmp_path / "old").mkdir()
    study = SweepStudy(_config(*settings), str(tmp_path / "old"), 0, "one")
    number, _ = study.ask(_draw)
    study.finish(number, [0.5], {})
    (tmp_path / "old").rename(tmp_path / "new")
    assert [one.values for one in SweepStudy(_config(*settings), str(tmp_path / "new"), 0, "one").records()] == [(0.5,)]


def test_a_trial_that_was_half_drawn_is_drawn_on(tmp_path: Path) -> None:
    study = SweepStudy(_config(), str(tmp_path), 0, "one")
    kind = study.study.ask().suggest_categorical("kind", ["a", "b"])
    again = SweepStudy(_config(), str(tmp_path), 0, "one")
    ((number, settings),) = again.unfinished(_draw)
    assert number == 0
    assert ("loss.focal_gamma" in settings) == (kind == "b")
    assert again.unfinished(_draw) == [(number, settings)]
    again.finish(number, [0.5], {})
    (record,) = SweepStudy(_config(), str(tmp_path), 0, "one").records()
    assert (record.state, record.params["kind"], record.settings) == ("finished", kind, settings)


def test_a_half_drawn_trial_whose_space_raises_now_has_failed(tmp_path: Path) -> None:
    SweepStudy(_config(), str(tmp_path), 0, "one").study.ask()

    def broken(_trial: Trial) -> dict[str, Any]:
        raise ValueError("no such column")

    again = SweepStudy(_config(), str(tmp_path), 0, "one")
    assert again.unfinished(broken) == []
    assert [(one.state, one.reason) for one in again.records()] == [("failed", "no such column")]


def test_a_space_that_raises_fails_its_trial(tmp_path: Path) -> None:
    study = SweepStudy(_config(), str(tmp_path), 0, "one")

    def broken(trial: Trial) -> dict[str, Any]:
        raise UsageError("nothing to draw")

    with pytest.raises(UsageError, match="nothing to draw"):
        study.ask(broken)
    assert [(one.state, one.reason) for one in study.records()] == [("failed", "nothing to draw")]


def test_settings_that_a_study_cannot_keep_fail_their_trial(tmp_path: Path) -> None:
    study = SweepStudy(_config(), str(tmp_path), 0, "one")
    with pytest.raises(TypeError):
        study.ask(lambda _: {"optim.lr": object()})
    assert [one.state for one in study.records()] == ["failed"], "it would run for ever"


def test_out_of_memory_is_told_as_infeasible(tmp_path: Path) -> None:
    study = SweepStudy(_config("sampler=tpe", "startup_trials=5"), str(tmp_path), 1, "one")

    def draw(trial: Trial) -> dict[str, Any]:
        return {"width": trial.suggest_float("width", 0, 1)}

    for _ in range(40):
        number, settings = study.ask(draw)
        if settings["width"] > 0.5:
            study.out_of_memory(number, "too wide")
        else:
            study.finish(number, [-((settings["width"] - 0.3) ** 2)], {})
    wide = [one.infeasible for one in study.records()]
    assert sum(wide[20:]) < sum(wide[:20]), "the sampler goes on to draw what does not fit"
    one = next(one for one in study.records() if one.infeasible)
    assert (one.state, one.values, one.reason) == ("failed", None, "too wide")
    assert study.study.trials[one.number].constraints == {MEMORY: 1.0}
    assert study.study.best_value <= 0, "the best is the value of a trial that did not fit"


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_a_trial_that_falls_behind_should_end(tmp_path: Path, pruner: str) -> None:
    study = SweepStudy(_config(f"pruner={pruner}", "grace=2", "startup_trials=5"), str(tmp_path), 0, "one")
    for quality in (0.9, 0.8, 0.85, 0.87, 0.82, 0.86):
        number, _ = study.ask(_draw)
        ended = False
        for epoch in range(1, 7):
            ended = ended or study.report(number, epoch, quality * epoch / 6)
        study.finish(number, [quality], {})
    number, _ = study.ask(_draw)
    said = [study.report(number, epoch, 0.1 * epoch / 6) for epoch in range(1, 4)]
    assert said[0] is False, "every trial may train its epochs of grace"
    assert any(said[1:])
    study.prune(number, {"epochs": 2.0})
    assert study.records()[-1].state == "pruned"


def test_cma_es_learns_from_pruned_trials(tmp_path: Path) -> None:
    study = SweepStudy(_config("sampler=cmaes", "startup_trials=5"), str(tmp_path), 0, "one")

    def draw(trial: Trial) -> dict[str, Any]:
        return {name: trial.suggest_float(name, 0, 1) for name in ("a", "b", "c")}

    found = []
    for _ in range(60):
        number, settings = study.ask(draw)
        found.append(1 - sum((value - 0.3) ** 2 for value in settings.values()))
        if any(study.report(number, epoch, found[-1] * epoch / 9) for epoch in range(1, 10)):
            study.prune(number, {})
        else:
            study.finish(number, [found[-1]], {})
    assert sum(one.state == "pruned" for one in study.records()) > 20
    assert sum(found[-20:]) / 20 > 0.95, "0.905 where it looks at finished trials alone"


def test_nsga2_prunes_nothing(tmp_path: Path) -> None:
    """Optuna's fills its population with finished trials alone, so that nothing would be learnt of the others."""
    study = SweepStudy(_config("sampler=nsga2", "grace=1"), str(tmp_path), 0, "one")
    for quality in (0.9, 0.8, 0.7, 0.6, 0.1):
        number, _ = study.ask(_draw)
        assert not any(study.report(number, epoch, quality) for epoch in range(1, 9))
        study.finish(number, [quality], {})


def test_cma_es_says_nothing_of_constraints(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    study = SweepStudy(_config("sampler=cmaes"), str(tmp_path), 0, "one")
    study.finish(study.ask(_draw)[0], [0.5], {})
    study.out_of_memory(study.ask(_draw)[0], "too wide")
    assert [one.message for one in recwarn if "Constraints" in str(one.message)] == []
    assert [one.infeasible for one in study.records()] == [False, True]


def test_no_number_is_no_value(tmp_path: Path) -> None:
    study = SweepStudy(_config(), str(tmp_path), 0, "one")
    number, _ = study.ask(_draw)
    study.finish(number, [math.nan], {})
    assert [(one.state, one.values) for one in study.records()] == [("failed", None)]


def test_several_objectives_keep_curves_and_prune_nothing(tmp_path: Path) -> None:
    study = SweepStudy(_config("sampler=nsga2", "objectives=[val_dice,parameters]"), str(tmp_path), 0, "one")
    assert [one.maximise for one in study.objectives] == [True, False]
    number, _ = study.ask(_draw)
    assert study.report(number, 1, 0.2) is False
    assert study.report(number, 2, 0.1) is False
    study.finish(number, [0.1, 3.5], {})
    (record,) = study.records()
    assert (record.values, record.curve) == ((0.1, 3.5), ((1, 0.2), (2, 0.1)))


def test_earlier_sweeps_are_learnt_from_and_not_counted(tmp_path: Path) -> None:
    config = _config()
    (tmp_path / "old").mkdir()
    old = SweepStudy(config, str(tmp_path / "old"), 0, "one")
    for _ in range(5):
        number, settings = old.ask(_draw)
        old.finish(number, [settings["optim.lr"]], {})
    (tmp_path / "new").mkdir()
    new = SweepStudy(config, str(tmp_path / "new"), 0, "one")
    trials = read_trials(config, str(tmp_path / "old"), "one")
    new.learn_from(trials[:3], "old")  # as far as a driver came that was killed then
    new.learn_from(trials, "old")
    assert (new.begun(), new.records()) == (0, [])
    assert len(new.finished_trials()) == 5
    assert new.ask(_draw)[0] == 5


def test_fixed_params_come_first(tmp_path: Path) -> None:
    study = SweepStudy(_config("sampler=grid"), str(tmp_path), 0, "one")
    first, second = ({"kind": "a", "optim.lr": rate} for rate in (0.001, 0.01))
    study.enqueue([first], defaults=True)
    study.enqueue([second, first])
    assert study.waiting() == 2
    assert [study.ask(_draw)[1] for _ in range(2)] == [{"optim.lr": 0.001}, {"optim.lr": 0.01}]
    assert study.waiting() == 0
    study.enqueue([first], defaults=True)  # a driver that was killed here begins the study again
    assert (study.waiting(), study.defaults()) == (0, 0)


def test_a_grid_is_enqueued_as_it_is_asked_for_and_tried_whole_by_several_drivers(tmp_path: Path) -> None:
    grid = [{"kind": "a", "optim.lr": rate} for rate in (0.001, 0.002, 0.003, 0.004, 0.005)]

    def opened() -> SweepStudy:
        return SweepStudy(_config("sampler=grid"), str(tmp_path), 0, "one")

    study = opened()
    study.enqueue([grid[2]], defaults=True)
    study.enqueue_grid(grid)
    assert (study.waiting(), opened().waiting()) == (5, 5)
    assert len(study.study.trials) == 1, "the others only when they are asked for"
    tried = [study.ask(_draw)[1]["optim.lr"] for _ in range(2)]
    later = opened()
    later.enqueue_grid(grid)
    assert (later.waiting(), opened().waiting()) == (3, 3)
    tried += [later.ask(_draw)[1]["optim.lr"] for _ in range(3)]
    assert tried == [0.003, 0.001, 0.002, 0.004, 0.005]
    assert (later.waiting(), opened().waiting()) == (0, 0)


def test_what_an_earlier_sweep_tried_is_still_tried_as_the_defaults(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    params = {"kind": "a", "optim.lr": 0.001}
    old = SweepStudy(_config(), str(tmp_path / "old"), 0, "one")
    old.enqueue([params], defaults=True)
    old.finish(old.ask(_draw)[0], [0.5], {})
    study = SweepStudy(_config(), str(tmp_path), 0, "one")
    study.learn_from(read_trials(_config(), str(tmp_path / "old"), "one"), "old")
    study.enqueue([params], defaults=True)
    assert (study.waiting(), study.defaults()) == (1, 1)


def test_what_did_not_fit_tells_nothing_of_importances(tmp_path: Path) -> None:
    study = SweepStudy(_config("sampler=random"), str(tmp_path), 0, "one")
    numbers = [study.ask(_draw)[0] for _ in range(3)]
    study.out_of_memory(numbers[1], "an outlier that must not count")
    for number in (numbers[0], numbers[2]):
        study.finish(number, [0.5], {})
    assert [one.number for one in study.finished_trials()] == [0, 2]


def test_sqlite_will_do_as_well(tmp_path: Path) -> None:
    config = _config("storage=sqlite")
    number, _ = SweepStudy(config, str(tmp_path), 0, "one").ask(_draw)
    again = SweepStudy(config, str(tmp_path), 0, "one")
    assert [one for one, _ in again.unfinished(_draw)] == [number]
    assert (tmp_path / "study.db").is_file()
    again.finish(number, [0.5], {})
    assert [one.value for one in read_trials(config, str(tmp_path), "one")] == [0.5]


def test_optuna_reads_the_study_by_itself(tmp_path: Path) -> None:
    study = SweepStudy(_config(), str(tmp_path), 0, "one")
    number, _ = study.ask(_draw)
    study.finish(number, [0.7], {})
    held = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    (found,) = optuna.get_all_study_summaries(held)
    assert found.n_trials == 1
