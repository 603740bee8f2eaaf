"""Sweeps whose driver, or trial, is killed, and one whose trials have several workers, on one embedded Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tiny_sweep import RATES, SETTINGS, ConfigOf, shards_of_phantoms, sweep_config

from segray.config import load_config
from segray.pipelines.sweep_folder import SweepFolder
from segray.pipelines.tune import tune
from segray.tuning.study import read_trials

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    return shards_of_phantoms(tmp_path_factory.mktemp("tune"))


@pytest.fixture
def config_of(shards: Path, tmp_path: Path) -> ConfigOf:
    return partial(sweep_config, shards, tmp_path)


def test_a_killed_driver_loses_no_trial(config_of: ConfigOf, tmp_path: Path) -> None:
    """Twice with SIGKILL, in the middle of a trial; then to its end."""
    config_of(RATES)
    sweep = tmp_path / "sweep"
    places = [f"train.shards={config_of(RATES).train.shards}", "tune.trials=5", "train.epochs=4", "ray.cpus=2"]
    sets = [word for setting in (*SETTINGS, *places) for word in ("--set", setting)]
    program = str(Path(sys.executable).with_name("segray"))
    begin = [program, "tune", "--space", str(tmp_path / "space.py"), "--run", str(sweep), *sets]
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    kept: list[tuple[int, Any]] = []
    for command, wanted in ((begin, 1), ([program, "tune", "--resume", str(sweep), *sets[-2:]], 3)):
        driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
        _wait_for(sweep, wanted)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait(30)
        found = _finished(sweep)
        assert set(kept) <= set(found)  # two trials at a time: a lower number may finish later
        kept = found
    summary = tune(load_config(), resume=str(sweep))
    finished = [(one.number, one.values) for one in summary.records if one.state == "finished"]
    assert [one.number for one in summary.records] == list(range(5)), "a trial was counted twice"
    assert len(finished) == 5, [(one.number, one.state, one.reason) for one in summary.records]
    assert {number: value for number, value in finished if (number, value) in kept} == dict(kept)
    for one in summary.records:
        assert [epoch for epoch, _ in one.curve] == [1, 2, 3, 4], one.number


def _finished(sweep: Path) -> list[tuple[int, Any]]:
    trials = read_trials(load_config(sweep / "config.yaml").tune, str(sweep), SweepFolder(str(sweep)).run_id)
    return [(one.number, tuple(one.values)) for one in trials if one.state.is_finished()]


def _wait_for(sweep: Path, trials: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if (sweep / "study.journal").exists() and (sweep / "trials.csv").exists() and len(_finished(sweep)) >= trials:
            return
        time.sleep(0.1)
    raise AssertionError("the sweep does not get on")


def test_a_killed_trial_goes_on_from_its_checkpoint(config_of: ConfigOf, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill() -> None:
        trial = tmp_path / "sweep" / "trials" / "00000"
        end = time.monotonic() + 120
        while time.monotonic() < end and not killed:
            time.sleep(0.05)
            table = trial / "metrics.csv"
            if table.exists() and len(table.read_text().splitlines()) >= 3:
                pid = json.loads((trial / "history.json").read_text())["workers"][0]["pid"]
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    thread = threading.Thread(target=kill)
    thread.start()
    summary = tune(config_of(RATES, "tune.trials=1", "train.epochs=12"))
    thread.join()
    (record,) = summary.records
    assert killed
    assert record.state == "finished"
    assert [epoch for epoch, _ in record.curve] == list(range(1, 13))
    starts = json.loads((Path(record.run) / "history.json").read_text())["starts"]
    assert len(starts) == 2
    assert starts[1]["after_epoch"] >= 1


def test_a_trial_may_have_several_workers(config_of: ConfigOf) -> None:
    more = ("train.workers=2", "train.cpus_per_worker=0.5", "tune.trials=1", "train.epochs=3")
    summary = tune(config_of(RATES, *more))
    assert [one.state for one in summary.records] == ["finished"]
    for one in summary.records:
        history = json.loads((Path(one.run) / "history.json").read_text())
        assert {worker["rank"] for worker in history["workers"]} == {0, 1}
        assert [epoch for epoch, _ in one.curve] == [1, 2, 3]
