"""segray on three hosts (a head and two workers), driven only from outside by ``ray job submit``."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.cluster.hosts import (
    CASES,
    EPOCHS,
    EPOCHS_OF_LIKENESS,
    NAME,
    VENV,
    Hosts,
    history_of,
    ledger_of,
    mask_voxels,
    rows_of,
    wait_for,
)
from tests.pipelines.ends_alike import assert_same_end

pytestmark = [pytest.mark.cluster, pytest.mark.long]


def test_ingest_on_the_cluster_writes_every_case(shards: Path) -> None:
    manifest = json.loads((shards / "manifest.json").read_text(encoding="utf-8"))
    assert len(manifest["parts"]) == CASES
    assert len(list(shards.glob("part-*.parquet"))) == CASES


def test_training_uses_both_hosts(run: Path) -> None:
    workers = history_of(run)["workers"]
    assert {worker["rank"] for worker in workers} == {0, 1}
    assert {worker["host"] for worker in workers} == {f"{NAME}1", f"{NAME}2"}
    assert len({worker["node_id"] for worker in workers}) == 2
    assert [row["epoch"] for row in rows_of(run / "metrics.csv")] == ["1", "2", "3"]
    assert (run / "bundle" / "weights.safetensors").is_file()


def test_two_hosts_reach_the_dice_of_one_with_the_same_global_batch(hosts: Hosts, shards: Path) -> None:
    """At a rate at which both learn enough for likeness to say something: 0.703 and 0.711 in 25 epochs."""
    settings = ("optim.lr=0.01", "optim.warmup_steps=0", f"train.epochs={EPOCHS_OF_LIKENESS}", "train.trackers=[]")
    for workers, batch in ((1, 16), (2, 8)):
        sets = (*settings, f"train.workers={workers}", f"train.batch_size={batch}")
        where = ("--shards", "/mnt/shards", "--run", f"/mnt/by{workers}")
        hosts.run("segray", "train", "/mnt/config.yaml", *where, *(word for one in sets for word in ("--set", one)))
    one, two = (rows_of(hosts.shared / f"by{workers}" / "metrics.csv") for workers in (1, 2))
    assert [row["step"] for row in one] == [row["step"] for row in two]
    best_one, best_two = (max(float(row["val_dice"]) for row in rows) for rows in (one, two))
    assert min(best_one, best_two) > 0.55
    assert abs(best_one - best_two) < 0.08, (best_one, best_two)


def test_prediction_uses_both_hosts(predictions: Path) -> None:
    rows = ledger_of(predictions)
    assert {row["status"] for row in rows} == {"ok"}
    assert len({row["case_id"] for row in rows}) == CASES
    assert {row["host"] for row in rows} == {f"{NAME}1", f"{NAME}2"}


def test_masks_equal_those_of_one_machine(run: Path, cases: Path, predictions: Path, tmp_path: Path) -> None:
    command = [str(VENV / "bin" / "segray"), "predict", str(run / "bundle"), str(cases), str(tmp_path / "alone")]
    settings = ["--config", str(predictions.parent / "config.yaml"), "--set", "ray.cpus=2"]
    done = subprocess.run(
        [*command, *settings], env=Hosts().environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    masks = sorted((tmp_path / "alone" / "masks").glob("*.nii.gz"))
    assert len(masks) == CASES
    shown = 0
    for mask in masks:
        alone, together = mask_voxels(mask), mask_voxels(predictions / "masks" / mask.name)
        np.testing.assert_array_equal(alone, together, err_msg=mask.name)
        shown += int(np.count_nonzero(alone))
    assert shown > 0, "the net labels nothing, so equal masks show nothing"


def test_a_command_run_again_on_the_cluster_does_nothing_twice(hosts: Hosts, predictions: Path) -> None:
    before = {path.name: path.read_bytes() for path in (predictions / "ledger").iterdir()}
    command = ("segray", "predict", "/mnt/run/bundle", "/mnt/cases", "/mnt/predictions")
    hosts.run(*command, "--config", "/mnt/config.yaml")
    assert {path.name: path.read_bytes() for path in (predictions / "ledger").iterdir()} == before


def test_an_error_on_the_cluster_is_one_line_and_an_exit_code(hosts: Hosts, shards: Path) -> None:
    result = hosts.result(hosts.submit("segray", "predict", "/mnt/none", "/mnt/cases", "/mnt/elsewhere"))
    assert (result.status, result.exit_code) == ("FAILED", 2)
    assert "segray: /mnt/none holds no bundle." in result.log
    assert "Traceback" not in result.log


def test_training_survives_the_loss_of_a_host(hosts: Hosts, shards: Path) -> None:
    """The host of rank 0 loses its power: both workers go on from the last checkpoint on the host that is left."""
    lost_run = hosts.shared / "lost"
    settings = ("--set", f"train.epochs={EPOCHS}", "--set", "train.cpus_per_worker=0.75")
    where = ("--shards", "/mnt/shards", "--run", "/mnt/lost")
    submission = hosts.submit("segray", "train", "/mnt/config.yaml", *where, *settings)
    wait_for(lambda: len(rows_of(lost_run / "metrics.csv")) >= 3, "three epochs", 120)
    first = history_of(lost_run)["workers"]
    assert len({worker["host"] for worker in first}) == 2
    lost = next(worker["host"] for worker in first if worker["rank"] == 0)
    hosts.control("kill-node", lost.removeprefix(NAME))
    try:
        result = hosts.result(submission, timeout=300)
    finally:
        hosts.control("start-node", lost.removeprefix(NAME))
    assert result.status == "SUCCEEDED", result.log[-3000:]
    assert sorted({int(row["epoch"]) for row in rows_of(lost_run / "steps.csv")}) == list(range(1, EPOCHS + 1))
    starts = history_of(lost_run)["starts"]
    assert len(starts) >= 2
    assert 1 <= starts[-1]["after_epoch"] < EPOCHS
    assert {worker["host"] for worker in starts[-1]["workers"]} == {f"{NAME}1", f"{NAME}2"} - {lost}
    assert (lost_run / "bundle" / "weights.safetensors").is_file()
    wait_for(lambda: hosts.alive() == 3, "the lost host joins again", 90)
    hosts.run("segray", "train", "/mnt/config.yaml", "--shards", "/mnt/shards", "--run", "/mnt/undisturbed", *settings)
    assert_same_end(lost_run, hosts.shared / "undisturbed", EPOCHS)
