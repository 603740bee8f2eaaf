"""What a sweep costs beside its trainings: against Optuna's own loop, and with a thousand trials.

    python benchmarks/tune_overhead.py [--trials 8] [--fake 1000] [--small]

Two measurements, on a Ray that runs already (as a cluster does):

* The same trials, small trainings on phantoms, by `segray tune` (Ray Tune, a study in its journal, a run folder a
  trial) and in a plain loop of Optuna in one warm process that trains by the same session. Both draw at random, and so
  much the same nets; nothing is pruned. Printed: seconds a trial of both, and what segray adds.
* 1,000 trials that sleep 1 s instead of training, 20 at a time, with TPE, by the sweep's own desk, its run folders,
  tables and history: the memory of the driver after 100 and after all of them, the CPU time of the driver for each
  result (its scheduling loop, Optuna included), in the last tenth too, and the wall-clock time beyond 1,000 / 20 s: in
  all, of which the 20 processes take their start on two cores, and behind the first tenth, when they all run.

Wanted: under 3 s a trial, and under 50 ms a result with flat memory. With the study in SQLite a result took 162 ms and
74 ms of the driver's CPU; with the journal 73 and 60. Since configs are read and written by libyaml, the journal has
fewer entries and Ray Tune keeps no state of its own, 56 and 47 on the same machine, 30 once the 20 processes run; the
driver grew from 530 to 568 MiB over the last 900 trials.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import ray
from machine import write_result
from ray.tune import Trainable

from segray.config import Config, RayConfig, dump_config, load_config
from segray.pipelines.runtime import WorkerShape, ray_session
from segray.pipelines.sweep import Room, SweepDesk
from segray.pipelines.sweep_folder import SweepFolder
from segray.pipelines.sweep_search import run_trials
from segray.pipelines.trial import LoneTraining
from segray.pipelines.tune import tune
from segray.tuning.space import load_space, with_settings
from segray.tuning.study import SweepStudy

SPACE = '''
"""Learning rate and width."""


def space(trial):
    return {
        "optim.lr": trial.suggest_float("optim.lr", 1e-4, 1e-2, log=True),
        "net.features": [trial.suggest_int("width", 4, 8, step=4) * 2**level for level in range(3)],
    }
'''
RATES = """
def space(trial):
    return {"optim.lr": trial.suggest_float("optim.lr", 1e-5, 1e-1, log=True)}
"""
AT_ONCE = 20
SLEEP_S = 1.0
MIB = 2**20


class SleepingActor(Trainable):  # type: ignore[misc]
    """A trial that reads its config, sleeps, and returns something to learn from."""

    def setup(self, config: dict[str, Any]) -> None:
        """Begin."""
        self._told = config

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin with the next trial."""
        self._told = new_config
        return True

    def step(self) -> dict[str, Any]:
        """Sleep."""
        config = load_config(f"{self._told['run']}/config.yaml")
        time.sleep(SLEEP_S)
        value = -((math.log10(config.optim.lr) + 3) ** 2)
        return {"epoch": 1, "value": value, "done": True, "values": [value], "other": [("epochs", 1.0)]}


class MeasuredDesk(SweepDesk):
    """The desk of a sweep, which notes memory and CPU time of the driver."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.memory: list[float] = []
        self.cpu: list[float] = []
        self.clock: list[float] = []
        self.processes: set[int] = set()

    def ended(self, number: int, result: Mapping[str, Any], error: str | None, *, pruned: bool) -> None:
        """Tell the study."""
        if error is not None or pruned:
            raise SystemExit(f"a trial failed: {error}")
        super().ended(number, result, error, pruned=pruned)
        self.processes.add(result["pid"])
        self.memory.append(_memory_mib())
        self.cpu.append(time.process_time())
        self.clock.append(time.monotonic())


def _memory_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / MIB


def measure_fake(work: Path, trials: int) -> dict[str, Any]:
    folder = SweepFolder(str(work / "fake"))
    (work / "lr.py").write_text(RATES)
    settings = [f"tune.trials={trials}", f"tune.concurrent={AT_ONCE}", f"tune.space={work / 'lr.py'}"]
    config = load_config(None, [*settings, f"tune.run={folder.path}"])
    folder.begin(dump_config(config))
    room = Room(WorkerShape(ray.cluster_resources()["CPU"] / AT_ONCE, 0.0))
    study = SweepStudy(config.tune, folder.path, config.seed, folder.run_id)
    desk = MeasuredDesk(config, folder, study, load_space(str(config.tune.space)), room)
    cpu, begin = time.process_time(), time.monotonic()
    run_trials(desk, SleepingActor, folder=folder.path, resources=room.resources, max_failures=0)
    desk.close()
    seconds, spent = time.monotonic() - begin, time.process_time() - cpu
    tenth = max(len(desk.cpu) // 10, 1)
    settled = desk.memory[min(tenth, 100) :]
    warm = 1000 * (desk.clock[-1] - desk.clock[tenth - 1]) / (trials - tenth) if trials > tenth else math.nan
    return {
        "trials": trials,
        "seconds": round(seconds, 1),
        "ms a result beyond the sleep": round(1000 * (seconds - trials * SLEEP_S / AT_ONCE) / trials, 1),
        "of them once the processes run": round(warm - 1000 * SLEEP_S / AT_ONCE, 1),
        "CPU ms of the driver a result": round(1000 * spent / trials, 1),
        "of them in the second tenth": round(1000 * (desk.cpu[2 * tenth - 1] - desk.cpu[tenth - 1]) / tenth, 1),
        "of them in the last tenth": round(1000 * (desk.cpu[-1] - desk.cpu[-1 - tenth]) / tenth, 1),
        "processes started": len(desk.processes),
        "driver MiB after a tenth": round(settled[0]),
        "driver MiB at the end": round(settled[-1]),
        "finished": sum(record.state == "finished" for record in study.records()),
    }


def made_config(work: Path, trials: int, *, small: bool) -> Config:
    """Shards of phantoms, and a config that trains on them for some seconds."""
    program = Path(sys.executable).with_name("segray")
    cases = "3" if small else "8"
    subprocess.run([str(program), "phantoms", str(work / "scans"), "--cases", cases], check=True)
    grid = ["--set", "ingest.grid.mode=size", "--set", "ingest.grid.size=[64,64]"]
    subprocess.run([str(program), "ingest", str(work / "scans"), str(work / "shards"), *grid], check=True)
    (work / "space.py").write_text(SPACE)
    return load_config(
        None,
        [
            f"train.shards={work / 'shards'}",
            f"train.epochs={1 if small else 6}",
            "train.trackers=[]",
            f"tune.space={work / 'space.py'}",
            f"tune.run={work / 'sweep'}",
            f"tune.trials={trials}",
            "tune.sampler=random",
            "tune.pruner=none",
            "tune.defaults_first=false",
        ],
    )


def measure_real(config: Config) -> dict[str, Any]:
    warm = config.model_copy(
        update={"tune": config.tune.model_copy(update={"trials": 1, "run": f"{config.tune.run}_w"})}
    )
    tune(warm)
    begin = time.monotonic()
    summary = tune(config)
    ours = time.monotonic() - begin
    trained = [record.other["seconds"] for record in summary.records]
    alone, theirs = optuna_alone(config)
    trials = config.tune.trials
    return {
        "trials": trials,
        "segray, s a trial": round(ours / trials, 2),
        "Optuna alone, s a trial": round(alone / trials, 2),
        "of them training, segray": round(sum(trained) / trials, 2),
        "of them training, Optuna alone": round(sum(theirs) / trials, 2),
        "segray beyond training, s a trial": round((ours - sum(trained)) / trials, 2),
    }


def optuna_alone(config: Config) -> tuple[float, list[float]]:
    """Wall-clock time, and training time of each trial, of the same search in Optuna's own loop in one process."""
    from segray.pipelines.run_folder import RunFolder

    space = load_space(str(config.tune.space))
    trained: list[float] = []

    def objective(trial: optuna.Trial) -> float:
        chosen = with_settings(config, space.draw(trial))
        run = RunFolder(f"{config.tune.run}_alone/{trial.number}")
        run.begin(dump_config(chosen.model_copy(update={"train": chosen.train.model_copy(update={"run": run.path})})))
        training = LoneTraining(run, load_config(run.file("config.yaml")), os.cpu_count() or 1, on_gpu=False)
        while not (result := training.epoch())["done"]:
            pass
        training.close()
        trained.append(dict(result["other"])["seconds"])
        return float(result["values"][0])

    begin = time.monotonic()
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=config.seed))
    study.optimize(objective, n_trials=config.tune.trials)
    return time.monotonic() - begin, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=8, help="small trainings")
    parser.add_argument("--fake", type=int, default=1000, help="trials that sleep")
    parser.add_argument("--small", action="store_true", help="a few of each, nothing written: for CI")
    arguments = parser.parse_args()
    trials, fake = (2, 20) if arguments.small else (arguments.trials, arguments.fake)
    with tempfile.TemporaryDirectory() as scratch, ray_session(RayConfig()):
        work = Path(scratch)
        result = {"fake": measure_fake(work, fake)}
        result["real"] = measure_real(made_config(work, trials, small=arguments.small))
        ray.shutdown()
    print(result)
    if not arguments.small:
        write_result("tune_overhead", result)


if __name__ == "__main__":
    main()
