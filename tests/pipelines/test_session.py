"""What a training session decides by itself: the same on all workers, and with less memory where that runs out."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from train_here import train_here, train_unrated

from segray import outage
from segray.config import Config, dump_config, load_config
from segray.engine.validation import Validator
from segray.phantoms import make_phantoms
from segray.pipelines import trial
from segray.pipelines.ingest import ingest
from segray.pipelines.run_folder import METRICS, RunFolder
from segray.pipelines.trial import TrialActor

SETTINGS = (
    "net.features=[4,8]",
    "train.batch_size=8",
    "train.epochs=2",
    "train.cpus_per_worker=1.5",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
)

WORKER = """
import sys, time
import torch, torch.distributed as dist
from segray.config import load_config
from segray.pipelines.session import Session

rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
session = object.__new__(Session)
session.config = load_config(None, ["train.minutes=1", "train.epochs=1000"])
session.world, session.rank, session.device, session.steps = 2, rank, torch.device("cpu"), 10
clock = time.monotonic() - 20.0 * rank
print(repr(session._progress(0, clock)), session._out_of_time(70.0 * rank))
dist.destroy_process_group()
"""


def test_workers_whose_clocks_differ_take_the_same_step(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    first, second = [worker.communicate(timeout=120)[0].split() for worker in workers]
    assert first == second
    assert float(first[0]) < 20 / 60
    assert first[1] == "False"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("session")
    make_phantoms(str(folder / "scans"), cases=3, seed=3, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), load_config(None, list(SETTINGS)))
    return folder / "shards"


def _config(shards: Path, run: Path, *more: str) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={shards}", f"train.run={run}", *more])


@pytest.mark.ray
def test_a_validation_for_which_memory_is_short_looks_at_fewer_slices(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = train_here(_config(shards, tmp_path / "plain", "net.norm=instance"))
    add = Validator.add

    def short(self: Validator, batch: Any, *more: Any) -> None:
        if batch.slices > 4:
            raise torch.OutOfMemoryError
        add(self, batch, *more)

    monkeypatch.setattr(Validator, "add", short)
    spared = train_here(_config(shards, tmp_path / "spared", "net.norm=instance"))
    assert spared.best_dice == pytest.approx(plain.best_dice, abs=1e-4)
    log = (tmp_path / "spared" / "run.log").read_text()
    assert "8 slices at once" in log
    assert "the validation looks at 4 slices at once" in log


@pytest.mark.ray
def test_the_last_weights_are_kept_where_no_held_out_case_shows_what_is_rated(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Validator, "add", lambda *_: None)
    summary = train_unrated(_config(shards, tmp_path / "run"))
    assert summary.best_epoch == 2
    assert summary.best_dice is None
    assert [row["val_dice"] for row in RunFolder(summary.run).rows(METRICS)] == ["", ""]
    assert (tmp_path / "run" / "run.log").read_text().count("val_dice has no value") == 1


@pytest.mark.ray
def test_an_epoch_of_losses_that_are_not_finite_ends_in_words(shards: Path, tmp_path: Path) -> None:
    config = _config(shards, tmp_path / "run", "optim.accumulate=64", "optim.lr=1e30", "optim.warmup_steps=0")
    with pytest.raises(Exception, match="No step of the epoch had a finite loss"):
        train_here(config)


def test_a_trial_waits_for_shards_that_its_node_does_not_see(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = Path(shutil.copytree(shards, tmp_path / "shards"))
    run = RunFolder(str(tmp_path / "run"))
    run.begin(dump_config(_config(shards, tmp_path / "run")))
    away = tmp_path / "away"
    shards.rename(away)
    monkeypatch.setattr(outage, "LOOK_S", 0.0)
    looks: list[bool] = []

    def look(folder: str) -> bool:
        looks.append(sees(folder))
        if len(looks) == 3:
            away.rename(shards)
        return looks[-1]

    sees = trial._sees_shards
    monkeypatch.setattr(trial, "_sees_shards", look)
    actor = object.__new__(TrialActor)
    with outage.patient(60.0):
        actor.setup({"run": run.path, "threads": 1, "gpus": 0})
        outage.be_patient(60.0)
        told = actor.step()
        actor.cleanup()
    assert looks == [False, False, False, True]
    assert "failed" not in told
    assert (told["epoch"], told["before"]) == (1, [])
    assert "does not see the shards" in (tmp_path / "run" / "run.log").read_text()
