"""segray on three hosts (a head and two workers), driven only from outside by ``ray job submit``.

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
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

pytestmark = pytest.mark.cluster

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
VENV = Path(sys.prefix)

NAME, NET = "segt", "10.79.0"
STATE = Path(f"/tmp/netcluster-{NAME}")
DASHBOARD = f"http://{NET}.10:8265"
PROGRAMS = ("ip", "sshd", "ssh", "rsync", "unshare", "pgrep")
CASES = 8
EPOCHS = 10

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
    return [json.loads(line) for line in (predictions / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]


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


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """A head without CPUs and two workers of 2 CPUs, up for the session."""
    if not can_make_hosts():
        pytest.skip("needs root and network namespaces")
    cluster = Hosts()
    try:
        cluster.control("up", "3")
        cluster.control("ray-up")
        yield cluster
    finally:
        keep = os.environ.get("SEGRAY_TEST_KEEP_LOGS")
        if keep:
            # Files vanish while rsync reads (exit code 24): what is copied is for reading after a failure, no more.
            subprocess.run(["rsync", "-rt", f"{STATE}/", f"{keep}/"], capture_output=True, check=False)
        cluster.control("down")


@pytest.fixture(scope="session")
def cases(hosts: Hosts) -> Path:
    """Phantoms on the shared path, as seen from outside."""
    folder = hosts.shared / "cases"
    arguments = ["phantoms", str(folder), "--cases", str(CASES), "--seed", "3"]
    subprocess.run([str(VENV / "bin" / "segray"), *arguments], check=True, capture_output=True, timeout=120)
    (hosts.shared / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def shards(hosts: Hosts, cases: Path) -> Path:
    """The shards, ingested on the cluster."""
    hosts.run("segray", "ingest", "/mnt/cases", "/mnt/shards", "--config", "/mnt/config.yaml")
    return hosts.shared / "shards"


@pytest.fixture(scope="session")
def run(hosts: Hosts, shards: Path) -> Path:
    """A run of two workers on two hosts."""
    hosts.run("segray", "train", "/mnt/config.yaml", "--shards", "/mnt/shards", "--run", "/mnt/run")
    return hosts.shared / "run"


@pytest.fixture(scope="session")
def predictions(hosts: Hosts, run: Path) -> Path:
    """Masks predicted on the cluster."""
    command = ("segray", "predict", "/mnt/run/bundle", "/mnt/cases", "/mnt/predictions")
    hosts.run(*command, "--config", "/mnt/config.yaml")
    return hosts.shared / "predictions"


def test_ingest_on_the_cluster_writes_every_case(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["parts"]) == CASES
    assert len(list(shards.glob("part-*.parquet"))) == CASES


def test_training_uses_both_hosts(run: Path) -> None:
    workers = history_of(run)["workers"]
    assert {worker["rank"] for worker in workers} == {0, 1}
    assert {worker["host"] for worker in workers} == {f"{NAME}1", f"{NAME}2"}
    assert len({worker["node_id"] for worker in workers}) == 2
    assert [row["epoch"] for row in rows_of(run / "metrics.csv")] == ["1", "2", "3"]
    assert (run / "bundle" / "weights.safetensors").is_file()


def test_prediction_uses_both_hosts(predictions: Path) -> None:
    rows = ledger_of(predictions)
    assert {row["status"] for row in rows} == {"ok"}
    assert len({row["case_id"] for row in rows}) == CASES
    assert {row["host"] for row in rows} == {f"{NAME}1", f"{NAME}2"}


def test_masks_equal_those_of_one_machine(run: Path, cases: Path, predictions: Path, tmp_path: Path) -> None:
    command = [str(VENV / "bin" / "segray"), "predict", str(run / "bundle"), str(cases), str(tmp_path / "alone")]
    settings = ["--config", str(predictions.parent / "config.yaml"), "--set", "ray.cpus=2"]
    done = subprocess.run(
        [*command, *settings], env=Hosts().environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    masks = sorted((tmp_path / "alone" / "masks").glob("*.nii.gz"))
    assert len(masks) == CASES
    shown = 0
    for mask in masks:
        alone, together = mask_voxels(mask), mask_voxels(predictions / "masks" / mask.name)
        np.testing.assert_array_equal(alone, together, err_msg=mask.name)
        shown += int(np.count_nonzero(alone))
    assert shown > 0, "the net labels nothing, so equal masks show nothing"


def test_a_command_run_again_on_the_cluster_does_nothing_twice(hosts: Hosts, predictions: Path) -> None:
    before = (predictions / "ledger.jsonl").read_bytes()
    command = ("segray", "predict", "/mnt/run/bundle", "/mnt/cases", "/mnt/predictions")
    hosts.run(*command, "--config", "/mnt/config.yaml")
    assert (predictions / "ledger.jsonl").read_bytes() == before


def test_an_error_on_the_cluster_is_one_line_and_an_exit_code(hosts: Hosts, shards: Path) -> None:
    result = hosts.result(hosts.submit("segray", "predict", "/mnt/none", "/mnt/cases", "/mnt/elsewhere"))
    assert (result.status, result.exit_code) == ("FAILED", 2)
    assert "segray: /mnt/none holds no bundle." in result.log
    assert "Traceback" not in result.log


def test_training_survives_the_loss_of_a_host(hosts: Hosts, shards: Path) -> None:
    """The host of rank 0 loses its power: both workers go on from the last checkpoint on the host that is left."""
    lost_run = hosts.shared / "lost"
    settings = ("--set", f"train.epochs={EPOCHS}", "--set", "train.cpus_per_worker=0.75")
    where = ("--shards", "/mnt/shards", "--run", "/mnt/lost")
    submission = hosts.submit("segray", "train", "/mnt/config.yaml", *where, *settings)
    wait_for(lambda: len(rows_of(lost_run / "metrics.csv")) >= 3, "three epochs", 120)
    first = history_of(lost_run)["workers"]
    assert len({worker["host"] for worker in first}) == 2
    lost = next(worker["host"] for worker in first if worker["rank"] == 0)
    hosts.control("kill-node", lost.removeprefix(NAME))
    try:
        result = hosts.result(submission, timeout=300)
    finally:
        hosts.control("start-node", lost.removeprefix(NAME))
    assert result.status == "SUCCEEDED", result.log[-3000:]
    epochs = [str(epoch) for epoch in range(1, EPOCHS + 1)]
    assert [row["epoch"] for row in rows_of(lost_run / "metrics.csv")] == epochs
    assert sorted({int(row["epoch"]) for row in rows_of(lost_run / "steps.csv")}) == list(range(1, EPOCHS + 1))
    starts = history_of(lost_run)["starts"]
    assert len(starts) >= 2
    assert 1 <= starts[-1]["after_epoch"] < EPOCHS
    assert {worker["host"] for worker in starts[-1]["workers"]} == {f"{NAME}1", f"{NAME}2"} - {lost}
    assert (lost_run / "bundle" / "weights.safetensors").is_file()
    wait_for(lambda: hosts.alive() == 3, "the lost host joins again", 90)
