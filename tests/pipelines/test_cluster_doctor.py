"""The doctor of a cluster on real nodes: the embedded Ray, and three nodes of which one stops answering."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from segray.config import Config, RayConfig
from segray.errors import SegrayError
from segray.pipelines.cluster_doctor import cluster_doctor, preflight

pytestmark = [pytest.mark.ray]


@pytest.mark.usefixtures("embedded_ray")
def test_a_single_node_is_examined_and_left_as_it_was(tmp_path: Path) -> None:
    diagnosis = cluster_doctor(Config(ray=RayConfig()), str(tmp_path))
    [node] = diagnosis.facts.nodes
    assert node.problem == ""
    assert node.versions["torch"] == importlib.metadata.version("torch")
    assert node.versions == diagnosis.facts.driver
    assert node.torch_gpus is not None
    assert node.skew_s is not None
    assert abs(node.skew_s) < 1
    assert node.received_mib_s is None
    assert node.storage is not None
    assert node.storage.write_problem == node.storage.read_problem == ""
    assert (node.storage.read_mib_s or 0) > 0
    assert list(tmp_path.iterdir()) == []
    assert not {one.code for one in diagnosis.findings if one.grade == "error"}
    assert json.loads(json.dumps(diagnosis.to_dict()))["facts"]["nodes"][0]["cpus"] == 4


def test_no_ray_is_embedded_to_be_called_a_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def init(address: str, **_: object) -> None:
        asked.append(address)
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(SegrayError, match=r"no part of a Ray cluster .*ray\.address"):
        cluster_doctor()
    assert asked == ["auto"]


@pytest.mark.usefixtures("embedded_ray")
def test_a_storage_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    diagnosis = cluster_doctor(storage_path=str(tmp_path / "none"))
    assert "storage-write" in {one.code for one in diagnosis.findings if one.grade == "error"}
    assert diagnosis.exit_code == 1


@pytest.mark.usefixtures("embedded_ray")
def test_before_a_job_a_single_node_is_not_asked(tmp_path: Path) -> None:
    assert ray.is_initialized()
    assert preflight(str(tmp_path / "none")) == []


THREE_NODES = """
import json, os, signal, sys, time
import ray
from ray.cluster_utils import Cluster

from segray.errors import UsageError
from segray.pipelines import cluster_doctor as doctor

folder = sys.argv[1]
cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=1, include_dashboard=False))
others = [cluster.add_node(num_cpus=1) for _ in range(2)]
cluster.wait_for_nodes()
ray.init(address=cluster.address, log_to_driver=False)
told = {}
whole = doctor.cluster_doctor(storage_path=folder)
told["nodes"] = [[node.problem, node.received_mib_s, node.storage.read_problem] for node in whole.facts.nodes]
told["errors"] = [one.code for one in whole.findings if one.grade == "error"]
began = time.monotonic()
told["before"] = [one.code for one in doctor.preflight(os.path.join(folder, "run", "that", "will", "be"))]
told["before_s"] = time.monotonic() - began
raylet = others[0].all_processes["raylet"][0].process.pid
os.kill(raylet, signal.SIGSTOP)
doctor.START_S = 8.0
began = time.monotonic()
silent = doctor.cluster_doctor(storage_path=folder)
told["silent"] = [one.code for one in silent.findings if one.grade == "error"]
told["silent_s"] = time.monotonic() - began
os.kill(raylet, signal.SIGCONT)
ray.shutdown()
cluster.shutdown()
print(json.dumps(told), flush=True)
"""


@pytest.mark.long
def test_three_nodes_are_examined_and_a_silent_one_is_a_finding(tmp_path: Path) -> None:
    folder = tmp_path / "shared"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", THREE_NODES, str(folder)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    assert len(told["nodes"]) == 3
    assert all(problem == "" and rate > 0 and unread == "" for problem, rate, unread in told["nodes"])
    assert told["errors"] == []
    assert "nodes" in told["before"]
    assert told["before_s"] < 30
    assert told["silent"] == ["no-answer"]
    assert told["silent_s"] < 120
    assert list(folder.iterdir()) == []
