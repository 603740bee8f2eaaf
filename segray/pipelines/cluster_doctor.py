"""The doctor of a cluster: every node asked in parallel, by an actor of its own, and never waited for without end."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from segray import storage
from segray.config import Config
from segray.doctor.findings import Finding, exit_code
from segray.errors import UsageError
from segray.pipelines import node_probe
from segray.pipelines.cluster_facts import ClusterFacts, Gpu, NodeFacts, StorageFacts
from segray.pipelines.cluster_findings import conclude
from segray.pipelines.failures import reason_for
from segray.pipelines.runtime import AUTO, MIB, ray_session

START_S, TORCH_S, STORAGE_S, NETWORK_S, CLOCK_S = 45.0, 60.0, 30.0, 20.0, 2.0
"""For so long a node may be silent in each step: to start a process on it, to import torch, and so on."""

PREFLIGHT_S = 10.0
"""The same for each step of a quick look before a job."""

TOKEN_MIB, OBJECT_MIB = 4, 32
"""What is written and read on the shared storage, and what is sent between nodes."""

SEEN_S = 3.0
"""For so long a file may take to be seen by another node."""

ROUND_TRIPS = 7

Answers = Mapping[str, Any]


@dataclass(frozen=True)
class ClusterDiagnosis:
    """What the doctor of a cluster found.

    Attributes:
        facts: of the cluster and its nodes.
        findings: the worst first.
        seconds: that it took.
    """

    facts: ClusterFacts
    findings: Sequence[Finding]
    seconds: float

    @property
    def exit_code(self) -> int:
        """1 where there is an error, else 0."""
        return exit_code(self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return {
            "facts": self.facts.to_dict(),
            "findings": [one.to_dict() for one in self.findings],
            "seconds": self.seconds,
        }


def cluster_doctor(config: Config | None = None, storage_path: str | None = None) -> ClusterDiagnosis:
    """Examine every living node of a cluster, all of them in parallel.

    It is the one that ``config.ray`` or RAY_ADDRESS names, or the one that this machine is part of.

    A node that does not answer is a finding. Each takes a process without CPUs; files and objects that are written are
    removed again.

    Args:
        config: where the cluster is; None: the defaults.
        storage_path: the folder or URI that jobs write to; None: no storage is tried.

    Raises:
        SegrayError: no cluster answers at the address.
    """
    began = time.monotonic()
    config = config or Config()
    there = config.ray.address or os.environ.get("RAY_ADDRESS") or AUTO
    with ray_session(config.ray.model_copy(update={"address": there})):
        facts = _examined(storage_path or "")
    return ClusterDiagnosis(facts, conclude(facts), time.monotonic() - began)


def preflight(storage_path: str, *, meets: bool = True) -> list[Finding]:
    """A quick look at all nodes before a job, inside a :func:`ray_session`; nothing is done where there is one node.

    It looks at versions, host names, disks, and whether all nodes see ``storage_path``; not at torch, speeds, clocks.

    Args:
        storage_path: the folder or URI that the job will write to; it need not exist, if the one above it does.
        meets: whether processes on different nodes will train together.

    Returns:
        Warnings and notes; of a node that is only slow to answer, too.

    Raises:
        UsageError: an error was found; it is named with its mend.
    """
    living = _living()
    if len(living) < 2:
        return []
    with _probes(living) as probes:
        first = _Round(living, probes)
        first.look(PREFLIGHT_S)
        first.try_storage(_folder_that_is_there(storage_path), PREFLIGHT_S, mib=0)
        facts = first.facts(_folder_that_is_there(storage_path), meets=meets)
    findings = [_milder(one) for one in conclude(facts)]
    errors = [one for one in findings if one.grade == "error"]
    if errors:
        more = f" ({len(errors) - 1} more: `segray doctor --cluster` tells all.)" if len(errors) > 1 else ""
        raise UsageError(f"{errors[0].case or 'The cluster'}: {errors[0].sentence}{more}", mend=errors[0].mend)
    return findings


def preflight_notes(config: Config, place: str, *, meets: bool = False) -> list[str]:
    """What :func:`preflight` has to say, as sentences; nothing with ``ray.preflight=false``. Raises UsageError."""
    if not config.ray.preflight:
        return []
    warnings = [one for one in preflight(place, meets=meets) if one.grade == "warning"]
    return [f"{one.case or 'The cluster'}: {one.sentence}" for one in warnings]


def _milder(finding: Finding) -> Finding:
    """A node that is busy answers late: no reason to refuse a job, which Ray will bring to others."""
    return replace(finding, grade="warning") if finding.code == "no-answer" else finding


def _folder_that_is_there(path: str) -> str:
    """The storage itself, or the nearest folder above it that exists: a run folder is made by its job."""
    if storage.is_remote(path):
        return path
    folder = storage.absolute(path)
    while not os.path.isdir(folder) and folder != os.path.dirname(folder):
        folder = os.path.dirname(folder)
    return folder


def _living() -> dict[str, NodeFacts]:
    """The living nodes by their id, as far as Ray itself knows them."""
    return {
        entry["NodeID"]: NodeFacts(
            f"{entry['NodeManagerHostname']} ({entry['NodeManagerAddress']})",
            entry["NodeManagerAddress"],
            cpus=entry["Resources"].get("CPU", 0.0),
            gpus=entry["Resources"].get("GPU", 0.0),
            object_store=int(entry["Resources"].get("object_store_memory", 0)),
        )
        for entry in ray.nodes()
        if entry["Alive"]
    }


def _examined(storage_path: str) -> ClusterFacts:
    living = _living()
    with _probes(living) as probes:
        whole = _Round(living, probes)
        whole.look(START_S)
        whole.compare_clocks()
        if len(living) > 1:
            whole.send_objects()
        whole.ask_torch()
        if storage_path:
            storage_path = storage.absolute(storage_path)
            whole.try_storage(storage_path, STORAGE_S, mib=TOKEN_MIB)
        return whole.facts(storage_path, meets=True)


class NodeProbe:
    """The process on one node that answers for it."""

    def look(self) -> dict[str, Any]:
        """Versions and the facts of the host."""
        return {"versions": node_probe.versions(), **node_probe.host_facts()}

    def now(self) -> float:
        """The clock."""
        return time.time()

    def torch_gpus(self, seconds: float) -> list[dict[str, Any]]:
        """As :func:`segray.pipelines.node_probe.torch_gpus`."""
        return node_probe.torch_gpus(seconds)

    def put(self, mib: int) -> list[Any]:
        """References to a small and a large object in the store of this node."""
        return [ray.put(np.ones(size, np.uint8)) for size in (MIB, mib * MIB)]

    def fetch(self, references: Sequence[Any]) -> float:
        """Seconds that the large object took to come here, after the small one made the connection."""
        ray.get(references[0])
        began = time.monotonic()
        ray.get(references[1])
        return time.monotonic() - began

    def write(self, folder: str, name: str, size: int) -> dict[str, Any]:
        """As :func:`segray.pipelines.node_probe.write_token`."""
        return node_probe.write_token(folder, name, size)

    def read(self, folder: str, name: str, digest: str) -> dict[str, Any]:
        """As :func:`segray.pipelines.node_probe.read_token`."""
        return node_probe.read_token(folder, name, digest, SEEN_S)

    def delete(self, folder: str, name: str) -> None:
        """As :func:`segray.pipelines.node_probe.delete_token`."""
        node_probe.delete_token(folder, name)


@contextmanager
def _probes(living: Mapping[str, NodeFacts]) -> Iterator[dict[str, Any]]:
    """An actor on each node, pinned to it, without a CPU, so that it starts on a node that is full too."""
    actor = ray.remote(NodeProbe)
    probes = {
        node_id: actor.options(
            num_cpus=0, max_restarts=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
        ).remote()
        for node_id in living
    }
    try:
        yield probes
    finally:
        for probe in probes.values():
            ray.kill(probe)


class _Round:
    """Asks all nodes one thing after the other; a node that fell silent is not asked again."""

    def __init__(self, living: Mapping[str, NodeFacts], probes: Mapping[str, Any]) -> None:
        self._known = dict(living)
        self._probes = dict(probes)

    def facts(self, storage_path: str, *, meets: bool) -> ClusterFacts:
        """All that has been found out."""
        dead = sum(not entry["Alive"] for entry in ray.nodes())
        return ClusterFacts(node_probe.versions(), list(self._known.values()), dead, storage_path, meets)

    def look(self, seconds: float) -> None:
        """Versions, host name and disks of every node."""
        for node_id, told in self._ask(lambda _, probe: probe.look.remote(), seconds, "its host").items():
            self._learn(node_id, **{name: told[name] for name in told if name != "host"})

    def compare_clocks(self) -> None:
        """The clock of every node against that of this process; the fastest of a few round trips is the surest."""
        for node_id, probe in list(self._probes.items()):
            trips = []
            try:
                for _ in range(ROUND_TRIPS):
                    before = time.time()
                    there = ray.get(probe.now.remote(), timeout=CLOCK_S)
                    after = time.time()
                    trips.append(((after - before) / 2, there - (before + after) / 2))
            except RayError as error:
                self._lose(node_id, _told(error, CLOCK_S, "its clock"))
                continue
            half, skew = min(trips)
            self._learn(node_id, skew_s=skew, skew_error_s=half)

    def send_objects(self) -> None:
        """An object from each node to the next one, all at once."""
        held = self._ask(lambda _, probe: probe.put.remote(OBJECT_MIB), NETWORK_S, "an object of its own")
        source = _neighbours(list(held))
        fetched = self._ask(
            lambda node_id, probe: probe.fetch.remote(held[source[node_id]]),
            NETWORK_S,
            "an object of another node",
            only=source,
        )
        for node_id, seconds in fetched.items():
            rate = OBJECT_MIB / max(seconds, 1e-6)
            self._learn(node_id, received_mib_s=rate, received_from=self._known[source[node_id]].name)

    def ask_torch(self) -> None:
        """The GPUs that torch sees; the process that asks it ends before the node counts as silent."""
        told = self._ask(
            lambda _, probe: probe.torch_gpus.remote(TORCH_S - 5), TORCH_S, "torch", failed=self._without_torch
        )
        for node_id, gpus in told.items():
            self._learn(node_id, torch_gpus=[Gpu(**gpu) for gpu in gpus])

    def _without_torch(self, node_id: str, reason: str) -> None:
        self._learn(node_id, torch_problem=reason)

    def try_storage(self, folder: str, seconds: float, *, mib: int) -> None:
        """Every node writes a file, and reads that of the next one, which it has not in its memory."""
        token = f".segray-doctor-{uuid.uuid4().hex[:12]}"
        names = {node_id: f"{token}-{number}" for number, node_id in enumerate(self._known)}
        size = mib * MIB or node_probe.SMALL_BYTES
        written = self._ask(
            lambda node_id, probe: probe.write.remote(folder, names[node_id], size), seconds, f"a write to {folder}"
        )
        good = [node_id for node_id, told in written.items() if not told["problem"]]
        source = _neighbours(good)
        read = self._ask(
            lambda node_id, probe: probe.read.remote(
                folder, names[source[node_id]], written[source[node_id]]["digest"]
            ),
            seconds + SEEN_S,
            f"a read from {folder}",
            only=source,
        )
        for node_id, told in written.items():
            source_name = self._known[source[node_id]].name if node_id in source else ""
            self._learn(node_id, storage=_storage_facts(told, read.get(node_id), source_name, mib))
        self._ask(lambda node_id, probe: probe.delete.remote(folder, names[node_id]), seconds, "", only=good)

    def _learn(self, node_id: str, **facts: Any) -> None:
        self._known[node_id] = replace(self._known[node_id], **facts)

    def _lose(self, node_id: str, reason: str) -> None:
        self._probes.pop(node_id, None)
        self._learn(node_id, problem=reason)

    def _ask(
        self,
        question: Callable[[str, Any], Any],
        seconds: float,
        what: str,
        *,
        only: Mapping[str, str] | Sequence[str] | None = None,
        failed: Callable[[str, str], None] | None = None,
    ) -> dict[str, Any]:
        """What the nodes answer within ``seconds``; one that does not, or whose process dies, is lost.

        Args:
            question: calls a method of a node's actor.
            seconds: for all of them together.
            what: was asked of them, for the reason why one was lost.
            only: the nodes to ask; None: all.
            failed: told of a node where the method raised; None: it is lost.
        """
        calls = {
            question(node_id, probe): node_id
            for node_id, probe in self._probes.items()
            if only is None or node_id in only
        }
        if not calls:
            return {}
        ready = set(ray.wait(list(calls), num_returns=len(calls), timeout=seconds)[0])
        answers: dict[str, Any] = {}
        for call, node_id in calls.items():
            try:
                answers[node_id] = ray.get(call, timeout=CLOCK_S if call in ready else 0)
            except RayTaskError as error:
                (failed or self._lose)(node_id, reason_for(error.cause))
            except RayError as error:
                self._lose(node_id, _told(error, seconds, what))
        return answers


def _told(error: RayError, seconds: float, what: str) -> str:
    if isinstance(error, GetTimeoutError):
        return f"it told nothing about {what} in {seconds:.0f} s" if what else f"no answer in {seconds:.0f} s"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # What could not be started ends with the error itself, what died begins with the reason.
    line = lines[-1] if re.match(r"\w*(Error|Exception)\b", lines[-1]) else lines[0]
    return f"the process on it died ({line.rstrip('. ')})"


def _neighbours(nodes: Sequence[str]) -> dict[str, str]:
    """Each node and the one before it, in a ring."""
    return {node: nodes[number - 1] for number, node in enumerate(nodes)}


def _storage_facts(written: Mapping[str, Any], read: Mapping[str, Any] | None, source: str, mib: int) -> StorageFacts:
    if written["problem"]:
        return StorageFacts(write_problem=written["problem"])
    seen = read is not None and not read["problem"]
    return StorageFacts(
        read_problem=read["problem"] if read else "",
        source=source,
        write_mib_s=mib / max(written["seconds"], 1e-6) if mib else None,
        read_mib_s=mib / max(read["seconds"], 1e-6) if mib and read and seen else None,
        latency_s=written["latency_s"],
        waited_s=read["waited_s"] if read else 0.0,
        free=written["free"],
    )
