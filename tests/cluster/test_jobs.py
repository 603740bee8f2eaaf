"""Jobs from outside the cluster by segray's own commands, and the doctor of the cluster, on three hosts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.hosts import CASES, DASHBOARD, NAME, NET, STATE, VENV, Hosts, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.long]

DOCTOR = """
import json, sys
from segray.pipelines.cluster_doctor import cluster_doctor

print("FOUND " + json.dumps(cluster_doctor(storage_path=sys.argv[1]).to_dict()))
"""

PREFLIGHT = """
import sys, time
from segray.config import RayConfig
from segray.errors import UsageError
from segray.pipelines.cluster_doctor import preflight
from segray.pipelines.runtime import ray_session

with ray_session(RayConfig()):
    began = time.monotonic()
    try:
        preflight(sys.argv[1])
        print("PASSED", time.monotonic() - began)
    except UsageError as error:
        print("REFUSED", error)
"""


def begin(hosts: Hosts, *words: str, out: Any = subprocess.PIPE, **options: Any) -> subprocess.Popen[str]:
    """One of segray's commands outside the cluster."""
    command = [str(VENV / "bin" / "segray"), *words, "--address", DASHBOARD]
    return subprocess.Popen(command, env=hosts.environment, stdout=out, stderr=subprocess.PIPE, text=True, **options)


def segray(hosts: Hosts, *words: str, timeout: float = 240, **options: Any) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one of segray's commands outside the cluster."""
    with begin(hosts, *words, **options) as client:
        out, err = client.communicate(timeout=timeout)
    return client.returncode, out, err


@contextmanager
def unreachable() -> Iterator[None]:
    """The head answers nobody outside the cluster; the cluster itself goes on."""
    route = [f"{NET}.10/32"]
    subprocess.run(["ip", "route", "add", "unreachable", *route], check=True)
    try:
        yield
    finally:
        subprocess.run(["ip", "route", "del", "unreachable", *route], check=True)


def examined(hosts: Hosts, storage: str) -> dict[str, Any]:
    """What the doctor of the cluster finds."""
    log = hosts.run("python", "-c", DOCTOR, storage).log
    found: dict[str, Any] = json.loads(next(line for line in log.splitlines() if line.startswith("FOUND"))[6:])
    return found


def errors(found: dict[str, Any]) -> dict[str, list[str]]:
    """Codes of errors and the hosts that they name."""
    codes: dict[str, list[str]] = {}
    for one in found["findings"]:
        if one["grade"] == "error":
            codes.setdefault(one["code"], []).append(one["case"].split()[0])
    return codes


def test_submitted_with_its_config_and_followed_to_its_exit_code(hosts: Hosts, cases: Path, tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("ingest: {grid: {mode: size, size: [64, 64]}}\n", encoding="utf-8")
    words = ("submit", "ingest", "/mnt/cases", "/mnt/submitted", "--config", "own.yaml", "--follow")
    code, out, err = segray(hosts, *words, cwd=tmp_path)
    assert code == 0, out + err
    manifest = json.loads((hosts.shared / "submitted" / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["parts"]) == CASES
    assert "/mnt/submitted" in out
    code, out, _ = segray(hosts, "submit", "predict", "/mnt/none", "/mnt/cases", "/mnt/elsewhere", "--follow")
    assert code == 2
    assert "segray: /mnt/none holds no bundle." in out


def test_relative_data_is_refused_outside(hosts: Hosts, tmp_path: Path) -> None:
    code, _, err = segray(hosts, "submit", "ingest", "cases", "/mnt/shards", cwd=tmp_path)
    assert code == 2
    assert "SRC: cases is relative" in err


def test_a_job_goes_on_without_its_client(hosts: Hosts, cases: Path) -> None:
    with begin(hosts, "submit", "ingest", "/mnt/cases", "/mnt/orphaned", "--follow") as client:
        assert client.stdout is not None
        assert any("Running entrypoint" in line for line in client.stdout)
        client.send_signal(signal.SIGKILL)
    newest = max(hosts.ask("jobs/"), key=lambda job: job["start_time"] or 0)["submission_id"]
    assert hosts.result(newest).status == "SUCCEEDED"
    assert (hosts.shared / "orphaned" / "manifest.json").is_file()


def test_a_lost_connection_is_made_again_and_no_line_is_lost_or_twice(hosts: Hosts, tmp_path: Path) -> None:
    submission = hosts.submit("bash", "-c", "for n in $(seq 60); do echo line $n; sleep 1; done")
    log = tmp_path / "log"
    with log.open("w") as out, begin(hosts, "status", submission, "--follow", out=out) as client:
        wait_for(lambda: "line 5" in log.read_text(), "the fifth line", 60)
        with unreachable():
            time.sleep(15)
        _, err = client.communicate(timeout=120)
    assert client.returncode == 0, err
    assert "asking again" in err
    assert "answers again" in err
    told = [line for line in log.read_text().splitlines() if line.startswith("line")]
    assert told == [f"line {number}" for number in range(1, 61)]


def test_status_and_stop(hosts: Hosts) -> None:
    submission = hosts.submit("sleep", "600")
    wait_for(lambda: hosts.ask(f"jobs/{submission}")["status"] == "RUNNING", "the job runs", 60)
    code, out, _ = segray(hosts, "status")
    assert code == 0
    assert submission in out
    code, out, _ = segray(hosts, "stop", submission)
    assert code == 0
    assert "stopped" in out
    code, _, err = segray(hosts, "status", "never-was")
    assert code == 2
    assert "knows no job never-was" in err


def test_the_logs_of_a_run_come_from_both_workers(hosts: Hosts, shards: Path, tmp_path: Path) -> None:
    where = ("--shards", "/mnt/shards", "--run", "/mnt/logged", "--set", "train.epochs=1")
    hosts.run("segray", "train", "/mnt/config.yaml", *where)
    code, out, err = segray(hosts, "logs", "/mnt/logged", "--out", str(tmp_path / "logs"))
    assert code == 0, out + err
    assert {f"{NET}.11", f"{NET}.12"} <= {path.name for path in (tmp_path / "logs").iterdir()}
    assert list((tmp_path / "logs" / f"{NET}.10").glob("job-driver-*.log"))
    assert "/mnt/logged/run.log cannot be seen from here" in err
    code, out, _ = segray(hosts, "logs", str(hosts.shared / "logged"), "--lines", "3")
    assert code == 0
    assert len(out.splitlines()) == 3


def test_the_doctor_finds_nothing_wrong_with_the_hosts(hosts: Hosts) -> None:
    found = examined(hosts, "/mnt")
    assert errors(found) == {}
    nodes = found["facts"]["nodes"]
    assert {node["name"].split()[0] for node in nodes} == {f"{NAME}{number}" for number in range(3)}
    assert all(node["received_mib_s"] > 0 and abs(node["skew_s"]) < 0.5 for node in nodes)
    assert all(node["storage"]["read_mib_s"] > 0 and node["torch_gpus"] == [] for node in nodes)
    assert not list(hosts.shared.glob(".segray-doctor*"))


def test_the_doctor_finds_a_storage_that_every_host_has_for_itself(hosts: Hosts) -> None:
    assert set(errors(examined(hosts, "/tmp"))) == {"storage-apart"}
    assert "REFUSED" in hosts.run("python", "-c", PREFLIGHT, "/tmp/run").log
    log = hosts.run("python", "-c", PREFLIGHT, "/mnt/run/that/will/be").log
    assert "PASSED" in log


def test_the_doctor_finds_a_host_name_that_leads_nowhere(hosts: Hosts) -> None:
    """All hosts see this one file as /etc/hosts; it is written in place, since they have mounted the file itself."""
    names = STATE / "hosts"
    right = names.read_text(encoding="utf-8")
    try:
        names.write_text(right.replace(f"{NET}.11 {NAME}1", f"127.0.1.1 {NAME}1"), encoding="utf-8")
        assert errors(examined(hosts, "/mnt")) == {"host-name": [f"{NAME}1"]}
    finally:
        names.write_text(right, encoding="utf-8")


def test_the_doctor_does_not_wait_for_a_host_that_hangs(hosts: Hosts) -> None:
    """Everything on it stops for a while: it is silent, or Ray has given it up already."""
    pids = [int(line.split()[0]) for line in hosts.control("pids", "2").splitlines() if "raylet" in line]
    began = time.monotonic()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        found = examined(hosts, "/mnt")
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert time.monotonic() - began < 150
    living = {node["name"].split()[0] for node in found["facts"]["nodes"]}
    assert errors(found).get("no-answer") == [f"{NAME}2"] or f"{NAME}2" not in living
    wait_for(lambda: hosts.alive() == 3, "the host joins again", 120)
