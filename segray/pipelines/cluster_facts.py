"""What is known of a cluster and of each of its nodes, in plain types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it: its name, free and total memory in bytes."""

    name: str
    free: int
    total: int


@dataclass(frozen=True)
class StorageFacts:
    """The shared storage as one node sees it.

    Attributes:
        write_problem: why it cannot be written; empty: it can.
        read_problem: why what node ``source`` wrote cannot be read; empty: it can, or nobody wrote.
        source: the node that wrote what was read.
        write_mib_s, read_mib_s: bandwidth of a few MiB; None: not measured.
        latency_s: of a write of 1 KiB that waits for the disk; None: not measured.
        waited_s: until what another node wrote was seen.
        free: bytes; None: an object store, or not known.
    """

    write_problem: str = ""
    read_problem: str = ""
    source: str = ""
    write_mib_s: float | None = None
    read_mib_s: float | None = None
    latency_s: float | None = None
    waited_s: float = 0.0
    free: int | None = None


@dataclass(frozen=True)
class NodeFacts:
    """One living node.

    Attributes:
        name: host name and address, as people are told of it.
        address: IP address.
        cpus, gpus: what Ray counts.
        object_store: bytes of its object store.
        problem: why it was not examined (further); empty: it was.
        versions: as :func:`segray.pipelines.node_probe.versions`; empty: not known.
        addresses: what its own host name stands for.
        resolve_s: seconds to find that out.
        interfaces: whether GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME are set there.
        tmp_free, tmp_total, shm_free, shm_total: bytes of /tmp and /dev/shm; total 0: there is none, or not known.
        torch_gpus: what torch sees; None: it was not asked.
        torch_problem: why torch did not answer.
        skew_s: how far its clock is ahead of the driver's; None: not measured.
        skew_error_s: half of the round trip, by which that may be wrong.
        received_mib_s: bandwidth of an object from node ``received_from``; None: not measured.
        storage: None: no storage was named, or not looked at.
    """

    name: str
    address: str = ""
    cpus: float = 0.0
    gpus: float = 0.0
    object_store: int = 0
    problem: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    addresses: Sequence[str] = ()
    resolve_s: float = 0.0
    interfaces: bool = False
    tmp_free: int = 0
    tmp_total: int = 0
    shm_free: int = 0
    shm_total: int = 0
    torch_gpus: Sequence[Gpu] | None = None
    torch_problem: str = ""
    skew_s: float | None = None
    skew_error_s: float = 0.0
    received_mib_s: float | None = None
    received_from: str = ""
    storage: StorageFacts | None = None


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster.

    Attributes:
        driver: versions of the process that asks.
        nodes: the living nodes.
        dead: nodes that Ray remembers and that live no more.
        storage_path: the shared storage that was tried; empty: none.
        meets: whether processes on different nodes will have to find each other by host names, as in a training with
            several workers.
    """

    driver: Mapping[str, str]
    nodes: Sequence[NodeFacts]
    dead: int = 0
    storage_path: str = ""
    meets: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain types for JSON."""
        return asdict(self)
