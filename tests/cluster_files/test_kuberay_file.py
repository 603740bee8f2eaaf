"""cluster/kuberay.yaml against the part of KubeRay's schemas in kuberay_schema.py, and against itself."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.cluster_files.kuberay_schema import schema_of

FILE = Path(__file__).resolve().parents[2] / "cluster" / "kuberay.yaml"
Document = dict[str, Any]


def documents() -> dict[str, Document]:
    """The documents of the file by their kind."""
    found = [document for document in yaml.safe_load_all(FILE.read_text(encoding="utf-8")) if document]
    assert len({document["kind"] for document in found}) == len(found)
    return {document["kind"]: document for document in found}


def check(document: Document) -> None:
    """Raise ValidationError unless the document fits."""
    jsonschema.validate(document, schema_of(document["kind"]), jsonschema.Draft202012Validator)


def clusters() -> list[Document]:
    """The cluster that stays and the cluster of the job."""
    kinds = documents()
    return [kinds["RayCluster"]["spec"], kinds["RayJob"]["spec"]["rayClusterSpec"]]


def pods() -> list[Document]:
    """The pods of all groups of both clusters."""
    groups = [group for spec in clusters() for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"])]
    return [group["template"]["spec"] for group in groups]


def test_the_file_holds_storage_a_policy_a_cluster_and_a_job() -> None:
    assert list(documents()) == ["PersistentVolumeClaim", "NetworkPolicy", "RayCluster", "RayJob"]


@pytest.mark.parametrize("kind", ["PersistentVolumeClaim", "NetworkPolicy", "RayCluster", "RayJob"])
def test_a_document_fits_the_schema(kind: str) -> None:
    check(documents()[kind])


def _unknown(spec: Document) -> None:
    spec["autoscaling"] = True


def _misspelt(spec: Document) -> None:
    spec["workerGroupSpecs"][0]["maxReplica"] = spec["workerGroupSpecs"][0].pop("maxReplicas")


def _deep(spec: Document) -> None:
    spec["headGroupSpec"]["template"]["spec"]["containers"][0]["enviroment"] = []


def _number(spec: Document) -> None:
    spec["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _text(spec: Document) -> None:
    spec["workerGroupSpecs"][0]["minReplicas"] = "0"


def _word(spec: Document) -> None:
    spec["authOptions"]["mode"] = "Token"


def _missing(spec: Document) -> None:
    del spec["authOptions"]


@pytest.mark.parametrize("change", [_unknown, _misspelt, _deep, _number, _text, _word, _missing])
def test_a_cluster_that_is_wrong_does_not_fit(change: Callable[[Document], None]) -> None:
    document = copy.deepcopy(documents()["RayCluster"])
    change(document["spec"])
    with pytest.raises(jsonschema.ValidationError):
        check(document)


@pytest.mark.parametrize("field", [{"entrypointt": "x"}, {"backoffLimit": "2"}, {"submissionMode": "Http"}])
def test_a_job_that_is_wrong_does_not_fit(field: Document) -> None:
    document = copy.deepcopy(documents()["RayJob"])
    document["spec"] |= field
    with pytest.raises(jsonschema.ValidationError):
        check(document)


def test_no_secret_stands_in_the_file() -> None:
    assert {spec["authOptions"]["secretName"] for spec in clusters()} == {"segray-token"}
    assert all(spec["authOptions"]["mode"] == "token" for spec in clusters())
    assert "kubectl create secret generic segray-token -n segray --from-literal=auth_token=" in FILE.read_text()


def test_pods_run_without_rights() -> None:
    for pod in pods():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        for container in pod["containers"]:
            rights = container["securityContext"]
            assert rights == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_heads_take_no_tasks_and_workers_have_a_gpu() -> None:
    for spec in clusters():
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        for group in spec["workerGroupSpecs"]:
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert limits["nvidia.com/gpu"] == "1"
            # What lies in /dev/shm counts towards the limit of the pod.
            store = int(group["rayStartParams"]["object-store-memory"])
            assert store < 0.2 * int(limits["memory"].removesuffix("Gi")) * math.pow(1024, 3)


def test_the_cluster_scales_from_zero_and_the_job_has_all_from_the_start() -> None:
    stays, of_job = clusters()
    assert stays["enableInTreeAutoscaling"] is True
    assert [(group["replicas"], group["minReplicas"]) for group in stays["workerGroupSpecs"]] == [(0, 0)]
    assert [group["maxReplicas"] > 0 for group in stays["workerGroupSpecs"]] == [True]
    group = of_job["workerGroupSpecs"][0]
    assert group["replicas"] == group["minReplicas"] == group["maxReplicas"] == 2
    assert "--set train.workers=2" in documents()["RayJob"]["spec"]["entrypoint"]


def test_only_the_namespace_and_the_operator_reach_the_pods() -> None:
    policy = documents()["NetworkPolicy"]["spec"]
    assert policy["podSelector"] == {}
    inside, operator = policy["ingress"]
    assert inside == {"from": [{"podSelector": {}}]}
    assert operator["ports"] == [{"port": 8265, "protocol": "TCP"}]
