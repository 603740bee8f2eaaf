"""Three hosts (a head and two workers) as a user outside sees them, and what is read of their outcome.

The hosts are network namespaces of this machine, brought up by netcluster.sh; see README.md beside this file.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from segray.pipelines.ledger import Ledger

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VENV = Path(sys.prefix)

NAME, NET = "segt", "10.79.0"
STATE = Path(f"/tmp/netcluster-{NAME}")
DASHBOARD = f"http://{NET}.10:8265"
PROGRAMS = ("ip", "sshd", "ssh", "rsync", "unshare", "pgrep")
CASES = 8
EPOCHS = 10
EPOCHS_OF_LIKENESS = 14

ENVIRONMENT = {
    "NC_NAME": NAME,
    "NC_NET": NET,
    "NC_STATE": str(STATE),
    "NC_VENV": str(VENV),
    "NC_BIND": str(ROOT),
    "NC_HEAD_ARGS": "--num-cpus=0 --memory=2000000000 --object-store-memory=100000000",
    "NC_WORKER_ARGS": "--num-cpus=2 --memory=4000000000 --object-store-memory=300000000",
    "NC_RAY_ENV": "RAY_health_check_period_ms=1000 RAY_health_check_timeout_ms=2000 "
    "RAY_health_check_failure_threshold=2 RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.5",
    "RAY_AUTH_MODE": "disabled",
    "RAY_USAGE_STATS_ENABLED": "0",
}

CONFIG = """\
net: {features: [8, 16, 32]}
ingest:
  grid: {mode: size, size: [64, 64]}
  split: {validation: 0.2}
optim: {lr: 0.003}
train: {epochs: 3, batch_size: 8, workers: 2, precision: float32}
predict: {precision: float32}
"""


@dataclass(frozen=True)
class JobResult:
    """How a job ended: Ray's status, the exit code of its command, its log."""

    status: str
    exit_code: int | None
    log: str


class Hosts:
    """The three hosts as a user outside sees them."""

    shared = STATE / "shared"
    """What the hosts see as /mnt."""

    def __init__(self) -> None:
        self.environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | ENVIRONMENT

    def control(self, *arguments: str, timeout: float = 180) -> str:
        """Run netcluster.sh."""
        done = subprocess.run(
            [str(HERE / "netcluster.sh"), *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"netcluster.sh {arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout

    def submit(self, *command: str) -> str:
        """Start a command on the cluster and return the id of its job."""
        submission = f"job-{time.time_ns()}"
        program = [str(VENV / "bin" / "ray"), "job", "submit", "--no-wait", "--address", DASHBOARD]
        done = subprocess.run(
            [*program, "--submission-id", submission, "--", *command],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return submission

    def ask(self, path: str) -> Any:
        """An answer of the head's job and state API."""
        with urllib.request.urlopen(f"{DASHBOARD}/api/{path}", timeout=20) as answer:
            return json.load(answer)

    def result(self, submission: str, timeout: float = 240) -> JobResult:
        """Wait for the end of a job."""
        wait_for(lambda: self.ask(f"jobs/{submission}")["status"] not in ("PENDING", "RUNNING"), submission, timeout)
        details = self.ask(f"jobs/{submission}")
        return JobResult(
            details["status"], details.get("driver_exit_code"), str(self.ask(f"jobs/{submission}/logs")["logs"])
        )

    def run(self, *command: str) -> JobResult:
        """Run a command on the cluster to a good end."""
        result = self.result(self.submit(*command))
        assert result.status == "SUCCEEDED", f"{command}: {result.exit_code}\n{result.log[-3000:]}"
        return result

    def alive(self) -> int:
        """How many nodes the head counts as living."""
        nodes = self.ask("v0/nodes?detail=False&limit=100")["data"]["result"]["result"]
        return sum(node["state"] == "ALIVE" for node in nodes)


def wait_for(done: Callable[[], bool], what: str, timeout: float) -> None:
    """Poll until ``done`` is true; fail after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if done():
            return
        time.sleep(0.5)
    pytest.fail(f"{what}: not done after {timeout:.0f} s")


def rows_of(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file; [] where it is not there yet."""
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines())) if path.is_file() else []


def history_of(run: Path) -> dict[str, Any]:
    """The history.json of a run."""
    found: dict[str, Any] = json.loads((run / "history.json").read_text(encoding="utf-8"))
    return found


def ledger_of(predictions: Path) -> list[dict[str, Any]]:
    """The finished cases of a prediction."""
    return Ledger(str(predictions)).rows


def mask_voxels(path: Path) -> np.ndarray[Any, Any]:
    """The stored voxels of a mask."""
    return np.asarray(nibabel.load(path).dataobj)  # type: ignore[attr-defined]


def can_make_hosts() -> bool:
    """True for root on a machine that has the programs and lets it make a network namespace."""
    search = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if os.geteuid() != 0 or any(shutil.which(program, path=search) is None for program in PROGRAMS):
        return False
    probe = f"{NAME}probe"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, check=False).returncode == 0
    if made:
        subprocess.run(["ip", "netns", "del", probe], capture_output=True, check=False)
    return made
