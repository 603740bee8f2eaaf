"""What happens to clusters, on hosts of this machine, while segray trains, sweeps and predicts: the work ends right.

One fault a share of CI (``--share``): each costs minutes. The faults that are not here strike elsewhere: in
test_cluster_yaml.py a process that computes a trial, the power of a host that predicts, and shared storage that is
read-only; in test_hosts.py a host that trains. ``python -m tests.cluster.fault_table`` has all of them, and measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.fault_table import TMP_SIZE, attempt, prepare
from tests.cluster.faults import FAULTS
from tests.cluster.hosts import can_make_hosts
from tests.cluster.user_cluster import UserCluster

pytestmark = [pytest.mark.cluster, pytest.mark.long]

CASES = 24


@pytest.fixture(scope="module")
def cluster(shared_data: Path) -> Iterator[UserCluster]:
    """A head, three workers and a spare host, with shards, a bundle, and the masks of an undisturbed prediction."""
    if not can_make_hosts():
        pytest.skip("needs root and network namespaces")
    made = UserCluster(workers=3, spares=1, name="segf", net="10.81.0")
    made.environment["NC_TMP"] = TMP_SIZE
    try:
        made.make_hosts()
        made.ray_up()
        prepare(made, shared_data / "hippocampus_mr", CASES)
        calm = attempt(made, FAULTS["none"], "predict")
        assert calm.right, calm.remark
        yield made
    finally:
        made.clear_away()


@pytest.mark.parametrize("command", ["train", "tune", "predict"])
@pytest.mark.parametrize("fault", ["raylet", "partition", "added", "head", "disk"])
def test_a_command_ends_right_whatever_befalls_the_cluster(cluster: UserCluster, fault: str, command: str) -> None:
    row = attempt(cluster, FAULTS[fault], command)
    assert row.right, row.remark
