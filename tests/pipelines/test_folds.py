"""A cross-validation, its masks of unseen cases and of all folds together, on one embedded Ray."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from segray.cli_display import TrainLine, print_train
from segray.config import Config, load_config
from segray.errors import SegrayError, UsageError
from segray.formats import read_image
from segray.formats.source import CaseSource
from segray.nets.bundle import load_bundle
from segray.phantoms import make_phantoms
from segray.pipelines.evaluate import evaluate
from segray.pipelines.folds import fold_config
from segray.pipelines.folds_view import FoldsReader
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import predict
from segray.pipelines.run_folder import RunFolder
from segray.pipelines.train import TrainSummary, train

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[8,16]",
    "train.folds=3",
    "train.epochs=3",
    "train.batch_size=8",
    "train.cpus_per_worker=0.7",
    "train.precision=float32",
    "predict.precision=float32",
    "predict.cpus_per_predictor=1",
    "optim.lr=0.01",
    "optim.warmup_steps=0",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
)


def _config(shards: Path, run: Path, *more: str) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={shards}", f"train.run={run}", *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    make_phantoms(str(folder / "scans"), cases=3, seed=3, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), load_config(None, list(SETTINGS)))
    return folder


@pytest.fixture(scope="module")
def trained(folder: Path) -> TrainSummary:
    told: list[dict[str, object]] = []
    said: list[str] = []
    summary = train(_config(folder / "shards", folder / "run"), watcher=told.append, say=said.append)
    assert {facts["folds"] for facts in told} == {3}
    assert {facts["fold"] for facts in told} == {1, 2, 3}
    assert [facts["share"] for facts in told] == sorted(facts["share"] for facts in told)  # type: ignore[type-var]
    assert sum("parameters" in sentence for sentence in said) == 1
    return summary


def test_every_case_is_held_out_once_and_the_table_has_the_mean(
    folder: Path, trained: TrainSummary, capsys: pytest.CaptureFixture[str]
) -> None:
    held = [load_bundle(fold.bundle).split["validation"] for fold in trained.folds]
    assert sorted(case for cases in held for case in cases) == ["s0001", "s0002", "s0003"]
    assert all(len(cases) == 1 for cases in held)
    rows = list(csv.DictReader((folder / "run" / "folds.csv").open()))
    assert [row["fold"] for row in rows] == ["0", "1", "2", "mean"]
    assert float(rows[-1]["val_dice"]) == pytest.approx(trained.best_dice, abs=1e-4)
    assert json.loads((folder / "run" / "history.json").read_text())["finished"]
    print_train(trained)
    assert "mean over 3 folds" in capsys.readouterr().out
    TrainLine()({"epoch": 1, "epochs": 2, "steps": 3, "step": 1, "loss": 1.0, "dice": None, "slices_per_s": 1.0,
                 "fold": 1, "folds": 3, "share": 0.1})  # fmt: skip


def test_each_case_is_predicted_by_the_fold_that_has_not_seen_it(folder: Path, trained: TrainSummary) -> None:
    config = _config(folder / "shards", folder / "run", "predict.split=validation")
    done = predict(trained.bundle, str(folder / "scans"), str(folder / "unseen"), config)
    assert (done.cases, done.done) == (3, 3)
    for fold in trained.folds:
        (case,) = load_bundle(fold.bundle).split["validation"]
        alone = folder / f"alone_{case}"
        predict(fold.bundle, str(folder / "scans"), str(alone), config)
        assert [path.name for path in (alone / "masks").iterdir()] == [f"{case}.nii.gz"]
        np.testing.assert_array_equal(mask(folder / "unseen", case), mask(alone, case))
    found = evaluate(str(folder / "unseen"), str(folder / "scans"), config)
    assert found.cases == 3
    with pytest.raises(UsageError, match="masks of another bundle"):
        predict(
            trained.bundle, str(folder / "scans"), str(folder / "unseen"), _config(folder / "shards", folder / "run")
        )


def test_all_folds_together_average_their_probabilities(folder: Path, trained: TrainSummary) -> None:
    config = _config(folder / "shards", folder / "run")
    predict(trained.bundle, str(folder / "scans"), str(folder / "all"), config)
    further = [fold.bundle for fold in trained.folds]
    predict(further, str(folder / "scans"), str(folder / "named"), config)
    for case in ("s0001", "s0002", "s0003"):
        np.testing.assert_array_equal(mask(folder / "all", case), mask(folder / "named", case))
        assert not np.array_equal(mask(folder / "all", case), mask(folder / "unseen", case))
    facts = json.loads((folder / "all" / "prediction.json").read_text())
    assert facts["split"] == {"train": ["s0001", "s0002", "s0003"], "validation": [], "test": []}


def test_a_fold_that_was_lost_is_made_again_and_the_others_are_kept(folder: Path, trained: TrainSummary) -> None:
    kept = (folder / "run" / "fold_1" / "bundle" / "bundle.json").read_bytes()
    copy = folder / "copy"
    shutil.copytree(folder / "run", copy)
    shutil.rmtree(copy / "fold_2")
    config = (copy / "config.yaml").read_text().replace(str(folder / "run"), str(copy))
    (copy / "config.yaml").write_text(config)
    again = train(load_config(None, []), resume=str(copy))
    assert (copy / "fold_1" / "bundle" / "bundle.json").read_bytes() == kept
    assert again.best_dice == pytest.approx(trained.best_dice, abs=0.02)


def test_folds_leave_cpus_to_read_their_slices_with(folder: Path) -> None:
    # Three workers of 1.33 CPUs find room on the four of the session, and then none is left for anything else.
    done = train(_config(folder / "shards", folder / "wide", "train.cpus_per_worker=1.33", "train.epochs=1"))
    assert len(done.folds) == 3
    assert "3 folds, 2 at once" in (folder / "wide" / "run.log").read_text()


def test_one_fold_alone_is_a_run_like_any_other(folder: Path, trained: TrainSummary) -> None:
    alone = train(_config(folder / "shards", folder / "only", "train.fold=1", "train.epochs=1"))
    assert load_bundle(alone.bundle).split == load_bundle(trained.folds[1].bundle).split
    assert alone.folds == []


def test_what_cannot_be_folded_is_said_before_anything_is_written(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="3 patients cannot be dealt into 4 folds"):
        train(_config(folder / "shards", tmp_path / "run", "train.folds=4"))
    assert not (tmp_path / "run").exists()
    for wrong, words in (("train.folds=1", "folds is 1"), ("train.fold=3", "counted from 0")):
        with pytest.raises(UsageError, match=words):
            _config(folder / "shards", tmp_path / "run", wrong)


def test_a_fold_that_fails_is_named_and_the_others_end(folder: Path, tmp_path: Path) -> None:
    config = _config(folder / "shards", tmp_path / "run", "train.epochs=1")
    broken = RunFolder(fold_config(config, RunFolder(str(tmp_path / "run")), 1).train.run or "")
    broken.begin("train: {shards: /nowhere, run: /nowhere/run}\n")
    with pytest.raises(SegrayError, match=r"1 of 3 folds failed: fold 1: .*train --resume"):
        train(config)
    assert (tmp_path / "run" / "fold_2" / "bundle" / "bundle.json").exists()
    view = FoldsReader(str(tmp_path / "run")).view()
    assert (view.state, view.count) == ("failed", 3)
    assert {number: one.state for number, one in view.folds}[2] == "finished"
    with pytest.raises(UsageError, match="has not ended"):
        predict(str(tmp_path / "run"), str(folder / "scans"), str(tmp_path / "masks"))


def mask(folder: Path, case: str) -> np.ndarray:
    voxels: np.ndarray = read_image(CaseSource(case, str(folder / "masks" / f"{case}.nii.gz"))).voxels
    return voxels
