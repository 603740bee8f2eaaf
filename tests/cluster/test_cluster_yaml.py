"""cluster.yaml itself on a head and three workers, from `ray up` to `ray down`, driven from outside the cluster.

Public cases of ../shared/data, two dozen of them. The cluster is this module's own, and ends with it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.faults import cut_power, kill_worker, lock_storage, power_on
from tests.cluster.hosts import ROOT, can_make_hosts, history_of, ledger_of, mask_voxels, rows_of
from tests.cluster.user_cluster import UserCluster

pytestmark = [pytest.mark.cluster, pytest.mark.long]

CASES = 24
CONFIG = """\
net: {features: [8, 16]}
ingest:
  grid: {mode: size, size: [64, 64]}
  split: {validation: 0.2}
optim: {lr: 0.01, warmup_steps: 0}
train: {epochs: 4, batch_size: 16, workers: 2, precision: float32, trackers: []}
tune: {trials: 4, pruner: none}
predict: {precision: float32}
"""


@pytest.fixture(scope="module")
def cluster(shared_data: Path) -> Iterator[UserCluster]:
    """The cluster, up, with cases and a config."""
    if not can_make_hosts():
        pytest.skip("needs root and network namespaces")
    made = UserCluster()
    try:
        made.make_hosts()
        copy_cases(shared_data / "hippocampus_mr", made.shared / "cases", CASES)
        (made.state / "my.yaml").write_text(CONFIG, encoding="utf-8")
        made.ray_up()
        yield made
    finally:
        made.clear_away()


@pytest.fixture(scope="module")
def run(cluster: UserCluster) -> Path:
    """A run of two workers on shards of the cluster's own."""
    config = str(cluster.state / "my.yaml")
    cluster.follow("ingest", "/mnt/cases", "/mnt/shards", "--config", config)
    cluster.follow("train", config, "--shards", "/mnt/shards", "--run", "/mnt/run")
    return cluster.shared / "run"


def copy_cases(source: Path, folder: Path, count: int) -> None:
    """The first cases that have both files."""
    both = sorted(
        path.name for path in (source / "labels").glob("*.nii.gz") if (source / "images" / path.name).exists()
    )
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
        for name in both[:count]:
            shutil.copyfile(source / kind / name, folder / kind / name)


def hosts_of(cluster: UserCluster, *numbers: int) -> set[str]:
    return {f"{cluster.name}{number}" for number in numbers}


def is_empty(cluster: UserCluster, number: int) -> bool:
    return not cluster.processes(number)


def test_the_doctor_has_nothing_against_the_cluster(cluster: UserCluster) -> None:
    told = cluster.follow("doctor", "--cluster", "--storage", "/mnt").told
    assert "0 errors, 0 warnings" in told, told
    assert all(f"{name} (" in told for name in hosts_of(cluster, 0, 1, 2, 3)), told


def test_two_hosts_train_what_all_have_ingested(cluster: UserCluster, run: Path) -> None:
    manifest = json.loads((cluster.shared / "shards" / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["parts"]) == CASES
    workers = {worker["host"] for worker in history_of(run)["workers"]}
    assert len(workers) == 2
    assert workers < hosts_of(cluster, 1, 2, 3)
    assert [row["epoch"] for row in rows_of(run / "metrics.csv")] == ["1", "2", "3", "4"]


def test_a_sweep_uses_several_hosts_and_outlives_the_processes_of_one(cluster: UserCluster, run: Path) -> None:
    space, sweep = str(ROOT / "tune_spaces" / "quick.py"), cluster.shared / "sweep"
    words = ("--space", space, "--shards", "/mnt/shards", "--run", "/mnt/sweep", "--set", "train.workers=1")
    job = cluster.submit("tune", str(cluster.state / "my.yaml"), *words)
    cluster.wait_for(lambda: any(sweep.glob("trials/*/metrics.csv")), "an epoch of a trial", 240)
    begun = history_of(next(sweep.glob("trials/*/metrics.csv")).parent)["workers"][0]["host"]
    kill_worker(cluster, int(begun.removeprefix(cluster.name)))
    ended = cluster.ended(job)
    assert ended.code == 0, ended.told[-3000:]
    trials = rows_of(sweep / "trials.csv")
    assert [trial["state"] for trial in trials] == 4 * ["finished"]
    assert len({trial["host"] for trial in trials}) > 1
    for trial in sweep.glob("trials/*"):
        assert [row["epoch"] for row in rows_of(trial / "metrics.csv")] == ["1", "2", "3", "4"], trial
    assert (sweep / "bundle" / "weights.safetensors").is_file()


def test_three_hosts_predict_the_masks_of_one_though_none_can_write_for_a_while(
    cluster: UserCluster, run: Path, tmp_path: Path
) -> None:
    words = ("--config", str(cluster.state / "my.yaml"))
    job = cluster.submit("predict", "/mnt/run/bundle", "/mnt/cases", "/mnt/predictions", *words)
    cluster.wait_for(lambda: any((cluster.shared / "predictions").glob("masks/*")), "a mask", 240)
    lock_storage(cluster, 0, 10)
    ended = cluster.ended(job)
    assert ended.code == 0, ended.told[-3000:]
    rows = ledger_of(cluster.shared / "predictions")
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["host"] for row in rows} == hosts_of(cluster, 1, 2, 3)
    cases, alone = cluster.shared / "cases", tmp_path / "alone"
    places = (str(run / "bundle"), str(cases), str(alone))
    cluster.run("segray", "predict", *places, *words, "--set", "ray.cpus=2")
    masks = sorted((alone / "masks").glob("*.nii.gz"))
    assert len(masks) == CASES == len(rows)
    shown = 0
    for mask in masks:
        voxels = mask_voxels(mask)
        np.testing.assert_array_equal(voxels, mask_voxels(cluster.shared / "predictions" / "masks" / mask.name))
        shown += int(np.count_nonzero(voxels))
    assert shown > 0, "the net labels nothing, so equal masks show nothing"


def test_a_prediction_goes_on_soon_after_a_host_has_lost_its_power(cluster: UserCluster, run: Path) -> None:
    """By Ray's own settings the tasks of such a host begin anew only after seven minutes."""
    folder = cluster.shared / "after-cut"
    job = cluster.submit(
        "predict", "/mnt/run/bundle", "/mnt/cases", "/mnt/after-cut", "--config", str(cluster.state / "my.yaml")
    )
    cluster.wait_for(lambda: any(folder.glob("masks/*")), "a mask", 240)
    cut_power(cluster, 1)
    ended = cluster.ended(job, 300)
    assert ended.code == 0, ended.told[-3000:]
    assert {row["status"] for row in ledger_of(folder)} == {"ok"}
    masks = sorted((folder / "masks").iterdir())
    assert len(masks) == CASES
    for mask in masks:
        before = cluster.shared / "predictions" / "masks" / mask.name
        np.testing.assert_array_equal(mask_voxels(mask), mask_voxels(before))
    power_on(cluster, 1)
    cluster.wait_for(lambda: cluster.alive() == 4, "the host is back", 240)


def test_ray_down_leaves_nothing_behind(cluster: UserCluster) -> None:
    """The last test: the workers end by themselves when they have not heard of the head for some seconds."""
    assert any("raylet" in line for line in cluster.processes(1))
    cluster.ray_down()
    for number in range(4):
        cluster.wait_for(partial(is_empty, cluster, number), f"host {number} has no process left", 120)
        assert cluster.ssh(number, "ls /dev/shm") == ""
        listening = cluster.ssh(number, "ss -Hlntx || cat /proc/net/tcp").splitlines()
        assert all(":22 " in line for line in listening), listening
