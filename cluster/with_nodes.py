"""Run a command on a cluster that scales from zero, with nodes asked for first and let go afterwards.

    ray job submit -- python /opt/segray/cluster/with_nodes.py --gpus 4 -- segray train CONFIG --set train.workers=4

segray sizes a training by the nodes that live when it begins, so on a cluster of none it would end at once. This asks
Ray's autoscaler for the GPUs (or CPUs), waits until they are there, runs the command, and takes the request back
whatever happened; idle nodes then go after the cluster's idle time. The exit code is the command's own; 1 where the
nodes did not come in time.

Ray's autoscaler knows one request, the last: so an actor on the head keeps those of all jobs, and asks for their sum.

A job killed with SIGKILL takes nothing back: its nodes stay, and cost, until the next run of this or `ray down`.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

Bundles = list[dict[str, int]]
TERMINATED = 128 + signal.SIGTERM

AGAIN_S, FORGOTTEN_S = 20.0, 120.0
"""How often a job says that it still wants its nodes, and after which silence it is taken for dead."""


class Requests:
    """What jobs have asked for: the autoscaler is told the sum of it, and only when that changes."""

    def __init__(self, tell: Callable[[Bundles], None] | None = None) -> None:
        self._tell = tell or _ask_autoscaler
        self._asked: dict[str, tuple[Bundles, float]] = {}
        self._told: Bundles | None = None

    def ask(self, job: str, bundles: Bundles, now: float) -> None:
        """Ask for the nodes of a job, or say at ``now``, in seconds, that they are still wanted."""
        self._asked[job] = (bundles, now)
        self._say(now)

    def let_go(self, job: str, now: float) -> None:
        """Take a job's request back."""
        self._asked.pop(job, None)
        self._say(now)

    def _say(self, now: float) -> None:
        self._asked = {job: one for job, one in self._asked.items() if now - one[1] < FORGOTTEN_S}
        wanted = [bundle for bundles, _ in self._asked.values() for bundle in bundles]
        if wanted != self._told:
            self._tell(wanted)
            self._told = wanted


def _ask_autoscaler(bundles: Bundles) -> None:
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=bundles)


def read_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The arguments before ``--``, and the command after it as ``command``."""
    parser = argparse.ArgumentParser(description="Run a command with nodes asked for first.")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs to wait for, one a bundle")
    parser.add_argument("--cpus", type=int, default=0, help="CPUs to wait for, where no GPU is needed")
    parser.add_argument("--timeout", type=float, default=1800.0, help="seconds to wait for the nodes")
    own, command = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    told = parser.parse_args(own)
    if not command:
        parser.error("name the command after --")
    if (told.gpus > 0) == (told.cpus > 0) or min(told.gpus, told.cpus) < 0:
        parser.error("name --gpus or --cpus, a number above 0")
    told.command = list(command)
    return told


def bundles_of(gpus: int, cpus: int) -> Bundles:
    """What the autoscaler is asked for: a GPU with a CPU each, or single CPUs."""
    return [{"GPU": 1, "CPU": 1}] * gpus if gpus else [{"CPU": 1}] * cpus


def wait_for(count: Callable[[], float], wanted: int, timeout: float, pause: float = 5.0) -> bool:
    """Poll ``count`` until it reaches ``wanted``; False after ``timeout`` seconds."""
    end = time.monotonic() + timeout
    while (found := count()) < wanted:
        if time.monotonic() >= end:
            return False
        print(f"waiting for nodes: {found:g} of {wanted}", file=sys.stderr, flush=True)
        time.sleep(pause)
    return True


@contextmanager
def ended_by_exception() -> Iterator[None]:
    """Let SIGTERM, by which `ray job stop` ends a job, unwind the stack."""

    def end(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(TERMINATED)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def run(command: Sequence[str]) -> int:
    """Run the command to its end and return its exit code; it ends with this process."""
    child = subprocess.Popen(command)
    try:
        code = child.wait()
    except BaseException:
        child.terminate()
        child.wait()
        raise
    return code if code >= 0 else 128 - code


@contextmanager
def asked_for(requests: Any, bundles: Bundles) -> Iterator[None]:
    """Within the block the nodes are wanted; ``requests`` is an actor of :class:`Requests`."""
    import ray

    job, over = uuid.uuid4().hex, threading.Event()

    def again() -> None:
        while not over.wait(AGAIN_S):
            requests.ask.remote(job, bundles, time.time())

    ray.get(requests.ask.remote(job, bundles, time.time()))
    threading.Thread(target=again, daemon=True).start()
    try:
        yield
    finally:
        over.set()
        ray.get(requests.let_go.remote(job, time.time()))


def of_all_jobs() -> Any:
    """The actor that all jobs of the cluster ask; it takes no CPU, and lies on the node of the first job: the head."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    options = {"name": "requests", "namespace": "segray", "lifetime": "detached", "get_if_exists": True}
    return ray.remote(Requests).options(num_cpus=0, max_restarts=-1, scheduling_strategy=here, **options).remote()


def main(words: Sequence[str]) -> int:
    """Ask, wait, run, let go."""
    told = read_arguments(words)
    import ray

    kind, wanted = ("GPU", told.gpus) if told.gpus else ("CPU", told.cpus)
    ray.init(address=os.environ.get("RAY_ADDRESS", "auto"), log_to_driver=False)
    with ended_by_exception(), asked_for(of_all_jobs(), bundles_of(told.gpus, told.cpus)):
        if not wait_for(lambda: float(ray.cluster_resources().get(kind, 0)), wanted, told.timeout):
            print(f"{wanted} {kind}s did not come in {told.timeout:g} s. See `ray status`.", file=sys.stderr)
            return 1
        return run(told.command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
