"""What chooses the weights of a run, lowers its learning rate and stops it, on one embedded Ray."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from train_here import train_here

from segray.config import Config, NetConfig, load_config
from segray.errors import UsageError
from segray.nets.bundle import save_bundle
from segray.nets.normalise import Normalisation
from segray.nets.unet import build_net
from segray.phantoms import make_phantoms
from segray.pipelines.ingest import ingest
from segray.pipelines.net_cost import training_cost
from segray.pipelines.train import train
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[8,16]",
    "train.batch_size=8",
    "train.cpus_per_worker=1.5",
    "optim.lr=0.01",
    "optim.warmup_steps=0",
    "ingest.split.validation=0.3",
    "ingest.grid.spacing=[9,9]",
    "ingest.structures=[liver,body]",
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, embedded_ray: None) -> Path:
    folder = tmp_path_factory.mktemp("choices")
    make_phantoms(str(folder / "scans"), cases=3, seed=3, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), load_config(None, list(SETTINGS)))
    return folder / "shards"


def _config(shards: Path, run: Path, *more: str) -> Config:
    return load_config(None, [*SETTINGS, f"train.shards={shards}", f"train.run={run}", *more])


def test_the_named_metric_chooses_the_weights_and_the_rate_drops_where_it_stands_still(
    shards: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    more = ("optim.schedule=plateau", "optim.plateau_patience=1", "optim.plateau_factor=0.1", "optim.accumulate=2")
    summary = train_here(
        _config(shards, run, "train.epochs=6", "train.metric=val_dice_liver", "optim.average=0.9", *more)
    )
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    column = [float(row["val_dice_liver"]) for row in rows]
    assert summary.best_epoch == 1 + column.index(max(column))
    expected, top, rate = [], -1.0, 0.01
    for score in column:
        expected.append(rate)
        top, rate = (score, rate) if score > top else (top, rate * 0.1)
    assert [float(row["lr"]) for row in rows] == pytest.approx(expected, rel=1e-4)
    assert json.loads((run / "history.json").read_text())["best"]["epoch"] == summary.best_epoch


def test_the_cost_of_the_net_is_told_before_the_training(shards: Path, tmp_path: Path) -> None:
    config = _config(shards, tmp_path / "run", "train.epochs=1", "train.precision=float32")
    said: list[str] = []
    train(config, say=said.append)
    manifest = load_manifest(str(shards))
    cost = training_cost(config, manifest, on_gpu=False)
    assert cost.parameters == sum(weights.numel() for weights in build_net(config.net, 1, 3).parameters())
    assert (cost.height, cost.width) == manifest.grid.size
    assert cost.batch == 8
    assert json.loads((tmp_path / "run" / "history.json").read_text())["net"] == cost.to_dict()
    log = (tmp_path / "run" / "run.log").read_text()
    assert log.index(f"The net: {cost}.") < log.index("train from the beginning")
    assert said == [f"The net: {cost}."]
    low = config.model_copy(update={"train": config.train.model_copy(update={"precision": "bf16"})})
    assert training_cost(low, manifest, on_gpu=False).training_bytes < cost.training_bytes


def test_the_loss_stops_a_run_too(shards: Path, tmp_path: Path) -> None:
    """With a rate of nothing the loss of an epoch is a matter of its draws, so it soon fails to fall."""
    run = tmp_path / "run"
    summary = train_here(
        _config(shards, run, "train.epochs=40", "train.metric=train_loss", "train.patience=2", "optim.lr=1e-12")
    )
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    losses = [float(row["train_loss"]) for row in rows]
    assert len(rows) < 40
    assert summary.best_epoch == 1 + losses.index(min(losses)) == len(rows) - 2


def test_a_net_that_cannot_be_is_said_before_anything_is_written(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="MONAI refuses"):
        train(_config(shards, tmp_path / "run", "net.name=swinunetr", "net.features=[32,64]"))
    with pytest.raises(UsageError, match="MONAI refuses"):
        train(_config(shards, tmp_path / "run", "net.name=swinunetr", "net.features=[32,64]", "train.folds=2"))
    assert not (tmp_path / "run").exists()


def test_weights_to_start_from_are_held_against_the_shards(shards: Path, tmp_path: Path) -> None:
    deep = NetConfig(features=[2] * 7)
    manifest = load_manifest(str(shards))
    save_bundle(
        str(tmp_path / "bundle"), build_net(deep, 1, 3), net=deep, label_map=manifest.label_map, grid=manifest.grid,
        normalisation=Normalisation("window"),
    )  # fmt: skip
    base = load_config(None, [one for one in SETTINGS if not one.startswith("net.")])
    paths = {"shards": str(shards), "run": str(tmp_path / "run"), "start_from": str(tmp_path / "bundle")}
    with pytest.raises(UsageError, match=r"halves its input 6 times.*no multiples of 64"):
        train(base.model_copy(update={"train": base.train.model_copy(update=paths)}))
    assert not (tmp_path / "run").exists()


def test_a_metric_that_is_no_column_is_said_at_once(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"val_dice_livre is no column.*val_dice_liver"):
        train(_config(shards, tmp_path / "run", "train.metric=val_dice_livre"))
    assert not (tmp_path / "run").exists()
