"""cluster.yaml with the certificates of cluster/tls.sh: gRPC between hosts is encrypted, and the work is done as ever.

Public cases of ../shared/data. The cluster is this module's own.
"""

from __future__ import annotations

import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.hosts import ROOT, can_make_hosts, history_of, ledger_of, rows_of
from tests.cluster.test_cluster_yaml import copy_cases
from tests.cluster.user_cluster import UserCluster

pytestmark = [pytest.mark.cluster, pytest.mark.long]

CASES = 8
WORKERS = 2
CONFIG = """\
net: {features: [8, 16]}
ingest:
  grid: {mode: size, size: [64, 64]}
  split: {validation: 0.2}
optim: {warmup_steps: 0}
train: {epochs: 2, batch_size: 16, workers: 2, precision: float32, trackers: []}
predict: {precision: float32, review: 0}
"""
GCS = 6379


@pytest.fixture(scope="module")
def cluster(shared_data: Path) -> Iterator[UserCluster]:
    """A head and two workers, each with the certificate that docs/security.md says to copy there."""
    if not can_make_hosts():
        pytest.skip("needs root and network namespaces")
    made = UserCluster(WORKERS, name="segtls", net="10.82.0", settings={"SEGRAY_TLS": "$HOME/segray/tls"})
    try:
        made.make_hosts()
        addresses = [f"{made.net}.{10 + number}" for number in range(1 + WORKERS)]
        made.run(str(ROOT / "cluster" / "tls.sh"), str(made.state / "tls"), *addresses)
        for number, address in enumerate(addresses):
            shutil.copytree(made.state / "tls" / address, made.state / f"node{number}" / "root" / "segray" / "tls")
        copy_cases(shared_data / "hippocampus_mr", made.shared / "cases", CASES)
        (made.state / "my.yaml").write_text(CONFIG, encoding="utf-8")
        made.ray_up()
        yield made
    finally:
        made.clear_away()


def is_let_in(cluster: UserCluster, context: ssl.SSLContext) -> bool:
    """Whether the head's control service speaks to one who comes with this; without a certificate it hangs up."""
    plain = socket.create_connection((f"{cluster.net}.10", GCS), timeout=20)
    try:
        with plain, context.wrap_socket(plain) as secure:
            return bool(secure.recv(1))
    except (ssl.SSLError, ConnectionError):
        return False


def trusting(cluster: UserCluster) -> ssl.SSLContext:
    """Who knows the cluster's authority."""
    context = ssl.create_default_context(cafile=str(cluster.state / "tls" / "ca" / "ca.crt"))
    context.check_hostname = False
    context.set_alpn_protocols(["h2"])
    return context


def test_who_has_a_certificate_is_let_in_and_who_has_none_is_not(cluster: UserCluster) -> None:
    member = trusting(cluster)
    own = cluster.state / "tls" / f"{cluster.net}.11"
    member.load_cert_chain(own / "node.crt", own / "node.key")
    assert is_let_in(cluster, member)
    assert not is_let_in(cluster, trusting(cluster))


def test_hosts_ingest_train_and_predict_over_it(cluster: UserCluster) -> None:
    config = str(cluster.state / "my.yaml")
    told = cluster.follow("doctor", "--cluster", "--storage", "/mnt").told
    assert "0 errors, " in told, told  # encryption on shared cores may be slow enough for a warning
    cluster.follow("ingest", "/mnt/cases", "/mnt/shards", "--config", config)
    cluster.follow("train", config, "--shards", "/mnt/shards", "--run", "/mnt/run")
    run = cluster.shared / "run"
    assert len({worker["host"] for worker in history_of(run)["workers"]}) == 2
    assert [row["epoch"] for row in rows_of(run / "metrics.csv")] == ["1", "2"]
    cluster.follow("predict", "/mnt/run/bundle", "/mnt/cases", "/mnt/masks", "--config", config)
    rows = ledger_of(cluster.shared / "masks")
    assert [row["status"] for row in rows] == CASES * ["ok"]
