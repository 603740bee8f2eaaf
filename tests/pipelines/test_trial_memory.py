"""A trial that Ray ends since the memory of its node runs out, for real: the others go on, and its reason is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from segray.pipelines.failures import LOW_MEMORY

pytestmark = [pytest.mark.long, pytest.mark.ray]

PROGRAM = """
import json, sys, time
import numpy as np
import ray
from ray import tune
from segray.pipelines.sweep_search import run_trials

GREEDY, TRIALS = 1, 3


class Greedy(tune.Trainable):
    def setup(self, config):
        self.number = config["number"]

    def reset_config(self, config):
        self.number = config["number"]
        return True

    def step(self):
        held = []
        while self.number == GREEDY:
            held.append(np.ones(2**25))
            time.sleep(0.05)
        return {"epoch": 1, "value": float(self.number), "done": True}


class Desk:
    begun, ends = 0, {}

    def next(self, running):
        if self.begun == TRIALS:
            raise StopIteration
        if running:
            return None
        self.begun += 1
        return {"number": self.begun - 1}

    def heard(self, number, result):
        return False

    def ended(self, number, result, error, *, pruned):
        self.ends[number] = error or result["value"]

    def idle(self):
        pass


ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
desk = Desk()
run_trials(desk, Greedy, folder=sys.argv[1], resources={"CPU": 1.0}, max_failures=0)
print("ENDS", json.dumps(desk.ends))
"""


def memory_in_use() -> float:
    """The share of the memory of this machine that is in use."""
    facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(facts[name].split()[0]) for name in ("MemTotal", "MemAvailable"))
    return 1.0 - free / total


def test_a_trial_whose_memory_runs_out_is_one_failure_and_not_the_end(tmp_path: Path) -> None:
    # A tenth of the memory is more than Ray's own processes take, and soon full.
    told = {
        "RAY_memory_usage_threshold": f"{memory_in_use() + 0.15:.2f}",
        "RAY_memory_monitor_refresh_ms": "100",
        "RAY_AUTH_MODE": "disabled",
    }
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | told
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ENDS ")] or [done.stdout + done.stderr]
    ends = json.loads(line.removeprefix("ENDS "))
    assert (ends["0"], ends["2"]) == (0.0, 2.0)
    assert LOW_MEMORY.search(ends["1"]), ends["1"]
