"""The desk of a sweep, asked and told as Ray Tune does, without Ray."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from made_sweep import RATES, sweep_config

from segray.config import Config, dump_config, load_config
from segray.errors import SegrayError, UsageError
from segray.pipelines import node_room
from segray.pipelines.runtime import Node, WorkerShape
from segray.pipelines.sweep import MOST_ALIKE, Room, SweepDesk
from segray.pipelines.sweep_folder import SPACE, SweepFolder
from segray.pipelines.train import train
from segray.tuning.space import load_space
from segray.tuning.study import SweepStudy

AWAY = {"failed": "/mnt/shards holds no shards. Write them.", "infeasible": False, "outside": True}


class Sweep:
    """A sweep in a folder: its desk, opened anew as a driver that begins does."""

    def __init__(self, tmp_path: Path, *more: str, space: str = RATES) -> None:
        self.config = sweep_config(tmp_path, "tune.concurrent=8", *more, space=space)
        self.folder = SweepFolder(str(tmp_path / "sweep"))
        self.folder.begin(dump_config(self.config))
        self.open()

    def open(self) -> None:
        """As a driver that begins, or goes on."""
        tune = self.config.tune
        self.study = SweepStudy(tune, self.folder.path, 0, self.folder.run_id)
        space = load_space(str(tune.space))
        self.desk = SweepDesk(self.config, self.folder, self.study, space, Room(WorkerShape(1.0, 0.0)))

    def begin(self) -> int:
        """The number of a further trial."""
        told = self.desk.next(0)
        assert told is not None
        return int(told["number"])

    def end(self, number: int, value: float = 0.5, **more: Any) -> None:
        """Tell the end of a trial."""
        result = {"epoch": 1, "value": value, "values": [value], "other": [("epochs", 1.0)], **more}
        self.desk.ended(number, result, None, pruned=False)

    def fail(self, number: int, **more: Any) -> None:
        """Tell that a trial failed."""
        self.end(number, math.nan, **{**AWAY, **more})


@pytest.mark.parametrize(("group", "begun"), [(True, 1), (False, 4)])
def test_groups_of_workers_do_not_outgrow_the_cluster(
    group: bool, begun: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two on four CPUs neither would read its slices; a lone trial reads by itself, or waits in Ray's queue."""
    monkeypatch.setattr(node_room, "nodes", lambda: [Node("node", 4, 0, 2**34)])
    sweep = Sweep(tmp_path, "tune.trials=8")
    room = Room(WorkerShape(1.0, 0.0), 2, 2, group=True) if group else Room(WorkerShape(1.0, 0.0))
    desk = SweepDesk(sweep.config, sweep.folder, sweep.study, load_space(str(sweep.config.tune.space)), room)
    assert [desk.next(running) is not None for running in range(4)].count(True) == begun


def test_an_outage_does_not_burn_the_sweep(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "tune.trials=8")
    sweep.end(sweep.begin())
    for _ in range(MOST_ALIKE):
        sweep.fail(sweep.begin())
    with pytest.raises(SegrayError, match="holds no shards") as error:
        sweep.begin()
    assert "--resume" in str(error.value)
    lost = [dict(one.settings) for one in sweep.study.records() if one.state == "failed"]
    sweep.open()
    numbers = [sweep.begin() for _ in range(MOST_ALIKE)]
    for number in numbers:
        sweep.end(number)
    assert [dict(one.settings) for one in sweep.study.records()][1:] == lost, "other settings were tried again"
    rest = [sweep.begin(), sweep.begin()]
    with pytest.raises(StopIteration):
        sweep.begin()
    for number in rest:
        sweep.end(number)
    assert [one.state for one in sweep.study.records()] == ["finished"] * 8


def test_what_fails_again_is_not_tried_a_third_time(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for _ in range(2):
        for _ in range(MOST_ALIKE):
            sweep.fail(sweep.begin())
        sweep.open()
    assert sweep.study.waiting() == 0
    assert [one.state for one in sweep.study.records()] == ["failed"] * MOST_ALIKE
    sweep.end(sweep.begin())


def test_the_defaults_stay_the_defaults_when_they_are_tried_again(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    sweep.study.enqueue([{"optim.lr": 0.001}], defaults=True)
    sweep.fail(sweep.begin())
    sweep.open()
    assert sweep.study.defaults() == sweep.begin() == 1


def test_failures_of_the_settings_stop_nothing(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for number in range(3 * MOST_ALIKE):
        trial = sweep.begin()
        if number % MOST_ALIKE == 0:
            sweep.end(trial)
        elif number < 2 * MOST_ALIKE:
            sweep.fail(trial)
        else:
            sweep.fail(trial, failed="No step of the epoch had a finite loss.", outside=False)
    sweep.begin()
    sweep.open()
    assert sweep.study.waiting() == 2 * MOST_ALIKE - 2


def test_shards_that_the_driver_does_not_see_are_a_cause_outside(tmp_path: Path) -> None:
    """Of a trial that does not say so itself, as one of a prediction."""
    sweep = Sweep(tmp_path)
    (tmp_path / "shards" / "manifest.json").rename(tmp_path / "away.json")
    sweep.fail(sweep.begin(), outside=False)
    (tmp_path / "away.json").rename(tmp_path / "shards" / "manifest.json")
    sweep.fail(sweep.begin(), outside=False)
    sweep.open()
    assert sweep.study.waiting() == 1


def test_reasons_that_name_other_files_are_one(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for number in range(MOST_ALIKE):
        sweep.fail(sweep.begin(), failed=f"Unexpected OSError: [Errno 116] Stale file handle: '/mnt/part-{number}'")
    with pytest.raises(SegrayError, match="Stale file handle"):
        sweep.begin()


def test_a_draw_that_the_space_cannot_make_is_a_failed_row(tmp_path: Path) -> None:
    space = """
def space(trial):
    if trial.number == 1:
        raise ValueError("rare")
    return {"optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-2)}
"""
    sweep = Sweep(tmp_path, "tune.trials=3", space=space)
    assert [sweep.begin(), sweep.begin()] == [0, 2]
    with pytest.raises(StopIteration):
        sweep.begin()
    record = sweep.study.records()[1]
    assert record.state == "failed"
    assert "rare" in record.reason


def test_a_space_that_never_draws_ends_the_sweep_within_its_trials(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "tune.trials=3", space='def space(trial):\n    raise ValueError("never")\n')
    with pytest.raises(StopIteration):
        sweep.begin()
    assert [one.state for one in sweep.study.records()] == ["failed"] * 3


@pytest.mark.parametrize("pruner", ["asha", "median"])
def test_what_fell_behind_unheard_is_ended(tmp_path: Path, pruner: str) -> None:
    sweep = Sweep(tmp_path, f"tune.pruner={pruner}", "tune.grace=1", "tune.startup_trials=5")
    for _ in range(6):
        number = sweep.begin()
        for epoch in (1, 2, 3):
            sweep.desk.heard(number, {"epoch": epoch, "value": 0.3 * epoch})
        sweep.end(number, 0.9)
    number = sweep.begin()
    # This epoch was not validated, and the driver that heard of the earlier ones was killed.
    late = {"epoch": 4, "value": math.nan, "before": [(1, 0.1), (2, 0.1), (3, 0.1)]}
    assert sweep.desk.heard(number, late) is True


@pytest.mark.parametrize(
    ("words", "state", "infeasible"),
    [
        ("The actor died unexpectedly before finishing this task.", "lost", False),
        ("The actor 1ff2 is unavailable: RpcError: keepalive watchdog timeout. The task may or may not", "lost", False),
        (
            "1 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 192.0.2.2, ID: 2) "
            "was 23.10GB / 24.00GB",
            "failed",
            True,
        ),
        ("ValueError: odd", "failed", False),
    ],
)
def test_what_ray_says_of_a_dead_trial_is_its_row(tmp_path: Path, words: str, state: str, infeasible: bool) -> None:
    sweep = Sweep(tmp_path)
    number = sweep.begin()
    checkpoint = Path(sweep.folder.trial(number).file("checkpoints")) / "one"
    checkpoint.mkdir(parents=True)
    sweep.desk.ended(number, {}, words, pruned=False)
    (record,) = sweep.study.records()
    assert (record.state, record.infeasible) == (state, infeasible)
    assert record.reason
    assert not checkpoint.exists()
    sweep.end(sweep.begin())


def test_a_sweep_is_no_training_to_go_on_with(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    (Path(sweep.folder.path) / SPACE).touch()
    before = {path.name for path in Path(sweep.folder.path).iterdir()}
    with pytest.raises(UsageError, match=r"holds a sweep\..*segray tune --resume"):
        train(Config(), resume=sweep.folder.path)
    assert {path.name for path in Path(sweep.folder.path).iterdir()} == before


def test_no_trial_begins_after_the_minutes_over_all_resumes(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, "tune.minutes=1")
    number = sweep.begin()
    sweep.folder.write_history(seconds=59.0)
    sweep.open()
    sweep.end(sweep.begin())
    sweep.folder.write_history(seconds=61.0)
    sweep.open()
    with pytest.raises(StopIteration):
        sweep.begin()
    assert number == 0


def test_the_best_so_far_lies_in_the_folder_while_the_sweep_runs(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for value in (0.5, 0.7, 0.6):
        number = sweep.begin()
        bundle = Path(sweep.folder.trial(number).file("bundle"))
        bundle.mkdir()
        (bundle / "bundle.json").write_text(str(number))
        (bundle / "weights.safetensors").write_text(str(number))
        sweep.end(number, value)
    best = load_config(sweep.folder.file("best.yaml"))
    assert best.optim.lr == pytest.approx(sweep.study.record(1).settings["optim.lr"])
    assert (tmp_path / "sweep" / "bundle" / "weights.safetensors").read_text() == "1"
    sweep.open()
    sweep.end(sweep.begin(), 0.65)
    assert (tmp_path / "sweep" / "bundle" / "bundle.json").read_text() == "1"


def test_a_driver_that_ends_leaves_a_table_of_all_trials(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path)
    for _ in range(3):
        sweep.end(sweep.begin())
    sweep.desk.close()
    assert [row["state"] for row in sweep.folder.rows("trials.csv")] == ["finished"] * 3
