"""Sweeps on one embedded Ray: what they leave, what fails, what they go on with."""

from __future__ import annotations

import csv
import json
import math
import shutil
from functools import partial
from pathlib import Path

import pytest
from tiny_sweep import RATES, SETTINGS, ConfigOf, shards_of_phantoms, sweep_config
from train_here import train_here

from segray.config import load_config
from segray.errors import SegrayError, UsageError
from segray.nets.bundle import load_bundle
from segray.pipelines.sweep import room_of
from segray.pipelines.sweep_folder import SweepFolder
from segray.pipelines.sweep_view import SweepReader
from segray.pipelines.tune import SweepSummary, dry_run, tune
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

BROKEN_AT_TIMES = """
def space(trial):
    width = trial.suggest_categorical("width", [4, 6])
    return {"net.features": [width, 2 * width], "optim.lr": 0.001 if width == 4 else 1e30, "optim.clip_norm": 0}
"""


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    return shards_of_phantoms(tmp_path_factory.mktemp("tune"))


@pytest.fixture
def config_of(shards: Path, tmp_path: Path) -> ConfigOf:
    return partial(sweep_config, shards, tmp_path)


@pytest.fixture(scope="module")
def swept(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> SweepSummary:
    """A sweep of four trials."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "space.py").write_text(RATES)
    places = (f"train.shards={shards}", f"tune.run={folder / 'sweep'}", f"tune.space={folder / 'space.py'}")
    # One at a time, so that they can share a process.
    return tune(load_config(None, [*SETTINGS, *places, "tune.concurrent=1"]))


def test_the_room_of_a_trial_is_that_of_whoever_trains_it() -> None:
    """A group reserves its own; one that may grow from a single worker is a group too, and a prediction is none."""
    shared = ["train.cpus_per_worker=0.5", "train.gpu=no"]
    for workers in ("2", "[1,4]"):
        group = load_config(None, [*shared, f"train.workers={workers}"])
        assert room_of(group).resources == {"CPU": 0.001}, workers
        assert room_of(group).group
        predicts = load_config(None, [*shared, f"train.workers={workers}", "tune.bundle=b"])
        assert room_of(predicts).resources == {"CPU": 0.5}, workers
    alone = room_of(load_config(None, shared))
    assert (alone.resources, alone.group, alone.trials()) == ({"CPU": 0.5}, False, 8)


def test_a_sweep_leaves_the_best_config_its_bundle_and_tables(swept: SweepSummary) -> None:
    run = Path(swept.run)
    assert [one.state for one in swept.records] == ["finished"] * 4
    values = [one.values[0] for one in swept.records if one.values]
    assert swept.best is not None
    assert swept.best.values == (max(values),)
    assert swept.front == [swept.best]
    rows = list(csv.DictReader((run / "trials.csv").open()))
    assert [float(row["val_dice"]) for row in rows] == pytest.approx(values)
    assert {row["optim.lr"] for row in rows} == {f"{one.settings['optim.lr']:.6g}" for one in swept.records}
    assert (run / "trials.parquet").is_file()
    best = load_config(run / "best.yaml")
    assert best.optim.lr == swept.best.settings["optim.lr"]
    bundle = load_bundle(str(run / "bundle"))
    assert bundle.metrics["validation_dice"] == pytest.approx(swept.best.values[0], abs=1e-4)
    assert not list(run.glob("trials/*/checkpoints/*")), "checkpoints of ended trials take up the disk"
    assert "4" in swept.answer
    assert all(one.other["epochs"] == 2 and one.other["parameters"] > 0 for one in swept.records)
    assert (run / "index.html").stat().st_size > 10_000


def test_the_best_config_trains_as_it_is(swept: SweepSummary, tmp_path: Path) -> None:
    summary = train_here(load_config(Path(swept.run) / "best.yaml", [f"train.run={tmp_path / 'run'}"]))
    assert swept.best is not None
    assert summary.epochs == 2
    found = max(float(row["val_dice"]) for row in csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert found == pytest.approx(swept.best.values[0], abs=0.02)


def test_the_settings_of_the_config_are_tried_first(swept: SweepSummary) -> None:
    assert swept.records[0].settings == {"optim.lr": load_config().optim.lr}


def test_trials_share_a_process(swept: SweepSummary) -> None:
    """A process a trial would pay for torch and Ray each time."""
    pids = [json.loads((Path(one.run) / "history.json").read_text())["workers"][0]["pid"] for one in swept.records]
    assert len(set(pids)) < len(pids)


def test_the_folder_tells_of_the_sweep_without_ray(swept: SweepSummary) -> None:
    view = SweepReader(swept.run).view()
    assert (view.state, view.ended, view.trials, view.count("finished")) == ("finished", True, 4, 4)
    assert view.best is not None
    assert swept.best is not None
    assert view.best.number == swept.best.number


def test_a_second_sweep_in_the_folder_is_refused(swept: SweepSummary) -> None:
    config = load_config(Path(swept.run) / "config.yaml")
    with pytest.raises(UsageError, match="holds a sweep or a run already"):
        tune(config)
    with SweepFolder(swept.run).alone(), pytest.raises(UsageError, match="Another segray tune works on"):
        tune(config, resume=swept.run)


@pytest.mark.long
def test_more_trials_go_on_with_what_is_known(swept: SweepSummary) -> None:
    before = [(one.number, one.values) for one in swept.records]
    again = tune(load_config(), resume=swept.run, trials=5)
    assert [(one.number, one.values) for one in again.records][:4] == before
    assert [one.state for one in again.records] == ["finished"] * 5
    rates = [one.settings["optim.lr"] for one in again.records]
    assert len(set(rates)) == 5


@pytest.mark.long
def test_a_sweep_learns_from_an_earlier_one(swept: SweepSummary, config_of: ConfigOf) -> None:
    said: list[str] = []
    more = (f"tune.earlier=[{swept.run}]", "tune.trials=1", "train.epochs=1", "tune.sampler=tpe")
    summary = tune(config_of(RATES, *more), say=said.append)
    assert any("finished trials of" in sentence and "are known to the sampler" in sentence for sentence in said)
    assert [one.state for one in summary.records] == ["finished"], "trials of the earlier sweep were counted"
    assert summary.records[0].number >= len(swept.records), "the earlier trials stand before it"
    assert "These are your own settings" in summary.answer


def test_failed_trials_are_rows_with_a_reason(config_of: ConfigOf) -> None:
    summary = tune(config_of(BROKEN_AT_TIMES, "tune.sampler=grid", "tune.defaults_first=false"))
    states = {one.settings["net.features"][0]: one.state for one in summary.records}
    assert states == {4: "finished", 6: "failed"}
    (failed,) = summary.failed
    assert failed.reason.startswith("No step of the epoch had a finite loss")
    rows = {row["state"]: row for row in csv.DictReader((Path(summary.run) / "trials.csv").open())}
    assert rows["failed"]["reason"] == failed.reason


@pytest.mark.long
def test_shards_that_go_away_stop_a_sweep_that_then_goes_on(config_of: ConfigOf, shards: Path, tmp_path: Path) -> None:
    moved = tmp_path / "shards"
    shutil.copytree(shards, moved)
    config = config_of(RATES, f"train.shards={moved}", "tune.trials=5", "train.epochs=1", "tune.concurrent=1")
    with pytest.raises(SegrayError, match="5 trials in a row failed for one reason"):
        tune(config, say=lambda _: moved.rename(tmp_path / "away") if moved.exists() else None)
    (tmp_path / "away").rename(moved)
    summary = tune(load_config(), resume=config.tune.run)
    assert [one.state for one in summary.records] == ["finished"] * 5
    assert summary.failed == []


@pytest.mark.long
def test_a_grid_is_tried_once(config_of: ConfigOf) -> None:
    space = """
def space(trial):
    return {"optim.lr": trial.suggest_categorical("optim.lr", [0.001, 0.01])}
"""
    summary = tune(config_of(space, "tune.sampler=grid", "train.epochs=1"))
    assert sorted(one.settings["optim.lr"] for one in summary.records) == [0.001, 0.01]


@pytest.mark.long
def test_poor_trials_end_early(config_of: ConfigOf) -> None:
    space = """
def space(trial):
    return {"optim.lr": trial.suggest_categorical("optim.lr", [0.01, 1e-9])}
"""
    more = ("tune.pruner=asha", "tune.grace=1", "tune.reduction=2", "train.epochs=6", "tune.trials=5")
    summary = tune(config_of(space, *more, "tune.defaults_first=false", "tune.concurrent=1"))
    pruned = [one for one in summary.records if one.state == "pruned"]
    assert pruned
    assert {one.settings["optim.lr"] for one in pruned} == {1e-9}
    assert all(one.other["epochs"] < 6 for one in pruned)
    history = json.loads((Path(pruned[0].run) / "history.json").read_text())
    assert history["state"] == "stopped"
    assert not list((Path(summary.run)).glob("trials/*/checkpoints/*")), "checkpoints of pruned trials take up the disk"


@pytest.mark.long
def test_several_objectives_keep_a_front(config_of: ConfigOf) -> None:
    space = """
def space(trial):
    width = trial.suggest_categorical("width", [2, 8])
    return {"net.features": [width, 2 * width]}
"""
    more = ("tune.objectives=[val_dice,parameters,latency]", "tune.sampler=nsga2", "tune.defaults_first=false")
    summary = tune(config_of(space, *more, "tune.trials=3"))
    assert all(one.values and all(math.isfinite(value) for value in one.values) for one in summary.records)
    assert all(one.values[1] == one.other["parameters"] for one in summary.records if one.values)
    assert 1 <= len(summary.front) <= 3
    assert summary.best in summary.front


def test_a_space_is_checked_before_anything_is_written(config_of: ConfigOf, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"optim\.l_r.*Did you mean optim\.lr"):
        tune(config_of('def space(trial):\n    return {"optim.l_r": trial.suggest_float("x", 0, 1)}\n'))
    deep = 'def space(trial):\n    return {"net.features": [4] * trial.suggest_int("levels", 2, 7)}\n'
    with pytest.raises(UsageError, match="halves its input"):
        tune(config_of(deep))
    assert not (tmp_path / "sweep").exists()


def test_examples_are_printed_and_nothing_is_trained(config_of: ConfigOf, tmp_path: Path) -> None:
    draws = dry_run(config_of(RATES), 5)
    assert len({draw["optim.lr"] for draw in draws}) == 5
    assert not (tmp_path / "sweep").exists()


@pytest.mark.long
def test_a_bundle_is_tuned_without_training(swept: SweepSummary, config_of: ConfigOf, shards: Path) -> None:
    space = """
def space(trial):
    smallest = trial.suggest_categorical("smallest", [0.0, 1e6])
    return {"predict.smallest_ml": {"all": smallest}}
"""
    assert swept.best is not None
    more = (f"tune.bundle={swept.best.run}", "tune.sampler=grid", "tune.defaults_first=false")
    summary = tune(config_of(space, *more))
    values = {one.settings["predict.smallest_ml"]["all"]: one.values for one in summary.records}
    assert swept.best.values is not None
    untouched, emptied = values[0.0], values[1e6]
    assert untouched is not None
    assert emptied is not None
    assert untouched[0] == pytest.approx(swept.best.values[0], abs=0.01)
    assert emptied[0] < 0.01 < untouched[0]
    assert load_config(Path(summary.run) / "best.yaml").predict.smallest_ml == {"all": 0.0}
    assert summary.bundle == swept.best.run
    assert load_manifest(str(shards)).cases("validation")
    with pytest.raises(UsageError, match="other settings than those of predict"):
        tune(config_of(RATES, more[0], f"tune.run={summary.run}_other"))


@pytest.mark.long
def test_trials_start_from_the_weights_of_another(swept: SweepSummary, config_of: ConfigOf) -> None:
    still = RATES.replace("1e-4, 1e-2", "1e-13, 1e-12")
    assert swept.best is not None
    assert swept.best.values is not None
    more = (f"train.start_from={swept.best.run}", "tune.trials=1", "tune.defaults_first=false", "train.epochs=1")
    settings = [setting for setting in SETTINGS if not setting.startswith("net.")]
    config = config_of(still, *more)
    places = (f"train.shards={config.train.shards}", f"tune.run={config.tune.run}", f"tune.space={config.tune.space}")
    (record,) = tune(load_config(None, [*settings, *places, *more])).records
    assert record.values is not None
    # The running statistics of its norms still move.
    assert record.values[0] == pytest.approx(swept.best.values[0], abs=0.15)
    assert "The training starts from" in (Path(record.run) / "run.log").read_text()
    assert load_config(Path(record.run) / "config.yaml").net.features == [4, 8]
