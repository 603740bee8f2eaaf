"""3D from shards or straight from files to masks: what is validated in training is what predict gives."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import torch
from train_here import train_here

from segray.config import Config, load_config
from segray.errors import UsageError
from segray.nets.bundle import load_bundle
from segray.phantoms import make_phantoms
from segray.pipelines.evaluate import evaluate
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import predict
from segray.pipelines.train import train

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[8,16]",
    "net.patch=[8,32,0]",
    "augment.flip_z=0.2",
    "train.epochs=6",
    "train.batch_size=2",
    "train.cpus_per_worker=1.5",
    "train.precision=float32",
    "predict.precision=float32",
    "predict.cpus_per_predictor=1",
    "optim.lr=0.01",
    "optim.warmup_steps=0",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
    "ingest.rows_per_group=7",
)


def _settings(shards: Path, run: Path, *more: str) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={shards}", f"train.run={run}", *more])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("patches")
    make_phantoms(str(folder / "scans"), cases=3, seed=3, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), load_config(None, list(SETTINGS)))
    train_here(_settings(folder / "shards", folder / "run"))
    return folder


def test_the_masks_have_the_dice_of_the_validation(folder: Path) -> None:
    """Case by case on the case's own grid, which is finer than that of the shards."""
    config = _settings(folder / "shards", folder / "run", "predict.split=validation")
    predict(str(folder / "run"), str(folder / "scans"), str(folder / "masks"), config)
    found = evaluate(str(folder / "masks"), str(folder / "scans"), config)
    rows = list(csv.DictReader((folder / "run" / "metrics.csv").open()))
    best = max(float(row["val_dice"]) for row in rows)
    assert best > 0.45
    assert found.mean_dice == pytest.approx(best, abs=0.08)
    bundle = load_bundle(str(folder / "run" / "bundle"))
    assert bundle.net.patch == (8, 32, 0)
    assert bundle.weights["encoder.0.0.conv.weight"].shape == (8, 1, 3, 3, 3)
    assert json.loads((folder / "run" / "history.json").read_text())["net"]["depth"] == 8


def test_cases_without_ingest_teach_the_same(folder: Path) -> None:
    """The order of the patches differs, and so nothing that depends on it is left in: one step, whole slices."""
    more = ("train.epochs=1", "train.batch_size=64", "net.patch=[16,0,0]", "augment.enabled=false", "optim.name=sgd")
    for name, source in (("of_shards", "shards"), ("of_files", "scans")):
        train(_settings(folder / source, folder / name, *more))
    one, two = (load_bundle(str(folder / name / "bundle")).weights for name in ("of_shards", "of_files"))
    for name, value in one.items():
        torch.testing.assert_close(value, two[name], atol=1e-5, rtol=1e-3, msg=name)


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(folder: Path) -> None:
    more = ("train.epochs=2", "optim.lr=0.001")
    train(_settings(folder / "shards", folder / "whole_run", *more))
    train(_settings(folder / "shards", folder / "halves", *more), stop_after=1)
    train(_settings(folder / "shards", folder / "halves", *more), resume=str(folder / "halves"))
    losses = [
        [row["train_loss"] for row in csv.DictReader((folder / name / "metrics.csv").open())]
        for name in ("whole_run", "halves")
    ]
    assert losses[0] == losses[1]


def test_two_workers_share_the_patches(folder: Path) -> None:
    more = ("train.epochs=1", "train.workers=2", "train.cpus_per_worker=0.8", "net.patch=[16,0,0]")
    summary = train(_settings(folder / "shards", folder / "two", *more))
    assert summary.epochs == 1


def test_a_canvas_that_the_net_cannot_halve_is_told_before_training(folder: Path) -> None:
    config = _settings(folder / "shards", folder / "wrong", "net.features=[4,4,4,4,4,4]", "net.patch=[32,0,0]")
    with pytest.raises(UsageError, match=r"halves its input 5 times.*no multiples of 32"):
        train(config)
