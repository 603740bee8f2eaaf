"""What may happen to a cluster while a command runs, and how it is put right afterwards.

Each fault strikes one worker of a :class:`tests.cluster.user_cluster.UserCluster`, or the head, or all of them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.cluster.user_cluster import UserCluster

LONG_S = 60.0
"""How long the network of a host is cut, and the shared folder is read-only."""

WORKS = "ray::(RayTrainWorker|TrialActor|ResourceTrainable|ImplicitFunc|MapWorker.*Predict|MapBatches.*Predict)"
"""Titles of the processes that train, sweep and predict."""

FULL = "/tmp/fill"


@dataclass(frozen=True)
class Fault:
    """Something that happens.

    Attributes:
        name: on the command line.
        title: in the table.
        strike: does it to host ``number``, while a command runs.
        mend: puts the cluster right when the command has ended.
        ends_jobs: the command ends with it, and is given again.
    """

    name: str
    title: str
    strike: Callable[[UserCluster, int], None]
    mend: Callable[[UserCluster, int], None]
    ends_jobs: bool = False


def _nothing(_cluster: UserCluster, _number: int) -> None:
    """What there is to do where nothing is broken, or heals by itself."""


def kill_worker(cluster: UserCluster, number: int) -> None:
    """SIGKILL to the process of the host that computes."""
    found = cluster.ssh(number, f"pgrep -f '^{WORKS}'", check=False).split()
    if not found:
        raise AssertionError(f"nothing to kill on host {number}: {cluster.processes(number)}")
    cluster.ssh(number, f"kill -9 {' '.join(found)}", check=False)


def kill_raylet(cluster: UserCluster, number: int) -> None:
    """SIGKILL to Ray's own process of the host."""
    cluster.ssh(number, "kill -9 $(pgrep -f '/[r]aylet/raylet')")


def cut_power(cluster: UserCluster, number: int) -> None:
    """All processes of the host and its network, at once; its disk stays as it is."""
    cluster.control("cut-node", str(number))


def power_on(cluster: UserCluster, number: int) -> None:
    """The host boots; the head starts Ray on it."""
    cluster.control("start-node", str(number))


def cut_network(cluster: UserCluster, number: int) -> None:
    """The host is out of reach for a minute; its processes live, and see the shared folder."""
    cluster.control("unplug", str(number))
    time.sleep(LONG_S)
    cluster.control("plug", str(number))


def add_node(cluster: UserCluster, _number: int) -> None:
    """A host that cluster.yaml does not name joins by hand, as docs/cluster.md says."""
    spare = cluster.workers + 1
    for name in ("segray", ".ray"):
        home = cluster.state / f"node{spare}" / "root" / name
        shutil.copytree(cluster.state / "node1" / "root" / name, home, dirs_exist_ok=True)
    head = f"{cluster.net}.10"
    cluster.ssh(spare, "bash --login ~/segray/source/cluster/install.sh")
    start = "bash --login ~/segray/source/cluster/start-node.sh ray start"
    cluster.ssh(spare, f"RAY_HEAD_IP={head} {start} --address={head}:6379", timeout=120)


def remove_node(cluster: UserCluster, _number: int) -> None:
    """The host leaves again."""
    cluster.ssh(cluster.workers + 1, "bash --login -c 'ray stop'", timeout=90, check=False)


def restart_head(cluster: UserCluster, _number: int) -> None:
    """The head loses its power, boots, and gets `ray up`."""
    cluster.close_tunnel()
    cluster.control("cut-node", "0")
    cluster.control("start-node", "0")
    cluster.ray_up()


def fill_disk(cluster: UserCluster, number: int) -> None:
    """No byte is left on the host's /tmp, where Ray and temporary files are."""
    cluster.ssh(number, f"cat /dev/zero > {FULL}", check=False)


def empty_disk(cluster: UserCluster, number: int) -> None:
    """There is room again."""
    cluster.ssh(number, f"rm -f {FULL}")


def lock_storage(cluster: UserCluster, _number: int, seconds: float = LONG_S) -> None:
    """The shared folder is read-only on all hosts for a while; files that are open stay writable."""
    everyone = range(1 + cluster.workers)
    for number in everyone:
        # Busy for as long as a file that was opened in between is being written.
        lock = "for _ in $(seq 50); do mount -o remount,bind,ro /mnt && exit 0; sleep 0.2; done; exit 1"
        cluster.ssh(number, f"mount --bind /mnt /mnt && {{ {lock}; }}")
    time.sleep(seconds)
    for number in everyone:
        cluster.ssh(number, "umount -l /mnt")


FAULTS = {
    fault.name: fault
    for fault in (
        Fault("none", "undisturbed", _nothing, _nothing),
        Fault("worker", "a worker process killed", kill_worker, _nothing),
        Fault("raylet", "a raylet killed", kill_raylet, _nothing),
        Fault("power", "power cut of a worker node", cut_power, power_on),
        Fault("partition", "a worker node unreachable for a minute", cut_network, _nothing),
        Fault("added", "a node added", add_node, remove_node),
        Fault("head", "the head's power cut, `ray up`, the command again", restart_head, _nothing, ends_jobs=True),
        Fault("disk", "disk full on a worker node", fill_disk, empty_disk),
        Fault("readonly", "shared folder read-only for a minute", lock_storage, _nothing),
    )
}
