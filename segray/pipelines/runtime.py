"""A running cluster or an embedded Ray, its nodes, and what its processes are started with."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from segray.config import RayConfig
from segray.errors import SegrayError

MIB = 1024 * 1024

READ_TASK_CPUS = 0.25
"""CPUs that a task declares which only moves compressed bytes."""

KEEP_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 30),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
}
"""Environment of processes that compute on tensors: glibc keeps what a step frees for the next one.

By default it gives blocks above 32 MiB back to the system at once, and those of a thread in heaps of 64 MiB: every step
of a 32..512 U-Net at 256x256 then took 290,000 page faults, and 11 % more CPU time than with these settings (38,000).
"""

BRIEF_SPIN = {"GOMP_SPINCOUNT": "3000"}
"""Environment of processes that predict: threads of torch with nothing to do look only briefly for more, then sleep.

By default they look so long that they keep a core from OpenVINO, whose threads are its own: a 512x512 slice through a
net of widths 32..512 took 229 ms in a Predictor where the net alone took 223; so it takes 217. torch's own forward pass
takes the same either way (256x256).
"""


@dataclass(frozen=True)
class Node:
    """One living node: logical CPUs, GPUs and memory in bytes."""

    node_id: str
    cpus: float
    gpus: float
    memory: float


@dataclass(frozen=True)
class WorkerShape:
    """What one training worker or Predictor takes of its node."""

    cpus: float
    gpus: float

    @property
    def threads(self) -> int:
        """Threads for torch: Ray sets OMP_NUM_THREADS to 1 otherwise, which halves a step."""
        return max(1, round(self.cpus + 0.01))


AUTO = "auto"
"""The address, for Ray, of the cluster that this machine is part of."""

KEPT_S = 60
"""How long a process waits for its next task. By Ray's own second it ends as soon as there are more processes than
CPUs, also by actors that take none: on a few cores nearly every case started one to be read, and one to be written."""


@contextmanager
def ray_session(config: RayConfig) -> Iterator[None]:
    """Use the Ray that is running (in this process, or at an address), or embed one for the time of the block."""
    if ray.is_initialized():
        quiet_data()
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(1000 * KEPT_S))
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address:
        _connect(address)
    else:
        _embed(config)
    quiet_data()
    try:
        yield
    finally:
        ray.shutdown()


def _connect(address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        if address == AUTO:
            raise SegrayError(
                f"This machine is no part of a Ray cluster ({_first_line(error)}).",
                mend="Name one by --set ray.address=HEAD:6379, or give the command to it as a job (`segray submit`).",
            ) from error
        raise SegrayError(
            f"No Ray cluster answers at {address} ({_first_line(error)}).",
            mend="Start one with `ray up cluster.yaml`, or leave ray.address empty for an embedded Ray.",
        ) from error


def _embed(config: RayConfig) -> None:
    try:
        with _silent_stderr():
            ray.init(
                address="local",
                num_cpus=config.cpus or len(os.sched_getaffinity(0)),
                object_store_memory=_object_store_bytes(config.object_store_mib),
                include_dashboard=config.dashboard,
                dashboard_host="127.0.0.1",
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except Exception as error:
        # Ray tells most of what goes wrong here, such as a node that takes too long, by a bare Exception.
        raise SegrayError(
            f"Ray does not start on this machine ({_first_line(error)}).",
            mend="Give the command again when less else runs here; set ray.object_store_mib where /dev/shm is small; "
            "Ray's own words lie in /tmp/ray/session_latest/logs.",
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(". ") if lines else type(error).__name__


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's C++ core greets on file descriptor 2 whatever its log level; what goes wrong it raises."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _object_store_bytes(mib: int) -> int:
    if mib:
        return mib * MIB
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    shm = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None  # noqa: S108
    free = shm.f_bavail * shm.f_frsize if shm else total
    return int(max(min(0.2 * total, 4096 * MIB, 0.8 * free), 128 * MIB))


def quiet_data() -> None:
    """Turn off Ray Data's own progress bars and chatter: segray shows its own line."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    for name in ("ray.data", "ray.train", "ray.tune", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)


def nodes() -> list[Node]:
    """The living nodes that can take work, the largest first."""
    found = []
    for entry in ray.nodes():
        resources = entry["Resources"]
        if entry["Alive"] and resources.get("CPU", 0) > 0:
            found.append(
                Node(entry["NodeID"], resources["CPU"], resources.get("GPU", 0.0), resources.get("memory", 0.0))
            )
    if not found:
        raise SegrayError("The cluster has no node with a free CPU.", mend="See `ray status`.")
    return sorted(found, key=lambda node: (-node.gpus, -node.cpus, node.node_id))
