"""`train.workers: [1, 2]` on nodes that go and come, on a Ray of the test's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from segray.config import load_config
from segray.errors import UsageError
from segray.phantoms import make_phantoms

EPOCHS = 600
"""More than there is time for: the program ends when it has seen what it waits for."""

SETTINGS = (
    "net.features=[8,16]",
    "train.batch_size=4",
    f"train.epochs={EPOCHS}",
    "train.workers=[1,2]",
    "train.cpus_per_worker=1.5",
    "train.trackers=[]",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver]",
)

PROGRAM = """
    import csv, json, os, sys, threading, time
    from pathlib import Path
    import ray
    from ray._private import utils
    from ray.cluster_utils import Cluster
    from segray.config import load_config
    from segray.pipelines import train as training
    from segray.pipelines.ingest import ingest

    training.LOOK_FOR_NODES_S = 1.0
    utils.set_sigterm_handler = lambda handler: None  # nodes come from a thread, where Python allows none
    run, scans = Path(sys.argv[1]), sys.argv[2]
    config = load_config(None, sys.argv[3:])
    room = dict(num_cpus=2, memory=2 * 10**9, object_store_memory=2 * 10**8)
    cluster = Cluster(initialize_head=True, head_node_args=dict(room, include_dashboard=False))
    second = cluster.add_node(**room)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")

    def starts():
        path = run / "history.json"
        return json.loads(path.read_text()).get("starts", []) if path.exists() else []

    def epochs():
        path = run / "metrics.csv"
        return len(list(csv.DictReader(path.open()))) if path.exists() else 0

    def until(true):
        while not true():
            time.sleep(0.1)

    def disturb():
        until(lambda: len(starts()) == 1 and epochs() >= 2)
        cluster.remove_node(second, allow_graceful=False)
        until(lambda: len(starts()) == 2 and epochs() >= starts()[1]["after_epoch"] + 2)
        cluster.add_node(**room)
        until(lambda: len(starts()) == 3 and epochs() >= starts()[2]["after_epoch"] + 2)
        (run / "grew_again").touch()  # from here on the training may end this process before we do
        ray.shutdown()
        cluster.shutdown()
        os._exit(0)

    ingest(scans, config.train.shards, config)
    threading.Thread(target=disturb, daemon=True).start()
    training.train(config)
    sys.exit("the training ended before its workers were two again")
"""


@pytest.mark.cluster
@pytest.mark.long
def test_a_training_goes_on_with_fewer_workers_and_grows_again(tmp_path: Path) -> None:
    make_phantoms(str(tmp_path / "scans"), cases=4, seed=3, broken=False)
    run = tmp_path / "run"
    words = [str(tmp_path / "scans"), *SETTINGS, f"train.shards={tmp_path / 'shards'}", f"train.run={run}"]
    environment = os.environ | {
        "RAY_health_check_period_ms": "500",
        "RAY_health_check_timeout_ms": "1000",
        "RAY_health_check_failure_threshold": "2",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(run), *words]
    ended = subprocess.run(command, check=False, timeout=570, env=environment)
    assert (run / "grew_again").exists(), f"the program ended with {ended.returncode}"
    history = json.loads((run / "history.json").read_text())
    assert [len(start["workers"]) for start in history["starts"]] == [2, 1, 2]
    rows = (run / "metrics.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == list(range(1, len(rows) + 1))


def test_most_workers_are_not_fewer_than_the_fewest() -> None:
    with pytest.raises(UsageError, match="3 is more than 2"):
        load_config(None, ["train.workers=[3,2]"])
