"""What stands in several of the cluster's files is the same everywhere: versions, image, ports, paths, the token."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

from segray.pipelines.runtime import KEPT_S

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = ("cluster.yaml", "cluster/aws.yaml", "cluster/gcp.yaml")
SHARED = "/mnt/segray"


def text_of(name: str) -> str:
    """A file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    """A file of one YAML document."""
    found: dict[str, Any] = yaml.safe_load(text_of(name))
    return found


def pins(name: str = "constraints.txt") -> dict[str, str]:
    """Pinned versions by package."""
    return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", text_of(name), re.MULTILINE))


def version() -> str:
    """The version of segray."""
    return str(tomllib.loads(text_of("pyproject.toml"))["project"]["version"])


def start_commands(name: str) -> tuple[str, str]:
    """The commands that start Ray on the head and on workers."""
    config = load(name)
    return config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]


def option(command: str, name: str) -> str | None:
    """The value of an option of a command."""
    found = re.search(rf"--{name}=(\S+)", command)
    return found[1] if found else None


def kuberay() -> list[dict[str, Any]]:
    """The specs of the clusters of kuberay.yaml."""
    kinds = {document["kind"]: document for document in yaml.safe_load_all(text_of("cluster/kuberay.yaml"))}
    return [kinds["RayCluster"]["spec"], kinds["RayJob"]["spec"]["rayClusterSpec"]]


def test_one_image_of_this_version() -> None:
    names = ("cluster/aws.yaml", "cluster/gcp.yaml", "cluster/kuberay.yaml", "cluster/Dockerfile", "cluster/README.md")
    found = {image for name in names for image in re.findall(r"registry\.example\.org/\S+", text_of(name))}
    assert found == {f"registry.example.org/segray:{version()}"}
    for name in names[:2]:
        assert load(name)["docker"]["image"] in found
    assert f"segray-{version()}-py3-none-any.whl" in text_of("cluster.yaml")


def test_one_ray() -> None:
    pinned = pins()["ray"]
    assert {spec["rayVersion"] for spec in kuberay()} == {pinned}
    wanted = next(
        word for word in tomllib.loads(text_of("pyproject.toml"))["project"]["dependencies"] if "ray[" in word
    )
    assert wanted == f"ray[data,default,train,tune]>={pinned.rpartition('.')[0]},<2.61"


def test_cuda_is_the_one_that_torch_brings() -> None:
    """torch 2.13 requires cuda-toolkit 13.0.3 (PyPI, November 2026): another torch may want another base."""
    assert pins()["torch"] == "2.13.0"
    assert "ARG BASE=nvidia/cuda:13.0.2-base-ubuntu24.04\n" in text_of("cluster/Dockerfile")


def test_what_a_cloud_needs_more_is_pinned_and_fits_the_pins() -> None:
    assert f"boto3=={pins('tests/moto.txt')['boto3']} " in load("cluster/aws.yaml")["head_setup_commands"][0]
    (google,) = load("cluster/gcp.yaml")["head_setup_commands"]
    assert re.search(r"-c /opt/segray/source/constraints\.txt google-api-python-client==\d+\.\d+\.\d+$", google)


def test_one_set_of_ports() -> None:
    script = text_of("cluster/start-node.sh")
    ports = {name: option(script, name) for name in ("object-manager-port", "node-manager-port", "metrics-export-port")}
    assert None not in ports.values()
    for name in LAUNCHER:
        head, worker = start_commands(name)
        assert (option(head, "port"), option(head, "dashboard-port")) == ("6379", "8265")
        assert "--address=$RAY_HEAD_IP:6379" in worker
        if name != "cluster.yaml":
            assert all(option(command, port) == value for command in (head, worker) for port, value in ports.items())
    for spec in kuberay():
        groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
        assert {group["rayStartParams"]["metrics-export-port"] for group in groups} == {ports["metrics-export-port"]}
        named = {
            port["name"]: port["containerPort"] for port in groups[0]["template"]["spec"]["containers"][0]["ports"]
        }
        assert named == {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}


def test_the_page_on_security_names_every_port() -> None:
    page = text_of("docs/security.md")
    told = re.findall(r"^ *\| (\d[\d, to]*) \|", page, re.MULTILINE)
    numbers = {int(number) for row in told for number in re.findall(r"\d+", row)}
    script = {int(number) for number in re.findall(r"-port=(\d+)", text_of("cluster/start-node.sh"))}
    assert numbers == script | {6379, 8265, 10001}


def test_every_node_has_the_token_on_and_dashboards_listen_on_loopback() -> None:
    assert "export RAY_AUTH_MODE=token" in text_of("cluster/start-node.sh")
    for name in LAUNCHER:
        head, worker = start_commands(name)
        assert option(head, "dashboard-host") == "127.0.0.1"
        for command in (head, worker):
            assert "cluster/start-node.sh ray start" in command or "RAY_AUTH_MODE=token" in command
        assert load(name)["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
        assert "0.0.0.0" not in text_of(name)


def test_workers_compete_and_tell_nobody() -> None:
    assert "export RAY_worker_niceness=${RAY_worker_niceness:-0}" in text_of("cluster/start-node.sh")
    for name in LAUNCHER[1:]:
        for command in start_commands(name):
            assert "RAY_worker_niceness=0 RAY_USAGE_STATS_ENABLED=0 " in command
    for spec in kuberay():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            found = {entry["name"]: entry["value"] for entry in group["template"]["spec"]["containers"][0]["env"]}
            assert (found["RAY_worker_niceness"], found["RAY_USAGE_STATS_ENABLED"]) == ("0", "0")


def test_every_cluster_gives_up_calls_to_a_host_without_power_and_keeps_processes() -> None:
    """Told by the head, so that drivers have it too; in pods by the environment, which all of them share."""
    told = re.search(r"^CALLS='(.*)'$", text_of("cluster/start-node.sh"), re.MULTILINE)
    assert told is not None
    milliseconds = json.loads(told[1])
    assert milliseconds == {
        "grpc_client_keepalive_time_ms": 20000,
        "grpc_client_keepalive_timeout_ms": 20000,
        "idle_worker_killing_time_threshold_ms": 1000 * KEPT_S,
    }
    for name in LAUNCHER[1:]:
        head, worker = start_commands(name)
        assert f"--system-config='{told[1]}'" in head, name
        assert "--system-config" not in worker, name
    for spec in kuberay():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            environment = group["template"]["spec"]["containers"][0]["env"]
            found = {one["name"]: one.get("value") for one in environment}
            for key, value in milliseconds.items():
                assert found[f"RAY_{key}"] == str(value)


def test_one_shared_folder() -> None:
    for spec in kuberay():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            mounts = group["template"]["spec"]["containers"][0]["volumeMounts"]
            assert [mount["mountPath"] for mount in mounts] == [SHARED]
    assert f"SEGRAY_SHARED={SHARED}\n" in text_of("cluster.yaml")
    assert f"/home/segray/.ray \\\n    && install -d -o segray -g segray {SHARED}" in text_of("cluster/Dockerfile")


def test_the_image_is_pinned_and_has_no_rights() -> None:
    lines = re.sub(r"\\\n\s*", "", text_of("cluster/Dockerfile")).splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    assert [line[1] for line in words if line[0] == "USER"] == ["1000:1000"]
    first = next(number for number, line in enumerate(words) if "pip" in line)
    assert "USER" in [line[0] for line in words[:first]], "a running head installs what starts nodes, without root"
    assert any("install -d -o segray -g segray /opt/segray/venv" in line for line in lines)
    for line in words:
        if line[0] == "COPY":
            assert all((ROOT / source).exists() for source in line[1:-1] if not source.startswith("--")), line
    installs = [line for line in lines if "pip install" in line and line.startswith("RUN")]
    assert len(installs) == 2
    assert all("-c /opt/segray/source/constraints.txt" in line or "--no-deps" in line for line in installs)
    assert not re.search(r"ADD |:latest|curl|sudo", "\n".join(lines))
