"""The part of KubeRay's schemas that cluster/kuberay.yaml uses, written down by hand; not the operator's own file.

The operator's CRDs (helm-chart/kuberay-operator/crds/ray.io_rayclusters.yaml and ray.io_rayjobs.yaml of
github.com/ray-project/kuberay, Apache-2.0) are a megabyte each, most of it the pod template of Kubernetes. Names, types
and choices here are those of the Go types that the CRDs are generated from (ray-operator/apis/ray/v1/, the files
raycluster_types.go and rayjob_types.go, as they stood in November 2026), and of Kubernetes' core/v1 and
networking.k8s.io/v1. Fields that kuberay.yaml does not use are left out, and a field that is not here is an error:
stricter than the operator, so a good new field must be added here first. What the operator does with a field is not
tested. The pod templates, the claim and the policy were also checked once against Kubernetes 1.30's own schemas, by
kubernetes-validate.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
COUNT: Schema = {"type": "integer", "minimum": 0}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
QUANTITY: Schema = {
    "anyOf": [{"type": "integer"}, {"type": "string", "pattern": r"^[0-9]+(\.[0-9]+)?(m|[kMGTPE]i?)?$"}]
}


def table(required: str = "", **fields: Schema) -> Schema:
    """An object of these fields and no others; ``required`` names those that must be there."""
    return {"type": "object", "properties": fields, "required": required.split(), "additionalProperties": False}


def rows(item: Schema) -> Schema:
    """A list of items, one or more."""
    return {"type": "array", "items": item, "minItems": 1}


def one_of(*words: str) -> Schema:
    """One of these words."""
    return {"enum": list(words)}


METADATA = table("name namespace", name=TEXT, namespace=TEXT, labels=TEXTS)
RESOURCES = table(
    "requests limits",
    requests={"type": "object", "additionalProperties": QUANTITY},
    limits={"type": "object", "additionalProperties": QUANTITY},
)
LOCKED = table(allowPrivilegeEscalation=TRUTH, capabilities=table("drop", drop=rows(TEXT)))
CONTAINER = table(
    "name image resources",
    name=TEXT,
    image=TEXT,
    securityContext=LOCKED,
    env=rows(table("name value", name=TEXT, value=TEXT)),
    ports=rows(table("name containerPort", name=TEXT, containerPort=COUNT)),
    resources=RESOURCES,
    volumeMounts=rows(table("name mountPath", name=TEXT, mountPath=TEXT, readOnly=TRUTH)),
)
POD = table(
    "containers",
    securityContext=table(
        runAsNonRoot=TRUTH,
        runAsUser=COUNT,
        runAsGroup=COUNT,
        fsGroup=COUNT,
        seccompProfile=table("type", type=one_of("RuntimeDefault", "Localhost", "Unconfined")),
    ),
    terminationGracePeriodSeconds=COUNT,
    nodeSelector=TEXTS,
    tolerations=rows(
        table(
            key=TEXT,
            operator=one_of("Exists", "Equal"),
            value=TEXT,
            effect=one_of("NoSchedule", "PreferNoSchedule", "NoExecute"),
        )
    ),
    containers=rows(CONTAINER),
    volumes=rows(table("name", name=TEXT, persistentVolumeClaim=table("claimName", claimName=TEXT))),
    serviceAccountName=TEXT,
)
TEMPLATE = table("spec", spec=POD)
CLUSTER = table(
    "headGroupSpec rayVersion authOptions",
    rayVersion=TEXT,
    authOptions=table(mode=one_of("disabled", "token"), secretName=TEXT),
    enableInTreeAutoscaling=TRUTH,
    autoscalerOptions=table(
        version=one_of("v1", "v2"),
        idleTimeoutSeconds=COUNT,
        upscalingMode=one_of("Default", "Aggressive", "Conservative"),
        resources=RESOURCES,
        securityContext=LOCKED,
    ),
    gcsFaultToleranceOptions=table(redisAddress=TEXT),
    headGroupSpec=table("template", rayStartParams=TEXTS, template=TEMPLATE),
    workerGroupSpecs=rows(
        table(
            "groupName minReplicas maxReplicas template",
            groupName=TEXT,
            replicas=COUNT,
            minReplicas=COUNT,
            maxReplicas=COUNT,
            idleTimeoutSeconds=COUNT,
            rayStartParams=TEXTS,
            template=TEMPLATE,
        )
    ),
)
JOB = table(
    "entrypoint rayClusterSpec",
    entrypoint=TEXT,
    backoffLimit=COUNT,
    shutdownAfterJobFinishes=TRUTH,
    ttlSecondsAfterFinished=COUNT,
    activeDeadlineSeconds=COUNT,
    submissionMode=one_of("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"),
    rayClusterSpec=CLUSTER,
)
CLAIM = table(
    "accessModes resources",
    accessModes=rows(one_of("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")),
    storageClassName=TEXT,
    resources=table("requests", requests={"type": "object", "additionalProperties": QUANTITY}),
)
SELECTOR = table(matchLabels=TEXTS)
POLICY = table(
    "podSelector policyTypes",
    podSelector=SELECTOR,
    policyTypes=rows(one_of("Ingress", "Egress")),
    ingress=rows(
        {
            "type": "object",
            "properties": {
                "from": rows(table(podSelector=SELECTOR, namespaceSelector=SELECTOR)),
                "ports": rows(table("port", port=COUNT, protocol=one_of("TCP", "UDP", "SCTP"))),
            },
            "additionalProperties": False,
        }
    ),
)
KINDS = {
    "PersistentVolumeClaim": ("v1", CLAIM),
    "NetworkPolicy": ("networking.k8s.io/v1", POLICY),
    "RayCluster": ("ray.io/v1", CLUSTER),
    "RayJob": ("ray.io/v1", JOB),
}


def schema_of(kind: str) -> Schema:
    """The schema of a whole document of a kind. Raises KeyError for a kind that is not here."""
    version, spec = KINDS[kind]
    names: dict[str, Schema] = {"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": METADATA}
    return table("apiVersion kind metadata spec", **names, spec=spec)
