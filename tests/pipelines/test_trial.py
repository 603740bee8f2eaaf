from __future__ import annotations

import errno
import math
from contextlib import nullcontext
from pathlib import Path

import pytest
import safetensors.torch
import torch
from made_sweep import hollow_shards
from tiny_shards import tiny_bundle, tiny_config, tiny_shards

from segray import outage
from segray.config import Config, dump_config, load_config
from segray.errors import CaseError, SegrayError, UsageError
from segray.nets.bundle import load_bundle
from segray.pipelines import train
from segray.pipelines.inference_trial import InferenceActor
from segray.pipelines.node_room import NoRoomError
from segray.pipelines.run_folder import CHECKPOINTS, START, RunFolder
from segray.pipelines.runtime import WorkerShape
from segray.pipelines.seat import LoneSeat
from segray.pipelines.session import Session
from segray.pipelines.trial import EndedTraining, GroupTraining, TrialActor, failure_of
from segray.tuning.study import SweepStudy


def test_what_is_short_of_memory_is_infeasible() -> None:
    for error in (
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:116] DefaultCPUAllocator: can't allocate memory"),
        SegrayError("A single slice, or patch, does not fit into the memory of the device.", mend="Take fewer."),
    ):
        assert failure_of(error)["infeasible"] is True, error
        assert "memory" in failure_of(error)["failed"]


def test_other_reasons_are_told_as_they_are() -> None:
    for error in (UsageError("The shards are gone.", mend="Ingest."), CaseError("It broke."), ValueError("odd")):
        found = failure_of(error)
        assert found["infeasible"] is False
        assert str(error) in found["failed"]


def test_a_cause_outside_of_the_settings_is_told_from_one_within() -> None:
    away = SegrayError("It cannot be read.", mend="Wait.")
    away.__cause__ = OSError(errno.ESTALE, "Stale file handle")
    assert failure_of(away)["outside"] is True
    assert failure_of(NoRoomError("A worker of 8 CPUs finds no room.", mend="Lower it."))["outside"] is True
    assert failure_of(UsageError("The net takes no such input.", mend="Another."))["outside"] is False
    assert failure_of(torch.OutOfMemoryError("CUDA out of memory."))["outside"] is False


def test_a_trial_whose_shards_are_away_says_so(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    shards = hollow_shards(tmp_path / "shards")
    run.begin(dump_config(load_config(None, [f"train.shards={shards}", "net.features=[4,8]"])))
    actor = object.__new__(TrialActor)
    (shards / "manifest.json").unlink()
    with outage.patient(0.0):  # afterwards this process is as patient as before
        actor.setup({"run": run.path, "threads": 1, "gpus": 0})
        failed = actor.step()
    assert (failed["done"], failed["outside"]) == (True, True)
    assert "holds no shards" in failed["failed"]


def test_a_training_that_ended_unheard_is_told_and_not_repeated(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    run.begin("")
    for epoch, dice in ((1, 0.25), (2, ""), (3, 0.5)):
        run.add_epoch({"epoch": epoch, "val_dice": dice, "seconds": 2.0})
    run.write_history(best={"epoch": 3, "dice": 0.5}, finished=True)
    work = EndedTraining(run, load_config(None, [f"train.run={run.path}"]))
    assert work.before == [(1, 0.25), (3, 0.5)]
    told = work.epoch()
    assert (told["done"], told["values"], math.isnan(told["value"])) == (True, [0.5], True)
    assert dict(told["other"])["best_epoch"] == 3.0


def test_a_checkpoint_that_a_kill_left_half_written_is_none(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path / "run"))
    seat = LoneSeat(run, torch.device("cpu"))
    (tmp_path / "run" / CHECKPOINTS / "checkpoint_2026-01-02").mkdir(parents=True)
    assert seat.latest() is None
    whole = tmp_path / "run" / CHECKPOINTS / "checkpoint_2026-01-01"
    whole.mkdir()
    (whole / "state.pt").write_bytes(b"")
    assert seat.latest() == whole.name


@pytest.mark.parametrize("objectives", ["[val_dice]", "[val_dice,parameters]"])
def test_an_epoch_told_again_is_kept_once(tmp_path: Path, objectives: str) -> None:
    study = SweepStudy(load_config(None, [f"tune.objectives={objectives}"]).tune, str(tmp_path), 0, "one")
    number, _ = study.ask(lambda trial: {"optim.lr": trial.suggest_float("optim.lr", 0, 1)})
    for epoch, value in ((1, 0.25), (1, 0.3), (2, 0.5)):
        study.report(number, epoch, value)
    (record,) = study.records()
    assert record.curve == ((1, 0.25), (2, 0.5))


def _group(run: RunFolder, shards: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> GroupTraining:
    """A trial of two workers whose group trains one epoch, of which nothing but its outcome is left."""

    def fit(config: Config, *_: object) -> None:
        Session(config, LoneSeat(run, torch.device("cpu")))
        run.add_epoch({"epoch": 1, "val_dice": 0.5, "seconds": 2.0})
        run.write_history(best={"epoch": 1, "dice": 0.5})

    monkeypatch.setattr(train, "ray_session", lambda *_: nullcontext())
    monkeypatch.setattr(train, "preflight_notes", lambda *_, **__: [])
    monkeypatch.setattr(train, "shape_of", lambda *_: WorkerShape(cpus=1, gpus=0))
    monkeypatch.setattr(train, "_fit_and_note", fit)
    run.begin(dump_config(tiny_config(shards, Path(run.path), "train.workers=2", *more)))
    return GroupTraining(run, load_config(run.file("config.yaml")))


def _outcome(group: GroupTraining) -> list[float]:
    """The objectives in the last step; the one before tells of the epoch where the group still ends."""
    told = group.epoch()
    while not told["done"]:
        told = group.epoch()
    values: list[float] = told["values"]
    return values


def test_a_trial_of_several_workers_starts_from_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = tiny_shards(tmp_path / "shards", cases=2)
    bundle = tiny_bundle(tmp_path / "bundle", shards)
    run = RunFolder(str(tmp_path / "run"))
    group = _group(run, shards, monkeypatch, "net.activation=relu", f"train.start_from={bundle}")
    assert _outcome(group) == [0.5]
    assert "The training starts from the bundle" in (tmp_path / "run" / "run.log").read_text()
    began = safetensors.torch.load((tmp_path / "run" / START).read_bytes())
    kept = load_bundle(str(bundle)).weights
    torch.testing.assert_close(began["head.weight"], kept["head.weight"])


def test_a_finished_trial_of_several_workers_keeps_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(str(tmp_path / "run"))
    (tmp_path / "run" / CHECKPOINTS / "checkpoint_2026-01-01").mkdir(parents=True)
    group = _group(run, tiny_shards(tmp_path / "shards", cases=2), monkeypatch)
    assert _outcome(group) == [0.5]
    assert not (tmp_path / "run" / CHECKPOINTS).exists()
    assert run.history()["finished"] is True


@pytest.mark.parametrize(("missing", "dice"), [("background", 0.0), ("mask", math.nan)])
def test_a_structure_that_nobody_drew_is_not_measured_where_it_is_unknown(
    tmp_path: Path, missing: str, dice: float
) -> None:
    shards = tiny_shards(tmp_path / "shards", cases=2, missing={"c0": ["lesion"]}, without_lesion=["c0"])
    bundle = tiny_bundle(tmp_path / "bundle", shards)
    run = RunFolder(str(tmp_path / "run"))
    more = (f"tune.bundle={bundle}", f"loss.missing={missing}", "predict.precision=float32")
    run.begin(dump_config(tiny_config(shards, Path(run.path), *more)))
    actor = object.__new__(InferenceActor)
    actor.setup({"run": run.path, "threads": 1, "gpus": 0})
    told = dict(actor.step()["other"])
    assert told["val_dice_lesion"] == pytest.approx(dice, nan_ok=True)
    assert told["val_dice_liver"] > 0
    if missing == "mask":
        assert told["val_dice"] == told["val_dice_liver"]
