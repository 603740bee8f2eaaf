"""What the facts of a cluster mean: one fault each, on nodes that are else right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from segray.pipelines.cluster_facts import ClusterFacts, Gpu, NodeFacts, StorageFacts
from segray.pipelines.cluster_findings import GIB, MIB, conclude

VERSIONS = {"python": "3.11.9", "segray": "0.1.0", "code": "aaaa", "torch": "2.13.0+cu130", "ray": "2.60.0"}
PATH = "/mnt/runs"


def storage(**changed: Any) -> StorageFacts:
    """A fast network file system with room."""
    fast = {"write_mib_s": 200.0, "read_mib_s": 400.0, "latency_s": 0.004, "free": 900 * GIB}
    return StorageFacts(**{"source": "one", **fast, **changed})


def node(name: str = "one", **changed: Any) -> NodeFacts:
    """A node with a GPU where nothing is wrong."""
    right: dict[str, Any] = {
        "address": {"one": "10.0.0.1", "two": "10.0.0.2"}.get(name, "10.0.0.3"),
        "cpus": 8.0,
        "gpus": 1.0,
        "object_store": 4 * GIB,
        "versions": VERSIONS,
        "addresses": ("10.0.0.1",),
        "tmp_free": 200 * GIB,
        "tmp_total": 400 * GIB,
        "shm_free": 8 * GIB,
        "shm_total": 8 * GIB,
        "torch_gpus": (Gpu("H200", 138 * GIB, 140 * GIB),),
        "skew_s": 0.002,
        "skew_error_s": 0.001,
        "received_mib_s": 900.0,
        "received_from": "one",
        "storage": storage(),
    }
    return NodeFacts(name, **{**right, **changed})


def cluster(second: NodeFacts, **changed: Any) -> ClusterFacts:
    """A right node and a second one."""
    return ClusterFacts(VERSIONS, [node(), second], **{"storage_path": PATH, **changed})


def told(facts: ClusterFacts) -> dict[tuple[str, str], str]:
    """Errors and warnings: code and grade to the node."""
    return {(one.code, one.grade): one.case for one in conclude(facts) if one.grade != "note"}


def test_nothing_is_wrong_with_right_nodes_and_the_speeds_are_told() -> None:
    findings = conclude(cluster(node("two", received_mib_s=450.0)))
    assert {one.grade for one in findings} == {"note"}
    sentences = {one.code: one.sentence for one in findings}
    assert sentences["nodes"] == "2 nodes live: 16 CPUs, 2 GPUs."
    assert sentences["network-speed"] == "Objects between nodes, all at once: 450 to 900 MiB/s."
    assert "written at 200 MiB/s, read at 400 MiB/s, a small write takes 4 ms" in sentences["storage-speed"]
    assert "H200, 140.0 GiB, 138.0 free" in sentences["gpu"]


FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"problem": "it told nothing about its host in 45 s", "versions": {}}, "no-answer", "error"),
    ({"problem": "the process on it died (No module named 'segray')"}, "no-segray", "error"),
    ({"versions": {**VERSIONS, "python": "3.12.1"}}, "python-version", "error"),
    ({"versions": {**VERSIONS, "python": "3.11.4"}}, "python-version", "warning"),
    ({"versions": {**VERSIONS, "segray": "0.0.9", "code": "bbbb"}}, "segray-version", "error"),
    ({"versions": {**VERSIONS, "code": "bbbb"}}, "segray-code", "error"),
    ({"versions": {**VERSIONS, "torch": "2.12.0"}}, "torch-version", "error"),
    ({"versions": {**VERSIONS, "torch": ""}}, "torch-version", "error"),
    ({"versions": {**VERSIONS, "ray": "2.59.0"}}, "ray-version", "error"),
    ({"torch_gpus": None, "torch_problem": "torch fails (ImportError: libcudart)."}, "torch-fails", "error"),
    ({"torch_gpus": ()}, "gpus-unseen", "error"),
    ({"torch_gpus": (Gpu("H200", 20 * GIB, 140 * GIB),)}, "gpu-used", "warning"),
    ({"tmp_free": GIB // 2}, "tmp-full", "error"),
    ({"tmp_free": 10 * GIB}, "tmp-full", "warning"),
    ({"tmp_free": 3 * GIB, "tmp_total": 20 * GIB}, "tmp-full", "warning"),
    ({"shm_total": 64 * MIB}, "shm-small", "warning"),
    ({"addresses": ("127.0.1.1",)}, "host-name", "error"),
    ({"addresses": ("::1",)}, "host-name", "error"),
    ({"addresses": ()}, "host-name", "error"),
    ({"addresses": ("127.0.1.1",), "cpus": 0.0}, "host-name", "warning"),
    ({"resolve_s": 10.0}, "slow-names", "warning"),
    ({"storage": StorageFacts(write_problem="Read-only file system")}, "storage-write", "error"),
    ({"storage": storage(read_problem="it is not there")}, "storage-apart", "error"),
    ({"storage": storage(waited_s=2.0)}, "storage-late", "warning"),
    ({"storage": storage(read_mib_s=5.0)}, "storage-slow", "warning"),
    ({"storage": storage(latency_s=0.9)}, "storage-slow", "warning"),
    ({"storage": storage(free=2 * GIB)}, "storage-full", "warning"),
    ({"storage": storage(free=GIB // 2)}, "storage-full", "error"),
    ({"skew_s": -4.0}, "clock", "warning"),
    ({"skew_s": 1000.0}, "clock", "error"),
    ({"received_mib_s": 11.0}, "network-slow", "warning"),
]


@pytest.mark.parametrize(("changed", "code", "grade"), FAULTS)
def test_a_fault_is_one_finding_with_its_node_and_mend(changed: dict[str, Any], code: str, grade: str) -> None:
    findings = [one for one in conclude(cluster(node("two", **changed))) if one.grade != "note"]
    assert [(one.code, one.grade, one.case) for one in findings] == [(code, grade, "two")]
    assert findings[0].mend
    assert findings[0].sentence.endswith(".")


HARMLESS: list[dict[str, Any]] = [
    {"versions": {**VERSIONS, "torch": "2.13.0+cpu"}},
    {"addresses": ("127.0.1.1",), "interfaces": True},
    {"skew_s": 1.2, "skew_error_s": 0.5},
    {"torch_gpus": tuple(Gpu("H200", 138 * GIB, 140 * GIB) for _ in range(2))},
    {"storage": storage(free=None)},
    {"storage": None, "received_mib_s": None, "skew_s": None, "torch_gpus": None},
]


@pytest.mark.parametrize("changed", HARMLESS)
def test_what_does_no_harm_is_a_note_at_most(changed: dict[str, Any]) -> None:
    assert told(cluster(node("two", **changed))) == {}


def test_a_loopback_name_does_no_harm_where_all_nodes_are_one_machine_or_nothing_trains_together() -> None:
    lost = node("two", addresses=("127.0.0.1",))
    assert told(cluster(replace(lost, address="10.0.0.1"))) == {}
    assert told(cluster(lost, meets=False)) == {("host-name", "warning"): "two"}


def test_a_cluster_without_cpus_is_an_error_and_the_dead_are_told() -> None:
    facts = ClusterFacts(VERSIONS, [node(cpus=0.0)], dead=2)
    assert told(facts) == {("no-cpus", "error"): ""}
    sentences = {one.code: one.sentence for one in conclude(facts)}
    assert sentences["dead-nodes"] == "2 nodes that Ray remembers live no more."
    assert "no-storage" in sentences


def test_the_worst_comes_first() -> None:
    worst = node("two", received_mib_s=1.0, tmp_free=0)
    grades = [one.grade for one in conclude(cluster(worst))]
    assert grades == sorted(grades, key=["error", "warning", "note"].index)
    assert grades[0] == "error"
