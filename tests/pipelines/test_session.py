"""What a training session decides by itself: the same on all workers, and with less memory where that runs out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_shards import tiny_config, tiny_shards
from train_here import train_here, train_unrated

from segray.config import Config, load_config
from segray.engine.trainer import load_state, save_state
from segray.engine.validation import Validator
from segray.phantoms import make_phantoms
from segray.pipelines import session
from segray.pipelines.ingest import ingest
from segray.pipelines.run_folder import METRICS, RunFolder
from segray.pipelines.seat import LoneSeat
from segray.pipelines.session import Session

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


class Clock:
    """In place of the module ``time``: every look takes a second, and what is told to take longer that."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now

    def time(self) -> float:
        return self.now


def _go_on(config: Config, stop_after: int = 0) -> list[int]:
    """The epochs that a run, begun or resumed, trains now."""
    training = Session(config, LoneSeat(RunFolder(str(config.train.run)), torch.device("cpu")))
    training.restore()
    rows = [int(row["epoch"]) for row in training.train(stop_after)]
    training.close(failed=False)
    return rows


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Ray, which would tell where a worker is."""
    here = {"rank": 0, "host": "here", "node_id": "", "device": "cpu", "pid": 1}
    monkeypatch.setattr(session, "whereabouts", lambda _: here)


@pytest.mark.usefixtures("nowhere")
def test_a_run_that_ended_by_patience_trains_nothing_more_until_there_is_more(tmp_path: Path) -> None:
    shards, run = tiny_shards(tmp_path / "shards"), tmp_path / "run"

    def config(*more: str) -> Config:
        return tiny_config(shards, run, "optim.lr=1e-12", *more)

    assert _go_on(config("train.epochs=9", "train.patience=1")) == [1, 2]
    for _ in range(2):
        assert _go_on(config("train.epochs=9", "train.patience=1")) == []
    log = (run / "run.log").read_text()
    assert log.count("has ended already, by train.patience=1: a larger limit in config.yaml lets it go on.") == 2
    assert _go_on(config("train.epochs=9", "train.patience=2")) == [3]
    assert _go_on(config("train.epochs=4")) == [4]
    assert _go_on(config("train.epochs=4")) == []
    assert _go_on(config("train.epochs=5")) == [5]


@pytest.mark.usefixtures("nowhere")
def test_a_run_that_was_halted_goes_on_also_from_an_older_checkpoint(tmp_path: Path) -> None:
    shards, run = tiny_shards(tmp_path / "shards"), tmp_path / "run"
    config = tiny_config(shards, run, "train.epochs=3", "train.minutes=600")
    assert _go_on(config, stop_after=2) == [1, 2]
    kept = max((run / "checkpoints").glob("*/state.pt"))
    state = load_state(str(kept))
    assert state["position"].pop("out_of_minutes") == 0.0
    assert state["position"].pop("validation") > 0.0
    save_state(str(kept), state)
    assert _go_on(config) == [3]


@pytest.mark.usefixtures("nowhere")
def test_a_run_that_ended_by_the_clock_trains_nothing_more_until_there_is_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, run = tiny_shards(tmp_path / "shards"), tmp_path / "run"
    monkeypatch.setattr(session, "time", Clock())
    first = _go_on(tiny_config(shards, run, "train.minutes=2", "train.epochs=90"))
    assert 1 < len(first) < 20
    assert _go_on(tiny_config(shards, run, "train.minutes=2", "train.epochs=90")) == []
    assert _go_on(tiny_config(shards, run, "train.minutes=4", "train.epochs=90"))[0] == first[-1] + 1
    assert float(RunFolder(str(run)).rows(METRICS)[-1]["seconds"]) <= 240


@pytest.mark.usefixtures("nowhere")
def test_the_first_validation_counts_for_the_time_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An epoch of about 60 s and a validation of 300 s: a second epoch would end after 12 minutes."""
    clock, train_epoch, validate = Clock(), Session._train_epoch, Session._validate
    monkeypatch.setattr(session, "time", clock)

    def trained(self: Session, *told: Any) -> dict[str, Any]:
        clock.now += 50.0
        return train_epoch(self, *told)

    def validated(self: Session) -> dict[str, Any]:
        clock.now += 300.0
        return validate(self)

    monkeypatch.setattr(Session, "_train_epoch", trained)
    monkeypatch.setattr(Session, "_validate", validated)
    config = tiny_config(tiny_shards(tmp_path / "shards"), tmp_path / "run", "train.minutes=10", "train.epochs=90")
    assert _go_on(config) == [1]
    assert clock.now < 600
    assert _go_on(config) == []
    wider = config.model_copy(update={"train": config.train.model_copy(update={"minutes": 13.0})})
    assert _go_on(wider) == [2]
