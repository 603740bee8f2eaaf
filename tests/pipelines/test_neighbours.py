"""2.5D from shards or straight from files to masks: what is validated in training is what predict gives."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from train_here import train_here

from segray.config import Config, load_config
from segray.nets.bundle import load_bundle
from segray.phantoms import make_phantoms
from segray.pipelines.evaluate import evaluate
from segray.pipelines.idle_settings import idle_settings
from segray.pipelines.ingest import ingest
from segray.pipelines.predict import predict
from segray.pipelines.run_tracking import draw_slices, read_shown
from segray.pipelines.train import train
from segray.shards.index import load_index
from segray.shards.manifest import load_manifest

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.usefixtures("embedded_ray")]

SETTINGS = (
    "net.features=[8,16]",
    "net.neighbours=1",
    "train.epochs=4",
    "train.batch_size=8",
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
    folder = tmp_path_factory.mktemp("neighbours")
    make_phantoms(str(folder / "scans"), cases=3, seed=3, broken=False)
    ingest(str(folder / "scans"), str(folder / "shards"), load_config(None, list(SETTINGS)))
    train(_settings(folder / "shards", folder / "run"))
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
    assert bundle.in_channels == 1
    assert bundle.weights["encoder.0.0.conv.weight"].shape[1] == 3


def test_cases_without_ingest_teach_the_same(folder: Path) -> None:
    more = ("train.epochs=1", "ingest.rows_per_group=500", "optim.lr=0.001")
    ingest(str(folder / "scans"), str(folder / "whole"), load_config(None, [*SETTINGS, *more]))
    for name, source in (("of_shards", "whole"), ("of_files", "scans")):
        train(_settings(folder / source, folder / name, *more))
    one, two = (load_bundle(str(folder / name / "bundle")).weights for name in ("of_shards", "of_files"))
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


def test_a_net_of_single_slices_starts_one_of_several_with_the_same_outputs(folder: Path) -> None:
    flat = _settings(folder / "shards", folder / "flat", "net.neighbours=0", "net.norm=group")
    first = train_here(flat)
    still = ("train.epochs=1", "optim.lr=1e-12", f"train.start_from={folder / 'flat'}")
    second = train_here(_settings(folder / "shards", folder / "grown", *still))
    assert second.best_dice == pytest.approx(first.best_dice, abs=1e-4)


def test_pictures_of_the_validation_show_the_slice_itself(folder: Path) -> None:
    manifest = load_manifest(str(folder / "shards"))
    index = load_index(str(folder / "shards"), manifest)
    drawn = []
    for beside in (0, 1):
        shown = read_shown(str(folder / "shards"), replace(index, beside=beside))
        drawn.append(draw_slices(shown, shown.labels, manifest.label_map.names, overlapping=False, beside=beside))
    assert drawn[0].keys() == drawn[1].keys()
    for name, picture in drawn[0].items():
        np.testing.assert_array_equal(picture, drawn[1][name])


def test_single_slices_have_no_neighbours_and_that_is_said(folder: Path) -> None:
    manifest = load_manifest(str(folder / "shards"))
    config = _settings(folder / "shards", folder / "run")
    assert idle_settings(config, manifest) == []
    flat = replace(manifest, parts=[replace(part, slices=1) for part in manifest.parts])
    assert idle_settings(config, flat) == [
        "net.neighbours costs time and shows nothing new: every case of the shards is a single slice."
    ]
