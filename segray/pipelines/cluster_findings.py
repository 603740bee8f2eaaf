"""What the facts of a cluster mean: findings with a grade and a mend; needs neither Ray nor torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from segray.doctor.findings import Finding, Grade, ordered
from segray.pipelines.cluster_facts import ClusterFacts, NodeFacts
from segray.pipelines.node_probe import SHM, TMP, is_loopback

GIB = 1024**3
MIB = 1024**2

NO_DISK, LITTLE_DISK = GIB, 5 * GIB
"""Free bytes of /tmp or the shared storage below which work fails soon, and below which it may."""

FULL = 0.95
"""Ray puts no more objects on a disk that is used beyond this (RAY_local_fs_capacity_threshold)."""

SKEW_S, MOST_SKEW_S = 1.0, 300.0
"""Clocks further apart spoil times in logs and what is told to be the latest; object stores refuse requests from 15
minutes on (S3: RequestTimeTooSkewed)."""

SLOW_NETWORK = 50.0
"""MiB/s; 1 Gbit/s Ethernet carries about 110."""

SLOW_STORAGE, SLOW_WRITE_S = 20.0, 0.5
"""MiB/s of a file of a few MiB, and seconds of a small write, beyond which ledgers and checkpoints hold up the work."""

LATE_S = 1.0
SLOW_NAME_S = 1.0

INSTALL = "Install the same wheel with the same constraints.txt on every node, and start Ray there again."
DEPLOY = "Bring the same checkout or wheel to every node, and start Ray there again."


def conclude(facts: ClusterFacts) -> list[Finding]:
    """All findings, the worst first; ``case`` of a finding is the name of the node, empty for the whole cluster.

    An error means that a job would fail or lose its outcome; a warning that it may, or that it will be slow.
    """
    found = list(_of_cluster(facts))
    for node in facts.nodes:
        if node.problem:
            found.append(_silent(node))
        for rule in RULES:
            found += rule(node, facts)
    return ordered(found)


def _of_cluster(facts: ClusterFacts) -> Iterator[Finding]:
    count = len(facts.nodes)
    gpus = sum(node.gpus for node in facts.nodes)
    cpus = sum(node.cpus for node in facts.nodes)
    told = f"{count} node{'s' * (count != 1)} live: {cpus:g} CPUs, {gpus:g} GPUs."
    yield Finding("nodes", "note", "", told)
    if not cpus:
        yield Finding(
            "no-cpus", "error", "", "No node has a CPU for Ray, so that nothing can run.", "Start a worker node."
        )
    if facts.dead:
        died = f"{facts.dead} node{'s' * (facts.dead != 1)} that Ray remembers live{'s' * (facts.dead == 1)} no more."
        yield Finding("dead-nodes", "note", "", died)
    yield from _speeds(facts)
    if facts.nodes and not facts.storage_path:
        yield Finding(
            "no-storage", "note", "", "No shared storage was tried.", "Name the folder or URI that jobs write to."
        )


def _speeds(facts: ClusterFacts) -> Iterator[Finding]:
    """What was measured, in one note each."""
    seen = [node.storage for node in facts.nodes if node.storage]
    parts = [
        _span("written at", [one.write_mib_s for one in seen], "MiB/s"),
        _span("read at", [one.read_mib_s for one in seen], "MiB/s"),
        _span("a small write takes", [one.latency_s and 1000 * one.latency_s for one in seen], "ms"),
    ]
    if told := ", ".join(part for part in parts if part):
        yield Finding("storage-speed", "note", "", f"{facts.storage_path}, all nodes at once: {told}.")
    if told := _span("", [node.received_mib_s for node in facts.nodes], "MiB/s"):
        yield Finding("network-speed", "note", "", f"Objects between nodes, all at once: {told}.")


def _span(what: str, values: Sequence[float | None], unit: str) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return ""
    low, high = (f"{value:.3g}" for value in (known[0], known[-1]))
    return f"{what} {low} to {high} {unit}".strip() if low != high else f"{what} {low} {unit}".strip()


def _silent(node: NodeFacts) -> Finding:
    if "No module named" in node.problem:
        return Finding("no-segray", "error", node.name, f"It has not this segray: {node.problem}.", INSTALL)
    mend = "See /tmp/ray/session_latest/logs there; then `ray stop` and `ray start` there."
    return Finding("no-answer", "error", node.name, f"It could not be examined: {node.problem}.", mend)


def _versions(node: NodeFacts, facts: ClusterFacts) -> Iterator[Finding]:
    if not node.versions:
        return
    driver = facts.driver
    for name, shown in (("python", "Python"), ("segray", "segray"), ("torch", "torch"), ("ray", "Ray")):
        here, there = node.versions.get(name, ""), driver.get(name, "")
        if here == there:
            continue
        sentence = f"{shown} is {here or 'absent'} there and {there or 'absent'} where the job starts."
        yield Finding(f"{name}-version", _worse(name, here, there), node.name, sentence, INSTALL)
    same = node.versions.get("segray") == driver.get("segray")
    if same and node.versions.get("code") != driver.get("code"):
        sentence = "Its code of segray is another one than where the job starts, though the version is the same."
        yield Finding("segray-code", "error", node.name, sentence, DEPLOY)


def _worse(name: str, here: str, there: str) -> Grade:
    """Patch levels of Python and builds of torch (+cpu, +cu128) may differ."""
    if name == "python":
        return "warning" if here.split(".")[:2] == there.split(".")[:2] else "error"
    if name == "torch" and here and here.partition("+")[0] == there.partition("+")[0]:
        return "note"
    return "error"


def _gpus(node: NodeFacts, _: ClusterFacts) -> Iterator[Finding]:
    if node.torch_problem:
        yield Finding(
            "torch-fails", "error", node.name, f"On it {node.torch_problem}", "Run `python -c 'import torch'` there."
        )
    if node.torch_gpus is None:
        return
    seen = len(node.torch_gpus)
    if seen < node.gpus:
        sentence = f"Ray counts {node.gpus:g} GPUs and torch sees {seen}."
        mend = "Look at `nvidia-smi` there and install the CUDA build of torch; or give `ray start --num-gpus`."
        yield Finding("gpus-unseen", "error", node.name, sentence, mend)
    if seen > node.gpus:
        sentence = f"torch sees {seen} GPUs and Ray counts {node.gpus:g}, so that some stay idle."
        yield Finding("gpus-idle", "note", node.name, sentence, "Leave --num-gpus out of its `ray start`.")
    for number, gpu in enumerate(node.torch_gpus):
        used = gpu.total - gpu.free
        sizes = f"GPU {number}: {gpu.name}, {gpu.total / GIB:.1f} GiB, {gpu.free / GIB:.1f} free"
        if used > gpu.total / 4:
            yield Finding(
                "gpu-used", "warning", node.name, f"{sizes}: another process uses it.", "See `nvidia-smi` there."
            )
        else:
            yield Finding("gpu", "note", node.name, f"{sizes}.")


def _disks(node: NodeFacts, _: ClusterFacts) -> Iterator[Finding]:
    if node.tmp_total:
        used = 1 - node.tmp_free / node.tmp_total
        told = f"{TMP} has {node.tmp_free / GIB:.1f} GiB free of {node.tmp_total / GIB:.0f}"
        mend = "Make room, or start Ray there with --temp-dir on a larger disk."
        if node.tmp_free < NO_DISK:
            yield Finding("tmp-full", "error", node.name, f"{told}: Ray's logs and objects find no room.", mend)
        elif used > FULL:
            yield Finding("tmp-full", "warning", node.name, f"{told}: Ray moves no objects there any more.", mend)
        elif node.tmp_free < LITTLE_DISK:
            yield Finding("tmp-full", "warning", node.name, f"{told}.", mend)
    if node.versions and node.shm_total < node.object_store:
        told = f"{SHM} has {node.shm_total / MIB:.0f} MiB for an object store of {node.object_store / MIB:.0f} MiB"
        mend = "Start the container with --shm-size, or Ray with a smaller --object-store-memory."
        yield Finding("shm-small", "warning", node.name, f"{told}, which then lies on a disk.", mend)


def _names(node: NodeFacts, facts: ClusterFacts) -> Iterator[Finding]:
    """Gloo and NCCL ask the host name for the address that they tell to the others."""
    if not node.versions or len({one.address for one in facts.nodes}) < 2 or node.interfaces:
        return
    mend = (
        "Give its name its own address in /etc/hosts there, or set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME where "
        "Ray is started."
    )
    first = next(iter(node.addresses), "")
    # Nothing trains on a head without CPUs.
    grade: Grade = "error" if facts.meets and node.cpus else "warning"
    if not first or is_loopback(first):
        means = f"stands for {first}" if first else "has no address"
        sentence = f"Its host name {means} there, so that training on several nodes finds it nowhere."
        yield Finding("host-name", grade, node.name, sentence, mend)
    elif node.resolve_s > SLOW_NAME_S:
        sentence = f"Finding the address of its own host name takes {node.resolve_s:.0f} s, for every connection."
        yield Finding("slow-names", "warning", node.name, sentence, "Name all nodes in /etc/hosts of every node.")


def _storage(node: NodeFacts, facts: ClusterFacts) -> Iterator[Finding]:
    seen, path = node.storage, facts.storage_path
    if seen is None:
        return
    if seen.write_problem:
        sentence = f"It cannot write to {path}: {seen.write_problem.rstrip('.')}."
        mend = "Mount it there at the same path, writable for the user who runs Ray; or give the node the credentials."
        yield Finding("storage-write", "error", node.name, sentence, mend)
    if seen.read_problem:
        sentence = f"It does not see in {path} what {seen.source} wrote: {seen.read_problem}."
        mend = "Name a network file system that all nodes mount at this path, or an object store."
        yield Finding("storage-apart", "error", node.name, sentence, mend)
    elif seen.waited_s > LATE_S:
        sentence = f"What another node writes to {path} is seen there after {seen.waited_s:.1f} s only."
        yield Finding("storage-late", "warning", node.name, sentence, "Mount it with actimeo=1 or lookupcache=none.")
    yield from _slow_storage(node, path)
    if seen.free is not None and seen.free < LITTLE_DISK:
        grade: Grade = "error" if seen.free < NO_DISK else "warning"
        yield Finding(
            "storage-full", grade, node.name, f"{path} has {seen.free / GIB:.1f} GiB free.", "Make room there."
        )


def _slow_storage(node: NodeFacts, path: str) -> Iterator[Finding]:
    seen = node.storage
    if seen is None:
        return
    mend = "Look at the network and the server; shards and predictions may lie on another storage."
    slow = [
        f"{verb} {rate:.3g} MiB/s" for verb, rate in _rates(seen.read_mib_s, seen.write_mib_s) if rate < SLOW_STORAGE
    ]
    if seen.latency_s is not None and seen.latency_s > SLOW_WRITE_S:
        slow.append(f"takes {seen.latency_s:.1f} s for a small write")
    if slow:
        yield Finding("storage-slow", "warning", node.name, f"With {path} it {' and '.join(slow)}.", mend)


def _rates(read: float | None, write: float | None) -> Iterator[tuple[str, float]]:
    for verb, rate in (("reads", read), ("writes", write)):
        if rate is not None:
            yield verb, rate


def _clock(node: NodeFacts, _: ClusterFacts) -> Iterator[Finding]:
    if node.skew_s is None:
        return
    surely = abs(node.skew_s) - node.skew_error_s
    if surely > SKEW_S:
        way = "ahead" if node.skew_s > 0 else "behind"
        grade: Grade = "error" if surely > MOST_SKEW_S else "warning"
        sentence = f"Its clock is {abs(node.skew_s):.1f} s {way} of that where the job starts."
        yield Finding(
            "clock", grade, node.name, sentence, "Run a time service (chrony, systemd-timesyncd) on all nodes."
        )


def _network(node: NodeFacts, _: ClusterFacts) -> Iterator[Finding]:
    if node.received_mib_s is not None and node.received_mib_s < SLOW_NETWORK:
        sentence = f"It gets {node.received_mib_s:.3g} MiB/s from {node.received_from}."
        mend = "Look at its link (`ethtool`), and at what else uses the network."
        yield Finding("network-slow", "warning", node.name, sentence, mend)


Rule = Callable[[NodeFacts, ClusterFacts], Iterator[Finding]]

RULES: Sequence[Rule] = (_versions, _gpus, _disks, _names, _storage, _clock, _network)
"""What is looked for on each node."""
